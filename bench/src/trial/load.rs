//! Open-loop load of several kinds at once: each request is sent when it is due, and its latency
//! counts from that moment. How late it was really sent is told apart: that is the load's own
//! doing. Nothing is retried; what fails is counted by reason.
#![expect(clippy::disallowed_methods, reason = "measures: it reads the clock")]

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use hdrhistogram::Histogram;
use tokio::{sync::watch, task::LocalSet};

use super::client::{Client, Protocol, Target};
use crate::load::{raise_descriptor_limit, timer::Timer};

/// A request without an answer for so long has failed.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Longest latency that is told apart, in microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;

/// One kind of load.
#[derive(Debug, Clone)]
pub(super) struct Kind {
    /// What it is called in the report.
    pub(super) name: String,
    /// How and where.
    pub(super) protocol: Protocol,
    pub(super) target: Target,
    /// Requests a second.
    pub(super) rate: u32,
}

/// What became of one kind of load.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) name: String,
    pub(super) answered: u64,
    /// By reason.
    pub(super) failed: BTreeMap<String, u64>,
    /// From when a request was due to its answer, in microseconds.
    latency: Histogram<u64>,
    /// From when it was sent.
    served: Histogram<u64>,
    /// From when it was due to when it was sent.
    late: Histogram<u64>,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
        .unwrap_or_else(|_| Histogram::new(3).expect("3 digits are allowed"))
}

impl Tally {
    fn new(name: String) -> Self {
        Self {
            name,
            answered: 0,
            failed: BTreeMap::new(),
            latency: histogram(),
            served: histogram(),
            late: histogram(),
        }
    }

    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// A quantile of the latency, in ms.
    pub(super) fn quantile_ms(&self, quantile: f64) -> f64 {
        ms(self.latency.value_at_quantile(quantile))
    }

    /// The same without the time by which requests were sent late.
    pub(super) fn served_ms(&self, quantile: f64) -> f64 {
        ms(self.served.value_at_quantile(quantile))
    }

    /// A quantile of the time by which requests were sent late, in ms.
    pub(super) fn late_ms(&self, quantile: f64) -> f64 {
        ms(self.late.value_at_quantile(quantile))
    }

    pub(super) fn longest_ms(&self) -> f64 {
        ms(self.latency.max())
    }

    /// Adds another of the same kind.
    pub(super) fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        for (reason, count) in &other.failed {
            *self.failed.entry(reason.clone()).or_default() += count;
        }
        for (own, other) in [
            (&mut self.latency, &other.latency),
            (&mut self.served, &other.served),
            (&mut self.late, &other.late),
        ] {
            for value in other.iter_recorded() {
                own.saturating_record_n(value.value_iterated_to(), value.count_at_value());
            }
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros())
        .unwrap_or(u64::MAX)
        .max(1)
}

fn ms(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64() * 1e3
}

/// A running load.
pub(super) struct Load {
    stop: watch::Sender<bool>,
    thread: JoinHandle<Result<Vec<Tally>>>,
}

impl Load {
    pub(super) fn start(kinds: Vec<Kind>) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || generate(kinds, &stopped))
            .context("cannot start the load")?;
        Ok(Self { stop, thread })
    }

    /// Sends nothing more, waits for what is under way, gives the accounts.
    pub(super) async fn stop(self) -> Result<Vec<Tally>> {
        // Its thread may have ended by itself, with an error that is returned below.
        let _ended = self.stop.send(true);
        tokio::task::spawn_blocking(move || self.thread.join())
            .await?
            .map_err(|_| anyhow!("the load has panicked"))?
    }
}

fn generate(kinds: Vec<Kind>, stopped: &watch::Receiver<bool>) -> Result<Vec<Tally>> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime for the load")?;
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async {
        let mut running = Vec::new();
        for kind in kinds {
            running.push(tokio::task::spawn_local(one_kind(kind, stopped.clone())));
        }
        let mut tallies = Vec::new();
        for task in running {
            tallies.push(task.await??);
        }
        Ok(tallies)
    }))
}

async fn one_kind(kind: Kind, mut stopped: watch::Receiver<bool>) -> Result<Tally> {
    let client = Rc::new(Client::new(kind.protocol, kind.target));
    let tally = Rc::new(RefCell::new(Tally::new(kind.name)));
    let timer = Timer::new(kind.rate).context("no timer for the load")?;
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    let mut issued = 0_u32;
    loop {
        tokio::select! {
            ticked = timer.tick() => ticked?,
            // An error means that nobody holds the load any more: it ends as well.
            _ = stopped.wait_for(|stopped| *stopped) => break,
        }
        loop {
            let intended = began + Duration::from_secs(1) * issued / kind.rate;
            if intended > Instant::now() {
                break;
            }
            issued += 1;
            let (client, tally) = (Rc::clone(&client), Rc::clone(&tally));
            tasks.spawn_local(async move {
                let sent = Instant::now();
                let answer = tokio::time::timeout(ANSWER_MAX, client.exchange()).await;
                let (took, served) = (intended.elapsed(), sent.elapsed());
                let mut tally = tally.borrow_mut();
                match answer.unwrap_or_else(|_| Err("no answer".to_owned())) {
                    Ok(()) => {
                        tally.answered += 1;
                        tally.latency.saturating_record(micros(took));
                        tally.served.saturating_record(micros(served));
                        let late = sent.saturating_duration_since(intended);
                        tally.late.saturating_record(micros(late));
                    }
                    Err(reason) => *tally.failed.entry(reason).or_default() += 1,
                }
            });
        }
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
    drop(client);
    Rc::try_unwrap(tally)
        .map(RefCell::into_inner)
        .map_err(|_| anyhow!("a request is still counting"))
}
