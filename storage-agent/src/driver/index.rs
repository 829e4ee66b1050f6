//! What the agent knows of its copies without asking the storage.
//!
//! A round of replication is too short to list snapshots in it, and a node with hundreds of
//! volumes too busy to list them all whenever somebody asks how they are. So each verb leaves
//! here what it made of a copy. All of it may be lost, and what somebody does behind the
//! agent's back is found by the sweep, or by the error that it leads to: then the storage is
//! asked.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize},
    },
};

use flocker_api::{
    name::{NodeName, VolumeId},
    replication::Keep,
    volume::{Guid, Snapshot},
};

use super::{progress::Progress, storage::LocalCopy};

/// What is kept in memory about a volume.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// Held while anything is done with it.
    pub(crate) lock: tokio::sync::Mutex<()>,
    pub(crate) progress: Progress,
    /// What each peer has acknowledged last since this agent started.
    pub(super) acknowledged: Mutex<BTreeMap<NodeName, Guid>>,
    known: Mutex<(u64, Knowledge)>,
    /// Which snapshots its primary wants kept, as the last stream said.
    keep: Mutex<Option<Keep>>,
    /// A tidying is due.
    pub(super) tidying: AtomicBool,
    /// Snapshots that were kept at the last tidying for nothing but that something depends on them.
    pub(super) kept_for_others: AtomicUsize,
    /// Snapshots that somebody reads, and how many do.
    read: Mutex<BTreeMap<String, usize>>,
}

/// A snapshot that must stay while somebody reads it.
#[derive(Debug)]
pub(crate) struct Pin {
    entry: Arc<Entry>,
    name: String,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut read = locked(&self.entry.read);
        if let Some(readers) = read.get_mut(&self.name) {
            *readers -= 1;
            if *readers == 0 {
                read.remove(&self.name);
            }
        }
    }
}

/// What is known of a copy.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Knowledge {
    /// Nothing: the storage must be asked.
    #[default]
    Unknown,
    /// There is none.
    Absent,
    /// This.
    Copy(Box<LocalCopy>),
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    /// Forgets what the copy was: it may be about to change.
    pub(crate) fn forget(&self) {
        self.put(Knowledge::Unknown);
    }

    pub(crate) fn known(&self) -> Knowledge {
        locked(&self.known).1.clone()
    }

    /// Goes up with every change of what is known.
    pub(crate) fn version(&self) -> u64 {
        locked(&self.known).0
    }

    /// Remembers what was made of a copy.
    pub(crate) fn learn(&self, copy: Option<LocalCopy>) {
        self.put(knowledge(copy));
    }

    /// Remembers what the storage said when it was asked at a version. Whether it did: what
    /// has become known since is newer.
    pub(crate) fn learn_at(&self, version: u64, copy: Option<LocalCopy>) -> bool {
        let mut known = locked(&self.known);
        let current = known.0 == version;
        if current {
            *known = (version + 1, knowledge(copy));
        }
        current
    }

    fn put(&self, knowledge: Knowledge) {
        let mut known = locked(&self.known);
        *known = (known.0 + 1, knowledge);
    }

    /// One more snapshot, newer than all that are known.
    pub(crate) fn learn_snapshot(&self, snapshot: Snapshot) {
        let mut known = locked(&self.known);
        known.0 += 1;
        if let Knowledge::Copy(copy) = &mut known.1
            && copy
                .snapshots
                .iter()
                .all(|known| known.guid != snapshot.guid)
        {
            copy.snapshots.push(snapshot);
        }
    }

    /// One snapshot less.
    pub(crate) fn forget_snapshot(&self, name: &str) {
        let mut known = locked(&self.known);
        known.0 += 1;
        if let Knowledge::Copy(copy) = &mut known.1 {
            copy.snapshots.retain(|snapshot| snapshot.name != name);
        }
    }

    /// Keeps a snapshot from being tidied away.
    pub(crate) fn pin(self: &Arc<Self>, name: &str) -> Pin {
        *locked(&self.read).entry(name.to_owned()).or_default() += 1;
        Pin {
            entry: Arc::clone(self),
            name: name.to_owned(),
        }
    }

    /// Snapshots that somebody reads now.
    pub(crate) fn pinned(&self) -> BTreeSet<String> {
        locked(&self.read).keys().cloned().collect()
    }

    pub(super) fn kept_by_sender(&self) -> Option<Keep> {
        locked(&self.keep).clone()
    }

    pub(crate) fn keep_for_sender(&self, keep: Keep) {
        *locked(&self.keep) = Some(keep);
    }

    pub(super) fn heard(&self) -> Vec<Guid> {
        locked(&self.acknowledged).values().copied().collect()
    }

    /// Whether a peer is known to have a snapshot as its newest.
    pub(super) fn has(&self, peer: &NodeName, guid: Guid) -> bool {
        locked(&self.acknowledged).get(peer) == Some(&guid)
    }

    /// What a peer has acknowledged last, as far as this agent has heard.
    pub(crate) fn heard_of(&self, peer: &NodeName) -> Option<Guid> {
        locked(&self.acknowledged).get(peer).copied()
    }

    /// Whether a peer stands at this snapshot, as far as this agent has heard.
    pub(crate) fn has_heard(&self, guid: Guid) -> bool {
        locked(&self.acknowledged)
            .values()
            .any(|heard| *heard == guid)
    }

    pub(super) fn hear(&self, peer: NodeName, guid: Guid) {
        locked(&self.acknowledged).insert(peer, guid);
    }
}

