//! Trees of files: what differs between two, and making one like the other.
//!
//! One walk finds the changes, in an order in which they can be carried out; one applier
//! carries them out. A local copy, bringing a tree up to date and a stream between nodes are
//! all made of these two.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, BufReader, Read, Seek as _, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, chmod, chownat, utimensat};

use crate::error::VolumeError;

/// Bytes of the buffer through which files are copied and compared.
const COPY_BYTES: usize = 128 << 10;

/// What is kept of a file besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) seconds: i64,
    pub(super) nanos: u32,
}

/// A thing in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Directory,
    File { size: u64 },
    Link { target: OsString },
}

/// A change that makes one tree more like another.
pub(super) enum Change<'a> {
    /// What is there goes, with all beneath it.
    Remove,
    /// A new directory; its attributes come when its content has.
    Directory,
    /// A file of that size, in place of a file or of nothing.
    File(Attributes, u64, &'a mut dyn Read),
    /// A symbolic link where nothing is.
    Link(Attributes, &'a OsStr),
    /// The attributes of a directory whose content is as it shall be.
    Attributes(Attributes),
}

/// What takes changes: an [`Applier`], or a stream.
pub(super) trait Sink {
    fn take(&mut self, path: &Path, change: Change<'_>) -> Result<(), VolumeError>;
}

fn at<T>(path: &Path, doing: &str, result: io::Result<T>) -> Result<T, VolumeError> {
    result.map_err(|e| VolumeError::io(format!("cannot {doing} {}", path.display()), e))
}

/// `None` for what is absent, and for sockets, pipes and devices.
fn look(path: &Path) -> Result<Option<(Kind, Attributes)>, VolumeError> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        metadata => at(path, "look at", metadata)?,
    };
    let kind = if metadata.is_dir() {
        Kind::Directory
    } else if metadata.is_file() {
        Kind::File {
            size: metadata.len(),
        }
    } else if metadata.is_symlink() {
        Kind::Link {
            target: at(path, "read link", fs::read_link(path))?.into_os_string(),
        }
    } else {
        return Ok(None);
    };
    let attributes = Attributes {
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        seconds: metadata.mtime(),
        nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or_default(),
    };
    Ok(Some((kind, attributes)))
}

type Listing = BTreeMap<OsString, (Kind, Attributes)>;

fn list(directory: &Path) -> Result<Listing, VolumeError> {
    let mut listing = Listing::new();
    for entry in at(directory, "list", fs::read_dir(directory))? {
        let name = at(directory, "list", entry)?.file_name();
        if let Some(found) = look(&directory.join(&name))? {
            listing.insert(name, found);
        }
    }
    Ok(listing)
}

/// Gives `sink` the changes that make `old` (or nothing) like `new`.
pub(super) fn diff(old: Option<&Path>, new: &Path, sink: &mut dyn Sink) -> Result<(), VolumeError> {
    let Some((Kind::Directory, attributes)) = look(new)? else {
        let what = format!("{} is no directory", new.display());
        return Err(VolumeError::io(what, io::ErrorKind::NotADirectory.into()));
    };
    let before = match old {
        Some(old) => look(old)?.map(|(_, attributes)| attributes),
        None => None,
    };
    let mut walk = Walk { sink };
    if before.is_none() {
        walk.sink.take(Path::new(""), Change::Directory)?;
    }
    let old = old.filter(|_| before.is_some());
    let changed = walk.directory(old, new, Path::new(""))?;
    if changed || before != Some(attributes) {
        walk.sink
            .take(Path::new(""), Change::Attributes(attributes))?;
    }
    Ok(())
}

