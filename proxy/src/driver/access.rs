//! The writer of the access log: a thread of its own, so that no worker ever waits for a disk.
//!
//! Workers hand over what was over in a turn. The queue is bounded by records; what does not
//! fit is dropped and counted. The file is opened again when it was renamed or removed, and
//! when it is told to.
#![expect(
    clippy::disallowed_methods,
    reason = "records get the time of day when they are handed over, and the file is looked at once a second"
)]

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    config::AccessLog,
    logic::access::{
        Cause, Record,
        format::{self, Style},
    },
};

/// How often the file's name is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes that are written at a time.
const WRITE_BYTES: usize = 256 << 10;

/// What workers have of it.
#[derive(Debug, Clone)]
pub struct Handle {
    sender: Sender<Message>,
    shared: Arc<Shared>,
}

/// Told to the writer.
#[derive(Debug)]
enum Message {
    Records(Vec<Record>),
    /// Open the file again, perhaps another.
    Reopen,
    /// Say so when everything before has been written.
    Flush(Sender<()>),
}

#[derive(Debug)]
struct Shared {
    /// Records that wait.
    queued: AtomicUsize,
    /// Those that went well, for the sample.
    well: AtomicU64,
    /// Packed, for the workers: style, and one of how many is written.
    wanted: AtomicU64,
    /// Most records that wait.
    queue: AtomicUsize,
    log: Mutex<AccessLog>,
}

impl Shared {
    fn log(&self) -> AccessLog {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Handle {
    /// Opens the file and starts the writer.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread not started.
    pub fn start(log: AccessLog) -> io::Result<Self> {
        let (sender, messages) = channel();
        let target = Target::open(&log)?;
        let shared = Arc::new(Shared {
            queued: AtomicUsize::new(0),
            well: AtomicU64::new(0),
            wanted: AtomicU64::new(pack(&log)),
            queue: AtomicUsize::new(log.queue),
            log: Mutex::new(log),
        });
        let handle = Self {
            sender,
            shared: Arc::clone(&shared),
        };
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || Writer { shared, target }.run(&messages))?;
        Ok(handle)
    }

    /// Whether anything is written at all.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.shared.wanted.load(Ordering::Relaxed) != 0
    }

    /// Hands records over; says how many were dropped.
    pub fn send(&self, records: &mut Vec<Record>) -> u64 {
        let one_in = self.shared.wanted.load(Ordering::Relaxed);
        if one_in > 1 {
            records.retain(|record| self.is_sampled(record, one_in));
        }
        let queue = self.shared.queue.load(Ordering::Relaxed);
        let room = queue.saturating_sub(self.shared.queued.load(Ordering::Relaxed));
        let dropped = records.len().saturating_sub(room);
        records.truncate(room);
        if records.is_empty() {
            return dropped as u64;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| i64::try_from(now.as_micros()).unwrap_or(i64::MAX));
        for record in records.iter_mut() {
            record.ended_us = now;
        }
        self.shared
            .queued
            .fetch_add(records.len(), Ordering::Relaxed);
        // Its thread ends with the last handle.
        drop(self.sender.send(Message::Records(std::mem::take(records))));
        dropped as u64
    }

    /// Whatever did not go well is written always.
    fn is_sampled(&self, record: &Record, one_in: u64) -> bool {
        let went_well = record.cause == Cause::Done && record.status < 500;
        !went_well
            || self
                .shared
                .well
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(one_in)
    }

    /// Goes on as this says: style, sample, file. The file is opened again in any case.
    pub fn set(&self, log: AccessLog) {
        self.shared.wanted.store(pack(&log), Ordering::Relaxed);
        self.shared.queue.store(log.queue, Ordering::Relaxed);
        *self
            .shared
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = log;
        drop(self.sender.send(Message::Reopen));
    }

    /// Waits until what was handed over is written, but not for ever.
    pub fn flush(&self, within: Duration) {
        let (done, written) = channel();
        drop(self.sender.send(Message::Flush(done)));
        if written.recv_timeout(within).is_err() {
            tracing::warn!(?within, "the access log is not written yet");
        }
    }
}

/// 0 when nothing is written, else one of how many is.
fn pack(log: &AccessLog) -> u64 {
    match log.style {
        Style::Off => 0,
        Style::Text | Style::Json => u64::from(log.sample),
    }
}

/// Where lines go.
enum Target {
    Stderr,
    File {
        file: File,
        path: PathBuf,
        /// Device and inode, by which a rename is noticed.
        id: (u64, u64),
    },
}

