//! Trees of files as sums, and what differs between two.
//!
//! A sum is over all that the storage keeps of a thing: path, kind, mode, owner, times, size,
//! target of a link, extended attributes, which names are one file, where holes are, content.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use flocker_api::{agent::StorageKind, work::PATHS_MAX};
use ring::digest::{Context, SHA256};
use rustix::{
    fs::{SeekFrom, lgetxattr, llistxattr, seek},
    io::Errno,
};

use crate::error::VolumeError;

/// Bytes that are read at once.
const READ_BYTES: usize = 256 << 10;
/// Longest list of attributes, and longest value of one (xattr(7)).
const ATTRIBUTE_BYTES: usize = 64 << 10;

/// What a storage keeps of files beyond name, kind, mode, owner, time of change and content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keeps {
    /// Which names are one file; when something was last touched; sockets, pipes, devices.
    datasets: bool,
    /// Where nothing was ever written, and extended attributes. zfs-fuse does not tell holes,
    /// and its attributes cannot be relied upon.
    kernel: bool,
}

impl Keeps {
    pub(super) fn of(kind: StorageKind) -> Self {
        Self {
            datasets: kind != StorageKind::Directory,
            kernel: kind == StorageKind::OpenZfs,
        }
    }
}

/// What is told of a thing in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) sum: u64,
    /// Bytes of its content, if they were read.
    pub(super) read: Option<u64>,
}

/// Who has a tree scanned.
pub(super) trait Visit {
    /// Whether the content of this file is to be read.
    fn wants(&mut self, path: &Path) -> bool;
    /// So many bytes were read; an error ends the scan.
    fn pace(&mut self, bytes: u64) -> Result<(), VolumeError>;
    /// This is there.
    fn take(&mut self, path: &Path, facts: Facts) -> Result<(), VolumeError>;
}

fn at<T>(path: &Path, doing: &str, result: io::Result<T>) -> Result<T, VolumeError> {
    result.map_err(|e| VolumeError::io(format!("cannot {doing} {}", path.display()), e))
}

/// Tells all that is in a tree, in the order of names.
pub(super) fn scan(root: &Path, keeps: Keeps, visit: &mut dyn Visit) -> Result<(), VolumeError> {
    let mut scan = Scan {
        keeps,
        links: HashMap::new(),
        buffer: vec![0; READ_BYTES],
        visit,
    };
    scan.enter(root, Path::new(""))
}

struct Scan<'a> {
    keeps: Keeps,
    /// The first path under which a file with several was seen.
    links: HashMap<u64, PathBuf>,
    buffer: Vec<u8>,
    visit: &'a mut dyn Visit,
}

impl Scan<'_> {
    fn enter(&mut self, root: &Path, path: &Path) -> Result<(), VolumeError> {
        let place = root.join(path);
        let metadata = at(&place, "look at", fs::symlink_metadata(&place))?;
        if is_special(&metadata) && !self.keeps.datasets {
            return Ok(());
        }
        let mut sum = Context::new(&SHA256);
        tell(&mut sum, &place, &metadata, self.keeps)?;
        if metadata.is_file() && self.keeps.datasets && metadata.nlink() > 1 {
            let first = self.links.entry(metadata.ino());
            let first = first.or_insert_with(|| path.to_owned());
            sum.update(first.as_os_str().as_bytes());
        }
        let mut read = None;
        if metadata.is_file() && self.visit.wants(path) {
            read = Some(self.content(&place, &metadata, &mut sum)?);
        }
        sum.update(path.as_os_str().as_bytes());
        let sum = first_of(&sum.finish());
        self.visit.take(path, Facts { sum, read })?;
        if metadata.is_dir() {
            for name in names(&place)? {
                self.enter(root, &path.join(name))?;
            }
        }
        Ok(())
    }

    /// Adds what is in a file to its sum. Long holes are not read: the zeros in them are what a
    /// hole is.
    fn content(
        &mut self,
        place: &Path,
        metadata: &Metadata,
        sum: &mut Context,
    ) -> Result<u64, VolumeError> {
        let mut file = at(place, "open", File::open(place))?;
        let mut bytes = 0;
        let mut from = 0;
        while from < metadata.len() {
            let (data, end) = match self.keeps.kernel {
                false => (0, metadata.len()),
                true => match stretch(&file, from) {
                    Some(stretch) => stretch,
                    None => break,
                },
            };
            sum.update(&data.to_be_bytes());
            sum.update(&end.to_be_bytes());
            at(
                place,
                "read",
                seek(&file, SeekFrom::Start(data)).map_err(io::Error::from),
            )?;
            let mut left = end - data;
            while left > 0 {
                let most = usize::try_from(left).map_or(READ_BYTES, |left| left.min(READ_BYTES));
                let n = at(place, "read", file.read(&mut self.buffer[..most]))?;
                if n == 0 {
                    break;
                }
                sum.update(&self.buffer[..n]);
                (bytes, left) = (bytes + n as u64, left - n as u64);
                self.visit.pace(n as u64)?;
            }
            from = end;
        }
        Ok(bytes)
    }
}

