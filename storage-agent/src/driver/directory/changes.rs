//! What differs between two trees, for people and for counting.

use std::path::{Path, PathBuf};

use super::tree::{Change, Sink, diff};
use crate::error::VolumeError;

/// Differences between two trees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Bytes of the files that differ, and at least one for each thing that does.
    pub(crate) bytes: u64,
    /// How many things differ. A directory whose time is all that differs is none.
    pub(crate) count: u64,
    /// The first of them.
    pub(crate) paths: Vec<PathBuf>,
    paths_max: usize,
}

impl Sink for Changes {
    fn take(&mut self, path: &Path, change: Change<'_>) -> Result<(), VolumeError> {
        let bytes = match change {
            Change::File(_, bytes, _) => bytes,
            Change::Remove | Change::Directory | Change::Link(..) => 0,
            // A directory in which something changed has another time.
            Change::Attributes(_) => {
                self.bytes = self.bytes.max(1);
                return Ok(());
            }
        };
        self.bytes += bytes.max(1);
        self.count += 1;
        if self.paths.len() < self.paths_max && self.paths.last().is_none_or(|last| last != path) {
            self.paths.push(path.to_owned());
        }
        Ok(())
    }
}

/// Compares two trees and names at most `paths_max` of the differences.
pub(crate) fn changes(old: &Path, new: &Path, paths_max: usize) -> Result<Changes, VolumeError> {
    let mut changes = Changes {
        paths_max,
        ..Changes::default()
    };
    diff(Some(old), new, &mut changes)?;
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_differs_is_counted_and_named() {
        let place = tempfile::tempdir().unwrap();
        let (old, new) = (place.path().join("old"), place.path().join("new"));
        fs::create_dir_all(old.join("d")).unwrap();
        fs::write(old.join("gone"), "x").unwrap();
        fs::write(old.join("d/same"), "x").unwrap();
        super::super::tree::copy(&old, &new).unwrap();
        let none = changes(&old, &new, 9).unwrap();
        assert_eq!((none.bytes, none.count, none.paths.len()), (0, 0, 0));
        fs::remove_file(new.join("gone")).unwrap();
        fs::write(new.join("d/more"), "four").unwrap();
        let some = changes(&old, &new, 9).unwrap();
        assert_eq!((some.bytes, some.count), (5, 2));
        assert_eq!(some.paths, [Path::new("gone"), Path::new("d/more")]);
        assert_eq!(changes(&old, &new, 1).unwrap().paths.len(), 1);
    }
}
