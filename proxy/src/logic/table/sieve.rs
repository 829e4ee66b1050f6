//! Which hosts may have routes below paths: a few bits for each that has, so that the lookup of a
//! host that has none does not wait for memory a second time.
#![warn(clippy::indexing_slicing)]

use std::sync::Arc;

/// Bits for each host, at least: one host in fifty or so is looked up in vain.
const BITS_OF_EACH: usize = 16;
/// Room for so many hosts, at least.
const HOSTS_MIN: usize = 64;

/// See the module. A clone shares everything.
#[derive(Debug, Clone, Default)]
pub(super) struct Sieve {
    /// As many as a power of two, or none.
    words: Arc<[u64]>,
    /// How many were noted; what has gone since is still in it.
    noted: usize,
}

impl Sieve {
    /// Whether the host of this hash may have such routes.
    pub(super) fn lets_through(&self, hash: u64) -> bool {
        let bits = bits_of(hash);
        self.words
            .get(self.word_of(hash))
            .is_some_and(|word| word & bits == bits)
    }

    /// The same with these hosts, too. `all` are those that have such routes then.
    pub(super) fn with<I>(&self, hashes: &[u64], all: impl FnOnce() -> I) -> Self
    where
        I: Iterator<Item = u64>,
    {
        let noted = self.noted + hashes.len();
        if noted * BITS_OF_EACH <= self.words.len() * 64 {
            let mut words = self.words.to_vec();
            note(&mut words, hashes.iter().copied());
            return Self {
                words: words.into(),
                noted,
            };
        }
        let all: Vec<u64> = all().collect();
        // Twice the room, so that it is made anew seldom.
        let hosts = (all.len() * 2).max(HOSTS_MIN);
        let mut words = vec![0; (hosts * BITS_OF_EACH / 64).next_power_of_two()];
        note(&mut words, all.iter().copied());
        Self {
            words: words.into(),
            noted: all.len(),
        }
    }

    fn word_of(&self, hash: u64) -> usize {
        word_of(hash, self.words.len())
    }
}

fn note(words: &mut [u64], hashes: impl Iterator<Item = u64>) {
    let len = words.len();
    for hash in hashes {
        if let Some(word) = words.get_mut(word_of(hash, len)) {
            *word |= bits_of(hash);
        }
    }
}

/// The middle of the hash: its ends tell shards and slots.
fn word_of(hash: u64, words: usize) -> usize {
    usize::try_from((hash >> 20) & (words.max(1) as u64 - 1)).unwrap_or(0)
}

fn bits_of(hash: u64) -> u64 {
    1 << (hash & 63) | 1 << ((hash >> 6) & 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> u64 {
        let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    }

    #[test]
    fn it_lets_through_whoever_was_noted_and_few_others() {
        let mut sieve = Sieve::default();
        assert!(!sieve.lets_through(hash(0)));
        for count in 1..5_000 {
            sieve = sieve.with(&[hash(count - 1)], || (0..count).map(hash));
        }
        assert!((0..4_999).all(|number| sieve.lets_through(hash(number))));
        let others = (10_000..110_000).filter(|number| sieve.lets_through(hash(*number)));
        let share = others.count() as f64 / 100_000.0;
        assert!(share < 0.05, "{share}");
    }

    #[test]
    fn who_has_gone_is_forgotten_in_time() {
        let mut sieve = Sieve::default();
        // One of them at a time.
        for number in 0..100_000 {
            sieve = sieve.with(&[hash(number)], || std::iter::once(hash(number)));
        }
        assert!(sieve.words.len() <= 64, "{}", sieve.words.len());
    }
}