/// The next stretch of data at or after a place.
fn stretch(file: &File, from: u64) -> Option<(u64, u64)> {
    let data = seek(file, SeekFrom::Data(from)).ok()?;
    let end = seek(file, SeekFrom::Hole(data)).ok()?;
    (end > data).then_some((data, end))
}

fn is_special(metadata: &Metadata) -> bool {
    let kind = metadata.file_type();
    !(kind.is_file() || kind.is_dir() || kind.is_symlink())
}

fn names(place: &Path) -> Result<BTreeSet<OsString>, VolumeError> {
    let entries = at(place, "list", fs::read_dir(place))?;
    entries
        .map(|entry| Ok(at(place, "list", entry)?.file_name()))
        .collect()
}

/// Adds what is told of a thing without its content.
fn tell(
    sum: &mut Context,
    place: &Path,
    metadata: &Metadata,
    keeps: Keeps,
) -> Result<(), VolumeError> {
    let mut number = |value: i64| sum.update(&value.to_be_bytes());
    number(metadata.mode().into());
    number(metadata.uid().into());
    number(metadata.gid().into());
    number(metadata.mtime());
    number(metadata.mtime_nsec());
    if keeps.datasets {
        number(metadata.ctime());
        number(metadata.ctime_nsec());
        if metadata.is_file() {
            number(i64::try_from(metadata.nlink()).unwrap_or_default());
        }
        if metadata.file_type().is_block_device() || metadata.file_type().is_char_device() {
            number(i64::try_from(metadata.rdev()).unwrap_or_default());
        }
    }
    if metadata.is_file() {
        number(i64::try_from(metadata.len()).unwrap_or_default());
    }
    if metadata.is_symlink() {
        let target = at(place, "read link", fs::read_link(place))?;
        sum.update(target.as_os_str().as_bytes());
    }
    if keeps.kernel && !is_special(metadata) {
        attributes(sum, place)?;
    }
    Ok(())
}

fn attributes(sum: &mut Context, place: &Path) -> Result<(), VolumeError> {
    let mut list = vec![0; ATTRIBUTE_BYTES];
    let length = match llistxattr(place, &mut list) {
        Err(Errno::NOTSUP) => return Ok(()),
        length => at(place, "list attributes of", length.map_err(io::Error::from))?,
    };
    let names: BTreeSet<&[u8]> = list[..length].split(|byte| *byte == 0).collect();
    let mut value = vec![0; ATTRIBUTE_BYTES];
    for name in names.into_iter().filter(|name| !name.is_empty()) {
        let length = lgetxattr(place, name, &mut value).map_err(io::Error::from);
        let length = at(place, "read attributes of", length)?;
        sum.update(&(name.len() as u64).to_be_bytes());
        sum.update(name);
        sum.update(&(length as u64).to_be_bytes());
        sum.update(&value[..length]);
    }
    Ok(())
}

fn first_of(sum: &ring::digest::Digest) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&sum.as_ref()[..8]);
    u64::from_be_bytes(first)
}

/// A sum of a path itself: which part of a digest it belongs to, whether it is in a sample.
pub(super) fn path_sum(seed: u64, path: &Path) -> u64 {
    let mut sum = Context::new(&SHA256);
    sum.update(&seed.to_be_bytes());
    sum.update(path.as_os_str().as_bytes());
    first_of(&sum.finish())
}

/// What differs between two trees, without a look into files: time and size tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Differences {
    pub(super) count: u64,
    /// Bytes of the files that differ, as they are in the newer tree.
    pub(super) bytes: u64,
    /// The first of them.
    pub(super) paths: Vec<PathBuf>,
}

