//! What is kept aside: datasets `POOL/flocker/UUID.KEY`, clones of what their volumes still have.
//!
//! The steps and what makes them safe against an end in between are in [`crate::logic::aside`].
//! The dataset that comes is a clone that is mounted by nobody until it is in its place: zfs-fuse
//! mounts each new clone whose `canmount` is not `off`, and then cannot rename it.

use std::collections::{BTreeMap, BTreeSet};

use flocker_api::{
    agent::StorageKind,
    aside::{Aside, AsideKey},
    name::VolumeId,
    volume::Role,
};

use super::{
    Zfs,
    parse::{self, Failure},
    unless, zfs, zfs_patiently,
};
use crate::{
    driver::storage::LocalCopy,
    error::VolumeError,
    logic::aside::{Found, Fresh, Note, Sizes, Step, is_worth_keeping, steps, tail},
};

/// An increment in which nothing changed: its first record and its last, 312 bytes each.
const EMPTY_INCREMENT_BYTES: u64 = 624;
/// The property with the note.
pub(super) const NOTE: &str = "flocker:aside";
/// What a listing asks for.
const LISTED: &str = "type,origin,used,mountpoint,flocker:aside";

/// A dataset in a listing of asides.
#[derive(Debug, Default)]
pub(super) struct Row {
    origin: String,
    used: u64,
    /// Somebody looks at it, or did when the agent ended.
    pub(super) looked_at: bool,
    pub(super) note: Option<Note>,
    pub(super) snapshots: Vec<String>,
}

impl Zfs {
    fn aside(&self, id: VolumeId, key: AsideKey) -> String {
        format!("{}/{id}.{key}", self.parent)
    }

    fn fresh(&self, id: VolumeId) -> String {
        format!("{}/{id}.fresh", self.parent)
    }

    /// Puts aside what a copy, which is not mounted, has after the common snapshot. Where that is
    /// nothing the copy is only taken back.
    pub(crate) async fn keep_aside(
        &self,
        copy: &LocalCopy,
        note: &Note,
    ) -> Result<Option<Aside>, VolumeError> {
        if copy.partial.is_some() {
            // It hangs on the copy and nobody goes on with it.
            self.discard_partial(copy.id).await?;
        }
        if !self.worth(copy, note).await? {
            self.take_back(copy, note).await?;
            return Ok(None);
        }
        let text = serde_json::to_string(note).expect("notes have string keys");
        self.set(copy.id, NOTE, &text).await?;
        let found = Found {
            copy: true,
            fresh: None,
        };
        self.carry_out(copy.id, note, found).await?;
        let asides = self.asides().await?;
        let kept = asides
            .into_iter()
            .find(|a| a.volume == copy.id && a.key == note.key);
        kept.map(Some).ok_or_else(|| {
            VolumeError::Command(format!("{} is not there", self.aside(copy.id, note.key)))
        })
    }

    /// Whether anything would be lost. Leaves a snapshot of the copy as it is where that is the
    /// only way to tell.
    async fn worth(&self, copy: &LocalCopy, note: &Note) -> Result<bool, VolumeError> {
        let Some(common) = self.common(copy, note)? else {
            return Ok(true);
        };
        let dataset = self.dataset(copy.id);
        let newer: Vec<String> = tail(&copy.snapshots, common)
            .iter()
            .map(|s| format!("{dataset}@{}", s.name))
            .collect();
        let written = if self.capabilities.kind == StorageKind::OpenZfs {
            self.written_in(&dataset, &newer).await?
        } else {
            let head = format!("{dataset}@{}", note.key);
            unless(Failure::Exists, zfs(&["snapshot", &head]).await)?;
            let bytes = stream_bytes(&common.name, &head).await?;
            bytes.saturating_sub(EMPTY_INCREMENT_BYTES)
        };
        Ok(is_worth_keeping(note.key.cause, written, newer.len()))
    }

    /// Bytes written to a dataset and in these snapshots of it.
    async fn written_in(&self, dataset: &str, newer: &[String]) -> Result<u64, VolumeError> {
        let pool = self.parent.split('/').next().unwrap_or_default();
        super::command::run("zpool", &["sync", pool]).await?;
        let mut arguments = vec!["get", "-Hp", "-o", "value", "written", dataset];
        arguments.extend(newer.iter().map(String::as_str));
        let text = zfs(&arguments).await?;
        Ok(text
            .lines()
            .filter_map(|line| line.parse::<u64>().ok())
            .sum())
    }

