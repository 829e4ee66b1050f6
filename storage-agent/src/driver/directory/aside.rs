//! What is kept aside of directories.
//!
//! ```text
//! ROOT/asides/UUID.KEY/aside.json      the note, and whether everything has been moved here
//!                      data/           what was written last
//!                      snapshots/NAME/ as they were
//! ```
//!
//! Everything is moved by renaming, one thing after the other; until the note says `done` the
//! next start goes on moving.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use flocker_api::{
    agent::CreateVolume,
    aside::{Aside, AsideKey, Changes},
    name::VolumeId,
    volume::{Role, Snapshot},
};
use serde::{Deserialize, Serialize};

use super::{
    Directory, Places,
    changes::changes,
    files::{make_dir, names, read_json, write_json},
    tree,
};
use crate::{
    driver::{
        compare::{Kinship, compare},
        storage::LocalCopy,
    },
    error::VolumeError,
    logic::aside::{Note, Sizes, is_worth_keeping, tail},
};

/// `aside.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    note: Note,
    written_bytes: u64,
    done: bool,
}

/// A step of moving.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The note is written.
    Mark,
    /// The data goes over.
    Data,
    /// So does each snapshot after the common one.
    Snapshots,
    /// A primary gets the common snapshot's data; a copy without a common one goes.
    Rebuild,
    /// Nothing is left to do.
    Done,
}

const STEPS: [Step; 5] = [
    Step::Mark,
    Step::Data,
    Step::Snapshots,
    Step::Rebuild,
    Step::Done,
];

impl Directory {
    pub(crate) async fn keep_aside(
        &self,
        copy: &LocalCopy,
        note: &Note,
    ) -> Result<Option<Aside>, VolumeError> {
        let (copy, note) = (copy.clone(), note.clone());
        self.work(move |places| {
            let Some(record) = places.begin_aside(&copy, note)? else {
                return Ok(None);
            };
            for step in STEPS {
                places.aside_step(copy.id, &record, step)?;
            }
            places.aside(copy.id, record.note.key)
        })
        .await
    }

    /// Whether a replica's data is not what its newest snapshot is. Data that is known to equal it
    /// is looked at without reading: whoever changes a file changes its time.
    pub(crate) async fn is_touched(&self, copy: &LocalCopy) -> Result<bool, VolumeError> {
        let (id, newest) = (copy.id, copy.newest().cloned());
        self.work(move |places| {
            let data = places.data(id);
            if !data.exists() {
                return Ok(false);
            }
            let mut record = places.record(id)?;
            if record.syncing {
                return Ok(false);
            }
            let Some(newest) = newest else {
                return Ok(!names(&data)?.is_empty());
            };
            let tree = places.tree(id, &newest.name);
            if record.data_is == Some(newest.guid) {
                return tree::looks_other(&tree, &data);
            }
            if changes(&tree, &data, 0)?.bytes > 0 {
                return Ok(true);
            }
            record.data_is = Some(newest.guid);
            places.write(&record)?;
            Ok(false)
        })
        .await
    }

    pub(crate) async fn asides(&self) -> Result<Vec<Aside>, VolumeError> {
        self.work(|places| {
            let keys = places.aside_keys()?;
            let asides = keys.into_iter().map(|(id, key)| places.aside(id, key));
            asides.filter_map(Result::transpose).collect()
        })
        .await
    }

    pub(crate) async fn finish_asides(&self) -> Result<Vec<VolumeId>, VolumeError> {
        self.work(Places::finish_asides).await
    }

    /// How it differs from the common snapshot, if that is still there.
    pub(crate) async fn aside_changes(
        &self,
        aside: &Aside,
        paths_max: usize,
    ) -> Result<Option<Changes>, VolumeError> {
        let (id, key, common) = (aside.volume, aside.key, aside.common.clone());
        self.work(move |places| {
            let base = common.map(|common| places.tree(id, &common.name));
            let Some(base) = base.filter(|base| base.exists()) else {
                return Ok(None);
            };
            let data = places.aside_place(id, key).join("data");
            compare(&base, &data, Kinship::Copies, paths_max).map(Some)
        })
        .await
    }