impl Differences {
    /// Compares two trees.
    pub(super) fn between(old: &Path, new: &Path, keeps: Keeps) -> Result<Self, VolumeError> {
        let mut differences = Self::default();
        differences.directory(old, new, Path::new(""), keeps)?;
        Ok(differences)
    }

    fn directory(
        &mut self,
        old: &Path,
        new: &Path,
        path: &Path,
        keeps: Keeps,
    ) -> Result<(), VolumeError> {
        let list = |root: &Path| match names(&root.join(path)) {
            // A running app removed it since it was listed, or it is there on one side only.
            Err(VolumeError::Io { source, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(BTreeSet::new())
            }
            names => names,
        };
        let mut all = list(old)?;
        all.extend(list(new)?);
        for name in all {
            let path = path.join(name);
            let (was, now) = (
                look(&old.join(&path), keeps)?,
                look(&new.join(&path), keeps)?,
            );
            if was.as_ref().map(|(sum, _)| sum) != now.as_ref().map(|(sum, _)| sum) {
                self.count += 1;
                let files = now.iter().filter(|(_, metadata)| metadata.is_file());
                self.bytes += files.map(|(_, metadata)| metadata.len()).sum::<u64>();
                if self.paths.len() < PATHS_MAX {
                    self.paths.push(path.clone());
                }
            }
            let mut either = was.iter().chain(&now);
            if either.any(|(_, metadata)| metadata.is_dir()) {
                self.directory(old, new, &path, keeps)?;
            }
        }
        Ok(())
    }
}

fn look(place: &Path, keeps: Keeps) -> Result<Option<(u64, Metadata)>, VolumeError> {
    let metadata = match fs::symlink_metadata(place) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        metadata => at(place, "look at", metadata)?,
    };
    if is_special(&metadata) && !keeps.datasets {
        return Ok(None);
    }
    let mut sum = Context::new(&SHA256);
    if metadata.is_dir() {
        // In a directory whose time is all that differs, the difference is told by itself.
        for number in [metadata.mode(), metadata.uid(), metadata.gid()] {
            sum.update(&number.to_be_bytes());
        }
    } else {
        tell(&mut sum, place, &metadata, keeps)?;
    }
    Ok(Some((first_of(&sum.finish()), metadata)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct All(Vec<(PathBuf, Facts)>);

    impl Visit for All {
        fn wants(&mut self, _: &Path) -> bool {
            true
        }

        fn pace(&mut self, _: u64) -> Result<(), VolumeError> {
            Ok(())
        }

        fn take(&mut self, path: &Path, facts: Facts) -> Result<(), VolumeError> {
            self.0.push((path.to_owned(), facts));
            Ok(())
        }
    }

    fn sums(root: &Path) -> Vec<(PathBuf, Facts)> {
        let mut all = All(Vec::new());
        scan(root, Keeps::of(StorageKind::Directory), &mut all).unwrap();
        all.0
    }

    fn set_time(path: &Path) {
        let file = File::open(path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    }

    #[test]
    fn one_flipped_byte_changes_one_sum() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("d/file");
        fs::create_dir(place.path().join("d")).unwrap();
        fs::write(&file, "abcd").unwrap();
        set_time(&file);
        let before = sums(place.path());
        assert_eq!(before, sums(place.path()));
        fs::write(&file, "abxd").unwrap();
        set_time(&file);
        let after = sums(place.path());
        let differ: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).collect();
        assert_eq!(differ.len(), 1);
        assert_eq!(differ[0].0.0, Path::new("d/file"));
        assert_eq!(differ[0].0.1.read, Some(4));
    }

    #[test]
    fn what_differs_is_counted_and_named() {
        let place = tempfile::tempdir().unwrap();
        let (old, new) = (place.path().join("old"), place.path().join("new"));
        for root in [&old, &new] {
            fs::create_dir_all(root.join("d")).unwrap();
            fs::write(root.join("same"), "x").unwrap();
            set_time(&root.join("same"));
        }
        fs::write(old.join("gone"), "x").unwrap();
        fs::write(new.join("d/more"), "four").unwrap();
        let keeps = Keeps::of(StorageKind::Directory);
        let found = Differences::between(&old, &new, keeps).unwrap();
        assert_eq!((found.count, found.bytes), (2, 4));
        assert_eq!(found.paths, [Path::new("d/more"), Path::new("gone")]);
        let none = Differences::between(&old, &old, keeps).unwrap();
        assert_eq!(none, Differences::default());
    }
}
