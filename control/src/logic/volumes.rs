//! The volumes of a cluster, whoever declares them: those of apps, and those that belong to none.

use std::collections::BTreeMap;

use flocker_api::{
    name::{AppName, NodeName, VolumeId, VolumeName},
    replication::ReplicationPolicy,
    volume::Epoch,
};
use serde::{Deserialize, Serialize};

use super::state::{Change, Life, State};

/// Most edits by which a name that was typed may differ from the one that was meant.
const EDITS_MAX: usize = 3;

/// A volume that belongs to no app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Its identity.
    pub id: VolumeId,
    /// Its name.
    pub name: VolumeName,
    /// The node of its primary.
    pub node: NodeName,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its limit, in bytes.
    #[serde(default)]
    pub size_bytes: Option<u64>,
    /// Where else it is kept.
    #[serde(default)]
    pub replication: Option<ReplicationPolicy>,
    /// When it is destroyed for good, Unix time in ms, while it is in the trash.
    #[serde(default)]
    pub trashed_until_ms: Option<u64>,
}

/// A volume as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its identity.
    pub id: VolumeId,
    /// Its name.
    pub name: VolumeName,
    /// The app that declares it, and whether that shall be there.
    pub app: Option<(AppName, Life)>,
    /// The node of its primary.
    pub node: NodeName,
    /// Its epoch.
    pub epoch: Epoch,
    /// Where else it shall be kept.
    pub replication: Option<ReplicationPolicy>,
}

/// All volumes that are not in the trash, by name. Two of one name are told apart by identity.
#[must_use]
pub fn all(state: &State) -> BTreeMap<(VolumeName, VolumeId), Known> {
    let mut known = BTreeMap::new();
    for (name, record) in &state.apps {
        let Some(primary) = state.primaries.get(name) else {
            continue;
        };
        for mount in &record.app.container.volumes {
            let volume = Known {
                id: mount.volume,
                name: mount.name.clone(),
                app: Some((name.clone(), record.life)),
                node: primary.node.clone(),
                epoch: primary.epoch,
                replication: record.app.replication.clone(),
            };
            known.insert((mount.name.clone(), mount.volume), volume);
        }
    }
    for record in state.volumes.values() {
        if record.trashed_until_ms.is_none() {
            let volume = Known {
                id: record.id,
                name: record.name.clone(),
                app: None,
                node: record.node.clone(),
                epoch: record.epoch,
                replication: record.replication.clone(),
            };
            known.insert((record.name.clone(), record.id), volume);
        }
    }
    known
}

/// The volume of this name.
#[must_use]
pub fn find(state: &State, name: &VolumeName) -> Option<Known> {
    let mut found = all(state).into_values().filter(|known| known.name == *name);
    found.next()
}

/// The volume in the trash of this name; the newest there, if it has been destroyed repeatedly.
#[must_use]
pub fn find_trashed<'a>(state: &'a State, name: &VolumeName) -> Option<&'a VolumeRecord> {
    let trashed = state.volumes.values().map(AsRef::as_ref);
    let trashed = trashed.filter(|record: &&VolumeRecord| {
        record.trashed_until_ms.is_some()
            && (record.name == *name || record.id.to_string() == name.as_str())
    });
    trashed.max_by_key(|record| record.trashed_until_ms)
}

/// The name that comes nearest, if one comes near.
#[must_use]
pub fn meant<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let near = names.map(|name| (strsim::osa_distance(wanted, name), name));
    let (edits, name) = near.min()?;
    (edits <= EDITS_MAX.min(wanted.len().div_ceil(2))).then(|| name.to_owned())
}

/// What is to be stored where a volume is put into the trash: it belongs to no app any more. An
/// app that is deployed again begins with an empty one.
#[must_use]
pub fn to_trash(state: &State, known: &Known, until_ms: u64) -> Vec<Change> {
    let record = VolumeRecord {
        id: known.id,
        name: known.name.clone(),
        node: known.node.clone(),
        epoch: known.epoch,
        size_bytes: None,
        replication: known.replication.clone(),
        trashed_until_ms: Some(until_ms),
    };
    let mut changes = vec![Change::PutVolume {
        record: Box::new(record),
    }];
    let declared = known.app.as_ref().and_then(|(app, _)| state.apps.get(app));
    if let Some(declared) = declared {
        let mut app = declared.as_ref().clone();
        app.made.remove(&known.id);
        let mounts = app.app.container.volumes.iter_mut();
        for mount in mounts.filter(|mount| mount.volume == known.id) {
            mount.volume = VolumeId::random();
        }
        changes.push(Change::PutApp {
            record: Box::new(app),
        });
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, trashed_until_ms: Option<u64>) -> VolumeRecord {
        VolumeRecord {
            id: VolumeId::random(),
            name: name.parse().unwrap(),
            node: "n1".parse().unwrap(),
            epoch: Epoch(1),
            size_bytes: None,
            replication: None,
            trashed_until_ms,
        }
    }

    #[test]
    fn what_is_in_the_trash_is_found_there_only() {
        let mut state = State::default();
        for record in [
            record("db", None),
            record("db", Some(5)),
            record("db", Some(9)),
        ] {
            let record = Box::new(record);
            state.apply(&Change::PutVolume { record }).unwrap();
        }
        let name = "db".parse().unwrap();
        assert_eq!(all(&state).len(), 1);
        let known = find(&state, &name).unwrap();
        let trashed = find_trashed(&state, &name).unwrap();
        assert_eq!(trashed.trashed_until_ms, Some(9));
        assert_ne!(trashed.id, known.id);
        state.apply(&Change::DropVolume { id: known.id }).unwrap();
        assert_eq!(find(&state, &name), None);
    }

    #[test]
    fn a_name_that_is_nearly_right_is_proposed() {
        let names = || ["notes", "db"].into_iter();
        assert_eq!(meant("ntoes", names()).as_deref(), Some("notes"));
        assert_eq!(meant("elephant", names()), None);
    }
}
