//! How fast something goes, by the last few seconds of it, and when it will be through.

use std::{collections::VecDeque, time::Duration};

/// How much of the past counts.
const WINDOW: Duration = Duration::from_secs(5);
/// Marks closer together than this are one.
const GRAIN: Duration = Duration::from_millis(100);

/// What was counted when. Time counts from the beginning.
#[derive(Debug, Default)]
pub struct Rate {
    marks: VecDeque<(Duration, u64)>,
}

impl Rate {
    /// So many bytes are through by now.
    pub fn mark(&mut self, now: Duration, bytes: u64) {
        match self.marks.back_mut() {
            Some((at, _)) if now < *at + GRAIN => return,
            _ => self.marks.push_back((now, bytes)),
        }
        // One mark from before the window stays: the window begins there.
        while self.marks.get(1).is_some_and(|(at, _)| now >= *at + WINDOW) {
            self.marks.pop_front();
        }
    }

    /// Bytes per second, up to now; a standstill counts.
    #[must_use]
    pub fn per_second(&self, now: Duration, bytes: u64) -> u64 {
        let (from, before) = self.marks.front().copied().unwrap_or_default();
        let span = now.saturating_sub(from).as_micros().max(1);
        let moved = u128::from(bytes.saturating_sub(before));
        u64::try_from(moved * 1_000_000 / span).unwrap_or(u64::MAX)
    }
}

/// How long what is left will take; `None` while nothing moves.
#[must_use]
pub fn eta(bytes: u64, expected: u64, per_second: u64) -> Option<Duration> {
    let left = u128::from(expected.saturating_sub(bytes));
    let ms = (left * 1_000).checked_div(u128::from(per_second))?;
    Some(Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn only_the_last_seconds_count() {
        let mut rate = Rate::default();
        for second in 0..20 {
            rate.mark(s(second), second * 1_000);
        }
        assert_eq!(rate.per_second(s(20), 20_000), 1_000);
        for second in 20..40 {
            rate.mark(s(second), 20_000 + (second - 20) * 5_000);
        }
        assert_eq!(rate.per_second(s(39), 115_000), 5_000);
        assert!(rate.marks.len() < 60);
        // A standstill is seen.
        assert!(rate.per_second(s(60), 115_000) < 1_000);
    }

    #[test]
    fn what_is_left_by_the_rate() {
        assert_eq!(eta(500, 1_500, 100), Some(s(10)));
        assert_eq!(eta(1_500, 1_500, 0), None);
        assert_eq!(eta(2_000, 1_500, 100), Some(s(0)));
    }
}
