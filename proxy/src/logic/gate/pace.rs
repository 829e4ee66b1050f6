//! How fast those who wait are let go: the parked at a resume, and those who wait for an upstream
//! when it has come up.
//!
//! All at once they would overrun an app that has just started: its accept queue (often 128, or
//! 50, long) overflows, and whose SYN was dropped waits a second for the next (RFC 6298, section
//! 2.1), far longer than the pause. What is in that queue has not been answered yet, so the count
//! of those who were let go on new connections and have not been answered is kept within a
//! window; every answer lets the next go. Who gets a connection that has served before is not
//! counted: it was accepted long ago.
//!
//! The window opens by what the upstream shows:
//!
//! * Answers come in rounds. The quickest of a round took longer than the quickest of all by the
//!   time that everyone spends in the queue; times the rate of answers, that is how many are in
//!   it. Few, and the window widens; many, and it narrows. How long an app takes for what it has
//!   accepted, and how different that is, does not matter.
//! * Silence widens it, too, after a while: opaque sessions may have nothing to say, and slow
//!   requests do not end. But not while connects hang: those are what a full queue looks like.
//! * Whatever happens, everyone has been let go after [`ALL_WITHIN`].

use std::time::{Duration, Instant};

/// The window to begin with: of four edges together, less than the shortest queues in use.
pub const WINDOW: usize = 8;
/// Fewer than this many in the queue, by estimate: the window widens by a quarter, but no more
/// than [`WINDOW`] at once.
const FEW_QUEUED: u128 = 4;
/// More than this many: it narrows by a quarter.
const MANY_QUEUED: u128 = 8;
/// Answers of a round, at least: among fewer there may be no quick one.
const ROUND_MIN: usize = 16;
/// Without an answer for so long the window widens by time.
const QUIET: Duration = Duration::from_millis(200);
/// In a silence it widens by one part in so many each [`TICK`], it doubles in some 140 ms,
const QUIET_PARTS: usize = 20;
/// but by no more than this: four edges together then connect ten in a ms.
const QUIET_MOST: usize = 24;
/// Time between two looks at it.
pub const TICK: Duration = Duration::from_millis(10);
/// Everyone has been let go after so long, whatever the upstream says.
pub const ALL_WITHIN: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Clone)]
pub struct Pace {
    began: Instant,
    window: usize,
    /// Let go and not answered.
    out: usize,
    /// Of those, who is not connected.
    connecting: usize,
    /// Let go since the beginning.
    gone: usize,
    quickest: Duration,
    round: Round,
    /// When the last answer came.
    heard: Instant,
    look_at: Instant,
}

/// Answers since the window was last judged.
#[derive(Debug, Clone)]
struct Round {
    since: Instant,
    answers: usize,
    quickest: Duration,
}

impl Round {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            answers: 0,
            quickest: Duration::MAX,
        }
    }
}

