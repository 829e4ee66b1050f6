//! Which hosts have routes below paths, and how deep: a lookup probes no other depth, and hosts
//! without such routes cost one probe as before.
#![warn(clippy::indexing_slicing)]

use std::{collections::HashMap, sync::Arc};

use flocker_api::{path::PREFIX_SEGMENTS_MAX, route::RouteKey};

use super::{
    shards::{Change, Kind, Probe, Shards, site_of},
    sieve::Sieve,
};

/// The prefixes of one host or domain.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) key: (Kind, String),
    /// How many prefixes have one segment, two, and so on.
    counts: [u32; PREFIX_SEGMENTS_MAX],
}

impl Site {
    /// The depths in use, the deepest first, of those that a path reaches.
    pub(super) fn depths(&self, reached: usize) -> impl Iterator<Item = usize> {
        let used = self.counts.iter().enumerate().take(reached);
        used.rev()
            .filter(|(_, count)| **count > 0)
            .map(|(at, _)| at + 1)
    }
}

/// Counts how the depths of hosts change; most changes are of no prefix and cost nothing.
#[derive(Debug, Default)]
pub(super) struct Tally(HashMap<(Kind, String), [i64; PREFIX_SEGMENTS_MAX]>);

impl Tally {
    /// A route comes (`1`) or goes (`-1`).
    pub(super) fn add(&mut self, key: &RouteKey, change: i64) {
        let Some((kind, host, prefix)) = site_of(key) else {
            return;
        };
        let Some(depth) = prefix.segments().checked_sub(1) else {
            return;
        };
        let changes = self.0.entry((kind, host.to_owned())).or_default();
        if let Some(count) = changes.get_mut(depth) {
            *count += change;
        }
    }

    /// The sites afterwards, and the sieve before them.
    pub(super) fn apply(self, sites: &Shards<Site>, sieve: &Sieve) -> (Shards<Site>, Sieve) {
        if self.0.is_empty() {
            return (sites.clone(), sieve.clone());
        }
        let hash = |key: &(Kind, String)| sites.hash(Probe::site(key.0, &key.1, ""));
        let noted: Vec<u64> = self.0.keys().map(hash).collect();
        let changes = self.0.into_iter().map(|(key, changes)| {
            let mut counts = sites
                .get(&key)
                .map_or_else(Default::default, |site| site.counts);
            for (count, change) in counts.iter_mut().zip(changes) {
                // Invariant: no more go than are there.
                *count = u32::try_from(i64::from(*count) + change).unwrap_or(0);
            }
            let site = counts.iter().any(|count| *count > 0).then(|| {
                Arc::new(Site {
                    key: key.clone(),
                    counts,
                })
            });
            (key, site)
        });
        let after = sites.with(changes.collect::<Vec<Change<Site>>>());
        let sieve = sieve.with(&noted, || after.iter().map(|site| hash(&site.key)));
        (after, sieve)
    }
}
