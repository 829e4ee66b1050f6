//! A token bucket: how long to wait so that no more than so many bytes per second go out.
//!
//! A bucket that was left alone holds one second's worth, which goes out at once: the last small
//! delta of a move does not wait. It may go into debt by one piece, and who comes next waits for
//! that; so pieces of any size pass, and several takers get their turns in order.

use std::time::Duration;

/// A token bucket. Time is any clock that only goes forward.
#[derive(Debug, Clone)]
pub struct Bucket {
    bytes_per_second: u64,
    /// Millionths of bytes that may go out now; below 0 they are owed.
    level: i128,
    at: Duration,
}

const MILLION: i128 = 1_000_000;

impl Bucket {
    /// A full bucket of this rate, which is above 0.
    #[must_use]
    pub fn new(bytes_per_second: u64, now: Duration) -> Self {
        let bytes_per_second = bytes_per_second.max(1);
        Self {
            bytes_per_second,
            level: i128::from(bytes_per_second) * MILLION,
            at: now,
        }
    }

    /// Takes a piece out; it may go after this wait.
    pub fn take(&mut self, bytes: usize, now: Duration) -> Duration {
        let rate = i128::from(self.bytes_per_second);
        let passed = now.saturating_sub(self.at).as_micros();
        let passed = i128::try_from(passed).unwrap_or(i128::MAX / MILLION / rate);
        self.at = self.at.max(now);
        let full = rate * MILLION;
        self.level = self
            .level
            .saturating_add(passed.saturating_mul(rate))
            .min(full);
        self.level -= i128::try_from(bytes).unwrap_or(i128::MAX / MILLION) * MILLION;
        let owed = (-self.level).max(0);
        Duration::from_micros(u64::try_from(owed.div_euclid(rate)).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_second_is_free_and_the_rest_is_waited_for() {
        let mut bucket = Bucket::new(1_000, Duration::ZERO);
        assert_eq!(bucket.take(1_000, Duration::ZERO), Duration::ZERO);
        assert_eq!(bucket.take(500, Duration::ZERO), SECOND / 2);
        assert_eq!(bucket.take(500, Duration::ZERO), SECOND);
        // Left alone it fills up, and no further than a second's worth.
        assert_eq!(bucket.take(1_000, SECOND * 100), Duration::ZERO);
        assert_eq!(bucket.take(1, SECOND * 100), Duration::from_millis(1));
    }

    #[test]
    fn a_piece_larger_than_the_rate_passes() {
        let mut bucket = Bucket::new(1_000, Duration::ZERO);
        assert_eq!(bucket.take(11_000, Duration::ZERO), SECOND * 10);
    }

    proptest! {
        /// Whoever waits as told never sends more than the rate and the second at its start.
        #[test]
        fn the_rate_holds(
            rate in 1_000u64..10_000_000,
            pieces in prop::collection::vec((1usize..300_000, 0u64..3_000), 1..100),
        ) {
            let mut bucket = Bucket::new(rate, Duration::ZERO);
            let (mut now, mut sent) = (Duration::ZERO, 0u128);
            for (bytes, idle) in pieces {
                now += bucket.take(bytes, now) + Duration::from_millis(idle);
                sent += bytes as u128;
                let most = u128::from(rate) * (now + SECOND).as_micros() / 1_000_000 + 1;
                prop_assert!(sent <= most + u128::from(rate) / 1_000, "{sent} of {most} by {now:?}");
            }
        }
    }
}