    fn common<'a>(
        &self,
        copy: &'a LocalCopy,
        note: &Note,
    ) -> Result<Option<&'a flocker_api::volume::Snapshot>, VolumeError> {
        let Some(common) = &note.common else {
            return Ok(None);
        };
        let known = copy.snapshots.iter().find(|s| s.guid == common.guid);
        known.map(Some).ok_or_else(|| {
            let dataset = self.dataset(copy.id);
            VolumeError::Command(format!("{dataset} has no snapshot {}", common.guid))
        })
    }

    /// Goes back to the common snapshot, after which there is nothing.
    async fn take_back(&self, copy: &LocalCopy, note: &Note) -> Result<(), VolumeError> {
        let Some(common) = self.common(copy, note)? else {
            return Ok(());
        };
        self.destroy_snapshot(copy.id, &note.key.to_string())
            .await?;
        for snapshot in tail(&copy.snapshots, common).into_iter().rev() {
            self.destroy_snapshot(copy.id, &snapshot.name).await?;
        }
        self.roll_back(copy.id, &common.name).await
    }

    /// Takes the steps that are left.
    async fn carry_out(&self, id: VolumeId, note: &Note, found: Found) -> Result<(), VolumeError> {
        for step in steps(note, found) {
            self.step(id, note, *step).await?;
        }
        Ok(())
    }

    async fn step(&self, id: VolumeId, note: &Note, step: Step) -> Result<(), VolumeError> {
        let (old, fresh) = (self.dataset(id), self.fresh(id));
        match step {
            Step::Head => {
                let stamp = format!("flocker:epoch={}", note.key.epoch);
                let head = format!("{old}@{}", note.key);
                unless(
                    Failure::Exists,
                    zfs(&["snapshot", "-o", &stamp, &head]).await,
                )
            }
            Step::Clone => self.clone_common(id, note).await,
            Step::Promote => Ok(zfs(&["promote", &fresh]).await.map(drop)?),
            Step::Hide => {
                self.set(id, "readonly", "on").await?;
                self.set(id, "mountpoint", "none").await
            }
            Step::Ready => Ok(zfs(&["set", "canmount=noauto", &fresh]).await.map(drop)?),
            Step::Part => Ok(zfs_patiently(&["rename", &old, &self.aside(id, note.key)])
                .await
                .map(drop)?),
            Step::Return => Ok(zfs_patiently(&["rename", &fresh, &old]).await.map(drop)?),
        }
    }

    /// A copy that ends with the common snapshot, with all that is set of the copy.
    async fn clone_common(&self, id: VolumeId, note: &Note) -> Result<(), VolumeError> {
        let copy = self.find(id).await?.ok_or(VolumeError::NotFound(id))?;
        let Some(common) = self.common(&copy, note)? else {
            return Ok(());
        };
        let readonly = match copy.role {
            Role::Primary => "readonly=off",
            Role::Replica => "readonly=on",
        };
        let mut options = vec![
            "canmount=off".to_owned(),
            readonly.to_owned(),
            format!("mountpoint={}", self.mount_point(&copy.name)),
            format!("flocker:name={}", copy.name),
            format!(
                "flocker:state={}",
                parse::state(copy.role, copy.epoch, None)
            ),
        ];
        if let Some(bytes) = copy.size_bytes {
            options.push(format!("refquota={bytes}"));
        }
        if !copy.acknowledged.is_empty() {
            let guids = parse::acknowledged(&copy.acknowledged);
            options.push(format!("flocker:acknowledged={guids}"));
        }
        if let Some(replication) = &copy.replication {
            let text = serde_json::to_string(replication)
                .expect("policies have string keys and no failing serializer");
            options.push(format!("flocker:replication={text}"));
        }
        let mut arguments = vec!["clone"];
        for option in &options {
            arguments.extend(["-o", option]);
        }
        let (from, to) = (
            format!("{}@{}", self.dataset(id), common.name),
            self.fresh(id),
        );
        arguments.extend([from.as_str(), &to]);
        unless(Failure::Exists, zfs(&arguments).await)
    }

    /// Everything that is kept aside.
    pub(crate) async fn asides(&self) -> Result<Vec<Aside>, VolumeError> {
        let rows = self.aside_rows().await?;
        let asides = rows.into_iter().filter_map(|(name, row)| {
            let (id, key) = name.split_once('.')?;
            let (id, key) = (id.parse().ok()?, key.parse::<AsideKey>().ok()?);
            let note = row
                .note
                .filter(|note| note.volume == id && note.key == key)?;
            let sizes = Sizes {
                written: row.used,
                used: row.used,
            };
            Some(note.aside(sizes, row.snapshots))
        });
        Ok(asides.collect())
    }

    /// By the names of the datasets below the parent.
    pub(super) async fn aside_rows(&self) -> Result<BTreeMap<String, Row>, VolumeError> {
        let columns = "name,property,value,source";
        let get = ["get", "-Hp", "-r", "-o", columns, LISTED, &self.parent];
        let text = zfs(&get).await?;
        Ok(rows(&self.parent, &text))
    }

    /// Finishes what an end in between has left. Which volumes it was about.
    pub(crate) async fn finish_asides(&self) -> Result<Vec<VolumeId>, VolumeError> {
        let rows = self.aside_rows().await?;
        self.end_looks(&rows).await?;
        let ids: BTreeSet<VolumeId> = rows
            .keys()
            .filter_map(|name| name.split('.').next()?.parse().ok())
            .collect();
        let mut finished = Vec::new();
        for id in ids {
            let name = id.to_string();
            let (copy, fresh) = (rows.get(&name), rows.get(&format!("{id}.fresh")));
            let marked = copy.and_then(|row| row.note.clone());
            let marked = marked.filter(|note| note.volume == id);
            // Where the copy has gone already, its note has gone with it.
            let parted = rows.iter().filter_map(|(other, row)| {
                let key = other.strip_prefix(&name)?.strip_prefix('.')?;
                row.note.clone().filter(|note| note.key.to_string() == key)
            });
            let note = match (copy, fresh) {
                (None, Some(_)) => parted.max_by_key(|note| note.key.micros),
                _ => marked,
            };
            let Some(note) = note else { continue };
            let of_copy = format!("{}/{id}@", self.parent);
            let fresh = fresh.map(|row| match row.origin.starts_with(&of_copy) {
                true => Fresh::Cloned,
                false => Fresh::Promoted,
            });
            let found = Found {
                copy: copy.is_some(),
                fresh,
            };
            self.carry_out(id, &note, found).await?;
            finished.push(id);
        }
        Ok(finished)
    }

    /// Makes what was cloned of a dataset independent of it: its snapshots go over, up to the one
    /// that each clone was made of.
    pub(super) async fn release_clones(&self, dataset: &str) -> Result<(), VolumeError> {
        let rows = self.aside_rows().await?;
        let of_it = format!("{dataset}@");
        let it = dataset
            .strip_prefix(&self.parent)
            .and_then(|n| n.strip_prefix('/'));
        let Some(row) = it.and_then(|name| rows.get(name)) else {
            return Ok(());
        };
        // In the order in which they are listed, which is that of their making.
        let age = |clone: &Row| {
            let from = clone.origin.strip_prefix(&of_it)?;
            row.snapshots.iter().position(|name| name == from)
        };
        let mut clones: Vec<_> = rows
            .iter()
            .filter_map(|(name, row)| Some((age(row)?, name)))
            .collect();
        clones.sort();
        for (_, name) in clones {
            zfs(&["promote", &format!("{}/{name}", self.parent)]).await?;
        }
        Ok(())
    }

    /// Destroys it for good.
    pub(crate) async fn discard_aside(&self, aside: &Aside) -> Result<(), VolumeError> {
        let dataset = self.aside(aside.volume, aside.key);
        match zfs(&["unmount", &dataset]).await {
            Err(error) if matches!(error.failure, Failure::NotMounted | Failure::NotFound) => {}
            unmounted => drop(unmounted?),
        }
        self.release_clones(&dataset).await?;
        let destroyed = zfs_patiently(&["destroy", "-r", &dataset]).await;
        unless(Failure::NotFound, destroyed)
    }
}

