//! Processes of this machine as /proc shows them.

use std::{fs, path::Path};

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: i32,
    /// Its parent's id.
    pub(crate) parent: i32,
    /// When it started, in clock ticks since boot: with the pid, an identity.
    pub(crate) started: u64,
}

/// All processes that can be seen.
pub(crate) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(find)
        .collect()
}

/// The process of this id, if there is one.
pub(crate) fn find(pid: i32) -> Option<Process> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Parses /proc/PID/stat. The command in parentheses may hold anything, spaces and
/// parentheses too: fields are counted from the last `)` (proc(5)).
fn parse(pid: i32, stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Process {
        pid,
        parent,
        started,
    })
}

/// Whether a process was started with, or told about, anything under `path`.
pub(crate) fn mentions(pid: i32, path: &Path) -> bool {
    let needle = path.as_os_str().as_encoded_bytes();
    ["environ", "cmdline"].iter().any(|file| {
        fs::read(format!("/proc/{pid}/{file}"))
            .is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_with_a_hostile_command_is_read() {
        let stat = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 99 0";
        assert_eq!(
            parse(42, stat),
            Some(Process {
                pid: 42,
                parent: 7,
                started: 12345
            })
        );
        assert_eq!(parse(42, "42 (sh"), None);
    }

    #[test]
    fn this_process_is_seen_and_knows_its_own_arguments() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        assert!(all().iter().any(|process| process.pid == own));
        let argument = std::env::args().next().unwrap();
        assert!(mentions(own, Path::new(&argument)));
        assert!(!mentions(own, Path::new("/no/such/path/of/this/process")));
    }
}
