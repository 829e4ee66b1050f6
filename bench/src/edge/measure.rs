//! Timed runs: who is measured when, what is read, and which runs do not count.
//!
//! ```text
//!   calibrate: each subject in a closed loop for a moment ──► rate = half of the slowest;
//!              does the proxy's core fill up for everybody?
//!   rounds:    each subject in turn, started anew: closed loop, then at the rate
//!   judge:     failed, rate not met, load was the limit, disturbed ──► again, or refused
//! ```
#![expect(clippy::disallowed_methods, reason = "runs last for a time")]

use std::{
    sync::{Arc, atomic::Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    cpu::{self, Reading, Usage, Window},
    load::{Load, Pace, Plan},
    origin::Origin,
    place::Bench,
    subject::{Around, Running, Subject},
    workload::Workload,
};

/// Load before a reading: connections are made, pools and caches filled.
const WARM: Duration = Duration::from_millis(400);
/// Longest time beyond that for the load to come under way.
const PATIENCE: Duration = Duration::from_secs(10);
/// Length of a calibration.
const CALIBRATION: Duration = Duration::from_millis(600);
/// The rate of latencies, as a share of what the slowest subject did in a closed loop.
const RATE_SHARE: f64 = 0.5;
/// A proxy that is on its core for less of the time was not the limit.
const FULL: f64 = 0.85;
/// A rate that is met to less than this is not met.
const MET: f64 = 0.99;
/// Share of handshakes that must have been resumed where they are to be.
const RESUMED: f64 = 0.95;
/// Times that a run is repeated which was disturbed.
const REPEATS: u32 = 2;

/// What is judged, and how strictly.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) runs: u32,
    pub(super) length: Duration,
    /// Share of a core that others may use.
    pub(super) foreign_max: f64,
    pub(super) allow_disturbed: bool,
    pub(super) latencies: bool,
}

/// How a timed run is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Closed,
    Rate,
}

/// One timed run.
#[derive(Debug, Clone)]
pub(super) struct Timed {
    pub(super) window: Window,
    /// Units and exchanges in it.
    pub(super) units: f64,
    pub(super) per_second: f64,
    /// The rate that was asked for.
    wanted: Option<f64>,
    failed: u64,
    first_failure: Option<String>,
    /// Share of handshakes that were resumed, if that matters.
    resumed: Option<f64>,
    /// p50, p99 and p99.9, in us.
    pub(super) latency_us: [f64; 3],
}

#[cfg(test)]
impl Timed {
    /// A run that went well.
    pub(super) fn example(window: Window, units: f64, latency_us: [f64; 3]) -> Self {
        Self {
            window,
            units,
            per_second: units,
            wanted: None,
            failed: 0,
            first_failure: None,
            resumed: None,
            latency_us,
        }
    }
}

/// A run of a subject in a round.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) round: u32,
    pub(super) subject: Subject,
    pub(super) mode: Mode,
    pub(super) timed: Timed,
}

/// All runs of a workload.
#[derive(Debug)]
pub(super) struct Measured {
    /// The mode by which processor time is told.
    pub(super) mode: Mode,
    pub(super) rate: f64,
    pub(super) runs: Vec<Run>,
    /// Who, and why.
    pub(super) refused: Vec<(Subject, String)>,
}

/// Measures a workload.
pub(super) fn measure(
    bench: &Bench,
    workload: &Workload,
    subjects: &[Subject],
    terms: &Terms,
    say: &dyn Fn(&str),
) -> Result<Measured> {
    let origin = Origin::start(super::subject::free_address()?, workload.speech()?)?;
    let stage = Stage {
        bench,
        workload,
        origin: &origin,
    };
    let (mut slowest, mut full) = (f64::INFINITY, true);
    for subject in subjects {
        say(&format!("{}: trying {subject}", workload.name));
        let running = stage.start(*subject)?;
        let timed = stage.timed(&running, *subject, Pace::Closed, CALIBRATION)?;
        if let Some(failure) = &timed.first_failure {
            anyhow::bail!(
                "{}: {subject}: {failure}; {}",
                workload.name,
                running.complaints()
            );
        }
        // What there is no proxy for says nothing about proxies.
        if *subject != Subject::Direct {
            slowest = slowest.min(timed.per_second);
            full &= timed.window.proxy_share() >= FULL;
        }
    }
    let rate = slowest * RATE_SHARE;
    let mut measured = Measured {
        mode: if full { Mode::Closed } else { Mode::Rate },
        rate,
        runs: Vec::new(),
        refused: Vec::new(),
    };
    for round in 0..terms.runs {
        // Nobody is always first.
        let turn = round as usize % subjects.len();
        for subject in subjects[turn..].iter().chain(&subjects[..turn]) {
            say(&format!(
                "{}: round {} of {}: {subject}",
                workload.name,
                round + 1,
                terms.runs
            ));
            stage.round(round, *subject, &mut measured, terms)?;
        }
    }
    Ok(measured)
}

