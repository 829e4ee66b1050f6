//! Bytes from one socket to the other. No protocol and no route is known in here.
//!
//! A direction starts by copying through the worker's buffer. Once it streams (two reads of
//! [`STREAM_READ`] or more in a row) it borrows a pipe and goes by splice(2); an empty pipe
//! goes back to the pool whenever the direction blocks, and without pipes it goes on copying.
//!
//! What is easily got wrong, and therefore kept here in one place:
//! * EAGAIN of a splice into a pipe that holds bytes says nothing of the socket: the pipe may be
//!   full. Only with an empty pipe does it mean "not readable".
//! * The end of a stream is reported after its pipe is empty, and so is the last byte of a
//!   counted stretch: what is written next must not overtake what is in the pipe.
//! * SPLICE_F_MORE is never given: it corks the last segment.
//! * A short read means that the socket is empty, unless its peer has announced the end.

mod outq;
mod sealed;
mod stream;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, os::fd::OwnedFd};

use mio::net::TcpStream;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

pub use self::sealed::Sealed;
pub use self::stream::{Got, Stream};

/// A read of at least this many bytes counts as streaming.
pub const STREAM_READ: usize = 32 << 10;
/// So many of them in a row, and the direction goes by splice.
const STREAK: u8 = 2;
/// So many small splices in a row, and it goes back to copying.
const SMALL_STREAK: u8 = 4;
/// Bytes that a pipe is asked to hold.
const PIPE_BYTES: usize = 1 << 20;
/// A pipe that got less than this (see pipe-user-pages-soft in pipe(7)) is not worth its
/// system calls.
const PIPE_BYTES_MIN: usize = 64 << 10;
/// Most bytes of one read after a write was cut short: a slow reader shall not fill memory.
const SLOW_READ: usize = 32 << 10;

/// A connection and what is known of it.
#[derive(Debug)]
pub struct Conn {
    /// The socket, or what stands in for one.
    pub stream: Stream,
    /// A read may find something.
    pub readable: bool,
    /// A write may find room.
    pub writable: bool,
    /// The peer has announced its end; what it sent before may still have to be read.
    pub hangup: bool,
    /// The kernel has reported an error.
    pub failed: bool,
    /// The end has been read.
    pub eof: bool,
    /// To be shut for writing once everything is written.
    pub finish: bool,
    /// It has been shut, or writing has failed.
    pub shut: bool,
    /// It has sent more than it had announced.
    pub surplus: bool,
}

impl Conn {
    /// A connection of which nothing is known yet.
    #[must_use]
    pub fn new(stream: TcpStream, writable: bool) -> Self {
        Self::over(Stream::Tcp(stream), writable)
    }

    /// The same over any stream.
    #[must_use]
    pub fn over(stream: Stream, writable: bool) -> Self {
        Self {
            stream,
            readable: false,
            writable,
            hangup: false,
            failed: false,
            eof: false,
            finish: false,
            shut: false,
            surplus: false,
        }
    }

    /// Notes what has become of a stream of a shared connection, after its waker was called:
    /// it can be read, or written, or is lost. What epoll watches is left alone.
    pub fn take_stock(&mut self) {
        if let Some(stream) = self.stream.shared() {
            self.failed |= stream.is_lost();
            self.readable = true;
            self.writable = !self.shut;
        }
    }

