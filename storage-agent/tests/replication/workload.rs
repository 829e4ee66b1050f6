//! A random workload: what apps do to files, and what they should not but do.
//!
//! It is made of its seed alone: the same seed does the same to the same tree.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::unix::{
        ffi::OsStringExt,
        fs::{FileExt, PermissionsExt, chown, lchown, symlink},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, FallocateFlags, FileType, Mode, Timespec, Timestamps, XattrFlags, fallocate,
        lremovexattr, lsetxattr, mknodat, utimensat,
    },
    io::Errno,
};

use crate::{bed::Dice, tree::Keeps};

/// Files and directories beyond which it rather removes than makes.
const THINGS_MAX: usize = 120;

/// A random workload on one tree at a time.
pub struct Workload {
    pub dice: Dice,
    keeps: Keeps,
}

impl Workload {
    pub fn new(seed: u64, keeps: Keeps) -> Self {
        Self {
            dice: Dice(seed),
            keeps,
        }
    }

    /// Does some things to the tree.
    pub fn burst(&mut self, root: &Path) {
        for _ in 0..=self.dice.roll(11) {
            self.step(root);
        }
    }

    fn step(&mut self, root: &Path) {
        let (files, directories) = list(root);
        let crowded = files.len() + directories.len() > THINGS_MAX;
        let Some(file) = self.one_of(&files) else {
            return self.create(root, &directories);
        };
        let directory = self.one_of(&directories).unwrap_or_else(|| root.to_owned());
        match self.dice.roll(if crowded { 24 } else { 30 }) {
            0..4 => self.remove(&file, &directory, root),
            4..7 => self.write_at(&file),
            7..9 => self.truncate(&file),
            9..11 => self.punch(&file),
            11..14 => self.rename(&file, &directory, &files),
            14 => self.rename_directory(&directory, root, &directories),
            15 | 16 => self.change_mode(&file, &directory),
            17 => self.change_owner(&file),
            18 => self.change_times(&file),
            19..21 => self.change_attributes(&file),
            21 => self.rewrite(&file),
            22 => self.replace(&file),
            23 => self.link(&file, &directory),
            24 => self.symlink(&directory),
            25 => self.special(&directory),
            26 => self.make_directory(&directory),
            _ => self.create(root, &directories),
        }
    }

    fn one_of(&mut self, paths: &[PathBuf]) -> Option<PathBuf> {
        let count = u64::try_from(paths.len()).unwrap();
        let at = (count > 0).then(|| self.dice.roll(count))?;
        Some(paths[usize::try_from(at).unwrap()].clone())
    }

    /// Any bytes but those that no name may have, now and then as many as a name may have.
    fn name(&mut self) -> OsString {
        let length = if self.dice.roll(10) == 0 {
            255
        } else {
            1 + self.dice.roll(12)
        };
        let mut bytes = self.dice.bytes(length);
        for byte in &mut bytes {
            if matches!(*byte, 0 | b'/') {
                *byte = b'_';
            }
        }
        if bytes.iter().all(|byte| *byte == b'.') {
            bytes[0] = b'x';
        }
        OsString::from_vec(bytes)
    }

    /// Mostly small, now and then of many blocks.
    fn length(&mut self) -> u64 {
        match self.dice.roll(20) {
            0 => self.dice.roll(2 << 20),
            1..4 => self.dice.roll(300 << 10),
            4 => 0,
            _ => self.dice.roll(16 << 10),
        }
    }

    fn content(&mut self, length: u64) -> Vec<u8> {
        match self.dice.roll(4) {
            // What compresses, what is nothing but zeros, and what does neither.
            0 => b"abc".repeat(usize::try_from(length / 3).unwrap()),
            1 => vec![0; usize::try_from(length).unwrap()],
            _ => self.dice.bytes(length),
        }
    }

    fn create(&mut self, root: &Path, directories: &[PathBuf]) {
        let directory = self.one_of(directories).unwrap_or_else(|| root.to_owned());
        let path = directory.join(self.name());
        let length = self.length();
        let content = self.content(length);
        settle(fs::write(path, content));
    }

    fn make_directory(&mut self, directory: &Path) {
        settle(fs::create_dir(directory.join(self.name())));
    }

    fn remove(&mut self, file: &Path, directory: &Path, root: &Path) {
        if directory != root && self.dice.roll(6) == 0 {
            settle(fs::remove_dir_all(directory));
        } else {
            settle(fs::remove_file(file));
        }
    }

    fn write_at(&mut self, path: &Path) {
        let Some(file) = open(path) else { return };
        let size = file.metadata().unwrap().len();
        let at = self.dice.roll(size + 64 * 1024);
        let length = self.length();
        file.write_all_at(&self.content(length), at).unwrap();
    }

    fn truncate(&mut self, path: &Path) {
        let Some(file) = open(path) else { return };
        let size = match self.dice.roll(4) {
            0 => 0,
            // Far beyond its end: a hole.
            1 => self.dice.roll(16 << 20),
            _ => self.dice.roll(file.metadata().unwrap().len() + 1),
        };
        file.set_len(size).unwrap();
    }