/// A workload with its origin.
struct Stage<'a> {
    bench: &'a Bench,
    workload: &'a Workload,
    origin: &'a Origin,
}

impl Stage<'_> {
    fn start(&self, subject: Subject) -> Result<Running> {
        let (kinds, origin) = (self.workload.kinds, self.origin.address());
        Running::start(subject, kinds, origin, self.bench, &Around::Nothing)
            .with_context(|| self.workload.name.to_owned())
    }

    /// A subject's turn: it starts, is measured in each mode, and ends.
    fn round(
        &self,
        round: u32,
        subject: Subject,
        measured: &mut Measured,
        terms: &Terms,
    ) -> Result<()> {
        let mut modes = Vec::new();
        if measured.mode == Mode::Closed {
            modes.push((Mode::Closed, Pace::Closed));
        }
        if measured.mode == Mode::Rate || (terms.latencies && !self.workload.is_stream()) {
            modes.push((Mode::Rate, Pace::PerSecond(measured.rate)));
        }
        for (mode, pace) in modes {
            let mut running = self.start(subject)?;
            for attempt in 0..=REPEATS {
                let timed = self.timed(&running, subject, pace, terms.length)?;
                let refusal = judge(&timed, subject, mode, terms);
                let Some(reason) = refusal else {
                    measured.runs.push(Run {
                        round,
                        subject,
                        mode,
                        timed,
                    });
                    break;
                };
                let reason = format!("round {}, attempt {}: {reason}", round + 1, attempt + 1);
                measured.refused.push((subject, reason));
                running.stop()?;
                running = self.start(subject)?;
            }
            running.stop()?;
        }
        Ok(())
    }

    fn timed(
        &self,
        running: &Running,
        subject: Subject,
        pace: Pace,
        length: Duration,
    ) -> Result<Timed> {
        let talk = Arc::new(self.workload.talk(subject, &self.bench.identity)?);
        let load = Load::start(Plan {
            target: running.address(),
            connections: self.workload.connections,
            pace,
            limit: None,
            hold: false,
            talk: Arc::clone(&talk),
        })?;
        let handshakes = || {
            talk.tls.as_ref().map_or((0, 0), |tls| {
                (
                    tls.resumed.load(Ordering::Relaxed),
                    tls.full.load(Ordering::Relaxed),
                )
            })
        };
        sleep(WARM);
        // Every connection has been used, or it takes too long.
        let connections = self.workload.connections as u64;
        wait(|| load.done() >= connections || load.has_ended());
        load.count_latencies();
        let (before, done, bytes) = (
            self.reading(running, &load),
            load.done(),
            self.origin.bytes(),
        );
        let (resumed, full) = handshakes();
        sleep(length);
        // A window without anything says nothing.
        wait(|| load.done() > done || load.has_ended());
        let after = self.reading(running, &load);
        let (exchanges, bytes) = (load.done() - done, self.origin.bytes() - bytes);
        let (resumed, full) = (handshakes().0 - resumed, handshakes().1 - full);
        let window = before.until(&after, &self.bench.cores());
        let (failed, first_failure) = (load.failed(), load.first_failure());
        let latencies = load.stop()?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let (units, resumed, per_second) = (
            match self.workload.is_stream() {
                true => bytes as f64 / (1u64 << 30) as f64,
                false => self.workload.unit.of(exchanges),
            },
            resumed as f64 / (resumed + full).max(1) as f64,
            exchanges as f64 / window.elapsed.as_secs_f64(),
        );
        #[expect(clippy::cast_precision_loss, reason = "below a minute")]
        let us = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        Ok(Timed {
            window,
            units,
            per_second,
            wanted: match pace {
                Pace::Closed => None,
                Pace::PerSecond(rate) => Some(rate),
            },
            failed,
            first_failure,
            resumed: (self.workload.is_resumed() && subject != Subject::Direct).then_some(resumed),
            latency_us: [us(0.5), us(0.99), us(0.999)],
        })
    }

    fn reading(&self, running: &Running, load: &Load) -> Reading {
        Reading {
            at: Instant::now(),
            proxy: Usage::of(running.pids()),
            load_ns: load.cpu_ns(),
            origin_ns: self.origin.cpu_ns(),
            kernel_ns: cpu::kernel_threads_ns(),
            cores: cpu::Cores::now(),
        }
    }
}

/// Waits for something that is there at once, but for a machine that is very busy.
fn wait(is_there: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_there() && Instant::now() < until {
        sleep(Duration::from_millis(1));
    }
}

