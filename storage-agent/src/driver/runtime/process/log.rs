//! An app's output: one file to which the app itself appends, so that it needs no agent to write.
//!
//! The file is bounded from its front: what is too old is given back to the disk by punching a
//! hole (fallocate(2)), which takes nothing from what the app is about to write and leaves every
//! byte at its place. So a place in the file is a cursor for as long as the app exists. Where
//! the file system knows no holes the file is cut to nothing instead.

#![expect(
    clippy::disallowed_methods,
    reason = "notes when the file had which length"
)]

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use flocker_api::logs::{LogLine, LogQuery, LogReply};
use rustix::fs::FallocateFlags;

use super::app::lock;
use crate::driver::runtime::{LogBounds, tail};

/// Holes are made of whole blocks.
const BLOCK_BYTES: u64 = 4096;
/// How much of the end of an app's output is read for messages, in bytes.
const LAST_BYTES_MAX: u64 = 16 << 10;
/// Marks that are kept: an hour of an app that writes all the time.
const MARKS_MAX: usize = 3600;

/// The output of one app.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    /// Where the output of the current run begins.
    run_from: AtomicU64,
    /// When the file had which length, oldest first.
    marks: Mutex<VecDeque<Mark>>,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    at_ms: u64,
    bytes: u64,
}

impl Log {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            path: folder.join("log"),
            run_from: AtomicU64::new(0),
            marks: Mutex::default(),
        }
    }

    /// Opens the file for a new run.
    pub(super) fn open(&self) -> io::Result<File> {
        let file = File::options().create(true).append(true).open(&self.path)?;
        self.run_from
            .store(file.metadata()?.len(), Ordering::Relaxed);
        Ok(file)
    }

    /// The last lines of the current run.
    pub(super) fn last_lines(&self, lines: usize) -> io::Result<String> {
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        let from = self.run_from.load(Ordering::Relaxed).min(length);
        let from = from.max(length.saturating_sub(LAST_BYTES_MAX));
        let end = read_at(&mut file, from, LAST_BYTES_MAX)?;
        Ok(tail(&String::from_utf8_lossy(&end), lines))
    }

    /// What a query asks for. A last line without its end is left for later while the app runs.
    pub(super) fn read(
        &self,
        query: &LogQuery,
        bounds: LogBounds,
        runs: bool,
    ) -> io::Result<LogReply> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(LogReply {
                    lines: Vec::new(),
                    cursor: None,
                    more: false,
                });
            }
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        let first = first_kept(&mut file, length)?;
        let after = query
            .after
            .as_ref()
            .and_then(|text| text.parse::<u64>().ok());
        // A file that was cut to nothing begins anew.
        let after = after.map(|after| if after > length { 0 } else { after });
        let from = match (after, query.since_ms) {
            (Some(after), _) => after.max(first),
            (None, Some(since_ms)) => self.length_at(since_ms).clamp(first, length),
            (None, None) => first,
        };
        let from = match (after, query.tail, query.since_ms) {
            (None, Some(lines), _) => from.max(last(
                &mut file,
                from,
                length,
                lines.min(bounds.lines),
                bounds,
            )?),
            (None, None, None) => from.max(last(&mut file, from, length, bounds.lines, bounds)?),
            _ => from,
        };
        let bytes = read_at(&mut file, from, bounds.bytes as u64)?;
        let whole = from + bytes.len() as u64 >= length;
        Ok(cut(&bytes, from, bounds.lines, whole && !runs, !whole))
    }

    /// Notes the length, and gives back what is beyond the limit.
    pub(super) fn keep(&self, bytes_max: u64) -> io::Result<()> {
        let mut file = match File::options().read(true).write(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        self.mark(length);
        let first = first_kept(&mut file, length)?;
        if length.saturating_sub(first) <= bytes_max {
            return Ok(());
        }
        // Half of it at once, so that this is rare.
        let upto = (length - bytes_max / 2) / BLOCK_BYTES * BLOCK_BYTES;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&file, flags, 0, upto) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(0),
            Err(error) => Err(error.into()),
        }
    }

    fn mark(&self, bytes: u64) {
        let mut marks = lock(&self.marks);
        if marks.back().is_some_and(|mark| mark.bytes == bytes) {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let at_ms = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        marks.push_back(Mark { at_ms, bytes });
        if marks.len() > MARKS_MAX {
            marks.pop_front();
        }
    }

    /// Where what was written since this time begins, or a little earlier.
    fn length_at(&self, since_ms: u64) -> u64 {
        let marks = lock(&self.marks);
        let before = marks.iter().rev().find(|mark| mark.at_ms <= since_ms);
        before.map_or(0, |mark| mark.bytes)
    }
}

/// Where the first whole line is that has not been given back.
fn first_kept(file: &mut File, length: u64) -> io::Result<u64> {
    let data = match rustix::fs::seek(&*file, rustix::fs::SeekFrom::Data(0)) {
        Ok(data) => data,
        // Nothing but a hole, or nothing at all.
        Err(rustix::io::Errno::NXIO) => return Ok(length),
        Err(error) => return Err(error.into()),
    };
    if data == 0 {
        return Ok(0);
    }
    let bytes = read_at(file, data, BLOCK_BYTES)?;
    let end = bytes.iter().position(|byte| *byte == b'\n');
    Ok(data + end.map_or(0, |end| end as u64 + 1))
}

