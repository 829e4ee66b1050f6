//! The accounts of an open loop: what was sent when it was meant, what became of it.
//!
//! Pure: moments are durations since the load began.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::{Keeping, Outcome, Sample, schedule::Due};

/// A request on its way; it comes back to [`Ledger::finish`] or stays unanswered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    at: usize,
}

/// The accounts.
#[derive(Debug)]
pub(super) struct Ledger {
    samples: Vec<Sample>,
    late: Histogram<u64>,
    in_flight: usize,
    not_sent: u64,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            samples: Vec::new(),
            late: Histogram::new_with_max(3_600_000_000, 3)
                .expect("an hour in microseconds with three digits is a valid range"),
            in_flight: 0,
            not_sent: 0,
        }
    }

    /// Takes note of a request that is sent now.
    pub(super) fn begin(&mut self, due: Due, edge: u8, sequence: u64, now: Duration) -> Ticket {
        self.late
            .saturating_record(micros(now.saturating_sub(due.intended)));
        self.in_flight += 1;
        self.push(due, edge, sequence, Outcome::Unanswered)
    }

    /// Takes note of a request that was due and cannot be sent.
    pub(super) fn skip(&mut self, due: Due, edge: u8, sequence: u64) {
        self.not_sent += 1;
        self.push(due, edge, sequence, Outcome::NotSent);
    }

    fn push(&mut self, due: Due, edge: u8, sequence: u64, outcome: Outcome) -> Ticket {
        let at = self.samples.len();
        self.samples.push(Sample {
            intended_us: micros(due.intended),
            latency_us: 0,
            edge,
            kind: due.kind,
            connection: due.connection,
            outcome,
            sequence,
        });
        Ticket { at }
    }

    /// Takes note of what became of a request; its latency counts from the intended moment.
    pub(super) fn finish(&mut self, ticket: Ticket, outcome: Outcome, now: Duration) {
        let sample = &mut self.samples[ticket.at];
        sample.outcome = outcome;
        sample.latency_us = micros(now).saturating_sub(sample.intended_us);
        self.in_flight -= 1;
    }

    /// Requests without an answer so far.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Ends the accounts; what is unanswered has waited until now.
    pub(super) fn close(mut self, now: Duration, cpu: Duration) -> (Vec<Sample>, Keeping) {
        for sample in &mut self.samples {
            if sample.outcome == Outcome::Unanswered {
                sample.latency_us = micros(now).saturating_sub(sample.intended_us);
            }
        }
        let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1e3;
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        let sent = self.samples.len().max(1) as f64;
        let keeping = Keeping {
            late_p99_ms: ms(self.late.value_at_quantile(0.99)),
            late_max_ms: ms(self.late.max()),
            not_sent: self.not_sent,
            cpu_ms: cpu.as_secs_f64() * 1e3,
            cpu_us_per_request: cpu.as_secs_f64() * 1e6 / sent,
        };
        (self.samples, keeping)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::schedule::{Mix, Schedule},
        *,
    };

    const MS: Duration = Duration::from_millis(1);

    /// A server on virtual time that answers within a millisecond, but for a pause.
    fn run(
        pause: std::ops::Range<u32>,
        generator_stall: std::ops::Range<u32>,
    ) -> (Vec<Sample>, Keeping) {
        let mut schedule = Schedule::new(1000, Mix::default());
        let (mut ledger, mut waiting) = (Ledger::new(), Vec::new());
        for ms in 0..3000 {
            let now = MS * ms;
            if !pause.contains(&ms) {
                for ticket in waiting.drain(..) {
                    ledger.finish(ticket, Outcome::Answered, now);
                }
            }
            if !generator_stall.contains(&ms) {
                while let Some(due) = schedule.next_due(now) {
                    waiting.push(ledger.begin(due, 0, due.number, now));
                }
            }
        }
        ledger.close(MS * 3000, MS)
    }

    #[test]
    fn a_pause_shows_in_every_request_that_fell_into_it() {
        let (samples, keeping) = run(1000..1500, 0..0);
        assert!(keeping.is_kept());
        assert_eq!(samples.len(), 3000);
        let slow: Vec<&Sample> = samples.iter().filter(|s| s.latency_us > 1000).collect();
        // 500 requests waited 500 ms down to 2 ms: none is omitted.
        assert_eq!(slow.len(), 500);
        assert_eq!(slow[0].latency_us, 501_000);
        assert_eq!(slow[499].latency_us, 2_000);
        assert!(
            slow.windows(2)
                .all(|pair| pair[0].latency_us == pair[1].latency_us + 1000)
        );
    }

    #[test]
    fn a_stalled_generator_counts_the_wait_and_is_found_out() {
        let (samples, keeping) = run(0..0, 1000..1500);
        assert_eq!(samples[1000].latency_us, 501_000);
        assert_eq!(samples.len(), 3000);
        assert!(!keeping.is_kept(), "{keeping:?}");
        assert!((499.0..502.0).contains(&keeping.late_max_ms), "{keeping:?}");
    }

    #[test]
    fn what_never_came_back_has_waited_until_the_end() {
        let (samples, _) = run(2000..4000, 0..0);
        let unanswered: Vec<&Sample> = samples
            .iter()
            .filter(|s| s.outcome == Outcome::Unanswered)
            .collect();
        assert_eq!(unanswered.len(), 1001);
        assert_eq!(
            unanswered[0].latency_us,
            3_000_000 - unanswered[0].intended_us
        );
        assert!(unanswered.iter().all(|s| !s.outcome.is_failure()));
    }

    #[test]
    fn a_request_that_was_not_sent_spoils_the_run() {
        let mut schedule = Schedule::new(10, Mix::default());
        let mut ledger = Ledger::new();
        let due = schedule.next_due(Duration::ZERO).unwrap();
        ledger.skip(due, 0, 0);
        assert_eq!(ledger.in_flight(), 0);
        let (samples, keeping) = ledger.close(MS, MS);
        assert_eq!(samples[0].outcome, Outcome::NotSent);
        assert!(!keeping.is_kept());
    }
}
