//! When pre-copy has done enough: QEMU's rule, for snapshots.
//!
//! Each round sends what was written during the round before it. The time that the last delta
//! would take is estimated from the newest round: a fixed cost, plus what the app dirties in
//! one round at the rate at which the round was sent. Pre-copy ends when that is short enough,
//! when it no longer shrinks, or when the rounds are used up; then, if the last delta would
//! still take longer than the policy bears, the move is given up before anyone waits.

use std::time::Duration;

use flocker_api::app::MovePolicy;

/// What a snapshot, a stream and its acknowledgement cost even with nothing to send.
pub const FIXED: Duration = Duration::from_millis(60);

/// A round shrinks the estimate if it brings it below this share of the one before.
const SHRINKS_TO: f64 = 0.8;

/// A pre-copy round as it went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Round {
    /// Bytes of all its streams.
    pub bytes: u64,
    /// From the snapshot to the acknowledgement.
    pub took: Duration,
    /// Time since the snapshot of the round before; `None` for the first round.
    pub since_last: Option<Duration>,
}

impl Round {
    /// How long the final delta would take if the app were stopped now; `None` while nothing
    /// is known of how fast it writes.
    #[must_use]
    pub fn final_delta_estimate(&self) -> Option<Duration> {
        let interval = self.since_last?.as_secs_f64();
        let took = self.took.as_secs_f64();
        if self.bytes == 0 || interval <= 0.0 || took <= 0.0 {
            return Some(FIXED);
        }
        // dirtied per second x took / sent per second; the bytes cancel out.
        let delta = took * took / interval;
        Some(FIXED + Duration::try_from_secs_f64(delta).unwrap_or(Duration::MAX / 2))
    }
}

/// What to do after a round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// One more round.
    Again,
    /// The last delta is as small as it gets: stop the app.
    Enough {
        /// How long the last delta will take.
        estimate: Duration,
    },
    /// The last delta would keep requests waiting too long.
    GiveUp {
        /// How long the last delta would take.
        estimate: Duration,
    },
}

/// Judges the rounds so far, newest last.
#[must_use]
pub fn judge(rounds: &[Round], policy: &MovePolicy) -> Verdict {
    let limit = Duration::from_millis(policy.final_delta_ms);
    let limit_max = Duration::from_millis(policy.final_delta_ms_max).max(limit);
    let used_up = rounds.len() >= usize::try_from(policy.rounds_max.max(1)).unwrap_or(usize::MAX);
    let Some(newest) = rounds.last() else {
        return Verdict::Again;
    };
    let Some(estimate) = newest.final_delta_estimate() else {
        // One round tells nothing of how fast the app writes. If there may be no second one,
        // the round itself is the best guess: it bounds what can have been written meanwhile
        // only if the app writes no faster than we send, and that is what we assume.
        let estimate = FIXED + newest.took;
        return match (used_up, estimate <= limit_max) {
            (false, _) => Verdict::Again,
            (true, true) => Verdict::Enough { estimate },
            (true, false) => Verdict::GiveUp { estimate },
        };
    };
    let before = rounds.iter().rev().nth(1);
    let before = before.and_then(Round::final_delta_estimate);
    let shrinks = before.is_none_or(|before| estimate <= before.mul_f64(SHRINKS_TO));
    if estimate > limit && shrinks && !used_up {
        Verdict::Again
    } else if estimate > limit_max {
        Verdict::GiveUp { estimate }
    } else {
        Verdict::Enough { estimate }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn round(bytes: u64, took: u64, since_last: Option<u64>) -> Round {
        Round {
            bytes,
            took: ms(took),
            since_last: since_last.map(ms),
        }
    }

    #[test]
    fn the_first_round_is_followed_by_a_second() {
        let rounds = [round(64 << 20, 400, None)];
        assert_eq!(judge(&rounds, &MovePolicy::default()), Verdict::Again);
    }

    #[test]
    fn a_slow_writer_needs_two_rounds() {
        // 64 MiB at first, then half a MiB that was written in the 450 ms since.
        let rounds = [round(64 << 20, 400, None), round(500_000, 95, Some(450))];
        let verdict = judge(&rounds, &MovePolicy::default());
        let Verdict::Enough { estimate } = verdict else {
            panic!("{verdict:?}")
        };
        assert!(estimate < ms(100), "{estimate:?}");
    }

    #[test]
    fn rounds_that_shrink_go_on_until_short_enough() {
        let mut rounds = vec![round(8 << 30, 60_000, None)];
        // The app dirties a fifth of what the wire carries, so each round is a fifth as long.
        let mut took = 60_000;
        let mut count = 0;
        while judge(&rounds, &MovePolicy::default()) == Verdict::Again {
            let next = took / 5;
            rounds.push(round(next << 17, next, Some(took)));
            took = next;
            count += 1;
        }
        assert_eq!(count, 3);
        assert!(matches!(
            judge(&rounds, &MovePolicy::default()),
            Verdict::Enough { .. }
        ));
    }

    #[test]
    fn an_app_that_writes_faster_than_the_wire_is_not_stopped() {
        let rounds = [
            round(8 << 30, 60_000, None),
            round(8 << 30, 60_000, Some(60_000)),
            round(8 << 30, 60_000, Some(60_000)),
        ];
        let verdict = judge(&rounds, &MovePolicy::default());
        assert!(matches!(verdict, Verdict::GiveUp { .. }), "{verdict:?}");
    }

    #[test]
    fn an_idle_volume_costs_the_fixed_part() {
        let rounds = [round(0, 30, None), round(0, 30, Some(31))];
        assert_eq!(
            judge(&rounds, &MovePolicy::default()),
            Verdict::Enough { estimate: FIXED }
        );
    }

    fn any_round() -> impl Strategy<Value = Round> {
        (0..1u64 << 40, 0..1u64 << 22, 0..1u64 << 22)
            .prop_map(|(bytes, took, since)| round(bytes, took, Some(since)))
    }

    proptest! {
        #[test]
        fn pre_copy_always_ends(
            rounds in proptest::collection::vec(any_round(), 0..12),
            rounds_max in 0..8u32,
        ) {
            let policy = MovePolicy { rounds_max, ..MovePolicy::default() };
            if rounds.len() >= rounds_max.max(1) as usize {
                prop_assert_ne!(judge(&rounds, &policy), Verdict::Again);
            }
        }

        #[test]
        fn nobody_waits_longer_than_the_policy_bears(
            rounds in proptest::collection::vec(any_round(), 1..12),
            limit in 1..10_000u64,
            limit_max in 1..20_000u64,
        ) {
            let policy = MovePolicy {
                final_delta_ms: limit,
                final_delta_ms_max: limit_max,
                ..MovePolicy::default()
            };
            if let Verdict::Enough { estimate } = judge(&rounds, &policy) {
                prop_assert!(estimate <= ms(limit.max(limit_max)));
            }
        }

        #[test]
        fn sending_the_same_faster_never_makes_it_worse(
            bytes in 1..1u64 << 40, took in 2..1u64 << 20, interval in 1..1u64 << 20,
        ) {
            let slow = round(bytes, took, Some(interval)).final_delta_estimate();
            let fast = round(bytes, took / 2, Some(interval)).final_delta_estimate();
            prop_assert!(fast <= slow);
        }
    }
}
