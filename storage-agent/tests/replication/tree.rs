//! All that can be told of a tree of files, so that two can be compared.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::Read,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{SeekFrom, lgetxattr, llistxattr, seek},
    io::Errno,
};

/// What a storage keeps of files beyond name, kind, mode, owner, time of change and content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeps {
    /// Which names are one file.
    pub hard_links: bool,
    /// Where nothing was ever written.
    pub holes: bool,
    /// Extended attributes.
    pub attributes: bool,
    /// When a file was last touched in any way; it cannot be set, only replicated.
    pub touched: bool,
    /// Sockets, pipes and devices.
    pub special: bool,
}

/// A tree: each path and what is told of it.
pub type Facts = BTreeMap<PathBuf, String>;

/// What is in a tree.
pub fn facts(root: &Path, keeps: Keeps) -> Facts {
    let root = fs::canonicalize(root).unwrap();
    let mut walk = Walk {
        keeps,
        links: HashMap::new(),
        seen: Facts::new(),
    };
    walk.enter(&root, Path::new(""));
    walk.seen
}

/// Fails with the paths that differ.
pub fn assert_same(ours: &Facts, theirs: &Facts, when: &str) {
    if ours == theirs {
        return;
    }
    let mut report = String::new();
    let mut paths: Vec<_> = ours.keys().chain(theirs.keys()).collect();
    paths.sort();
    paths.dedup();
    for path in paths {
        let (one, two) = (ours.get(path), theirs.get(path));
        if one != two {
            writeln!(
                report,
                "{}\n  ours   {one:?}\n  theirs {two:?}",
                path.display()
            )
            .unwrap();
        }
    }
    panic!("trees differ {when}:\n{report}");
}

struct Walk {
    keeps: Keeps,
    /// The first path under which a file with several was seen.
    links: HashMap<u64, PathBuf>,
    seen: Facts,
}

impl Walk {
    fn enter(&mut self, root: &Path, path: &Path) {
        let place = root.join(path);
        let metadata = fs::symlink_metadata(&place).unwrap();
        let kind = metadata.file_type();
        let special = kind.is_fifo() || kind.is_socket() || kind.is_char_device();
        if special && !self.keeps.special {
            return;
        }
        let mut told = format!(
            "mode {:o} owner {}:{} changed {}.{:09}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        if self.keeps.touched {
            write!(
                told,
                " touched {}.{:09}",
                metadata.ctime(),
                metadata.ctime_nsec()
            )
            .unwrap();
        }
        if self.keeps.attributes && !special {
            told += &attributes(&place);
        }
        if metadata.is_symlink() {
            write!(told, " to {:?}", fs::read_link(&place).unwrap()).unwrap();
        } else if metadata.is_file() {
            if self.keeps.hard_links && metadata.nlink() > 1 {
                let first = self.links.entry(metadata.ino());
                let first = first.or_insert_with(|| path.to_owned());
                write!(told, " links {} of {first:?}", metadata.nlink()).unwrap();
            }
            told += &content(&place, metadata.len(), self.keeps.holes);
        } else if metadata.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&place)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            // In one order on both sides, for the sake of the first of several links.
            names.sort();
            for name in names {
                self.enter(root, &path.join(name));
            }
        }
        self.seen.insert(path.to_owned(), told);
    }
}

fn attributes(place: &Path) -> String {
    let mut names = vec![0; 64 << 10];
    let length = match llistxattr(place, &mut names) {
        Err(Errno::NOTSUP) => return String::new(),
        length => length.unwrap(),
    };
    let mut told = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0) {
        if name.is_empty() {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = lgetxattr(place, name, &mut value).unwrap();
        told.insert(
            String::from_utf8_lossy(name).into_owned(),
            value[..length].to_vec(),
        );
    }
    if told.is_empty() {
        return String::new();
    }
    format!(" attributes {told:?}")
}

fn content(place: &Path, size: u64, holes: bool) -> String {
    let mut file = File::open(place).unwrap();
    let mut hash = DefaultHasher::new();
    let mut buffer = vec![0; 128 << 10];
    let (mut read, mut at) = (0, 0);
    let mut told = format!(" size {size}");
    if holes {
        told += " data at";
        // Long holes are not read: the zeros in them are what a hole is.
        while let Ok(data) = seek(&file, SeekFrom::Data(at)) {
            let end = seek(&file, SeekFrom::Hole(data)).unwrap();
            write!(told, " {data}..{end}").unwrap();
            seek(&file, SeekFrom::Start(data)).unwrap();
            let mut stretch = (&file).take(end - data);
            while let Ok(n @ 1..) = stretch.read(&mut buffer) {
                buffer[..n].hash(&mut hash);
            }
            at = end;
        }
    } else {
        loop {
            let n = file.read(&mut buffer).unwrap();
            if n == 0 {
                break;
            }
            read += n as u64;
            hash.write(&buffer[..n]);
        }
        assert_eq!(read, size, "{}", place.display());
    }
    write!(told, " content {:016x}", hash.finish()).unwrap();
    told
}
