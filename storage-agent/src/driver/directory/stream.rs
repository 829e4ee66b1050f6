//! Snapshots as streams: the changes from one tree to another, with a checksum at the end.
//!
//! ```text
//! magic, then entries: kind u8, path (u32 + bytes), and by kind
//!   'x' remove     -
//!   'd' directory  -
//!   'f' file       attributes, size u64, content
//!   'l' link       attributes, target (u32 + bytes)
//!   'a' attributes attributes
//!   'e' end        guid u64, crc32 of everything before it u32; its path is empty
//! ```
//!
//! Maker and taker are threads, joined to the agent's tasks by short queues, so that neither
//! holds more of a stream than a few chunks.

use std::{
    ffi::OsStr,
    io::{self, BufWriter, Read, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Buf, Bytes};
use flocker_api::volume::Guid;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    Places, SnapshotRecord, read_json,
    tree::{Applier, Attributes, Change, Sink, copy_all, diff},
};
use crate::{
    driver::storage::{ReceiveError, Stamp},
    error::VolumeError,
    logic::wire::DATA_BYTES_MAX,
};

const MAGIC: &[u8; 8] = b"FLKTREE1";
/// Chunks that wait between a thread and a task.
const QUEUE: usize = 4;
/// Longest path or link target that is taken.
const PATH_BYTES_MAX: u32 = 64 << 10;

/// A stream that a thread makes.
#[derive(Debug)]
pub(crate) struct Sending {
    chunks: mpsc::Receiver<Result<Bytes, VolumeError>>,
}

impl Sending {
    pub(super) fn start(from: Option<PathBuf>, to: PathBuf, snapshot: PathBuf) -> Self {
        let (sender, chunks) = mpsc::channel(QUEUE);
        tokio::task::spawn_blocking(move || {
            let queue = Queue {
                sender: sender.clone(),
            };
            if let Err(error) = make(from.as_deref(), &to, &snapshot, queue) {
                // Nobody listens any more when the transfer has failed at the other end.
                drop(sender.blocking_send(Err(error)));
            }
        });
        Self { chunks }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, VolumeError> {
        self.chunks.recv().await.transpose()
    }
}

/// The writing end of the queue.
struct Queue {
    sender: mpsc::Sender<Result<Bytes, VolumeError>>,
}

impl Write for Queue {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(DATA_BYTES_MAX);
        self.sender
            .blocking_send(Ok(Bytes::copy_from_slice(&bytes[..taken])))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn make(from: Option<&Path>, to: &Path, snapshot: &Path, queue: Queue) -> Result<(), VolumeError> {
    let record: SnapshotRecord = read_json(&snapshot.join("snapshot.json"))?.ok_or_else(|| {
        VolumeError::Command(format!("there is no snapshot at {}", snapshot.display()))
    })?;
    let mut encoder = Encoder {
        out: Summed::new(BufWriter::with_capacity(DATA_BYTES_MAX, queue)),
    };
    encoder.put(MAGIC)?;
    diff(from, to, &mut encoder)?;
    encoder.head(b'e', Path::new(""))?;
    encoder.put(&record.guid.0.to_be_bytes())?;
    let sum = encoder.out.sum.clone().finalize();
    encoder.put(&sum.to_be_bytes())?;
    encoder.out.inner.flush().map_err(sending)
}

fn sending(error: io::Error) -> VolumeError {
    VolumeError::io("cannot pass the stream on", error)
}

/// Sums up what goes through.
struct Summed<T> {
    inner: T,
    sum: crc32fast::Hasher,
}

impl<T> Summed<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            sum: crc32fast::Hasher::new(),
        }
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.sum.update(&buffer[..read]);
        Ok(read)
    }
}

/// Changes to bytes.
struct Encoder<W: Write> {
    out: Summed<W>,
}

impl<W: Write> Encoder<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), VolumeError> {
        self.out.write_all(bytes).map_err(sending)
    }

    fn text(&mut self, text: &OsStr) -> Result<(), VolumeError> {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.put(&length.to_be_bytes())?;
        self.put(text.as_bytes())
    }

    fn head(&mut self, kind: u8, path: &Path) -> Result<(), VolumeError> {
        self.put(&[kind])?;
        self.text(path.as_os_str())
    }

    fn attributes(&mut self, a: Attributes) -> Result<(), VolumeError> {
        for number in [a.mode, a.uid, a.gid, a.nanos] {
            self.put(&number.to_be_bytes())?;
        }
        self.put(&a.seconds.to_be_bytes())
    }
}

impl<W: Write> Sink for Encoder<W> {
    fn take(&mut self, path: &Path, change: Change<'_>) -> Result<(), VolumeError> {
        match change {
            Change::Remove => self.head(b'x', path),
            Change::Directory => self.head(b'd', path),
            Change::File(attributes, size, content) => {
                self.head(b'f', path)?;
                self.attributes(attributes)?;
                self.put(&size.to_be_bytes())?;
                let mut content = content.take(size);
                let copied = copy_all(&mut content, &mut self.out).map_err(sending)?;
                if copied == size {
                    return Ok(());
                }
                // Snapshots are never written again; somebody else has.
                let what = format!("{} changed while it was read", path.display());
                Err(VolumeError::Command(what))
            }
            Change::Link(attributes, target) => {
                self.head(b'l', path)?;
                self.attributes(attributes)?;
                self.text(target)
            }
            Change::Attributes(attributes) => {
                self.head(b'a', path)?;
                self.attributes(attributes)
            }
        }
    }
}

