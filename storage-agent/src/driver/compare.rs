//! Walks two trees of files for what differs. Nothing is read but directories and metadata: in a
//! clone a file that was not changed keeps its number and the time of its last change, which
//! nobody can set; copies keep the time at which they were written to.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use flocker_api::aside::Changes;

use crate::{
    error::VolumeError,
    logic::diverge::{Findings, Identity},
};

/// What the two trees are to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinship {
    /// Clones of one dataset: things keep their numbers.
    Clones,
    /// Copies: they do not.
    Copies,
}

/// What was changed from `old` to `new`; at most so many paths are told.
pub(super) fn compare(
    old: &Path,
    new: &Path,
    kinship: Kinship,
    paths_max: usize,
) -> Result<Changes, VolumeError> {
    let mut walk = Walk {
        kinship,
        findings: Findings::default(),
    };
    walk.directory(old, new, Path::new(""))?;
    Ok(walk.findings.told(paths_max))
}

struct Walk {
    kinship: Kinship,
    findings: Findings,
}

impl Walk {
    fn directory(&mut self, old: &Path, new: &Path, path: &Path) -> Result<(), VolumeError> {
        let (before, mut now) = (list(old)?, list(new)?);
        for (name, was) in before {
            let (old, new, path) = (old.join(&name), new.join(&name), path.join(&name));
            match now.remove(&name) {
                Some(is) if is.file_type() == was.file_type() => {
                    if self.differ(&was, &is, &old, &new)? {
                        self.findings.modified.push(path.clone());
                    }
                    if is.is_dir() {
                        self.directory(&old, &new, &path)?;
                    }
                }
                other => {
                    self.add(&old, &path, &was, Side::Gone)?;
                    if let Some(is) = other {
                        self.add(&new, &path, &is, Side::New)?;
                    }
                }
            }
        }
        for (name, is) in now {
            self.add(&new.join(&name), &path.join(&name), &is, Side::New)?;
        }
        Ok(())
    }

    /// Whether things of one kind and path differ. A directory does only by owner and mode: what
    /// is in it is looked at for itself.
    fn differ(
        &self,
        was: &Metadata,
        is: &Metadata,
        old: &Path,
        new: &Path,
    ) -> Result<bool, VolumeError> {
        let owned = |m: &Metadata| (m.mode(), m.uid(), m.gid());
        if owned(was) != owned(is) {
            return Ok(true);
        }
        if is.is_dir() {
            return Ok(false);
        }
        if is.is_symlink() {
            let target = |path: &Path| at(path, "read link", fs::read_link(path));
            return Ok(target(old)? != target(new)?);
        }
        let written = |m: &Metadata| (m.len(), m.mtime(), m.mtime_nsec());
        let changed = |m: &Metadata| (m.ino(), m.ctime(), m.ctime_nsec());
        Ok(written(was) != written(is)
            || (self.kinship == Kinship::Clones && changed(was) != changed(is)))
    }

    /// A thing that only one side has, with all beneath it.
    fn add(
        &mut self,
        place: &Path,
        path: &Path,
        metadata: &Metadata,
        side: Side,
    ) -> Result<(), VolumeError> {
        let identity = Identity {
            number: match self.kinship {
                Kinship::Clones => metadata.ino(),
                Kinship::Copies => 0,
            },
            directory: metadata.is_dir(),
            bytes: metadata.len(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        let found = match side {
            Side::Gone => &mut self.findings.gone,
            Side::New => &mut self.findings.new,
        };
        found.push((path.to_owned(), identity));
        if metadata.is_dir() {
            for (name, metadata) in list(place)? {
                self.add(&place.join(&name), &path.join(&name), &metadata, side)?;
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
enum Side {
    Gone,
    New,
}

fn list(directory: &Path) -> Result<BTreeMap<OsString, Metadata>, VolumeError> {
    let mut listing = BTreeMap::new();
    for entry in at(directory, "list", fs::read_dir(directory))? {
        let entry = at(directory, "list", entry)?;
        let metadata = at(&entry.path(), "look at", entry.metadata())?;
        listing.insert(entry.file_name(), metadata);
    }
    Ok(listing)
}

fn at<T>(path: &Path, doing: &str, result: io::Result<T>) -> Result<T, VolumeError> {
    result.map_err(|e| VolumeError::io(format!("cannot {doing} {}", path.display()), e))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_differs_is_told() {
        let place = tempfile::tempdir().unwrap();
        let (old, new) = (place.path().join("old"), place.path().join("new"));
        for root in [&old, &new] {
            fs::create_dir_all(root.join("d/e")).unwrap();
            for name in ["same", "longer", "mode", "gone", "d/e/deep"] {
                fs::write(root.join(name), "x").unwrap();
                let file = fs::File::open(root.join(name)).unwrap();
                file.set_modified(std::time::UNIX_EPOCH).unwrap();
            }
            symlink("there", root.join("link")).unwrap();
        }
        let none = compare(&old, &new, Kinship::Copies, 9).unwrap();
        assert_eq!(none, Changes::default());
        fs::write(new.join("longer"), "xx").unwrap();
        fs::set_permissions(new.join("mode"), PermissionsExt::from_mode(0o600)).unwrap();
        fs::remove_file(new.join("gone")).unwrap();
        fs::create_dir(new.join("gone")).unwrap();
        fs::write(new.join("gone/more"), "x").unwrap();
        fs::remove_file(new.join("link")).unwrap();
        symlink("elsewhere", new.join("link")).unwrap();
        fs::remove_dir_all(new.join("d/e")).unwrap();
        let some = compare(&old, &new, Kinship::Copies, 99).unwrap();
        let told: Vec<_> = some
            .paths
            .iter()
            .map(|path| (path.path.as_str(), path.change.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("d/e", "removed"),
                ("d/e/deep", "removed"),
                ("gone", "created"),
                ("gone", "removed"),
                ("gone/more", "created"),
                ("link", "modified"),
                ("longer", "modified"),
                ("mode", "modified"),
            ]
        );
    }

    #[test]
    fn clones_are_told_apart_by_what_nobody_can_set() {
        let place = tempfile::tempdir().unwrap();
        let (old, new) = (place.path().join("old"), place.path().join("new"));
        for root in [&old, &new] {
            fs::create_dir(root).unwrap();
            fs::write(root.join("file"), "x").unwrap();
            let file = fs::File::open(root.join("file")).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        // Two files, though their content and their times are the same.
        assert_eq!(compare(&old, &new, Kinship::Copies, 9).unwrap().total(), 0);
        assert_eq!(compare(&old, &new, Kinship::Clones, 9).unwrap().modified, 1);
    }
}