impl Target {
    fn open(log: &AccessLog) -> io::Result<Self> {
        match (&log.file, log.style) {
            (Some(path), Style::Text | Style::Json) => {
                let file = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o640)
                    .open(path)?;
                let metadata = file.metadata()?;
                Ok(Self::File {
                    file,
                    path: path.clone(),
                    id: (metadata.dev(), metadata.ino()),
                })
            }
            _ => Ok(Self::Stderr),
        }
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().lock().write_all(text.as_bytes()),
            Self::File { file, .. } => file.write_all(text.as_bytes()),
        }
    }

    /// Whether the name leads to another file by now, or to none.
    fn has_moved(&self) -> bool {
        match self {
            Self::Stderr => false,
            Self::File { path, id, .. } => !matches!(
                std::fs::metadata(path),
                Ok(metadata) if (metadata.dev(), metadata.ino()) == *id
            ),
        }
    }
}

struct Writer {
    shared: Arc<Shared>,
    target: Target,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        let mut text = String::new();
        let mut looked = Instant::now();
        loop {
            let mut message = match messages.recv_timeout(LOOK_EVERY) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                if self.target.has_moved() {
                    self.reopen();
                }
            }
            let style = self.shared.log().style;
            // Whatever has come meanwhile is written with it.
            while let Some(next) = message {
                match next {
                    Message::Records(records) => {
                        for record in &records {
                            format::write(record, style, &mut text);
                        }
                        self.shared
                            .queued
                            .fetch_sub(records.len(), Ordering::Relaxed);
                    }
                    Message::Reopen => {
                        self.write(&mut text);
                        self.reopen();
                        break;
                    }
                    Message::Flush(done) => {
                        self.write(&mut text);
                        if done.send(()).is_err() {
                            tracing::debug!("nobody waited for the access log");
                        }
                    }
                }
                if text.len() >= WRITE_BYTES {
                    self.write(&mut text);
                }
                message = messages.try_recv().ok();
            }
            self.write(&mut text);
        }
    }

    fn write(&mut self, text: &mut String) {
        if text.is_empty() {
            return;
        }
        if let Err(error) = self.target.write(text) {
            tracing::warn!(%error, "cannot write the access log");
        }
        text.clear();
    }

    fn reopen(&mut self) {
        match Target::open(&self.shared.log()) {
            Ok(target) => self.target = target,
            Err(error) => {
                tracing::warn!(%error, "cannot open the access log; the old file is used on");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::access::{Phase, Protocol, Timers, Words};

    fn record(target: &str, cause: Cause) -> Record {
        Record {
            ended_us: 0,
            protocol: Protocol::Http1,
            client: "192.0.2.1:1".parse().unwrap(),
            upstream: None,
            status: 200,
            cause,
            phase: Phase::Over,
            timers: Timers::default(),
            bytes_up: 0,
            bytes_down: 0,
            retries: 0,
            words: Words {
                target: target.to_owned(),
                ..Words::default()
            },
        }
    }

    fn log(file: PathBuf, sample: u32, queue: usize) -> AccessLog {
        AccessLog {
            style: Style::Json,
            file: Some(file),
            sample,
            queue,
        }
    }

    #[test]
    fn a_renamed_file_is_left_and_a_new_one_made_when_it_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let log = log(path.clone(), 1, 100);
        let handle = Handle::start(log.clone()).unwrap();
        assert_eq!(handle.send(&mut vec![record("/first", Cause::Done)]), 0);
        handle.flush(Duration::from_secs(5));
        let old = directory.path().join("access.log.1");
        std::fs::rename(&path, &old).unwrap();
        handle.set(log);
        handle.send(&mut vec![record("/second", Cause::Done)]);
        handle.flush(Duration::from_secs(5));
        assert!(std::fs::read_to_string(&old).unwrap().contains("/first"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("/second") && !text.contains("/first"),
            "{text}"
        );
    }

    #[test]
    fn of_what_went_well_one_in_so_many_is_written_and_of_the_rest_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let handle = Handle::start(log(path.clone(), 10, 1000)).unwrap();
        let mut records: Vec<_> = (0..100).map(|_| record("/well", Cause::Done)).collect();
        records.extend((0..5).map(|_| record("/ill", Cause::Client)));
        assert_eq!(handle.send(&mut records), 0);
        handle.flush(Duration::from_secs(5));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("/well").count(), 10);
        assert_eq!(text.matches("/ill").count(), 5);
    }

    #[test]
    fn what_the_queue_does_not_hold_is_dropped_and_said() {
        let directory = tempfile::tempdir().unwrap();
        let handle = Handle::start(log(directory.path().join("a"), 1, 3)).unwrap();
        let mut records: Vec<_> = (0..5).map(|_| record("/", Cause::Done)).collect();
        assert_eq!(handle.send(&mut records), 2);
        handle.flush(Duration::from_secs(5));
        // There is room again.
        assert_eq!(handle.send(&mut vec![record("/", Cause::Done)]), 0);
    }
}
