//! A hash map that is copied cheaply: a fixed number of shards, each shared until it changes.
//!
//! A table of a million routes has about a thousand in a shard. A change copies the list of
//! shards and the shards that it touches, nothing else. A shard is an open-addressed array with
//! the keys in its slots, a cache line each: in a large table a lookup waits for memory once,
//! where a key behind a pointer would make it wait three times.
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

    fn parts(self) -> (u8, Text<'k>) {
        match self {
            Self::Tcp(port) => (0, Text::Port(port.to_be_bytes())),
            Self::Http(host) => (1, Text::Host(host)),
            Self::HttpBelow(domain) => (2, Text::Host(domain)),
            Self::Https(host) => (3, Text::Host(host)),
            Self::HttpsBelow(domain) => (4, Text::Host(domain)),
        }
    }

    fn hash(self, state: &RandomState) -> u64 {
        let mut hasher = state.build_hasher();
        let (kind, text) = self.parts();
        hasher.write_u8(kind);
        hasher.write(text.bytes());
        hasher.finish()
    }
}

/// The bytes of a key.
enum Text<'k> {
    Port([u8; 2]),
    Host(&'k str),
}

impl Text<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Port(port) => port,
            Self::Host(host) => host.as_bytes(),
        }
    }
}

/// Bytes of a key that fit into its slot.
const INLINE_BYTES: usize = 46;
/// In place of the length of a key that does not fit.
const ELSEWHERE: u8 = u8::MAX;

/// An entry with its key, in one cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Place<G> {
    hash: u64,
    entry: Arc<Entry<G>>,
    kind: u8,
    len: u8,
    key: [u8; INLINE_BYTES],
}

// Derived, it would ask for `G: Clone`.
impl<G> Clone for Place<G> {
    fn clone(&self) -> Self {
        Self {
            entry: Arc::clone(&self.entry),
            ..*self
        }
    }
}

impl<G> Place<G> {
    fn new(hash: u64, entry: Arc<Entry<G>>) -> Self {
        let (kind, text) = Probe::of(&entry.route.key).parts();
        let bytes = text.bytes();
        let mut key = [0; INLINE_BYTES];
        let len = match key.get_mut(..bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                u8::try_from(bytes.len()).unwrap_or(ELSEWHERE)
            }
            None => ELSEWHERE,
        };
        Self {
            hash,
            kind,
            len,
            key,
            entry,
        }
    }

    fn is(&self, hash: u64, probe: Probe<'_>) -> bool {
        if self.hash != hash {
            return false;
        }
        if self.len == ELSEWHERE {
            return Probe::of(&self.entry.route.key) == probe;
        }
        let (kind, text) = probe.parts();
        self.kind == kind && self.key.get(..usize::from(self.len)) == Some(text.bytes())
    }
}

type Slot<G> = Option<Place<G>>;

/// A change of one key: the entry it has afterwards, if any.
pub(super) type Change<G> = (RouteKey, Option<Arc<Entry<G>>>);

/// The map. A clone shares everything.
#[derive(Debug, Clone)]
pub(super) struct Shards<G> {
    state: RandomState,
    /// Invariant: `SHARDS` of them, each with slots of which not all are taken.
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
            .map(|place| &place.entry)
    }

    pub(super) fn find(&self, probe: Probe<'_>) -> Option<&Arc<Entry<G>>> {
        let hash = probe.hash(&self.state);
        let shard = self.shards.get(shard_of(hash))?;
        let mut at = slot_of(hash, shard.len());
        // Ends at a free slot, of which every shard has one.
        while let Some(place) = shard.get(at)? {
            if place.is(hash, probe) {
                return Some(&place.entry);
            }
            at = next_slot(at, shard.len());
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
    let kept = shard.iter().flatten().filter(|place| {
        let from = changes.partition_point(|(other, _)| *other < place.hash);
        !changes
            .iter()
            .skip(from)
            .take_while(|(other, _)| *other == place.hash)
            .any(|(_, (key, _))| *key == place.entry.route.key)
    });
    let added = changes
        .iter()
        .filter_map(|(hash, (_, entry))| Some(Place::new(*hash, entry.clone()?)));
    let places: Vec<Place<G>> = kept.cloned().chain(added).collect();
    let len = places.len();
    let mut slots: Vec<Slot<G>> = Vec::new();
    // Three of five taken: a key that is not there is known after four slots, on average.
    slots.resize_with(len + len * 2 / 3 + 1, || None);
    for place in places {
        let mut at = slot_of(place.hash, slots.len());
        while slots.get(at).is_some_and(Option::is_some) {
            at = next_slot(at, slots.len());
        }
        if let Some(slot) = slots.get_mut(at) {
            *slot = Some(place);
        }
    }
    (len, slots.into())
}

fn shard_of(hash: u64) -> usize {
    usize::try_from(hash >> (u64::BITS - SHARD_BITS)).unwrap_or(0)
}

/// The lower half of the hash, scaled to the number of slots.
fn slot_of(hash: u64, slots: usize) -> usize {
    let low = hash & u64::from(u32::MAX);
    usize::try_from((low * slots as u64) >> 32).unwrap_or(0)
}

fn next_slot(at: usize, slots: usize) -> usize {
    if at + 1 == slots { 0 } else { at + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_cache_line() {
        assert_eq!(size_of::<Slot<Arc<u64>>>(), 64);
    }
}
