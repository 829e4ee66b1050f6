//! Whether and when an app that has ended by itself is started again.
//!
//! ```text
//!             start            ends by itself, policy says again
//!   (idle) ----------> Running ----------------------------------> Waiting
//!     ^                   |  ^                                        |
//!     |   stop, fence     |  +---------- started again ---------------+
//!     +-------------------+                                           |
//!     +-- stop, fence, refused (not primary any more, no lease) ------+
//!                         |
//!                         +-- ends, policy says no -----------------> GaveUp
//! ```
//!
//! The agent starts again only what it has itself seen running under the epoch at hand; what it
//! finds ended when it begins is control's to start, which knows whether a move is at work. So no
//! restart can put a writer beside a last snapshot.

use std::time::Duration;

use flocker_api::container::RestartPolicy;

/// How long is waited before a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Before the first one; doubled with each further one.
    pub first: Duration,
    /// At most.
    pub max: Duration,
    /// A run that lasted as long as this counts as good: the next wait is the first one again.
    pub good: Duration,
}

/// What becomes of an app that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is started again after this time.
    Again(Duration),
    /// It is left as it is, and why.
    Leave(String),
}

/// The restarts of one app since it was last started on demand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    /// How often it was started again.
    pub restarts: u32,
    /// Bad runs in a row.
    bad: u32,
}

impl History {
    /// It has ended by itself, with this exit code if it is known, after running so long.
    pub fn ended(
        &mut self,
        policy: RestartPolicy,
        backoff: Backoff,
        code: Option<i64>,
        ran: Duration,
    ) -> Verdict {
        if ran >= backoff.good {
            self.bad = 0;
        }
        let code_text = code.map_or_else(|| "an unknown code".to_owned(), |code| code.to_string());
        match policy {
            RestartPolicy::Never => {
                return Verdict::Leave(format!(
                    "it ended with {code_text}, and its restart policy is to leave it then"
                ));
            }
            RestartPolicy::OnFailure { .. } if code == Some(0) => {
                return Verdict::Leave(
                    "it ended with 0, and its restart policy is on-failure".to_owned(),
                );
            }
            RestartPolicy::OnFailure {
                retries_max: Some(most),
            } if self.bad >= most => {
                return Verdict::Leave(format!(
                    "it ended with {code_text} after {most} restarts in a row, which is all that \
                     its restart policy allows"
                ));
            }
            RestartPolicy::Always | RestartPolicy::OnFailure { .. } => {}
        }
        let wait = backoff.first.saturating_mul(1 << self.bad.min(20));
        self.bad += 1;
        self.restarts += 1;
        Verdict::Again(wait.min(backoff.max))
    }
}

/// What is said of an app that is found ended by an agent that did not see it run.
#[must_use]
pub fn found_ended(policy: RestartPolicy, code: Option<i64>) -> Option<String> {
    let leaves = match policy {
        RestartPolicy::Never => true,
        RestartPolicy::OnFailure { .. } => code == Some(0),
        RestartPolicy::Always => false,
    };
    let none = Backoff {
        first: Duration::ZERO,
        max: Duration::ZERO,
        good: Duration::ZERO,
    };
    match History::default().ended(policy, none, code, Duration::ZERO) {
        Verdict::Leave(reason) if leaves => Some(reason),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        first: Duration::from_millis(100),
        max: Duration::from_secs(1),
        good: Duration::from_secs(10),
    };

    fn on_failure(retries_max: Option<u32>) -> RestartPolicy {
        RestartPolicy::OnFailure { retries_max }
    }

    fn waits(history: &mut History, policy: RestartPolicy, code: i64, ran_s: u64) -> Option<u128> {
        let ran = Duration::from_secs(ran_s);
        match history.ended(policy, BACKOFF, Some(code), ran) {
            Verdict::Again(wait) => Some(wait.as_millis()),
            Verdict::Leave(_) => None,
        }
    }

    #[test]
    fn waits_grow_to_a_limit_and_begin_anew_after_a_good_run() {
        let mut history = History::default();
        let mut next = |ran_s| waits(&mut history, RestartPolicy::Always, 0, ran_s);
        let grown: Vec<_> = (0..6).map(|_| next(0)).collect();
        let expected = [100, 200, 400, 800, 1000, 1000].map(Some);
        assert_eq!(grown, expected);
        assert_eq!(next(10), Some(100));
        assert_eq!(next(0), Some(200));
        assert_eq!(history.restarts, 8);
    }

    #[test]
    fn no_is_no() {
        assert_eq!(
            waits(&mut History::default(), RestartPolicy::Never, 1, 0),
            None
        );
    }

    #[test]
    fn on_failure_counts_and_lets_success_be() {
        let mut history = History::default();
        let policy = on_failure(Some(2));
        assert_eq!(waits(&mut history, policy, 1, 0), Some(100));
        assert_eq!(waits(&mut history, policy, 1, 0), Some(200));
        assert_eq!(waits(&mut history, policy, 1, 0), None);
        assert_eq!(waits(&mut History::default(), policy, 0, 0), None);
        let unknown = History::default().ended(on_failure(None), BACKOFF, None, Duration::ZERO);
        assert_eq!(unknown, Verdict::Again(BACKOFF.first));
    }

    #[test]
    fn what_is_found_ended_is_controls_unless_its_policy_leaves_it() {
        assert_eq!(found_ended(RestartPolicy::Always, Some(1)), None);
        assert_eq!(found_ended(on_failure(Some(1)), Some(1)), None);
        let reason = found_ended(on_failure(None), Some(0)).unwrap();
        assert!(reason.contains("on-failure"), "{reason}");
        assert!(found_ended(RestartPolicy::Never, None).is_some());
    }
}