    /// Our own address of its socket, if it has one.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.stream.socket()?.local_addr().ok()
    }

    /// Reads into `buffer`; `None` when there is nothing.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.stream.read(buffer) {
                Ok(Got { count: 0, .. }) => {
                    self.eof = true;
                    self.readable = false;
                    return Ok(Some(0));
                }
                Ok(Got { count, more }) => {
                    if !more && !self.hangup {
                        self.readable = false;
                    }
                    return Ok(Some(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.readable = false;
                    return Err(error);
                }
            }
        }
    }

    /// Bytes that the kernel has taken from us and the peer has not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> u32 {
        self.stream.unacknowledged()
    }

    /// Bytes that were written and that the kernel does not have yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.stream.pending()
    }

    /// Gives the kernel what is pending.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.writable && self.stream.pending() > 0 {
            self.stream.flush()?;
            self.writable = self.stream.pending() == 0;
        }
        Ok(())
    }

    /// Writes what it can.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let mut done = 0;
        while done < bytes.len() && self.writable {
            match self.stream.write(&bytes[done..]) {
                Ok(count) => {
                    done += count;
                    // A bare socket takes less only when it is full; others take what they
                    // like at a time, and keep what a full socket leaves.
                    let short = done < bytes.len() && self.stream.bare().is_some();
                    self.writable = !short && self.stream.pending() == 0;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

/// Bytes on their way to one side.
#[derive(Debug, Default)]
pub struct Flow {
    /// Written by the session or left over from a copy; goes first.
    pub out: Vec<u8>,
    /// How much of `out` has gone.
    pub out_done: usize,
    pipe: Option<Pipe>,
    streak: u8,
    small: u8,
    slow: bool,
}

impl Flow {
    /// Whether nothing is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty() && self.held() == 0
    }

    /// Whether the destination has not taken all that it was given.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.slow || self.out_done > 0
    }

    /// Bytes that are on their way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len() - self.out_done + self.held()
    }

    fn held(&self) -> usize {
        self.pipe.as_ref().map_or(0, |pipe| pipe.held)
    }

    /// Forgets what is on its way. A pipe that holds bytes is closed.
    pub fn clear(&mut self, pipes: &mut Pipes) {
        self.out = Vec::new();
        self.out_done = 0;
        self.streak = 0;
        if let Some(pipe) = self.pipe.take() {
            pipes.put(pipe);
        }
    }

    /// Delivers what is on its way, then shuts the socket if that was asked for.
    /// Answers how many bytes went out of the pipe.
    ///
    /// # Errors
    /// As the kernel says; nothing more can be written then.
    pub fn flush(&mut self, to: &mut Conn, pipes: &mut Pipes) -> io::Result<u64> {
        to.flush()?;
        if !self.out.is_empty() && to.writable {
            self.out_done += to.write(&self.out[self.out_done..])?;
            if self.out_done == self.out.len() {
                self.out_done = 0;
                pipes.spare(std::mem::take(&mut self.out));
            }
        }
        let mut moved = 0;
        if self.out.is_empty() && self.held() > 0 {
            moved = self.drain(to)?;
        }
        if self.held() == 0
            && let Some(pipe) = self.pipe.take()
        {
            pipes.put(pipe);
        }
        if to.finish && !to.shut && self.is_empty() {
            to.stream.finish();
            to.shut = to.pending() == 0;
        }
        Ok(moved)
    }

    /// Pipe to socket, until it is empty or the socket is full.
    fn drain(&mut self, to: &mut Conn) -> io::Result<u64> {
        let (Some(pipe), Some(socket)) = (&mut self.pipe, to.stream.bare()) else {
            return Ok(0);
        };
        let mut moved = 0;
        while pipe.held > 0 && to.writable {
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            match splice(&pipe.read, None, socket, None, pipe.held, flags) {
                Ok(count) => {
                    pipe.held = pipe.held.saturating_sub(count);
                    moved += count as u64;
                }
                Err(rustix::io::Errno::AGAIN) => to.writable = false,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(moved)
    }
}

/// What a pump came to.
#[derive(Debug)]
pub struct Pumped {
    /// Bytes delivered, or left in the flow's `out`.
    pub bytes: u64,
    /// Why it stopped.
    pub stop: Stop,
}

/// Why a pump stopped.
#[derive(Debug)]
pub enum Stop {
    /// Either socket is not ready.
    Blocked,
    /// The budget is used up; there may be more.
    Budget,
    /// All that was asked for is done.
    Complete,
    /// The source has ended and everything of it is delivered or in `out`.
    Eof,
    /// The source is lost.
    Unreadable,
    /// The destination is lost.
    Unwritable,
}

/// Moves up to `length` bytes (all, if `None`) from one socket to the other.
pub fn pump(
    from: &mut Conn,
    to: &mut Conn,
    flow: &mut Flow,
    length: Option<u64>,
    budget: usize,
    tools: &mut Tools<'_>,
) -> Pumped {
    let mut bytes = 0;
    let stop = loop {
        match flow.flush(to, tools.pipes) {
            Ok(moved) => bytes += moved,
            Err(_) => break Stop::Unwritable,
        }
        let left = length.map_or(u64::MAX, |length| length - bytes);
        if left == 0 {
            break Stop::Complete;
        }
        if !flow.is_empty() || to.pending() > 0 {
            break Stop::Blocked;
        }
        if from.eof {
            break Stop::Eof;
        }
        if !from.readable {
            break Stop::Blocked;
        }
        if bytes >= budget as u64 {
            break Stop::Budget;
        }
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let bare = from.stream.bare().is_some() && to.stream.bare().is_some();
        let step = match bare && flow.streak >= STREAK {
            true => fill(from, flow, left, tools),
            false => copy(from, to, flow, left, tools),
        };
        match step {
            Ok(copied) => bytes += copied,
            Err(stop) => break stop,
        }
    };
    Pumped { bytes, stop }
}

/// One read and one write. What the write leaves goes to the flow.
fn copy(
    from: &mut Conn,
    to: &mut Conn,
    flow: &mut Flow,
    left: usize,
    tools: &mut Tools<'_>,
) -> Result<u64, Stop> {
    let most = match flow.slow {
        true => SLOW_READ,
        false => tools.buffer.len(),
    };
    let room = match tools.may_overread {
        true => left.saturating_add(1),
        false => left,
    };
    let buffer = &mut tools.buffer[..most.min(room)];
    let count = match from.read(buffer) {
        // The loop sees the flags that the read has set.
        Ok(None | Some(0)) => return Ok(0),
        Ok(Some(count)) => count,
        Err(_) => return Err(Stop::Unreadable),
    };
    from.surplus |= count > left;
    let count = count.min(left);
    flow.streak = match count >= STREAM_READ {
        true => flow.streak.saturating_add(1),
        false => 0,
    };
    let written = to
        .write(&buffer[..count])
        .map_err(|_error| Stop::Unwritable)?;
    flow.slow = written < count;
    if flow.slow {
        flow.out.extend_from_slice(&buffer[written..count]);
    }
    Ok(count as u64)
}

/// One splice into the (empty) pipe; the loop flushes it.
fn fill(from: &mut Conn, flow: &mut Flow, left: usize, tools: &mut Tools<'_>) -> Result<u64, Stop> {
    if flow.pipe.is_none() {
        flow.pipe = tools.pipes.take();
    }
    let (Some(pipe), Some(socket)) = (&mut flow.pipe, from.stream.bare()) else {
        // No pipe to be had: two more large reads before the next try.
        flow.streak = 0;
        return Ok(0);
    };
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    let most = PIPE_BYTES.min(left);
    match splice(socket, None, &pipe.write, None, most, flags) {
        Ok(0) => {
            from.eof = true;
            from.readable = false;
        }
        Ok(count) => {
            pipe.held += count;
            flow.small = match count < STREAM_READ {
                true => flow.small + 1,
                false => 0,
            };
            if flow.small >= SMALL_STREAK {
                flow.small = 0;
                flow.streak = 0;
            }
        }
        // The pipe is empty, so it is the socket that has nothing.
        Err(rustix::io::Errno::AGAIN) => from.readable = false,
        Err(rustix::io::Errno::INTR) => {}
        // Some kinds of socket cannot be spliced.
        Err(rustix::io::Errno::INVAL) => flow.streak = 0,
        Err(_) => return Err(Stop::Unreadable),
    }
    Ok(0)
}

/// What a worker lends to its relays.
#[derive(Debug)]
pub struct Tools<'a> {
    /// The read buffer.
    pub buffer: &'a mut [u8],
    /// The pipes.
    pub pipes: &'a mut Pipes,
    /// Whether a byte beyond the stretch may be read and dropped. It makes the last read of a
    /// stretch a short one, which tells that the socket is empty, and it finds out a peer that
    /// sends more than it has announced.
    pub may_overread: bool,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

/// A bounded pool of pipes, and of buffers that have been used.
#[derive(Debug)]
pub struct Pipes {
    idle: Vec<Pipe>,
    /// How many more may be made.
    left: usize,
    buffers: Vec<Vec<u8>>,
}

/// Buffers that are kept for the next short write.
const SPARE_BUFFERS: usize = 64;
/// A buffer that has grown beyond this is not kept.
const SPARE_BYTES: usize = 64 << 10;

impl Pipes {
    /// A pool of at most `count` pipes, made when first needed.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self {
            idle: Vec::new(),
            left: count,
            buffers: Vec::new(),
        }
    }

    fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.pop() {
            return Some(pipe);
        }
        if self.left == 0 {
            return None;
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        let bytes = fcntl_setpipe_size(&write, PIPE_BYTES)
            .or_else(|_| rustix::pipe::fcntl_getpipe_size(&write))
            .unwrap_or(0);
        if bytes < PIPE_BYTES_MIN {
            return None;
        }
        self.left -= 1;
        Some(Pipe {
            read,
            write,
            held: 0,
        })
    }

    fn put(&mut self, pipe: Pipe) {
        match pipe.held {
            0 => self.idle.push(pipe),
            // Its bytes belong to nobody any more; closing it is the only way to be rid of them.
            _ => self.left += 1,
        }
    }

    /// Takes back a buffer that has been written out.
    pub fn spare(&mut self, mut buffer: Vec<u8>) {
        if (1..=SPARE_BYTES).contains(&buffer.capacity()) && self.buffers.len() < SPARE_BUFFERS {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }

    /// Lends an empty buffer.
    #[must_use]
    pub fn buffer(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_default()
    }
}
