//! A hash map that is copied cheaply: a fixed number of shards, each shared until it changes.
//!
//! A table of a million routes has about a thousand in a shard. A change copies the list of
//! shards and the shards that it touches, nothing else. A shard is an open-addressed array with
//! the keys in its slots, a cache line each: in a large table a lookup waits for memory once,
//! where a key behind a pointer would make it wait three times.
#![warn(clippy::indexing_slicing)]

use std::{
    hash::{BuildHasher, Hasher},
    net::SocketAddrV4,
    sync::Arc,
};

// Seeded, and quick; that a client could find names of one hash would be of no use to it: only
// the keys of routes are in the map.
use foldhash::fast::RandomState;

use flocker_api::{host::HostPattern, path::PathPrefix, route::RouteKey};

use super::{Entry, site::Site};

/// Number of shards; taken from the upper bits of the hash.
const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 10;

/// What kind of key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Tcp,
    Http,
    HttpBelow,
    Https,
    HttpsBelow,
}

/// A key without its allocation, as lookups have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probe<'k> {
    pub(super) kind: Kind,
    /// The host, or below which domain; the port of a TCP key, the address of a link.
    host: &'k [u8],
    /// Begins with `/`, which no host has, or is empty.
    prefix: &'k [u8],
}

impl<'k> Probe<'k> {
    pub(super) fn tcp(port: &'k [u8; 2]) -> Self {
        Self {
            kind: Kind::Tcp,
            host: port,
            prefix: &[],
        }
    }

    /// A link's key has six bytes where a port has two.
    pub(super) fn link(address: &'k [u8; 6]) -> Self {
        Self {
            kind: Kind::Tcp,
            host: address,
            prefix: &[],
        }
    }

    pub(super) fn site(kind: Kind, host: &'k str, prefix: &'k str) -> Self {
        Self {
            kind,
            host: host.as_bytes(),
            prefix: prefix.as_bytes(),
        }
    }

    fn hash(self, state: &RandomState) -> u64 {
        let mut hasher = state.build_hasher();
        hasher.write_u8(self.kind as u8);
        hasher.write(self.host);
        if !self.prefix.is_empty() {
            hasher.write(self.prefix);
        }
        hasher.finish()
    }

    fn len(self) -> usize {
        self.host.len() + self.prefix.len()
    }
}

/// A host or domain in the form of a key.
pub(super) fn site_of(key: &RouteKey) -> Option<(Kind, &str, &PathPrefix)> {
    match key {
        RouteKey::Tcp(_) | RouteKey::Link(_) => None,
        RouteKey::Http(HostPattern::Exact(host), path) => Some((Kind::Http, host.as_str(), path)),
        RouteKey::Http(HostPattern::Wildcard(domain), path) => {
            Some((Kind::HttpBelow, domain.as_str(), path))
        }
        RouteKey::Https(HostPattern::Exact(host), path) => Some((Kind::Https, host.as_str(), path)),
        RouteKey::Https(HostPattern::Wildcard(domain), path) => {
            Some((Kind::HttpsBelow, domain.as_str(), path))
        }
    }
}

/// A link's address as its key has it.
pub(super) fn link_bytes(address: SocketAddrV4) -> [u8; 6] {
    let ([a, b, c, d], [high, low]) = (address.ip().octets(), address.port().to_be_bytes());
    [a, b, c, d, high, low]
}

/// What can be in the map.
pub(super) trait Keyed {
    type Key: PartialEq;

    fn key(&self) -> &Self::Key;

    /// Calls `with` with the probe of a key.
    fn probe<A>(key: &Self::Key, with: impl FnOnce(Probe<'_>) -> A) -> A;
}

impl<G> Keyed for Entry<G> {
    type Key = RouteKey;

    fn key(&self) -> &RouteKey {
        &self.route.key
    }

    fn probe<A>(key: &RouteKey, with: impl FnOnce(Probe<'_>) -> A) -> A {
        match (key, site_of(key)) {
            (_, Some((kind, host, path))) => with(Probe::site(kind, host, path.as_str())),
            (RouteKey::Link(address), _) => with(Probe::link(&link_bytes(*address))),
            (RouteKey::Tcp(port), _) => with(Probe::tcp(&port.get().to_be_bytes())),
            (RouteKey::Http(..) | RouteKey::Https(..), None) => with(Probe::tcp(&[0, 0])),
        }
    }
}

impl Keyed for Site {
    type Key = (Kind, String);

    fn key(&self) -> &Self::Key {
        &self.key
    }

    fn probe<A>(key: &Self::Key, with: impl FnOnce(Probe<'_>) -> A) -> A {
        with(Probe::site(key.0, &key.1, ""))
    }
}

/// Bytes of a key that fit into its slot.
const INLINE_BYTES: usize = 46;
/// In place of the length of a key that does not fit.
const ELSEWHERE: u8 = u8::MAX;

/// A value with its key, in one cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Place<V> {
    hash: u64,
    value: Arc<V>,
    kind: Kind,
    len: u8,
    key: [u8; INLINE_BYTES],
}

// Derived, it would ask for `V: Clone`.
impl<V> Clone for Place<V> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
            ..*self
        }
    }
}