fn knowledge(copy: Option<LocalCopy>) -> Knowledge {
    copy.map_or(Knowledge::Absent, |copy| Knowledge::Copy(Box::new(copy)))
}

/// All volumes of the node.
#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: Mutex<HashMap<VolumeId, Arc<Entry>>>,
}

impl Index {
    pub(crate) fn entry(&self, id: VolumeId) -> Arc<Entry> {
        Arc::clone(locked(&self.entries).entry(id).or_default())
    }

    pub(crate) fn all(&self) -> Vec<(VolumeId, Arc<Entry>)> {
        let entries = locked(&self.entries);
        entries.iter().map(|(id, e)| (*id, Arc::clone(e))).collect()
    }

    /// What is known now, to be held against a listing that is made meanwhile.
    pub(crate) fn versions(&self) -> HashMap<VolumeId, u64> {
        let all = self.all().into_iter();
        all.map(|(id, entry)| (id, entry.version())).collect()
    }

    /// Takes over a listing of everything, and answers with what it learnt. Copies with which
    /// something was done meanwhile keep what is known of them.
    pub(crate) fn take_over(
        &self,
        versions: &HashMap<VolumeId, u64>,
        listing: Vec<LocalCopy>,
    ) -> Vec<(VolumeId, Option<LocalCopy>)> {
        let mut listed: HashMap<_, _> = listing.into_iter().map(|copy| (copy.id, copy)).collect();
        for id in listed.keys() {
            self.entry(*id);
        }
        let mut learnt = Vec::new();
        for (id, entry) in self.all() {
            let copy = listed.remove(&id);
            let version = versions.get(&id).copied().unwrap_or(0);
            let idle = entry.lock.try_lock();
            if idle.is_ok() && entry.learn_at(version, copy.clone()) {
                learnt.push((id, copy));
            }
        }
        learnt
    }
}

impl Index {
    /// Snapshots of a volume from which others of this node have begun, as far as is known.
    pub(crate) fn origins(&self, of: VolumeId) -> BTreeSet<String> {
        let copies = self.all().into_iter().map(|(_, entry)| entry.known());
        copies
            .filter_map(|known| match known {
                Knowledge::Copy(copy) => copy.origin,
                Knowledge::Unknown | Knowledge::Absent => None,
            })
            .filter_map(|(volume, snapshot)| (volume == of).then_some(snapshot))
            .collect()
    }
}

/// The `createtxg` under which a snapshot is known until the storage is asked: after all
/// others, and not after any that will be taken.
pub(crate) fn next_createtxg(snapshots: &[Snapshot]) -> u64 {
    let newest = snapshots.iter().map(|s| s.createtxg).max();
    newest.map_or(1, |newest| newest + 1)
}
