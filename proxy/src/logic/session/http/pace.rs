//! How fast one side moves a body, in stretches of time: whoever sends, or takes, less than the
//! least in a stretch holds the connection for nothing.

use std::time::{Duration, Instant};

/// One stretch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    since: Instant,
    /// Bytes handed over since.
    moved: u64,
    /// Bytes that were waiting for the side to take them when it began.
    waiting: u64,
}

impl Pace {
    /// A stretch begins, while so many bytes are on their way to the side.
    pub(super) fn new(now: Instant, waiting: usize) -> Self {
        Self {
            since: now,
            moved: 0,
            waiting: waiting as u64,
        }
    }

    /// So many bytes were handed over.
    pub(super) fn add(&mut self, bytes: u64) {
        self.moved = self.moved.saturating_add(bytes);
    }

    /// When the stretch ends.
    pub(super) fn ends(&self, stretch: Duration) -> Instant {
        self.since + stretch
    }

    /// Whether a client has sent too little.
    pub(super) fn sent_too_little(&self, now: Instant, rate: u64) -> bool {
        self.moved < self.least(now, rate)
    }

    /// Whether a client has taken too little, though there was something to be taken all the
    /// time; `waiting` is what still is on its way to it.
    pub(super) fn took_too_little(&self, now: Instant, waiting: usize, rate: u64) -> bool {
        let taken = (self.waiting + self.moved).saturating_sub(waiting as u64);
        self.waiting > 0 && waiting > 0 && taken < self.least(now, rate)
    }

    /// Never nothing at all.
    fn least(&self, now: Instant, rate: u64) -> u64 {
        let stretch = now.saturating_duration_since(self.since).as_millis();
        let stretch = u64::try_from(stretch).unwrap_or(u64::MAX);
        (rate.saturating_mul(stretch) / 1000).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::test_clock;

    #[test]
    fn a_drip_is_too_little_and_a_stream_is_not() {
        let start = test_clock();
        let end = start + Duration::from_secs(30);
        let mut pace = Pace::new(start, 0);
        assert_eq!(pace.ends(Duration::from_secs(30)), end);
        assert!(pace.sent_too_little(end, 0), "nothing is always too little");
        pace.add(2999);
        assert!(pace.sent_too_little(end, 100));
        assert!(!pace.sent_too_little(end, 0));
        pace.add(1);
        assert!(!pace.sent_too_little(end, 100));
    }

    #[test]
    fn a_reader_is_slow_only_if_something_waits_for_it_all_the_time() {
        let start = test_clock();
        let end = start + Duration::from_secs(10);
        let slow = |before, moved, after| {
            let mut pace = Pace::new(start, before);
            pace.add(moved);
            pace.took_too_little(end, after, 100)
        };
        assert!(slow(5000, 0, 5000));
        assert!(slow(5000, 0, 4500), "50 bytes a second");
        assert!(!slow(5000, 0, 4000));
        assert!(!slow(5000, 9000, 5000));
        assert!(!slow(0, 5000, 5000), "it may only just have begun");
        assert!(!slow(5000, 0, 0));
    }
}
