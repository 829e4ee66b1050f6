//! What the kernel tells of processes in `/proc`.
//!
//! A process is known by its id *and* its start time, for ids are used again.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// When a process started, in clock ticks since boot; `None` when it is gone or a zombie.
pub(super) fn start_ticks(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let stat = Stat::parse(&text)?;
    stat.lives.then_some(stat.start_ticks)
}

/// Identity of this boot, so that a record of an earlier one is recognised.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// Every process that is of the group or session `leader`, or has `marker` in its
/// environment, or works in a directory below one of `places`.
pub(super) fn kin(leader: Option<i32>, marker: &str, places: &[PathBuf]) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).ok();
    pids()
        .into_iter()
        .filter(|pid| Some(*pid) != own)
        .filter(|pid| {
            let Some(stat) = fs::read_to_string(format!("/proc/{pid}/stat"))
                .ok()
                .and_then(|text| Stat::parse(&text))
            else {
                return false;
            };
            let related =
                leader.is_some_and(|leader| stat.group == leader || stat.session == leader);
            stat.lives && (related || marked(*pid, marker) || works_below(*pid, places))
        })
        .collect()
}

fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn marked(pid: i32, marker: &str) -> bool {
    let variables = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    variables
        .split(|byte| *byte == 0)
        .any(|variable| variable == marker.as_bytes())
}

fn works_below(pid: i32, places: &[PathBuf]) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd"))
        .is_ok_and(|path| places.iter().any(|place| path.starts_with(place)))
}

/// A process that has a file below `place` open for writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// Its id.
    pub pid: i32,
    /// Its program's name.
    pub name: String,
    /// The file.
    pub file: PathBuf,
}

/// All processes, other than this one, that have a file below `place` open for writing and
/// whose files this process may see.
#[must_use]
pub fn writers(place: &Path) -> Vec<Writer> {
    let own = i32::try_from(std::process::id()).ok();
    pids()
        .into_iter()
        .filter(|pid| Some(*pid) != own)
        .filter_map(|pid| {
            let file = written_below(pid, place)?;
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Some(Writer {
                pid,
                name: name.trim().to_owned(),
                file,
            })
        })
        .collect()
}

fn written_below(pid: i32, place: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    entries.flatten().find_map(|entry| {
        let file = fs::read_link(entry.path()).ok()?;
        if !file.starts_with(place) {
            return None;
        }
        let number = entry.file_name();
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", number.display())).ok()?;
        writable(&info).then_some(file)
    })
}

/// Whether the flags in a file of `/proc/PID/fdinfo` include O_WRONLY (1) or O_RDWR (2).
fn writable(info: &str) -> bool {
    info.lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .and_then(|flags| u64::from_str_radix(flags.trim(), 8).ok())
        .is_some_and(|flags| flags & 3 != 0)
}

/// What is of interest in `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    lives: bool,
    group: i32,
    session: i32,
    start_ticks: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name, in parentheses, may hold anything, parentheses and spaces too.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Self {
            lives: !matches!(*fields.first()?, "Z" | "X"),
            group: fields.get(2)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LINE: &str = "4242 (a ) b) S 1 4240 4239 0 -1 4194560 100 0 0 0 1 2 3 4 20 0 1 0 \
                        987654 1000 10 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0";

    #[test]
    fn a_stat_line_is_read_behind_the_last_parenthesis() {
        let stat = Stat {
            lives: true,
            group: 4240,
            session: 4239,
            start_ticks: 987_654,
        };
        assert_eq!(Stat::parse(LINE), Some(stat));
        assert!(!Stat::parse(&LINE.replace(" S ", " Z ")).unwrap().lives);
        for end in 0..30 {
            assert_eq!(Stat::parse(&LINE[..end]), None);
        }
    }

    #[test]
    fn this_process_has_a_start_and_nobody_else_has_its_marker() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(start_ticks(own).is_some());
        assert_eq!(start_ticks(i32::MAX), None);
        assert_eq!(kin(None, "FLOCKER_NOBODY=1", &[]), Vec::<i32>::new());
        assert!(!boot_id().is_empty());
    }

    #[test]
    fn only_writable_descriptors_count() {
        assert!(writable("pos:\t0\nflags:\t0100001\nmnt_id:\t1\n"));
        assert!(writable("pos:\t0\nflags:\t02\n"));
        assert!(!writable("pos:\t0\nflags:\t0100000\n"));
        assert!(!writable(""));
    }

    #[test]
    fn a_writer_below_a_place_is_found_and_a_reader_is_not() {
        #![expect(
            clippy::disallowed_methods,
            reason = "the writer must be another process"
        )]
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().canonicalize().unwrap();
        let mut child = std::process::Command::new("/bin/sh")
            .args([
                "-c",
                "exec 3>\"$0/file\"; echo; read -r _",
                place.to_str().unwrap(),
            ])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        let found = writers(&place);
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        child.wait().unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].file, place.join("file"));
        assert_eq!(writers(&place), Vec::new());
    }
}