impl<V: Keyed> Place<V> {
    fn new(hash: u64, value: Arc<V>) -> Self {
        let (kind, len, key) = V::probe(value.key(), |probe| {
            let mut key = [0; INLINE_BYTES];
            let len = match key.get_mut(..probe.len()) {
                Some(room) => {
                    let (host, prefix) = room.split_at_mut(probe.host.len());
                    host.copy_from_slice(probe.host);
                    prefix.copy_from_slice(probe.prefix);
                    u8::try_from(probe.len()).unwrap_or(ELSEWHERE)
                }
                None => ELSEWHERE,
            };
            (probe.kind, len, key)
        });
        Self {
            hash,
            value,
            kind,
            len,
            key,
        }
    }

    fn is(&self, hash: u64, probe: Probe<'_>) -> bool {
        if self.hash != hash {
            return false;
        }
        if self.len == ELSEWHERE {
            return V::probe(self.value.key(), |own| own == probe);
        }
        let own = self.key.get(..usize::from(self.len)).unwrap_or_default();
        self.kind == probe.kind
            && own
                .split_at_checked(probe.host.len())
                .is_some_and(|(host, prefix)| host == probe.host && prefix == probe.prefix)
    }
}

type Slot<V> = Option<Place<V>>;

/// A change of one key: the value it has afterwards, if any.
pub(super) type Change<V> = (<V as Keyed>::Key, Option<Arc<V>>);

/// The map. A clone shares everything.
#[derive(Debug)]
pub(super) struct Shards<V> {
    state: RandomState,
    /// Invariant: `SHARDS` of them, each with slots of which not all are taken.
    shards: Arc<[Arc<[Slot<V>]>]>,
    len: usize,
}

// Derived, it would ask for `V: Clone`.
impl<V> Clone for Shards<V> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            shards: Arc::clone(&self.shards),
            len: self.len,
        }
    }
}

impl<V> Default for Shards<V> {
    fn default() -> Self {
        Self::beside(&RandomState::default())
    }
}

impl<V> Shards<V> {
    fn beside(state: &RandomState) -> Self {
        let empty: Arc<[Slot<V>]> = Arc::new([None]);
        Self {
            state: state.clone(),
            shards: vec![empty; SHARDS].into(),
            len: 0,
        }
    }
}

/// Two maps with the same hashes.
pub(super) fn pair<A, B>() -> (Shards<A>, Shards<B>) {
    let state = RandomState::default();
    (Shards::beside(&state), Shards::beside(&state))
}

impl<V: Keyed> Shards<V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<V>> {
        self.shards
            .iter()
            .flat_map(|shard| shard.iter().flatten())
            .map(|place| &place.value)
    }

    /// The value of exactly this key.
    pub(super) fn get(&self, key: &V::Key) -> Option<&Arc<V>> {
        V::probe(key, |probe| self.find(probe))
    }

    /// The hash of a probe in this map, and in those that were made beside it.
    pub(super) fn hash(&self, probe: Probe<'_>) -> u64 {
        probe.hash(&self.state)
    }

    pub(super) fn find(&self, probe: Probe<'_>) -> Option<&Arc<V>> {
        self.find_hashed(self.hash(probe), probe)
    }

    pub(super) fn find_hashed(&self, hash: u64, probe: Probe<'_>) -> Option<&Arc<V>> {
        let shard = self.shards.get(shard_of(hash))?;
        let mut at = slot_of(hash, shard.len());
        // Ends at a free slot, of which every shard has one.
        while let Some(place) = shard.get(at)? {
            if place.is(hash, probe) {
                return Some(&place.value);
            }
            at = next_slot(at, shard.len());
        }
        None
    }

    /// The map after some changes; no key may be in them twice.
    pub(super) fn with(&self, changes: Vec<Change<V>>) -> Self {
        let mut changes: Vec<(u64, Change<V>)> = changes
            .into_iter()
            .map(|change| (V::probe(&change.0, |probe| probe.hash(&self.state)), change))
            .collect();
        changes.sort_unstable_by_key(|(hash, _)| *hash);
        let mut shards: Vec<Arc<[Slot<V>]>> = self.shards.to_vec();
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
fn rebuild<V: Keyed>(shard: &[Slot<V>], changes: &[(u64, Change<V>)]) -> (usize, Arc<[Slot<V>]>) {
    let kept = shard.iter().flatten().filter(|place| {
        let from = changes.partition_point(|(other, _)| *other < place.hash);
        !changes
            .iter()
            .skip(from)
            .take_while(|(other, _)| *other == place.hash)
            .any(|(_, (key, _))| key == place.value.key())
    });
    let added = changes
        .iter()
        .filter_map(|(hash, (_, value))| Some(Place::new(*hash, value.clone()?)));
    let places: Vec<Place<V>> = kept.cloned().chain(added).collect();
    let len = places.len();
    let mut slots: Vec<Slot<V>> = Vec::new();
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
        assert_eq!(size_of::<Slot<Entry<Arc<u64>>>>(), 64);
    }
}