    /// Makes it a volume of its own.
    pub(crate) async fn keep_as_volume(
        &self,
        aside: &Aside,
        request: &CreateVolume,
    ) -> Result<(), VolumeError> {
        let (old, key) = (aside.volume, aside.key);
        let record = super::Record::primary(request.id, request.name.clone(), request.epoch);
        self.work(move |places| {
            let (id, place) = (record.id, places.aside_place(old, key));
            // The note goes last: until then all of it may be repeated.
            places.make(id)?;
            places.move_over(&place.join("data"), &places.data(id))?;
            for name in names(&place.join("snapshots"))? {
                let from = place.join("snapshots").join(&name);
                places.move_over(&from, &places.snapshot(id, &name))?;
            }
            let newest = places.snapshots(id)?.pop();
            places.write(&super::Record {
                next: newest.map_or(1, |newest| newest.createtxg + 1),
                ..record.clone()
            })?;
            places.mount_data(&record)?;
            tree::remove(&place.join("aside.json"))?;
            tree::remove(&place)
        })
        .await
    }

    pub(crate) async fn discard_aside(&self, aside: &Aside) -> Result<(), VolumeError> {
        let (id, key) = (aside.volume, aside.key);
        self.work(move |places| {
            let place = places.aside_place(id, key);
            // The note goes first: what is left after a crash counts as absent.
            tree::remove(&place.join("aside.json"))?;
            tree::remove(&place)
        })
        .await
    }
}

impl Places {
    fn asides(&self) -> PathBuf {
        self.root.join("asides")
    }

    fn aside_place(&self, id: VolumeId, key: AsideKey) -> PathBuf {
        self.asides().join(format!("{id}.{key}"))
    }

    fn aside_keys(&self) -> Result<Vec<(VolumeId, AsideKey)>, VolumeError> {
        if !self.asides().exists() {
            return Ok(Vec::new());
        }
        let parse = |name: &String| {
            let (id, key) = name.split_once('.')?;
            Some((id.parse().ok()?, key.parse().ok()?))
        };
        Ok(names(&self.asides())?.iter().filter_map(parse).collect())
    }

    /// `None` for what is half made or half destroyed.
    fn aside(&self, id: VolumeId, key: AsideKey) -> Result<Option<Aside>, VolumeError> {
        let place = self.aside_place(id, key);
        let record: Option<Record> = read_json(&place.join("aside.json"))?;
        let Some(record) = record.filter(|record| record.done) else {
            return Ok(None);
        };
        let sizes = Sizes {
            written: record.written_bytes,
            used: tree::bytes(&place)?,
        };
        let snapshots = names(&place.join("snapshots"))?;
        Ok(Some(record.note.aside(sizes, snapshots)))
    }

    /// Looks whether anything would be lost; if not, the copy is only taken back.
    fn begin_aside(&self, copy: &LocalCopy, note: Note) -> Result<Option<Record>, VolumeError> {
        let id = copy.id;
        let mut written = 0;
        if let Some(common) = self.common(id, &note)? {
            let base = self.tree(id, &common.name);
            let snapshots = self.snapshots(id)?;
            let tail = tail(&snapshots, &common);
            for snapshot in &tail {
                written = written.max(changes(&base, &self.tree(id, &snapshot.name), 0)?.bytes);
            }
            // What a replica's data is not known to equal may be nothing of its own at all.
            if self.data(id).exists() {
                written = written.max(changes(&base, &self.data(id), 0)?.bytes);
            }
            if !is_worth_keeping(note.key.cause, written, tail.len()) {
                let mut record = self.record(id)?;
                record.data_is = None;
                self.write(&record)?;
                for snapshot in tail.into_iter().rev() {
                    self.remove_snapshot(id, &snapshot.name)?;
                }
                return self.rebuild(id, &common).map(|()| None);
            }
        } else {
            written = tree::bytes(&self.data(id))?;
        }
        Ok(Some(Record {
            note,
            written_bytes: written,
            done: false,
        }))
    }

    fn common(&self, id: VolumeId, note: &Note) -> Result<Option<Snapshot>, VolumeError> {
        let Some(common) = &note.common else {
            return Ok(None);
        };
        let mut known = self.snapshots(id)?.into_iter();
        let known = known.find(|s| s.guid == common.guid);
        known.map(Some).ok_or_else(|| {
            VolumeError::Command(format!("volume {id} has no snapshot {} here", common.guid))
        })
    }

