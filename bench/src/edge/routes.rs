//! Tables of one to a million routes: what a lookup costs, what a change costs, and what the
//! traffic beside it notices.
#![expect(
    clippy::disallowed_methods,
    reason = "measures how long verbs take, and starts the program that looks up"
)]

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use flocker_api::{
    route::{Operation, Route, RouteKey},
    upstream::{Upstream, UpstreamAddress},
};

use super::{
    cpu::Usage,
    figures::{Spread, SubjectFigures, WorkloadFigures},
    load::{Load, Pace, Plan},
    origin::Origin,
    place::Bench,
    subject::{Around, Running, Subject, free_address},
    verbs::Verbs,
    workload::Workload,
};

/// Requests a second beside the changes.
const RATE: f64 = 2_000.0;
/// How long traffic alone, and traffic beside changes, are looked at.
const LENGTH: Duration = Duration::from_secs(2);
/// Between two changes of one route.
const BETWEEN: Duration = Duration::from_millis(10);
const WARM: Duration = Duration::from_millis(500);
/// Routes of one transaction when the table is filled.
const BULK: usize = 50_000;

/// What a round gave, by name.
type Found = BTreeMap<&'static str, Vec<f64>>;

/// Measures a table of so many routes.
pub(super) fn measure(
    bench: &Bench,
    routes: usize,
    rounds: u32,
    say: &dyn Fn(&str),
) -> Result<WorkloadFigures> {
    let mut found = Found::new();
    for number in 1..=rounds {
        say(&format!("routes-{routes}: round {number} of {rounds}"));
        round(bench, routes, &mut found).with_context(|| format!("routes-{routes}"))?;
    }
    let more = found
        .iter()
        .filter_map(|(name, samples)| Some(((*name).to_owned(), Spread::of(samples)?)));
    Ok(WorkloadFigures {
        workload: format!("routes-{routes}"),
        about: format!(
            "a table of {routes} routes: filled, then one route changed each {} ms, beside {RATE:.0} requests a second",
            BETWEEN.as_millis()
        ),
        unit: "request".to_owned(),
        cpu_unit: "us".to_owned(),
        rate: Some(RATE),
        subjects: vec![SubjectFigures {
            name: Subject::Flocker.name().to_owned(),
            more: more.collect(),
            runs: rounds,
            ..SubjectFigures::default()
        }],
        ..WorkloadFigures::default()
    })
}

fn round(bench: &Bench, routes: usize, found: &mut Found) -> Result<()> {
    let workload = Workload::of("http1-keepalive").context("there is one of this name")?;
    let origin = Origin::start(free_address()?, workload.speech()?)?;
    let around = Around::Nothing;
    let running = Running::start(
        Subject::Flocker,
        workload.kinds,
        origin.address(),
        bench,
        &around,
    )?;
    let verbs = Verbs::at(running.admin())?;
    let talk = Arc::new(workload.talk(Subject::Flocker, &bench.identity)?);
    let mut note = |name: &'static str, value: f64| found.entry(name).or_default().push(value);
    let start = || {
        Load::start(Plan {
            target: running.address(),
            connections: 64,
            pace: Pace::PerSecond(RATE),
            limit: None,
            hold: false,
            talk: Arc::clone(&talk),
        })
    };

    let load = start()?;
    sleep(WARM);
    load.count_latencies();
    let began = Instant::now();
    let upstream = UpstreamAddress::Socket(origin.address());
    let others: Vec<usize> = (1..routes).collect();
    for some in others.chunks(BULK) {
        let operations = some.iter().map(|number| put(*number, &upstream));
        verbs.change(operations.collect::<Result<_>>()?)?;
    }
    let filled = ms(began.elapsed());
    let beside_bulk = end(load, &running)?;
    if routes > 1 {
        note("bulk_change_ms", filled);
        note("p999_us_beside_bulk_change", beside_bulk);
    }

    let load = start()?;
    sleep(WARM);
    load.count_latencies();
    let (before, done) = (Usage::of(running.pids()), load.done());
    sleep(LENGTH);
    let (after, done) = (Usage::of(running.pids()), load.done() - done);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    note(
        "cpu_us_per_request",
        after.since(before).ns as f64 / 1e3 / done.max(1) as f64,
    );
    note("p999_us", end(load, &running)?);

    let load = start()?;
    sleep(WARM);
    load.count_latencies();
    let began = Instant::now();
    while began.elapsed() < LENGTH {
        let change = vec![put(routes / 2, &upstream)?];
        let began = Instant::now();
        verbs.change(change)?;
        note("one_change_ms", ms(began.elapsed()));
        sleep(BETWEEN);
    }
    note("p999_us_beside_changes", end(load, &running)?);
    if let Some((lookup, change)) = lookups(routes)? {
        note("lookup_ns", lookup);
        note("one_change_of_the_table_us", change);
    }
    Ok(())
}

/// A route that nobody asks for.
fn put(number: usize, upstream: &UpstreamAddress) -> Result<Operation> {
    let key: RouteKey = format!("http:app-{number}.example.net").parse()?;
    Ok(Operation::Put {
        route: Route::new(key, [Upstream::new(upstream.clone())]),
    })
}

/// Ends a load that must not have failed; its p99.9 in us.
fn end(load: Load, running: &Running) -> Result<f64> {
    if let Some(failure) = load.first_failure() {
        bail!(
            "{} requests failed: {failure}; {}",
            load.failed(),
            running.complaints()
        );
    }
    #[expect(clippy::cast_precision_loss, reason = "below a minute")]
    let us = load.stop()?.value_at_quantile(0.999) as f64 / 1e3;
    Ok(us)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What `examples/lookup` says, if it was built: ns of a lookup, us of a change of one route.
fn lookups(routes: usize) -> Result<Option<(f64, f64)>> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let program = own.with_file_name("examples").join("lookup");
    if !program.exists() {
        return Ok(None);
    }
    let output = Command::new(&program)
        .arg(routes.to_string())
        .stdin(Stdio::null())
        .output();
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(lookup), Some(change)) => Ok(Some((lookup, change))),
        _ => bail!("{} says '{text}'", program.display()),
    }
}