/// Whether anything differs, as far as it shows without reading files.
pub(super) fn looks_other(old: &Path, new: &Path) -> Result<bool, VolumeError> {
    let (before, now) = (list(old)?, list(new)?);
    if before != now {
        return Ok(true);
    }
    for (name, (kind, _)) in &now {
        if *kind == Kind::Directory && looks_other(&old.join(name), &new.join(name))? {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Walk<'a> {
    sink: &'a mut dyn Sink,
}

impl Walk<'_> {
    /// Walks one directory; whether anything in it differed.
    fn directory(
        &mut self,
        old: Option<&Path>,
        new: &Path,
        path: &Path,
    ) -> Result<bool, VolumeError> {
        let before = old.map(list).transpose()?.unwrap_or_default();
        let now = list(new)?;
        let mut changed = false;
        for (name, (kind, _)) in &before {
            let same_kind = now.get(name).is_some_and(|(now, _)| replaces(now, kind));
            if !same_kind {
                self.sink.take(&path.join(name), Change::Remove)?;
                changed = true;
            }
        }
        for (name, (kind, attributes)) in &now {
            let before = before
                .get(name)
                .filter(|(before, _)| replaces(kind, before));
            let old = old.filter(|_| before.is_some()).map(|old| old.join(name));
            let thing = Thing {
                old: old.as_deref(),
                before,
                new: &new.join(name),
                path: &path.join(name),
            };
            changed |= self.thing(&thing, kind, *attributes)?;
        }
        Ok(changed)
    }

    fn thing(
        &mut self,
        thing: &Thing<'_>,
        kind: &Kind,
        attributes: Attributes,
    ) -> Result<bool, VolumeError> {
        let same = thing
            .before
            .is_some_and(|(before, old)| before == kind && *old == attributes);
        match kind {
            Kind::Directory => {
                if thing.before.is_none() {
                    self.sink.take(thing.path, Change::Directory)?;
                }
                let changed = self.directory(thing.old, thing.new, thing.path)?;
                if changed || !same {
                    self.sink.take(thing.path, Change::Attributes(attributes))?;
                }
                Ok(changed || !same)
            }
            Kind::File { size } => {
                if let (true, Some(old)) = (same, thing.old)
                    && same_content(old, thing.new)?
                {
                    return Ok(false);
                }
                let mut file = match File::open(thing.new) {
                    // A running app removed it since it was listed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
                    file => at(thing.new, "open", file)?,
                };
                self.sink
                    .take(thing.path, Change::File(attributes, *size, &mut file))?;
                Ok(true)
            }
            Kind::Link { target } => {
                if same {
                    return Ok(false);
                }
                if thing.before.is_some() {
                    self.sink.take(thing.path, Change::Remove)?;
                }
                self.sink
                    .take(thing.path, Change::Link(attributes, target))?;
                Ok(true)
            }
        }
    }
}

/// A thing on both sides of a walk.
struct Thing<'a> {
    old: Option<&'a Path>,
    before: Option<&'a (Kind, Attributes)>,
    new: &'a Path,
    path: &'a Path,
}

/// Whether the one can come in place of the other without a removal between.
fn replaces(now: &Kind, before: &Kind) -> bool {
    std::mem::discriminant(now) == std::mem::discriminant(before)
}

/// Times are too coarse to tell two writes within one tick, so contents are compared.
fn same_content(a: &Path, b: &Path) -> Result<bool, VolumeError> {
    let open = |path| at(path, "open", File::open(path));
    let (mut one, mut two) = (open(a)?, open(b)?);
    let (mut left, mut right) = (vec![0; COPY_BYTES], vec![0; COPY_BYTES]);
    loop {
        let n = at(a, "read", read_full(&mut one, &mut left))?;
        let m = at(b, "read", read_full(&mut two, &mut right))?;
        if left[..n] != right[..m] {
            return Ok(false);
        }
        if n == 0 {
            return Ok(true);
        }
    }
}