/// How long an increment is; counted no further than needed to tell whether anything is in it.
async fn stream_bytes(from: &str, to: &str) -> Result<u64, VolumeError> {
    let mut stream = super::Sending::spawn(&["send", "-i", &format!("@{from}"), to])?;
    let mut bytes = 0;
    while let Some(chunk) = stream.next().await? {
        bytes += chunk.len() as u64;
        if bytes > EMPTY_INCREMENT_BYTES {
            return Ok(bytes);
        }
    }
    stream.finish().await?;
    Ok(bytes)
}

fn rows(parent: &str, text: &str) -> BTreeMap<String, Row> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split('\t');
        let (Some(name), Some(property), Some(value), source) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let Some(name) = name.strip_prefix(parent).and_then(|n| n.strip_prefix('/')) else {
            continue;
        };
        if let Some((dataset, snapshot)) = name.split_once('@') {
            if property == "type"
                && let Some(row) = rows.get_mut(dataset)
            {
                row.snapshots.push(snapshot.to_owned());
            }
            continue;
        }
        let row = rows.entry(name.to_owned()).or_default();
        match property {
            "origin" => row.origin = value.to_owned(),
            "mountpoint" => row.looked_at = value != "none",
            "used" => row.used = value.parse().unwrap_or_default(),
            // It is inherited by snapshots; only a dataset's own counts.
            NOTE if source == Some("local") => row.note = serde_json::from_str(value).ok(),
            _ => {}
        }
    }
    rows
}
