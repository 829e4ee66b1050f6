//! The journal of `notes`: lines that are on disk before anyone hears of them.
//!
//! A line is `CLIENT SEQUENCE CHECKSUM`. One thread writes: it takes everything that waits,
//! appends it with one write, syncs once, and only then makes the notes visible to readers
//! and wakes those who wait (group commit). When a write or sync fails, nothing more is
//! accepted: what the kernel holds after a failed sync is unknown, only a restart tells.
//!
//! Invariant: readers see synced notes only, so nothing that was once read is lost either.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
};

use rustix::fs::FlockOperation;
use tokio::sync::oneshot;

/// Most bytes that one sync covers; so a torn tail is never longer.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Longest client name, in bytes.
const CLIENT_BYTES_MAX: usize = 64;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The file cannot be opened, read, cut or synced.
    #[error("cannot {verb} the journal {path}")]
    Io {
        verb: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Another process writes it.
    #[error("the journal {path} is in use by another process; two writers would destroy it")]
    InUse { path: PathBuf },
    /// It is broken where no torn write can have broken it.
    #[error(
        "the journal {path} is damaged at byte {at} with {after} bytes after it, more than one \
         unfinished write; restore it from a snapshot"
    )]
    Damaged {
        path: PathBuf,
        at: usize,
        after: usize,
    },
    /// The writer has ended after a failed write or sync.
    #[error("the journal takes no more notes, a write or sync has failed")]
    Closed,
}

/// A note: who wrote it and which of theirs it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    client: String,
    sequence: u64,
}

impl Note {
    /// Reads `CLIENT SEQUENCE`.
    pub(crate) fn from_body(body: &[u8]) -> Option<Self> {
        let (client, sequence) = std::str::from_utf8(body).ok()?.trim_end().split_once(' ')?;
        let well_formed = (1..=CLIENT_BYTES_MAX).contains(&client.len())
            && client.bytes().all(|byte| byte.is_ascii_graphic())
            && sequence.bytes().all(|byte| byte.is_ascii_digit());
        Some(Self {
            client: well_formed.then(|| client.to_owned())?,
            sequence: sequence.parse().ok()?,
        })
    }

    fn append_line(&self, text: &mut Vec<u8>) {
        let body = format!("{} {}", self.client, self.sequence);
        let checksum = crc32fast::hash(body.as_bytes());
        text.extend_from_slice(format!("{body} {checksum:08x}\n").as_bytes());
    }

    /// Reads a line without its end; `None` if it is not whole.
    fn from_line(line: &[u8]) -> Option<Self> {
        let split = line.iter().rposition(|byte| *byte == b' ')?;
        let (body, checksum) = (&line[..split], &line[split + 1..]);
        let expected = format!("{:08x}", crc32fast::hash(body));
        (checksum == expected.as_bytes()).then(|| Self::from_body(body))?
    }
}

/// The notes that are on disk, for readers.
#[derive(Debug, Default)]
pub(crate) struct Index {
    text: Vec<u8>,
    /// End of each note's line in `text`.
    ends: Vec<usize>,
    last: HashMap<String, u64>,
}

impl Index {
    /// How many notes there are.
    pub(crate) fn count(&self) -> u64 {
        self.ends.len() as u64
    }

    /// The journal's text.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// The line of note `number`, counted from 1.
    pub(crate) fn line(&self, number: u64) -> Option<&[u8]> {
        let at = usize::try_from(number.checked_sub(1)?).ok()?;
        let begin = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text.get(begin..*self.ends.get(at)?)
    }

    /// The highest sequence number of a client.
    pub(crate) fn last(&self, client: &str) -> Option<u64> {
        self.last.get(client).copied()
    }

    fn add(&mut self, note: Note, line: &[u8]) {
        self.text.extend_from_slice(line);
        self.ends.push(self.text.len());
        let last = self.last.entry(note.client).or_insert(note.sequence);
        *last = note.sequence.max(*last);
    }
}

/// What [`Journal::open`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Replay {
    /// Notes that are whole.
    pub(crate) notes: u64,
    /// Bytes of a torn write at the end, cut off.
    pub(crate) cut_bytes: usize,
}

/// A note on its way to the disk.
struct Pending {
    note: Note,
    /// Hears the note's number once it is on disk.
    done: oneshot::Sender<u64>,
}

/// The open journal; dropping it waits until its writer has ended.
#[derive(Debug)]
pub(crate) struct Journal {
    index: Arc<Mutex<Index>>,
    pending: Option<mpsc::Sender<Pending>>,
    writer: Option<JoinHandle<()>>,
}