/// Where the last so many lines before `length` begin.
fn last(
    file: &mut File,
    from: u64,
    length: u64,
    lines: usize,
    bounds: LogBounds,
) -> io::Result<u64> {
    let window = from.max(length.saturating_sub(bounds.bytes as u64));
    let bytes = read_at(file, window, length - window)?;
    let ends = bytes.iter().enumerate().rev();
    let mut ends = ends.filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    if bytes.last() == Some(&b'\n') {
        ends.next();
    }
    let start = match lines {
        0 => bytes.len(),
        lines => match ends.nth(lines - 1) {
            Some(end) => end + 1,
            // The window begins within a line, unless it begins with the file.
            None if window > from => ends_of_first(&bytes),
            None => 0,
        },
    };
    Ok(window + start as u64)
}

fn ends_of_first(bytes: &[u8]) -> usize {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    end.map_or(0, |end| end + 1)
}

fn read_at(file: &mut File, from: u64, most: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Cuts bytes into lines; `rest`: the last one counts also without its end.
fn cut(bytes: &[u8], from: u64, lines_max: usize, rest: bool, more: bool) -> LogReply {
    let mut reply = LogReply {
        lines: Vec::new(),
        cursor: None,
        more,
    };
    let mut used = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if reply.lines.len() == lines_max {
            reply.more = true;
            break;
        }
        let text = line.strip_suffix(b"\n");
        // A line longer than an answer comes in parts.
        let whole = text.is_some() || rest || (more && used == 0);
        if !whole {
            break;
        }
        used += line.len() as u64;
        reply.lines.push(LogLine {
            at_ms: None,
            stream: None,
            text: String::from_utf8_lossy(text.unwrap_or(line)).into_owned(),
        });
    }
    reply.cursor = Some((from + used).to_string());
    reply
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const BOUNDS: LogBounds = LogBounds {
        lines: 4,
        bytes: 1 << 20,
    };

    fn texts(reply: &LogReply) -> Vec<&str> {
        reply.lines.iter().map(|line| line.text.as_str()).collect()
    }

    fn after(reply: &LogReply) -> LogQuery {
        LogQuery {
            after: reply.cursor.clone(),
            ..LogQuery::default()
        }
    }

    #[test]
    fn lines_come_from_where_the_cursor_is() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::new(folder.path());
        let nothing = log.read(&LogQuery::default(), BOUNDS, true).unwrap();
        assert_eq!((nothing.lines.len(), nothing.cursor.is_none()), (0, true));
        let mut file = log.open().unwrap();
        file.write_all(b"a\nb\nc\nd\ne\npart").unwrap();
        let tail = LogQuery {
            tail: Some(2),
            ..LogQuery::default()
        };
        // The part counts among the last lines but is not shown before it is whole.
        let reply = log.read(&tail, BOUNDS, true).unwrap();
        assert_eq!(texts(&reply), ["e"]);
        file.write_all(b"ial\n").unwrap();
        let reply = log.read(&after(&reply), BOUNDS, true).unwrap();
        assert_eq!((texts(&reply), reply.more), (vec!["partial"], false));
        let from = LogQuery {
            after: Some("0".to_owned()),
            ..LogQuery::default()
        };
        let reply = log.read(&from, BOUNDS, true).unwrap();
        assert_eq!(
            (texts(&reply), reply.more),
            (vec!["a", "b", "c", "d"], true)
        );
        file.write_all(b"last words").unwrap();
        let reply = log.read(&tail, BOUNDS, false).unwrap();
        assert_eq!(texts(&reply), ["partial", "last words"]);
    }

    #[test]
    fn the_file_is_bounded_and_cursors_stay_good() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::new(folder.path());
        let mut file = log.open().unwrap();
        let line = "x".repeat(99) + "\n";
        for _ in 0..1000 {
            file.write_all(line.as_bytes()).unwrap();
        }
        let newest = LogQuery {
            tail: Some(0),
            ..LogQuery::default()
        };
        let end = log.read(&newest, BOUNDS, true).unwrap();
        log.keep(40_000).unwrap();
        let blocks = std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
        assert!(blocks * 512 < 40_000, "{blocks}");
        file.write_all(b"next\n").unwrap();
        let reply = log.read(&after(&end), BOUNDS, true).unwrap();
        assert_eq!(texts(&reply), ["next"]);
        let all = LogBounds {
            lines: 10_000,
            ..BOUNDS
        };
        let reply = log.read(&LogQuery::default(), all, true).unwrap();
        assert!(reply.lines.len() < 300, "{}", reply.lines.len());
        assert!(
            reply
                .lines
                .iter()
                .all(|line| line.text.len() == 99 || line.text == "next")
        );
    }

    #[test]
    fn messages_show_the_current_run_alone() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::new(folder.path());
        log.open().unwrap().write_all(b"first run\n").unwrap();
        log.open().unwrap().write_all(b"second run\n").unwrap();
        assert_eq!(log.last_lines(10).unwrap(), "second run");
    }
}