/// A stream that a thread takes.
#[derive(Debug)]
pub(crate) struct Receiving {
    chunks: mpsc::Sender<Bytes>,
    taker: JoinHandle<Result<(), VolumeError>>,
}

impl Receiving {
    pub(super) fn start(places: Arc<Places>, stamp: Stamp, from: Option<Guid>, to: String) -> Self {
        let (chunks, receiver) = mpsc::channel(QUEUE);
        let taker = tokio::task::spawn_blocking(move || {
            let taking = || {
                let tree = places.start(&stamp, from)?;
                let guid = take(Chunks::new(receiver), &mut Applier::new(&tree))?;
                places.end(&stamp, &to, guid)
            };
            let taken = taking();
            if taken.is_err() {
                // At once: on a full disk nothing else could be written either.
                places.drop_incoming(stamp.id);
            }
            taken
        });
        Self { chunks, taker }
    }

    pub(crate) async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        let sent = self.chunks.send(bytes).await;
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    pub(crate) async fn finish(self) -> Result<(), ReceiveError> {
        let Self { chunks, taker } = self;
        drop(chunks);
        let taken = taker.await.unwrap_or_else(|e| {
            Err(VolumeError::Command(format!(
                "taking the stream ended: {e}"
            )))
        });
        taken.map_err(|error| ReceiveError {
            touched: false,
            error,
        })
    }
}

/// The reading end of the queue.
struct Chunks {
    receiver: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl Chunks {
    fn new(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self {
            receiver,
            chunk: Bytes::new(),
        }
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let read = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}

fn damaged(what: &str) -> VolumeError {
    VolumeError::Damaged(what.to_owned())
}

/// Carries out a stream's changes; the guid that it ends with.
fn take(chunks: impl Read, sink: &mut dyn Sink) -> Result<Guid, VolumeError> {
    let mut decoder = Decoder {
        input: Summed::new(chunks),
    };
    if decoder.array::<8>()? != *MAGIC {
        return Err(damaged("it does not begin like one of ours"));
    }
    loop {
        let [kind] = decoder.array()?;
        let path = PathBuf::from(OsStr::from_bytes(&decoder.text()?));
        match kind {
            b'x' => sink.take(&path, Change::Remove)?,
            b'd' => sink.take(&path, Change::Directory)?,
            b'f' => {
                let attributes = decoder.attributes()?;
                let size = u64::from_be_bytes(decoder.array()?);
                let mut content = (&mut decoder.input).take(size);
                sink.take(&path, Change::File(attributes, size, &mut content))?;
                if content.limit() > 0 {
                    return Err(damaged("it ended within a file"));
                }
            }
            b'l' => {
                let attributes = decoder.attributes()?;
                let target = decoder.text()?;
                sink.take(&path, Change::Link(attributes, OsStr::from_bytes(&target)))?;
            }
            b'a' => sink.take(&path, Change::Attributes(decoder.attributes()?))?,
            b'e' => return decoder.end(),
            _ => return Err(damaged("it has an entry of unknown kind")),
        }
    }
}

/// Bytes to changes.
struct Decoder<R: Read> {
    input: Summed<R>,
}

impl<R: Read> Decoder<R> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], VolumeError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), VolumeError> {
        self.input
            .read_exact(bytes)
            .map_err(|_| damaged("it ended early"))
    }

    fn text(&mut self) -> Result<Vec<u8>, VolumeError> {
        let length = u32::from_be_bytes(self.array()?);
        if length > PATH_BYTES_MAX {
            return Err(damaged("a path in it is too long"));
        }
        let mut text = vec![0; length as usize];
        self.fill(&mut text)?;
        Ok(text)
    }

    fn attributes(&mut self) -> Result<Attributes, VolumeError> {
        let mut numbers = [0; 4];
        for number in &mut numbers {
            *number = u32::from_be_bytes(self.array()?);
        }
        let [mode, uid, gid, nanos] = numbers;
        Ok(Attributes {
            mode,
            uid,
            gid,
            nanos,
            seconds: i64::from_be_bytes(self.array()?),
        })
    }

    fn end(&mut self) -> Result<Guid, VolumeError> {
        let guid = Guid(u64::from_be_bytes(self.array()?));
        let expected = self.input.sum.clone().finalize();
        if u32::from_be_bytes(self.array()?) != expected {
            return Err(damaged("its checksum is wrong"));
        }
        match self.input.read(&mut [0]) {
            Ok(0) => Ok(guid),
            _ => Err(damaged("bytes follow its end")),
        }
    }
}
