//! How long a switch of upstreams takes on one edge and on three: pause, quiesce, switch and
//! resume with nothing in between, while requests come in.
#![expect(clippy::disallowed_methods, reason = "measures how long verbs take")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    thread::{scope, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use flocker_api::{
    gate::{HoldLimits, Retarget},
    route::RouteKey,
};

use super::{
    figures::{Spread, SubjectFigures, WorkloadFigures},
    load::{Load, Pace, Plan},
    origin::Origin,
    peers::HOST,
    place::Bench,
    subject::{Around, Running, Subject, free_address},
    verbs::Verbs,
    workload::Workload,
};

/// Requests a second, to each edge.
const RATE: f64 = 300.0;
/// Switches of a round, and what lies between them.
const SWITCHES: usize = 20;
const BETWEEN: Duration = Duration::from_millis(50);
/// Load before the first.
const WARM: Duration = Duration::from_millis(500);

/// Switches there and back on so many edges.
pub(super) fn measure(
    bench: &Bench,
    edges: usize,
    rounds: u32,
    say: &dyn Fn(&str),
) -> Result<WorkloadFigures> {
    let (mut took, mut waits) = (Vec::new(), Vec::new());
    for number in 1..=rounds {
        say(&format!("switch-{edges}: round {number} of {rounds}"));
        let (times, wait) = round(bench, edges).with_context(|| format!("switch-{edges}"))?;
        took.extend(times);
        waits.push(wait);
    }
    let mut more = BTreeMap::new();
    for (name, samples) in [("pause_to_resume_ms", &took), ("longest_wait_ms", &waits)] {
        more.extend(Spread::of(samples).map(|spread| (name.to_owned(), spread)));
    }
    Ok(WorkloadFigures {
        workload: format!("switch-{edges}"),
        about: format!(
            "a route is switched on {edges} edges at a time, {RATE:.0} requests a second to each, none of which fails"
        ),
        unit: "switch".to_owned(),
        subjects: vec![SubjectFigures {
            name: Subject::Flocker.name().to_owned(),
            more,
            runs: rounds,
            ..SubjectFigures::default()
        }],
        ..WorkloadFigures::default()
    })
}

/// The times of a round's switches, and the longest wait of a request, in ms.
fn round(bench: &Bench, edges: usize) -> Result<(Vec<f64>, f64)> {
    let workload = Workload::of("http1-keepalive").context("there is one of this name")?;
    let origins = [
        Origin::start(free_address()?, workload.speech()?)?,
        Origin::start(free_address()?, workload.speech()?)?,
    ];
    let key: RouteKey = format!("http:{HOST}").parse()?;
    let talk = Arc::new(workload.talk(Subject::Flocker, &bench.identity)?);
    let mut running = Vec::new();
    for _ in 0..edges {
        let origin = origins[0].address();
        let edge = Running::start(
            Subject::Flocker,
            workload.kinds,
            origin,
            bench,
            &Around::Nothing,
        )?;
        let load = Load::start(Plan {
            target: edge.address(),
            connections: 32,
            pace: Pace::PerSecond(RATE),
            limit: None,
            hold: false,
            talk: Arc::clone(&talk),
        })?;
        let verbs = Verbs::at(edge.admin())?;
        running.push((edge, load, verbs));
    }
    sleep(WARM);
    running
        .iter()
        .for_each(|(_, load, _)| load.count_latencies());
    let mut took = Vec::new();
    for number in 0..SWITCHES {
        sleep(BETWEEN);
        let target = origins[(number + 1) % 2].address();
        let verbs: Vec<&Verbs> = running.iter().map(|(.., verbs)| verbs).collect();
        took.push(switch(&verbs, &key, target)?.as_secs_f64() * 1e3);
    }
    let mut longest = 0.0_f64;
    for (edge, load, _) in running {
        if let Some(failure) = load.first_failure() {
            bail!(
                "{} requests failed: {failure}; {}",
                load.failed(),
                edge.complaints()
            );
        }
        #[expect(clippy::cast_precision_loss, reason = "below a minute")]
        let ms = load.stop()?.max() as f64 / 1e6;
        longest = longest.max(ms);
    }
    Ok((took, longest))
}

/// Each verb on all edges at once, as control does it.
fn switch(edges: &[&Verbs], key: &RouteKey, target: SocketAddr) -> Result<Duration> {
    let keys = [key.clone()];
    let began = Instant::now();
    let tokens = on_all(
        edges
            .iter()
            .map(|edge| || edge.pause(&keys, HoldLimits::default())),
    )?;
    let both = || edges.iter().zip(&tokens);
    on_all(both().map(|(edge, token)| || edge.quiesce(&keys, *token)))?;
    let change = Retarget {
        key: key.clone(),
        upstreams: vec![target.into()],
    };
    on_all(both().map(|(edge, token)| || edge.switch(vec![change.clone()], *token)))?;
    Ok(began.elapsed())
}

fn on_all<A: Send>(
    verbs: impl Iterator<Item = impl FnOnce() -> Result<A> + Send>,
) -> Result<Vec<A>> {
    scope(|scope| {
        let threads: Vec<_> = verbs.map(|verb| scope.spawn(verb)).collect();
        let answers = threads.into_iter().map(|thread| match thread.join() {
            Ok(answer) => answer,
            Err(_) => bail!("a verb has panicked"),
        });
        answers.collect()
    })
}
