//! Memory of sessions that are only held: idle, or parked at a paused route.
#![expect(
    clippy::disallowed_methods,
    reason = "waits until the sessions are there"
)]

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use flocker_api::{gate::HoldLimits, route::RouteKey};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    cpu,
    figures::{Spread, SubjectFigures, WorkloadFigures},
    load::{Load, Pace, Plan},
    origin::Origin,
    peers::HOST,
    place::Bench,
    subject::{Around, Running, Subject, free_address},
    verbs::Verbs,
    workload::{Sessions, Workload},
};

/// Descriptors that a program has besides those of sessions.
const SPARE: u64 = 500;
/// How long all sessions may take to be there.
const ARRIVAL: Duration = Duration::from_secs(90);
/// How fast those come that are going to be parked.
const ARRIVALS_PER_SECOND: f64 = 4_000.0;
/// A pause that nothing of the measurement outlasts, and what may be held in it.
const HOLD_MS: u64 = 300_000;
const HOLD_BYTES: usize = 1 << 30;
/// Sessions that come and go before memory is looked at: what is made once is made then.
const WARM: u64 = 256;

/// As many sessions as were asked for, or as descriptors allow: each takes two, here as in the
/// subject. Raises this process's own limit, which subjects inherit, as far as it goes.
pub(super) fn possible(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // Refused only if the limit were beyond the hard one.
    let _raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
    let most = limit.maximum.unwrap_or(u64::MAX);
    wanted.min(most.saturating_sub(SPARE) / 2)
}

/// Measures one kind of sessions for all who can hold them.
pub(super) fn measure(
    bench: &Bench,
    kind: &Sessions,
    subjects: &[Subject],
    rounds: u32,
    count: u64,
    say: &dyn Fn(&str),
) -> Result<WorkloadFigures> {
    let mut bytes: BTreeMap<Subject, Vec<(f64, f64)>> = BTreeMap::new();
    let takes_part = |subject: &&Subject| match kind.parked {
        true => subject.is_flocker(),
        false => **subject != Subject::Direct,
    };
    for round in 1..=rounds {
        for subject in subjects.iter().filter(takes_part) {
            say(&format!(
                "{}: round {round} of {rounds}: {subject}",
                kind.name
            ));
            let one = hold(bench, kind, *subject, count);
            let one = one.with_context(|| format!("{}: {subject}", kind.name))?;
            bytes.entry(*subject).or_default().push(one);
        }
    }
    let ours = bytes.get(&Subject::Flocker).cloned().unwrap_or_default();
    let rows = bytes.iter().map(|(subject, samples)| {
        let ratios = ours
            .iter()
            .zip(samples)
            .map(|(ours, theirs)| ours.0 / theirs.0);
        let peer = *subject != Subject::Flocker;
        let pss: Vec<f64> = samples.iter().map(|sample| sample.1).collect();
        SubjectFigures {
            name: subject.name().to_owned(),
            bytes_per_session: Spread::of(&samples.iter().map(|s| s.0).collect::<Vec<_>>()),
            more: Spread::of(&pss)
                .map(|pss| ("pss_bytes_per_session".to_owned(), pss))
                .into_iter()
                .collect(),
            ratio: Spread::of(&ratios.collect::<Vec<_>>()).filter(|_| peer),
            runs: u32::try_from(samples.len()).unwrap_or(u32::MAX),
            ..SubjectFigures::default()
        }
    });
    Ok(WorkloadFigures {
        workload: kind.name.to_owned(),
        about: kind.about.to_owned(),
        unit: "session".to_owned(),
        sessions: Some(count),
        subjects: rows.collect(),
        ..WorkloadFigures::default()
    })
}

/// Bytes of each of so many sessions: allocated, and proportional.
fn hold(bench: &Bench, kind: &Sessions, subject: Subject, count: u64) -> Result<(f64, f64)> {
    let workload = Workload::of(kind.of).context("a kind of sessions is of a workload")?;
    let origin = Origin::start(free_address()?, workload.speech()?)?;
    let around = Around::Nothing;
    let mut running = Running::start(subject, kind.kinds, origin.address(), bench, &around)?;
    let talk = Arc::new(workload.talk(subject, &bench.identity)?);
    let plan = |connections: u64| Plan {
        target: running.address(),
        connections: usize::try_from(connections).unwrap_or(usize::MAX),
        pace: Pace::Closed,
        limit: None,
        hold: true,
        talk: Arc::clone(&talk),
    };
    let warm = Load::start(plan(WARM))?;
    wait(&running, &warm, || Ok(warm.done() >= WARM))?;
    drop(warm);
    let until = Instant::now() + ARRIVAL;
    while origin.open() > WARM && Instant::now() < until {
        sleep(Duration::from_millis(5));
    }
    let before = cpu::memory(running.pids());
    let load = match kind.parked {
        false => {
            let load = Load::start(plan(count))?;
            wait(&running, &load, || Ok(load.done() >= count))?;
            load
        }
        true => {
            let edge = pause(&running, kind)?;
            let load = Load::start(Plan {
                pace: Pace::PerSecond(ARRIVALS_PER_SECOND),
                limit: Some(count),
                hold: false,
                ..plan(count)
            })?;
            wait(&running, &load, || Ok(edge.parked()? >= count))?;
            load
        }
    };
    let after = cpu::memory(running.pids());
    drop(load);
    running.stop()?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / count as f64;
    Ok((each(after.anon, before.anon), each(after.pss, before.pss)))
}

fn wait(running: &Running, load: &Load, mut is_there: impl FnMut() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + ARRIVAL;
    while !is_there()? {
        if let Some(failure) = load.first_failure() {
            bail!("{failure}; {}", running.complaints());
        }
        if Instant::now() > until {
            bail!(
                "only {} of {} sessions were there in time",
                load.done(),
                load.open()
            );
        }
        sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Pauses the route of these sessions, for as long as it takes.
fn pause(running: &Running, kind: &Sessions) -> Result<Verbs> {
    let key: RouteKey = match kind.kinds.contains(&"tcp") {
        true => format!("tcp:{}", running.address().port()),
        false => format!("http:{HOST}"),
    }
    .parse()?;
    let limits = HoldLimits {
        hold_ms: HOLD_MS,
        sessions: usize::MAX,
        bytes: HOLD_BYTES,
        per_client: usize::MAX,
    };
    let verbs = Verbs::at(running.admin())?;
    verbs.pause(&[key], limits)?;
    Ok(verbs)
}