    fn aside_step(&self, id: VolumeId, record: &Record, step: Step) -> Result<(), VolumeError> {
        let place = self.aside_place(id, record.note.key);
        let snapshots = place.join("snapshots");
        match step {
            Step::Mark => {
                make_dir(&self.asides(), 0o700)?;
                make_dir(&snapshots, 0o700)?;
                write_json(&place.join("aside.json"), record)?;
                let mut record = self.record(id)?;
                record.data_is = None;
                self.write(&record)
            }
            Step::Data => {
                let to = place.join("data");
                // Moved before: what is there now is new.
                if to.exists() {
                    return Ok(());
                }
                self.move_over(&self.data(id), &to)
            }
            Step::Snapshots => {
                let common = self.common(id, &record.note)?;
                for snapshot in self.snapshots(id)? {
                    if common
                        .as_ref()
                        .is_none_or(|c| snapshot.createtxg > c.createtxg)
                    {
                        let to = snapshots.join(&snapshot.name);
                        self.move_over(&self.snapshot(id, &snapshot.name), &to)?;
                    }
                }
                Ok(())
            }
            Step::Rebuild => match self.common(id, &record.note)? {
                Some(common) => self.rebuild(id, &common),
                None => {
                    tree::remove(&self.volume(id).join("volume.json"))?;
                    tree::remove(&self.volume(id))
                }
            },
            Step::Done => {
                let record = Record {
                    done: true,
                    ..record.clone()
                };
                write_json(&place.join("aside.json"), &record)
            }
        }
    }

    /// Makes the data what the common snapshot is.
    fn rebuild(&self, id: VolumeId, common: &Snapshot) -> Result<(), VolumeError> {
        let mut record = self.record(id)?;
        self.prepare_data(&mut record, common)?;
        if record.role == Role::Primary {
            // Its app writes to it from here on.
            record.data_is = None;
            return self.write(&record);
        }
        Ok(())
    }

    fn move_over(&self, from: &Path, to: &Path) -> Result<(), VolumeError> {
        match fs::rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            moved => moved.map_err(|e| {
                VolumeError::io(
                    format!("cannot move {} to {}", from.display(), to.display()),
                    e,
                )
            }),
        }
    }

    /// Goes on where an end in between has left off. Which volumes it was about.
    fn finish_asides(&self) -> Result<Vec<VolumeId>, VolumeError> {
        let mut finished = Vec::new();
        for (id, key) in self.aside_keys()? {
            let place = self.aside_place(id, key).join("aside.json");
            let Some(record) = read_json::<Record>(&place)?.filter(|record| !record.done) else {
                continue;
            };
            let gone = matches!(self.record(id), Err(VolumeError::NotFound(_)));
            let steps = STEPS
                .iter()
                .filter(|step| !gone || matches!(step, Step::Done));
            for step in steps {
                self.aside_step(id, &record, *step)?;
            }
            finished.push(id);
        }
        Ok(finished)
    }
}

#[cfg(test)]
mod tests {
    use flocker_api::{agent::CreateVolume, aside::CommonSnapshot, volume::Epoch};

    use super::*;

    async fn volume(root: &Path) -> (Directory, LocalCopy, Note) {
        let directory = Directory::open(root.to_owned(), None).await.unwrap();
        let request = CreateVolume {
            id: VolumeId::random(),
            name: "notes".parse().unwrap(),
            size_bytes: None,
            epoch: Epoch(3),
        };
        let id = request.id;
        directory.create(&request).await.unwrap();
        let data = directory.places.data(id);
        fs::write(data.join("both"), "one").unwrap();
        let common = directory
            .snapshot(id, "flocker-3-1", Epoch(3))
            .await
            .unwrap()
            .unwrap();
        fs::write(data.join("both"), "changed").unwrap();
        directory
            .snapshot(id, "flocker-3-2", Epoch(3))
            .await
            .unwrap();
        fs::write(data.join("last"), "never in a snapshot").unwrap();
        let copy = directory.find(id).await.unwrap().unwrap();
        directory.demote(&copy, Epoch(4)).await.unwrap();
        let copy = directory.find(id).await.unwrap().unwrap();
        let note = Note {
            volume: id,
            key: "diverged-3-17".parse().unwrap(),
            node: "n1".parse().unwrap(),
            name: copy.name.clone(),
            common: Some(CommonSnapshot {
                name: common.name,
                guid: common.guid,
            }),
        };
        (directory, copy, note)
    }