/// Why a run does not count, if it does not.
fn judge(timed: &Timed, subject: Subject, mode: Mode, terms: &Terms) -> Option<String> {
    let window = &timed.window;
    let percent = |share: f64| (share * 100.0).round();
    if timed.failed > 0 {
        let first = timed.first_failure.as_deref().unwrap_or("?");
        return Some(format!("{} exchanges failed: {first}", timed.failed));
    }
    if timed.units <= 0.0 {
        return Some("nothing was done".to_owned());
    }
    if let Some(resumed) = timed.resumed.filter(|resumed| *resumed < RESUMED) {
        return Some(format!(
            "only {} % of the handshakes were resumed",
            percent(resumed)
        ));
    }
    if terms.allow_disturbed {
        return None;
    }
    if window.foreign_share() > terms.foreign_max {
        let share = percent(window.foreign_share());
        return Some(format!(
            "the machine was disturbed: others used {share} % of a core"
        ));
    }
    if window.stolen_share() > terms.foreign_max {
        let share = percent(window.stolen_share());
        return Some(format!(
            "the machine was disturbed: the hypervisor took {share} % of a core"
        ));
    }
    if let Some(wanted) = timed
        .wanted
        .filter(|wanted| timed.per_second < wanted * MET)
    {
        return Some(format!(
            "{:.0} a second in place of {wanted:.0}",
            timed.per_second
        ));
    }
    let limited = mode == Mode::Closed && subject != Subject::Direct;
    if limited && window.proxy_share() < FULL {
        return Some(format!(
            "load and origin were the limit: on their core {} % of the time, the proxy {} %",
            percent(window.load_share()),
            percent(window.proxy_share())
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        Terms {
            runs: 1,
            length: Duration::from_secs(1),
            foreign_max: 0.05,
            allow_disturbed: false,
            latencies: true,
        }
    }

    /// A second in which the proxy was on its core for 95 % of the time.
    fn timed() -> Timed {
        Timed {
            window: Window {
                elapsed: Duration::from_secs(1),
                proxy: Usage {
                    ns: 950_000_000,
                    ..Usage::default()
                },
                load_ns: 400_000_000,
                origin_ns: 300_000_000,
                kernel_ns: 0,
                busy_s: 1.66,
                stolen_s: 0.0,
            },
            units: 1000.0,
            per_second: 1000.0,
            wanted: None,
            failed: 0,
            first_failure: None,
            resumed: None,
            latency_us: [1.0, 2.0, 3.0],
        }
    }

    fn reason(timed: &Timed, mode: Mode) -> String {
        judge(timed, Subject::Haproxy, mode, &terms()).unwrap_or_default()
    }

    #[test]
    fn a_good_run_counts() {
        assert_eq!(reason(&timed(), Mode::Closed), "");
        let wanted = Some(1005.0);
        assert_eq!(reason(&Timed { wanted, ..timed() }, Mode::Rate), "");
    }

    #[test]
    fn a_run_with_a_failure_never_counts() {
        let failed = Timed {
            failed: 1,
            first_failure: Some("reset".to_owned()),
            ..timed()
        };
        assert_eq!(reason(&failed, Mode::Closed), "1 exchanges failed: reset");
        let lenient = Terms {
            allow_disturbed: true,
            ..terms()
        };
        assert!(judge(&failed, Subject::Haproxy, Mode::Closed, &lenient).is_some());
    }

    #[test]
    fn a_run_that_others_disturbed_does_not_count() {
        let mut disturbed = timed();
        disturbed.window.busy_s = 1.75;
        assert!(reason(&disturbed, Mode::Closed).contains("others used 10 %"));
        let lenient = Terms {
            allow_disturbed: true,
            ..terms()
        };
        assert_eq!(
            judge(&disturbed, Subject::Haproxy, Mode::Closed, &lenient),
            None
        );
        let mut stolen = timed();
        stolen.window.stolen_s = 0.2;
        assert!(reason(&stolen, Mode::Closed).contains("hypervisor took 20 %"));
    }

    #[test]
    fn a_run_in_which_the_load_was_the_limit_does_not_count() {
        let mut limited = timed();
        limited.window.proxy.ns = 500_000_000;
        limited.window.busy_s = 1.2;
        assert!(reason(&limited, Mode::Closed).contains("were the limit"));
        assert_eq!(
            reason(&limited, Mode::Rate),
            "",
            "at a rate nobody is to be full"
        );
        let direct = judge(&limited, Subject::Direct, Mode::Closed, &terms());
        assert_eq!(direct, None, "without a proxy it is always so");
    }

    #[test]
    fn a_rate_that_was_not_met_does_not_count() {
        let slow = Timed {
            wanted: Some(1100.0),
            ..timed()
        };
        assert!(reason(&slow, Mode::Rate).contains("1000 a second in place of 1100"));
    }

    #[test]
    fn handshakes_that_should_have_been_resumed_and_were_not_do_not_count() {
        let full = Timed {
            resumed: Some(0.4),
            ..timed()
        };
        assert!(reason(&full, Mode::Closed).contains("only 40 %"));
    }
}
