//! A hash map that is copied cheaply: a fixed number of shards, each shared until it changes.
//!
//! A table of a million routes has about a thousand in a shard. A change copies the list of
//! shards and the shards that it touches, nothing else. A shard is an open-addressed array,
//! at most half full, of hashes and entries: a lookup reads a slot, then the entry.
#![warn(clippy::indexing_slicing)]

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

use flocker_api::{host::HostPattern, route::RouteKey};

use super::Entry;

/// Number of shards; taken from the upper bits of the hash.
const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 10;

/// A key without its allocation, as lookups have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe<'k> {
    Tcp(u16),
    Http(&'k str),
    HttpBelow(&'k str),
    Https(&'k str),
    HttpsBelow(&'k str),
}

impl<'k> Probe<'k> {
    pub(super) fn of(key: &'k RouteKey) -> Self {
        match key {
            RouteKey::Tcp(port) => Self::Tcp(port.get()),
            RouteKey::Http(HostPattern::Exact(host)) => Self::Http(host.as_str()),
            RouteKey::Http(HostPattern::Wildcard(domain)) => Self::HttpBelow(domain.as_str()),
            RouteKey::Https(HostPattern::Exact(host)) => Self::Https(host.as_str()),
            RouteKey::Https(HostPattern::Wildcard(domain)) => Self::HttpsBelow(domain.as_str()),
        }
    }

    fn hash(self, state: &RandomState) -> u64 {
        let mut hasher = state.build_hasher();
        let (kind, text) = match self {
            Self::Tcp(port) => {
                hasher.write_u16(port);
                (0, "")
            }
            Self::Http(host) => (1, host),
            Self::HttpBelow(domain) => (2, domain),
            Self::Https(host) => (3, host),
            Self::HttpsBelow(domain) => (4, domain),
        };
        hasher.write_u8(kind);
        hasher.write(text.as_bytes());
        hasher.finish()
    }
}

type Slot<G> = Option<(u64, Arc<Entry<G>>)>;

/// A change of one key: the entry it has afterwards, if any.
pub(super) type Change<G> = (RouteKey, Option<Arc<Entry<G>>>);

/// The map. A clone shares everything.
#[derive(Debug, Clone)]
pub(super) struct Shards<G> {
    state: RandomState,
    /// Invariant: `SHARDS` of them, each with a power of two of slots, not all of them taken.
    shards: Arc<[Arc<[Slot<G>]>]>,
    len: usize,
}

impl<G> Default for Shards<G> {
    fn default() -> Self {
        let empty: Arc<[Slot<G>]> = Arc::new([None]);
        Self {
            state: RandomState::new(),
            shards: vec![empty; SHARDS].into(),
            len: 0,
        }
    }
}

impl<G> Shards<G> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Entry<G>>> {
        self.shards
            .iter()
            .flat_map(|shard| shard.iter().flatten())
            .map(|(_, entry)| entry)
    }

    pub(super) fn find(&self, probe: Probe<'_>) -> Option<&Arc<Entry<G>>> {
        let hash = probe.hash(&self.state);
        let shard = self.shards.get(shard_of(hash))?;
        let mask = shard.len() - 1;
        let mut at = slot_of(hash, mask);
        // Ends at a free slot, of which every shard has one.
        while let Some((other, entry)) = shard.get(at)? {
            if *other == hash && Probe::of(&entry.route.key) == probe {
                return Some(entry);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// The map after some changes; no key may be in them twice.
    pub(super) fn with(&self, changes: Vec<Change<G>>) -> Self {
        let mut changes: Vec<(u64, Change<G>)> = changes
            .into_iter()
            .map(|change| (Probe::of(&change.0).hash(&self.state), change))
            .collect();
        changes.sort_unstable_by_key(|(hash, _)| *hash);
        let mut shards: Vec<Arc<[Slot<G>]>> = self.shards.to_vec();
        let mut len = self.len;
        for group in changes.chunk_by(|(a, _), (b, _)| shard_of(*a) == shard_of(*b)) {
            let index = group.first().map_or(0, |(hash, _)| shard_of(*hash));
            if let Some(shard) = shards.get_mut(index) {
                let before = shard.iter().flatten().count();
                let (after, rebuilt) = rebuild(shard, group);
                *shard = rebuilt;
                len = len - before + after;
            }
        }
        Self {
            state: self.state.clone(),
            shards: shards.into(),
            len,
        }
    }
}

/// A shard after the changes of its keys, sorted by hash; and how many entries it has.
fn rebuild<G>(shard: &[Slot<G>], changes: &[(u64, Change<G>)]) -> (usize, Arc<[Slot<G>]>) {
    let kept = shard.iter().flatten().filter(|(hash, entry)| {
        let from = changes.partition_point(|(other, _)| other < hash);
        !changes
            .iter()
            .skip(from)
            .take_while(|(other, _)| other == hash)
            .any(|(_, (key, _))| *key == entry.route.key)
    });
    let added = changes
        .iter()
        .filter_map(|(hash, (_, entry))| Some((*hash, entry.clone()?)));
    let entries: Vec<(u64, Arc<Entry<G>>)> = kept.cloned().chain(added).collect();
    let mut slots: Vec<Slot<G>> = Vec::new();
    slots.resize_with((entries.len() * 2).next_power_of_two().max(1), || None);
    let mask = slots.len() - 1;
    let len = entries.len();
    for (hash, entry) in entries {
        let mut at = slot_of(hash, mask);
        while slots.get(at).is_some_and(Option::is_some) {
            at = (at + 1) & mask;
        }
        if let Some(slot) = slots.get_mut(at) {
            *slot = Some((hash, entry));
        }
    }
    (len, slots.into())
}

fn shard_of(hash: u64) -> usize {
    usize::try_from(hash >> (u64::BITS - SHARD_BITS)).unwrap_or(0)
}

fn slot_of(hash: u64, mask: usize) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the mask takes the lower bits in any case"
    )]
    let low = hash as usize;
    low & mask
}
