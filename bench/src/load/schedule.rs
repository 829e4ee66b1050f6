//! When which request is due. Pure: the same number always means the same request.

use std::time::Duration;

use super::{Connection, Kind};

/// How requests differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// Of 100 requests, how many read; the others write.
    pub reads_percent: u8,
    /// Of 100 requests, how many have a connection opened for them.
    pub new_connections_percent: u8,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            reads_percent: 70,
            new_connections_percent: 10,
        }
    }
}

/// A constant rate: request `i` is due `i / rate` seconds after the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    rate: u32,
    mix: Mix,
    issued: u64,
}

/// A request that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Its number, from 0.
    pub number: u64,
    /// When it was meant to be sent, since the beginning.
    pub intended: Duration,
    /// What it does.
    pub kind: Kind,
    /// How it is carried.
    pub connection: Connection,
}

impl Schedule {
    /// A schedule of `rate` requests a second; a rate of 0 counts as 1.
    #[must_use]
    pub fn new(rate: u32, mix: Mix) -> Self {
        Self {
            rate: rate.max(1),
            mix,
            issued: 0,
        }
    }

    /// The next request, if it is due `elapsed` after the beginning.
    pub fn next_due(&mut self, elapsed: Duration) -> Option<Due> {
        let intended = self.next_at();
        if elapsed < intended {
            return None;
        }
        let number = self.issued;
        self.issued += 1;
        let dice = scramble(number);
        let of_100 = |dice: u64| u8::try_from(dice % 100).unwrap_or(0);
        Some(Due {
            number,
            intended,
            kind: if of_100(dice) < self.mix.reads_percent {
                Kind::Read
            } else {
                Kind::Write
            },
            connection: if of_100(dice >> 32) < self.mix.new_connections_percent {
                Connection::New
            } else {
                Connection::Kept
            },
        })
    }

    /// Leaves out what was due before a moment: for a client that is a closed loop by nature.
    pub fn skip_before(&mut self, elapsed: Duration) {
        let passed = elapsed.as_nanos() * u128::from(self.rate);
        let first = u64::try_from(passed.div_ceil(1_000_000_000)).unwrap_or(u64::MAX);
        self.issued = self.issued.max(first);
    }

    /// When the next request is due.
    #[must_use]
    pub fn next_at(&self) -> Duration {
        let nanos = u128::from(self.issued) * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Spreads consecutive numbers evenly (splitmix64's finaliser), so that kinds and connections
/// are mixed the same way in every run, and independently of the edge.
fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(schedule: &mut Schedule, elapsed: Duration) -> Vec<Due> {
        std::iter::from_fn(|| schedule.next_due(elapsed)).collect()
    }

    #[test]
    fn nothing_is_due_early_and_everything_on_time() {
        let mut schedule = Schedule::new(2000, Mix::default());
        assert_eq!(drain(&mut schedule, Duration::ZERO).len(), 1);
        assert_eq!(drain(&mut schedule, Duration::from_micros(499)).len(), 0);
        assert_eq!(drain(&mut schedule, Duration::from_micros(500)).len(), 1);
        assert_eq!(drain(&mut schedule, Duration::from_secs(1)).len(), 1999);
        assert_eq!(schedule.next_at(), Duration::from_micros(1_000_500));
    }

    #[test]
    fn a_late_generator_still_means_the_same_moments() {
        let late = drain(
            &mut Schedule::new(3, Mix::default()),
            Duration::from_secs(7),
        );
        let mut schedule = Schedule::new(3, Mix::default());
        let step = Duration::from_millis(1);
        let prompt: Vec<Due> = (0..=7000)
            .flat_map(|ms| drain(&mut schedule, step * ms))
            .collect();
        assert_eq!(late, prompt);
        assert_eq!(late.len(), 22);
    }

    #[test]
    fn what_is_skipped_was_due_before() {
        let mut schedule = Schedule::new(10, Mix::default());
        schedule.skip_before(Duration::from_millis(250));
        assert_eq!(schedule.next_at(), Duration::from_millis(300));
        schedule.skip_before(Duration::from_millis(300));
        assert_eq!(schedule.next_at(), Duration::from_millis(300));
        schedule.skip_before(Duration::ZERO);
        assert_eq!(schedule.next_at(), Duration::from_millis(300));
    }

    #[test]
    fn the_mix_is_what_was_asked_for() {
        let mix = Mix {
            reads_percent: 70,
            new_connections_percent: 10,
        };
        let all = drain(&mut Schedule::new(100_000, mix), Duration::from_secs(1));
        let share = |count: usize| count * 1000 / all.len();
        let reads = all.iter().filter(|due| due.kind == Kind::Read).count();
        let new = |due: &&Due| due.connection == Connection::New;
        let news = all.iter().filter(new).count();
        let both = all.iter().filter(|due| due.kind == Kind::Write).filter(new);
        assert!((690..=710).contains(&share(reads)), "{reads}");
        assert!((95..=105).contains(&share(news)), "{news}");
        assert!((27..=33).contains(&share(both.count())));
    }
}