fn read_full(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Carries changes out beneath a directory, and nowhere else.
pub(super) struct Applier {
    root: PathBuf,
    /// Owners can be kept only by root.
    owners: bool,
    /// The directory that was last found to be no link, nor beneath one.
    sound: Option<PathBuf>,
}

impl Applier {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            owners: rustix::process::geteuid().is_root(),
            sound: None,
        }
    }

    /// The place of a path of the tree; refuses to leave it, be it through a link.
    fn place(&mut self, path: &Path) -> Result<PathBuf, VolumeError> {
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        if !plain {
            let what = format!("path '{}' leaves the volume", path.display());
            return Err(VolumeError::Damaged(what));
        }
        let parent = path.parent().unwrap_or_else(|| Path::new(""));
        if self.sound.as_deref() != Some(parent) {
            let mut place = self.root.clone();
            for component in parent.components() {
                place.push(component);
                if at(&place, "look at", fs::symlink_metadata(&place))?.is_symlink() {
                    let what = format!("path '{}' goes through a link", path.display());
                    return Err(VolumeError::Damaged(what));
                }
            }
            self.sound = Some(parent.to_owned());
        }
        Ok(if path.as_os_str().is_empty() {
            self.root.clone()
        } else {
            self.root.join(path)
        })
    }

    fn attributes(&self, place: &Path, a: Attributes, link: bool) -> Result<(), VolumeError> {
        let set = || -> Result<(), rustix::io::Errno> {
            if self.owners {
                let (uid, gid) = (Uid::from_raw(a.uid), Gid::from_raw(a.gid));
                chownat(CWD, place, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            if !link {
                // After the owner, whose change takes set-user-id away.
                chmod(place, Mode::from_raw_mode(a.mode))?;
            }
            let time = Timespec {
                tv_sec: a.seconds,
                tv_nsec: a.nanos.into(),
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            utimensat(CWD, place, &times, AtFlags::SYMLINK_NOFOLLOW)
        };
        at(place, "set attributes of", set().map_err(io::Error::from))
    }
}

impl Sink for Applier {
    fn take(&mut self, path: &Path, change: Change<'_>) -> Result<(), VolumeError> {
        let place = self.place(path)?;
        match change {
            Change::Remove => {
                self.sound = None;
                remove(&place)
            }
            Change::Directory => {
                let made = fs::DirBuilder::new().mode(0o700).create(&place);
                at(&place, "make directory", made)
            }
            Change::File(attributes, size, content) => {
                remove(&place)?;
                let file = fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&place);
                let mut file = at(&place, "make", file)?;
                let mut content = content.take(size);
                let mut holed = Holed { file: &mut file };
                let copied = copy_all(&mut content, &mut holed);
                // A hole at the end leaves no byte behind that would make the file so long.
                let whole = copied.and_then(|copied| file.set_len(copied));
                at(&place, "write", whole)?;
                self.attributes(&place, attributes, false)
            }
            Change::Link(attributes, target) => {
                at(&place, "make link", symlink(target, &place))?;
                self.attributes(&place, attributes, true)
            }
            Change::Attributes(attributes) => self.attributes(&place, attributes, false),
        }
    }
}

/// A new file, in which long stretches of zeros become holes.
struct Holed<'a> {
    file: &'a mut File,
}

impl Write for Holed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let Some((page, _)) = bytes.split_first_chunk::<4096>() else {
            return self.file.write(bytes);
        };
        if *page != ZEROS {
            return self.file.write(page);
        }
        let pages = bytes.chunks_exact(4096).take_while(|page| *page == ZEROS);
        let empty = 4096 * pages.count();
        let forward = i64::try_from(empty).expect("a buffer is shorter than any file may be");
        self.file.seek(SeekFrom::Current(forward))?;
        Ok(empty)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies through a buffer of its own; returns the bytes copied.
pub(super) fn copy_all(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<u64> {
    io::copy(&mut BufReader::with_capacity(COPY_BYTES, from), to)
}

/// Copies a tree to where nothing is.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), VolumeError> {
    diff(None, from, &mut Applier::new(to))
}

/// Makes `to`, which may be absent, like `from`.
pub(super) fn sync(from: &Path, to: &Path) -> Result<(), VolumeError> {
    diff(Some(to), from, &mut Applier::new(to))
}

/// Removes whatever is there, if anything is.
pub(super) fn remove(path: &Path) -> Result<(), VolumeError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => at(path, "remove", removed),
    }
}

/// Bytes of all files beneath.
pub(super) fn bytes(directory: &Path) -> Result<u64, VolumeError> {
    let mut sum = 0;
    let entries = match fs::read_dir(directory) {
        // A running app removed it since it was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => at(directory, "list", entries)?,
    };
    for entry in entries {
        let path = at(directory, "list", entry)?.path();
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => sum += bytes(&path)?,
            Ok(metadata) => sum += metadata.len(),
            Err(_) => {}
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests;