    fn punch(&mut self, path: &Path) {
        let Some(file) = open(path) else { return };
        let size = file.metadata().unwrap().len();
        let (at, length) = (self.dice.roll(size + 1), 1 + self.dice.roll(256 << 10));
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&file, hole, at, length) {
            // zfs-fuse knows no holes but those behind ends.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(error) => panic!("cannot punch {}: {error}", path.display()),
        }
    }

    fn rename(&mut self, file: &Path, directory: &Path, files: &[PathBuf]) {
        // Half of them over another file.
        let to = match self.one_of(files) {
            Some(other) if self.dice.roll(2) == 0 => other,
            _ => directory.join(self.name()),
        };
        settle(fs::rename(file, to));
    }

    fn rename_directory(&mut self, directory: &Path, root: &Path, directories: &[PathBuf]) {
        let into = self.one_of(directories).unwrap_or_else(|| root.to_owned());
        if directory != root && !into.starts_with(directory) {
            settle(fs::rename(directory, into.join(self.name())));
        }
    }

    fn change_mode(&mut self, file: &Path, directory: &Path) {
        let (path, least) = if self.dice.roll(4) == 0 {
            (directory, 0o700)
        } else {
            (file, 0)
        };
        if fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink()) {
            return;
        }
        let mode = u32::try_from(self.dice.roll(0o10000)).unwrap() | least;
        settle(fs::set_permissions(path, fs::Permissions::from_mode(mode)));
    }

    fn change_owner(&mut self, path: &Path) {
        let [uid, gid] = [70_000; 2].map(|most| u32::try_from(self.dice.roll(most)).unwrap());
        let change = if self.dice.roll(2) == 0 {
            lchown
        } else {
            chown
        };
        settle(change(path, Some(uid), Some(gid)));
    }

    fn change_times(&mut self, path: &Path) {
        let time = Timespec {
            tv_sec: i64::try_from(self.dice.roll(2_000_000_000)).unwrap(),
            tv_nsec: i64::try_from(self.dice.roll(1_000_000_000)).unwrap(),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        settle(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(Into::into));
    }

    fn change_attributes(&mut self, path: &Path) {
        if !self.keeps.attributes {
            return;
        }
        let name = format!("trusted.test{}", self.dice.roll(4));
        let result = if self.dice.roll(3) == 0 {
            lremovexattr(path, &name)
        } else {
            let length = match self.dice.roll(5) {
                0 => 20_000,
                _ => 200,
            };
            let length = self.dice.roll(length);
            lsetxattr(path, &name, &self.dice.bytes(length), XattrFlags::empty())
        };
        settle(result.map_err(Into::into));
    }

    /// The file's number of blocks and their size change, its number stays.
    fn rewrite(&mut self, path: &Path) {
        let Some(file) = open(path) else { return };
        file.set_len(0).unwrap();
        let length = self.length();
        file.write_all_at(&self.content(length), 0).unwrap();
    }

    /// What editors do: a new file, most likely of the same number as one removed before.
    fn replace(&mut self, path: &Path) {
        settle(fs::remove_file(path));
        let length = self.length();
        settle(fs::write(path, self.content(length)));
    }

    fn link(&mut self, file: &Path, directory: &Path) {
        if fs::symlink_metadata(file).is_ok_and(|m| m.is_file()) {
            settle(fs::hard_link(file, directory.join(self.name())));
        }
    }

    fn symlink(&mut self, directory: &Path) {
        let length = 1 + self.dice.roll(400);
        let mut target = self.dice.bytes(length);
        target.iter_mut().for_each(|byte| *byte = (*byte).max(1));
        settle(symlink(
            OsString::from_vec(target),
            directory.join(self.name()),
        ));
    }

    fn special(&mut self, directory: &Path) {
        let path = directory.join(self.name());
        let mode = Mode::from_raw_mode(0o640);
        settle(mknodat(CWD, path, FileType::Fifo, mode, 0).map_err(Into::into));
    }
}

/// Files that are no directories, and directories; in one order for one tree.
fn list(root: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut files, mut directories) = (Vec::new(), vec![root.to_owned()]);
    let mut next = 0;
    while next < directories.len() {
        let mut entries: Vec<_> = fs::read_dir(&directories[next])
            .unwrap()
            .map(|entry| entry.unwrap())
            .collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
        next += 1;
    }
    (files, directories)
}

/// A plain file, for writing.
fn open(path: &Path) -> Option<File> {
    let plain = fs::symlink_metadata(path).is_ok_and(|m| m.is_file());
    plain.then(|| OpenOptions::new().write(true).open(path).unwrap())
}

/// What two steps do to one path may contradict; anything else is an error.
fn settle(result: io::Result<()>) {
    use io::ErrorKind::{
        AlreadyExists, DirectoryNotEmpty, InvalidFilename, IsADirectory, NotADirectory, NotFound,
    };
    match result {
        Err(error)
            if matches!(
                error.kind(),
                AlreadyExists
                    | DirectoryNotEmpty
                    | InvalidFilename
                    | IsADirectory
                    | NotADirectory
                    | NotFound
            ) || error.raw_os_error() == Some(Errno::NODATA.raw_os_error())
                || error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {}
        result => result.unwrap(),
    }
}