    /// All that was written is there, and the copy is what the common snapshot is.
    async fn is_kept(directory: &Directory, copy: &LocalCopy, context: &str) {
        let asides = directory.asides().await.unwrap();
        assert_eq!(asides.len(), 1, "{context}");
        assert_eq!(asides[0].snapshots, ["flocker-3-2"], "{context}");
        assert_eq!(asides[0].written_bytes, 26, "{context}");
        let place = directory.places.aside_place(copy.id, asides[0].key);
        let read = |path: &str| fs::read_to_string(place.join(path)).unwrap();
        assert_eq!(read("data/last"), "never in a snapshot", "{context}");
        assert_eq!(read("data/both"), "changed", "{context}");
        assert_eq!(
            read("snapshots/flocker-3-2/tree/both"),
            "changed",
            "{context}"
        );
        let now = directory.find(copy.id).await.unwrap().unwrap();
        assert_eq!(
            (now.role, now.epoch),
            (Role::Replica, Epoch(4)),
            "{context}"
        );
        assert_eq!(now.snapshots.len(), 1, "{context}");
        let data = directory.places.data(copy.id);
        assert_eq!(
            fs::read_to_string(data.join("both")).unwrap(),
            "one",
            "{context}"
        );
        assert!(!data.join("last").exists(), "{context}");
    }

    #[tokio::test]
    async fn whatever_ends_in_between_is_finished() {
        for steps in 0..=STEPS.len() {
            let place = tempfile::tempdir().unwrap();
            let (directory, copy, note) = volume(place.path()).await;
            let record = directory
                .places
                .begin_aside(&copy, note.clone())
                .unwrap()
                .unwrap();
            for step in &STEPS[..steps] {
                directory
                    .places
                    .aside_step(copy.id, &record, *step)
                    .unwrap();
            }
            // Another agent, which knows of nothing.
            let directory = Directory::open(place.path().to_owned(), None)
                .await
                .unwrap();
            directory.finish_asides().await.unwrap();
            if steps == 0 {
                assert_eq!(directory.asides().await.unwrap(), [], "nothing was begun");
                directory.keep_aside(&copy, &note).await.unwrap().unwrap();
            }
            is_kept(&directory, &copy, &format!("after {steps} steps")).await;
            assert_eq!(directory.finish_asides().await.unwrap(), []);
        }
    }

    #[tokio::test]
    async fn what_is_kept_can_be_discarded() {
        let place = tempfile::tempdir().unwrap();
        let (directory, copy, note) = volume(place.path()).await;
        let aside = directory.keep_aside(&copy, &note).await.unwrap().unwrap();
        assert!(aside.used_bytes >= 26);
        for _ in 0..2 {
            directory.discard_aside(&aside).await.unwrap();
        }
        assert_eq!(directory.asides().await.unwrap(), []);
    }

    #[tokio::test]
    async fn nothing_is_kept_of_nothing() {
        let place = tempfile::tempdir().unwrap();
        let (directory, copy, mut note) = volume(place.path()).await;
        let id = copy.id;
        let all = directory
            .snapshot(id, "flocker-3-3", Epoch(3))
            .await
            .unwrap()
            .unwrap();
        directory.snapshot(id, "by-hand", Epoch(3)).await.unwrap();
        note.common = Some(CommonSnapshot {
            name: all.name.clone(),
            guid: all.guid,
        });
        let copy = directory.find(id).await.unwrap().unwrap();
        assert_eq!(directory.keep_aside(&copy, &note).await.unwrap(), None);
        assert_eq!(directory.asides().await.unwrap(), []);
        let left = directory.find(id).await.unwrap().unwrap().snapshots;
        assert_eq!(left.last(), Some(&all));
    }

    #[tokio::test]
    async fn without_a_common_snapshot_the_whole_is_kept() {
        let place = tempfile::tempdir().unwrap();
        let (directory, copy, mut note) = volume(place.path()).await;
        note.common = None;
        let aside = directory.keep_aside(&copy, &note).await.unwrap().unwrap();
        assert_eq!(aside.snapshots.len(), 2);
        assert!(directory.find(copy.id).await.unwrap().is_none());
    }
}
