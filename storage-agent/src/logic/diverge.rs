//! What differs between two trees, as people want to hear it: what was created, modified,
//! removed, and what only has another path.
//!
//! The trees are walked by [`crate::driver`]; here is what the findings mean. A path that is gone
//! and one that is new are a rename where both are the same thing by its number. What is in a
//! directory that was renamed is not told again.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use flocker_api::aside::{ChangedPath, Changes, PathChange};

/// What a thing is known by, wherever it is in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its number (`st_ino`), where that outlives a clone; 0 where it does not.
    pub number: u64,
    /// Whether it is a directory.
    pub directory: bool,
    /// Its length.
    pub bytes: u64,
    /// When it was last written to.
    pub written: (i64, i64),
    /// When it was last changed in any way.
    pub changed: (i64, i64),
}

impl Identity {
    /// Whether it is the same thing under another path. Numbers are given again; but a new
    /// file was not written to when the old one was.
    fn is(&self, other: &Self) -> bool {
        self.number != 0
            && self.number == other.number
            && self.directory == other.directory
            && (self.directory || (self.bytes, self.written) == (other.bytes, other.written))
    }
}

/// What a walk has found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Paths with other content, owner or mode.
    pub modified: Vec<PathBuf>,
    /// Paths that only the old tree has.
    pub gone: Vec<(PathBuf, Identity)>,
    /// Paths that only the new tree has.
    pub new: Vec<(PathBuf, Identity)>,
}

impl Findings {
    /// Tells of at most so many paths.
    #[must_use]
    pub fn told(self, paths_max: usize) -> Changes {
        let renames = self.renames();
        let by_new: HashMap<&Path, &Path> = renames.iter().map(|(old, new)| (*new, *old)).collect();
        let carried = |old: &Path, new: &Path| {
            let parents = (old.parent(), new.parent());
            let (Some(old_parent), Some(new_parent)) = parents else {
                return false;
            };
            old.file_name() == new.file_name() && by_new.get(new_parent) == Some(&old_parent)
        };
        let mut all: Vec<ChangedPath> = Vec::new();
        let mut tell = |change, path: &Path, from: Option<&Path>| {
            let text = |path: &Path| path.to_string_lossy().into_owned();
            all.push(ChangedPath {
                path: text(path),
                change,
                from: from.map(text),
            });
        };
        for path in &self.modified {
            tell(PathChange::Modified, path, None);
        }
        let was: HashMap<&Path, &Path> = renames.iter().copied().collect();
        for (path, _) in &self.gone {
            if !was.contains_key(path.as_path()) {
                tell(PathChange::Removed, path, None);
            }
        }
        for (path, _) in &self.new {
            match by_new.get(path.as_path()) {
                None => tell(PathChange::Created, path, None),
                Some(old) if carried(old, path) => {}
                Some(old) => tell(PathChange::Renamed, path, Some(old)),
            }
        }
        all.sort();
        let count = |change| {
            let count = all.iter().filter(|path| path.change == change).count();
            u64::try_from(count).unwrap_or(u64::MAX)
        };
        let mut changes = Changes {
            created: count(PathChange::Created),
            modified: count(PathChange::Modified),
            removed: count(PathChange::Removed),
            renamed: count(PathChange::Renamed),
            paths: Vec::new(),
        };
        all.truncate(paths_max);
        changes.paths = all;
        changes
    }

    /// Old and new path of what was renamed, each path once.
    fn renames(&self) -> Vec<(&Path, &Path)> {
        let mut gone: HashMap<u64, Vec<&(PathBuf, Identity)>> = HashMap::new();
        for one in &self.gone {
            gone.entry(one.1.number).or_default().push(one);
        }
        let renamed = self.new.iter().filter_map(|(new, identity)| {
            let same = gone.get_mut(&identity.number)?;
            let at = same.iter().position(|(_, old)| identity.is(old))?;
            Some((same.swap_remove(at).0.as_path(), new.as_path()))
        });
        renamed.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thing(number: u64, directory: bool) -> Identity {
        Identity {
            number,
            directory,
            bytes: number,
            written: (7, 7),
            changed: (7, 7),
        }
    }

    fn paths(list: &[(&str, u64, bool)]) -> Vec<(PathBuf, Identity)> {
        let path = |(path, number, directory): &(&str, u64, bool)| {
            (PathBuf::from(path), thing(*number, *directory))
        };
        list.iter().map(path).collect()
    }

    fn told(changes: &Changes) -> Vec<String> {
        let line = |path: &ChangedPath| {
            let from = path
                .from
                .as_ref()
                .map_or_else(String::new, |from| format!(" from {from}"));
            format!("{} {}{from}", path.change.as_str(), path.path)
        };
        changes.paths.iter().map(line).collect()
    }

    #[test]
    fn a_directory_is_renamed_once() {
        let findings = Findings {
            modified: vec!["other".into()],
            gone: paths(&[
                ("a", 1, true),
                ("a/x", 2, false),
                ("a/y", 3, false),
                ("z", 9, false),
            ]),
            new: paths(&[
                ("b", 1, true),
                ("b/x", 2, false),
                ("b/w", 3, false),
                ("b/new", 4, false),
            ]),
        };
        let changes = findings.told(10);
        assert_eq!(
            told(&changes),
            [
                "renamed b from a",
                "created b/new",
                "renamed b/w from a/y",
                "modified other",
                "removed z",
            ]
        );
        assert_eq!(
            (
                changes.created,
                changes.modified,
                changes.removed,
                changes.renamed
            ),
            (1, 1, 1, 2)
        );
    }

    #[test]
    fn a_number_that_is_given_again_is_no_rename() {
        let mut findings = Findings {
            gone: paths(&[("old", 5, false)]),
            new: paths(&[("new", 5, false)]),
            ..Findings::default()
        };
        findings.new[0].1.written = (8, 0);
        assert_eq!(told(&findings.told(10)), ["created new", "removed old"]);
    }

    #[test]
    fn without_numbers_nothing_is_a_rename() {
        let findings = Findings {
            gone: paths(&[("old", 0, false)]),
            new: paths(&[("new", 0, false)]),
            ..Findings::default()
        };
        assert_eq!(findings.told(10).renamed, 0);
    }

    #[test]
    fn the_list_is_bounded_and_the_counts_are_not() {
        let findings = Findings {
            modified: (0..100).map(|n| PathBuf::from(format!("{n:03}"))).collect(),
            ..Findings::default()
        };
        let changes = findings.told(3);
        assert_eq!(
            (changes.modified, changes.total(), changes.paths.len()),
            (100, 100, 3)
        );
    }
}