impl Pace {
    /// Nobody has been let go.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            began: now,
            window: WINDOW,
            out: 0,
            connecting: 0,
            gone: 0,
            quickest: Duration::MAX,
            round: Round::new(now),
            heard: now,
            look_at: now + TICK,
        }
    }

    /// Begins anew; who was let go before still counts.
    pub fn begin(&mut self, now: Instant) {
        *self = Self {
            out: self.out,
            connecting: self.connecting,
            ..Self::new(now)
        };
    }

    /// How many of so many that wait may go.
    #[must_use]
    pub fn room(&self, waiting: usize, now: Instant) -> usize {
        let age = now.saturating_duration_since(self.began);
        let all = (self.gone + waiting) as u128;
        let due = all * age.as_millis() / ALL_WITHIN.as_millis();
        let owed = usize::try_from(due).unwrap_or(usize::MAX);
        let owed = owed.saturating_sub(self.gone);
        self.window.saturating_sub(self.out).max(owed).min(waiting)
    }

    /// One was let go.
    pub fn went(&mut self) {
        self.out += 1;
        self.connecting += 1;
        self.gone += 1;
    }

    /// It is connected.
    pub fn connected(&mut self) {
        self.connecting = self.connecting.saturating_sub(1);
    }

    /// It has come to its end without having shown anything of the upstream.
    pub fn gave_back(&mut self, connected: bool) {
        self.out = self.out.saturating_sub(1);
        if !connected {
            self.connected();
        }
    }

    /// It was answered after so long.
    pub fn answered(&mut self, took: Duration, now: Instant) {
        self.out = self.out.saturating_sub(1);
        self.heard = now;
        self.quickest = self.quickest.min(took);
        self.round.quickest = self.round.quickest.min(took);
        self.round.answers += 1;
        if self.round.answers < ROUND_MIN.max(self.window) {
            return;
        }
        let lasted = now.saturating_duration_since(self.round.since).as_nanos();
        let waited = (self.round.quickest - self.quickest).as_nanos();
        let queued = self.round.answers as u128 * waited / lasted.max(1);
        if queued < FEW_QUEUED {
            // Not by more at once than the queue has room for.
            self.window += (self.window / 4).min(WINDOW);
        } else if queued > MANY_QUEUED {
            self.window = (self.window - self.window / 4).max(WINDOW);
        }
        self.round = Round::new(now);
    }

    /// When time makes a difference, if anyone waits.
    #[must_use]
    pub fn look_at(&self) -> Instant {
        self.look_at
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) {
        if now < self.look_at {
            return;
        }
        self.look_at = now + TICK;
        let quiet = now.saturating_duration_since(self.heard) >= QUIET;
        let hanging = self.connecting > WINDOW.max(self.window / 8);
        if quiet && self.out >= self.window && !hanging {
            self.window += (self.window / QUIET_PARTS).clamp(1, QUIET_MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BinaryHeap, VecDeque};

    use super::*;

    /// Of a listening socket, in Linux as in most programs.
    const QUEUE: usize = 128;
    const STEP: Duration = Duration::from_micros(100);

    /// An app behind an accept queue, and edges that let their share of the waiting go.
    #[derive(Clone, Copy)]
    struct Case {
        edges: usize,
        waiting: usize,
        /// Steps between two connections that the app accepts.
        steps_per_accept: usize,
        accepts_per_step: usize,
        /// Time from there to an answer; none comes without.
        answers_after: Option<Duration>,
        /// Up to so many times as long, some sooner and some later.
        spread: u32,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct Outcome {
        overflows: usize,
        longest_queue: usize,
        overtaken: usize,
        /// Until the last was accepted.
        took: Duration,
    }

    /// Waits in the accept queue: edge, number, since.
    type Connect = (usize, usize, Instant);

    fn run(case: Case) -> Outcome {
        let start = crate::logic::test_clock();
        let mut paces = vec![Pace::new(start); case.edges];
        let mut waiting: Vec<VecDeque<usize>> = vec![VecDeque::new(); case.edges];
        for number in 0..case.waiting {
            waiting[number % case.edges].push_back(number);
        }
        let mut queue: VecDeque<Connect> = VecDeque::new();
        // The earliest first: when it is due, at which edge, when it went.
        let mut answers = BinaryHeap::new();
        let mut outcome = Outcome {
            overflows: 0,
            longest_queue: 0,
            overtaken: 0,
            took: Duration::ZERO,
        };
        let mut last_accepted = vec![None; case.edges];
        let (mut accepted, mut step, mut now) = (0, 0, start);
        while accepted < case.waiting {
            assert!(now - start < Duration::from_secs(300), "{outcome:?}");
            paces.iter_mut().for_each(|pace| pace.tick(now));
            while let Some(std::cmp::Reverse((due, edge, went))) = answers.peek().copied()
                && due <= now
            {
                answers.pop();
                let pace: &mut Pace = &mut paces[edge];
                pace.answered(now - went, now);
            }
            for (edge, pace) in paces.iter_mut().enumerate() {
                for _ in 0..pace.room(waiting[edge].len(), now) {
                    let number = waiting[edge].pop_front().unwrap();
                    pace.went();
                    pace.connected();
                    outcome.overflows += usize::from(queue.len() >= QUEUE);
                    queue.push_back((edge, number, now));
                }
            }
            outcome.longest_queue = outcome.longest_queue.max(queue.len());
            step += 1;
            if step % case.steps_per_accept == 0 {
                for _ in 0..case.accepts_per_step {
                    let Some((edge, number, went)) = queue.pop_front() else {
                        break;
                    };
                    accepted += 1;
                    outcome.overtaken += usize::from(last_accepted[edge] > Some(number));
                    last_accepted[edge] = Some(number);
                    outcome.took = now - start;
                    if let Some(after) = case.answers_after {
                        let turn = u32::try_from(accepted).unwrap();
                        let after = after * (1 + turn * 7919 % case.spread);
                        answers.push(std::cmp::Reverse((now + STEP + after, edge, went)));
                    }
                }
            }
            now += STEP;
        }
        outcome
    }

    /// Accepted per ms: ten, one, one in five.
    const RATES: [(usize, usize, f64); 3] = [(1, 1, 10.0), (10, 1, 1.0), (50, 1, 0.2)];

    #[test]
    fn an_accept_queue_never_overflows_and_an_app_is_never_idle_for_long() {
        for (steps_per_accept, accepts_per_step, per_ms) in RATES {
            for edges in [1, 2, 4] {
                for waiting in [100, 1_000, 10_000] {
                    for answers_after in [Duration::ZERO, Duration::from_millis(3)] {
                        let outcome = run(Case {
                            edges,
                            waiting,
                            steps_per_accept,
                            accepts_per_step,
                            answers_after: Some(answers_after),
                            spread: 1,
                        });
                        let said = format!("{edges} {waiting} {per_ms} {answers_after:?}");
                        assert_eq!(outcome.overflows, 0, "{said}: {outcome:?}");
                        assert_eq!(outcome.overtaken, 0, "{said}: {outcome:?}");
                        // Twice what the app itself takes for them.
                        let own = Duration::from_secs_f64(waiting as f64 / per_ms / 1e3);
                        let most = own * 2 + Duration::from_millis(100);
                        assert!(outcome.took <= most, "{said}: {outcome:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn slow_answers_of_an_app_that_accepts_quickly_hold_nobody_up_for_long() {
        for edges in [1, 2, 4] {
            for (after_ms, spread) in [(100, 1), (2_000, 1), (5, 10), (20, 30)] {
                let outcome = run(Case {
                    edges,
                    waiting: 10_000,
                    steps_per_accept: 1,
                    accepts_per_step: 1,
                    answers_after: Some(Duration::from_millis(after_ms)),
                    spread,
                });
                let said = format!("{edges} {after_ms} {spread}");
                assert_eq!(outcome.overflows, 0, "{said}: {outcome:?}");
                assert!(
                    outcome.took < Duration::from_secs(20),
                    "{said}: {outcome:?}"
                );
            }
        }
    }

    #[test]
    fn those_who_are_never_answered_are_all_let_go_within_seconds() {
        for edges in [1, 2, 4] {
            let outcome = run(Case {
                edges,
                waiting: 10_000,
                steps_per_accept: 1,
                accepts_per_step: 1,
                answers_after: None,
                spread: 1,
            });
            assert_eq!(outcome.overflows, 0, "{edges}: {outcome:?}");
            assert!(
                outcome.took < Duration::from_secs(6),
                "{edges}: {outcome:?}"
            );
        }
    }

    #[test]
    fn an_app_that_accepts_nobody_is_met_by_few_and_connects_that_hang_by_no_more() {
        let start = crate::logic::test_clock();
        let mut pace = Pace::new(start);
        let mut now = start;
        let mut in_queue = 0;
        for _ in 0..200 {
            pace.tick(now);
            for _ in 0..pace.room(10_000 - pace.gone, now) {
                pace.went();
                // Its queue is full at some point: the rest hangs.
                if in_queue < QUEUE {
                    in_queue += 1;
                    pace.connected();
                }
            }
            now += TICK;
        }
        assert_eq!(in_queue, QUEUE);
        // But for those who are owed it by the time that has passed.
        let owed = 10_000 * 2 / 60;
        assert!(pace.gone < QUEUE + 40 + owed, "{}", pace.gone);
    }

    #[test]
    fn everyone_goes_in_the_end() {
        let start = crate::logic::test_clock();
        let pace = Pace::new(start);
        assert_eq!(pace.room(10_000, start), WINDOW);
        assert_eq!(pace.room(10_000, start + ALL_WITHIN / 2), 5_000);
        assert_eq!(pace.room(10_000, start + ALL_WITHIN), 10_000);
    }

    #[test]
    fn who_gives_back_makes_room() {
        let start = crate::logic::test_clock();
        let mut pace = Pace::new(start);
        for _ in 0..WINDOW {
            pace.went();
        }
        assert_eq!(pace.room(1, start), 0);
        pace.gave_back(false);
        assert_eq!((pace.room(9, start), pace.connecting), (1, WINDOW - 1));
    }
}