impl Journal {
    /// Opens or makes the journal, alone; replays it and cuts a torn tail off.
    pub(crate) fn open(path: &Path) -> Result<(Self, Replay), JournalError> {
        let failed = |verb| {
            move |source: std::io::Error| JournalError::Io {
                verb,
                path: path.to_owned(),
                source,
            }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed("open"))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            if errno == rustix::io::Errno::WOULDBLOCK {
                JournalError::InUse {
                    path: path.to_owned(),
                }
            } else {
                failed("lock")(errno.into())
            }
        })?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed("read"))?;
        let index = replay(&text);
        let (whole, cut_bytes) = (index.text.len(), text.len() - index.text.len());
        if cut_bytes > BATCH_BYTES_MAX {
            return Err(JournalError::Damaged {
                path: path.to_owned(),
                at: whole,
                after: cut_bytes,
            });
        }
        file.set_len(whole as u64).map_err(failed("cut"))?;
        file.seek(SeekFrom::End(0)).map_err(failed("seek in"))?;
        // The file's own name must survive a crash too: sync it and the directory that has it.
        file.sync_all().map_err(failed("sync"))?;
        let directory = path.parent().unwrap_or_else(|| Path::new("."));
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(failed("sync the directory of"))?;
        let replay = Replay {
            notes: index.count(),
            cut_bytes,
        };
        Ok((Self::start(file, index), replay))
    }

    fn start(file: File, index: Index) -> Self {
        let index = Arc::new(Mutex::new(index));
        let (pending, queue) = mpsc::channel();
        let shared = Arc::clone(&index);
        let writer = std::thread::spawn(move || write(file, &shared, &queue));
        Self {
            index,
            pending: Some(pending),
            writer: Some(writer),
        }
    }

    /// Keeps a note; answers with its number once it is on disk.
    pub(crate) async fn add(&self, note: Note) -> Result<u64, JournalError> {
        let (done, on_disk) = oneshot::channel();
        let pending = self.pending.as_ref().ok_or(JournalError::Closed)?;
        pending
            .send(Pending { note, done })
            .map_err(|_| JournalError::Closed)?;
        on_disk.await.map_err(|_| JournalError::Closed)
    }

    /// The notes on disk.
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        locked(&self.index)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.pending = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the journal's writer has panicked");
        }
    }
}

/// The whole notes at the beginning of a journal.
fn replay(text: &[u8]) -> Index {
    let mut index = Index::default();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let Some(note) = line.strip_suffix(b"\n").and_then(Note::from_line) else {
            break;
        };
        index.add(note, line);
    }
    index
}

/// The writer: a batch, a write, a sync, then the answers.
fn write(mut file: File, index: &Mutex<Index>, queue: &mpsc::Receiver<Pending>) {
    let mut text = Vec::new();
    let mut batch: Vec<(Pending, usize)> = Vec::new();
    while let Ok(first) = queue.recv() {
        let mut next = Some(first);
        while let Some(pending) = next {
            pending.note.append_line(&mut text);
            batch.push((pending, text.len()));
            let room = text.len() + 2 * CLIENT_BYTES_MAX < BATCH_BYTES_MAX;
            next = if room { queue.try_recv().ok() } else { None };
        }
        if let Err(error) = file.write_all(&text).and_then(|()| file.sync_data()) {
            tracing::error!(%error, "cannot write the journal; no more notes are taken");
            return;
        }
        let mut index = locked(index);
        let mut begin = 0;
        for (Pending { note, done }, end) in batch.drain(..) {
            index.add(note, &text[begin..end]);
            begin = end;
            // Whoever asked may have gone; the note is kept all the same.
            let _gone = done.send(index.count());
        }
        text.clear();
    }
}

/// The index, also after a panic elsewhere: it is never left half changed.
fn locked(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(sequence: u64) -> Note {
        Note {
            client: "w1".to_owned(),
            sequence,
        }
    }

    fn text_of(notes: std::ops::Range<u64>) -> Vec<u8> {
        let mut text = Vec::new();
        notes.for_each(|sequence| note(sequence).append_line(&mut text));
        text
    }

    #[test]
    fn every_prefix_replays_to_its_whole_lines() {
        let text = text_of(0..12);
        for end in 0..=text.len() {
            let whole = text[..end].iter().filter(|byte| **byte == b'\n').count();
            let index = replay(&text[..end]);
            assert_eq!(index.count(), whole as u64, "prefix of {end}");
            assert_eq!(index.text(), &text[..index.text().len()]);
        }
    }

    #[test]
    fn a_changed_byte_ends_the_replay_at_its_line() {
        let text = text_of(0..4);
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            let line = text[..at].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(replay(&changed).count(), line as u64, "byte {at}");
        }
    }

    #[test]
    fn a_torn_tail_is_cut_off_the_file_on_every_prefix() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes.journal");
        let (kept, torn) = (text_of(0..2), text_of(2..3));
        for end in 1..torn.len() {
            std::fs::write(&path, [&kept[..], &torn[..end]].concat()).unwrap();
            let (journal, replay) = Journal::open(&path).unwrap();
            let expected = Replay {
                notes: 2,
                cut_bytes: end,
            };
            assert_eq!(replay, expected);
            drop(journal);
            assert_eq!(std::fs::read(&path).unwrap(), kept);
        }
    }

    #[test]
    fn damage_beyond_one_unfinished_write_is_refused_and_nothing_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes.journal");
        let mut text = text_of(0..20_000);
        text[100] ^= 1;
        std::fs::write(&path, &text).unwrap();
        let error = Journal::open(&path).unwrap_err().to_string();
        assert!(error.contains("damaged at byte 98 "), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), text);
    }

    #[test]
    fn a_second_writer_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes.journal");
        let first = Journal::open(&path).unwrap();
        let error = Journal::open(&path).unwrap_err();
        assert!(matches!(error, JournalError::InUse { .. }), "{error}");
        drop(first);
        Journal::open(&path).unwrap();
    }

    #[tokio::test]
    async fn notes_are_numbered_indexed_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes.journal");
        let (journal, _) = Journal::open(&path).unwrap();
        for sequence in [7, 9, 8] {
            journal.add(note(sequence)).await.unwrap();
        }
        assert_eq!(journal.add(note(3)).await.unwrap(), 4);
        let check = |journal: &Journal| {
            let index = journal.index();
            assert_eq!(index.count(), 4);
            assert_eq!(index.last("w1"), Some(9));
            assert_eq!(index.last("w2"), None);
            assert!(index.line(2).unwrap().starts_with(b"w1 9 "));
            assert!(index.line(0).is_none() && index.line(5).is_none());
        };
        check(&journal);
        drop(journal);
        let (journal, replay) = Journal::open(&path).unwrap();
        assert_eq!(replay.cut_bytes, 0);
        check(&journal);
    }
}
