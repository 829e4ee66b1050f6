//! The in-memory end of a connection that the h2 crate reads and writes. The worker fills one
//! side with what it has read and empties the other into what it writes.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may wait to be sent before the h2 crate is told to wait.
const OUT_BYTES_MAX: usize = 64 << 10;
/// Room that is kept while nothing is on its way.
const KEPT_BYTES: usize = 4 << 10;

/// One end; the other is a clone. Both are used by one thread, so nobody ever waits for the
/// lock.
#[derive(Debug, Clone, Default)]
pub struct Pipe(Arc<Mutex<Ends>>);

#[derive(Debug, Default)]
struct Ends {
    input: BytesMut,
    ended: bool,
    reader: Option<Waker>,
    output: Vec<u8>,
    writer: Option<Waker>,
}

impl Pipe {
    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes for the h2 crate to read.
    pub fn feed(&self, bytes: &[u8]) {
        let mut ends = self.ends();
        ends.input.extend_from_slice(bytes);
        if let Some(reader) = ends.reader.take() {
            reader.wake();
        }
    }

    /// Nothing more will be fed.
    pub fn end(&self) {
        let mut ends = self.ends();
        ends.ended = true;
        if let Some(reader) = ends.reader.take() {
            reader.wake();
        }
    }

    /// Bytes that were fed and not read yet.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.ends().input.len()
    }

    /// Moves what is to be sent to the end of `out`; whether there was any.
    pub fn drain(&self, out: &mut Vec<u8>) -> bool {
        let mut ends = self.ends();
        if ends.output.is_empty() {
            return false;
        }
        match out.is_empty() && out.capacity() < ends.output.capacity() {
            true => std::mem::swap(out, &mut ends.output),
            false => out.append(&mut ends.output),
        }
        if let Some(writer) = ends.writer.take() {
            writer.wake();
        }
        true
    }

    /// Gives back room while nothing is on its way.
    pub fn rest(&self) {
        let mut ends = self.ends();
        if ends.input.is_empty() && ends.input.capacity() > KEPT_BYTES {
            ends.input = BytesMut::new();
        }
        if ends.output.is_empty() && ends.output.capacity() > KEPT_BYTES {
            ends.output = Vec::new();
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut ends = self.ends();
        let count = ends.input.len().min(buffer.remaining());
        if count > 0 {
            buffer.put_slice(&ends.input[..count]);
            ends.input.advance(count);
        } else if !ends.ended {
            ends.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut ends = self.ends();
        let room = OUT_BYTES_MAX.saturating_sub(ends.output.len());
        let count = room.min(bytes.len());
        if count == 0 && !bytes.is_empty() {
            ends.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        ends.output.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut ends = self.ends();
        let mut written = 0;
        for part in parts {
            let room = OUT_BYTES_MAX.saturating_sub(ends.output.len());
            let count = room.min(part.len());
            ends.output.extend_from_slice(&part[..count]);
            written += count;
        }
        if written == 0 && parts.iter().any(|part| !part.is_empty()) {
            ends.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_both_ways_and_wait_for_room() {
        let pipe = Pipe::default();
        let mut end = pipe.clone();
        let mut cx = Context::from_waker(Waker::noop());
        let mut room = [0; 3];
        let mut read = |end: &mut Pipe| {
            let mut buffer = ReadBuf::new(&mut room);
            let polled = Pin::new(end).poll_read(&mut cx, &mut buffer);
            polled.map(|done| done.map(|()| buffer.filled().to_vec()).unwrap())
        };
        assert_eq!(read(&mut end), Poll::Pending);
        pipe.feed(b"abcd");
        assert_eq!(read(&mut end), Poll::Ready(b"abc".to_vec()));
        assert_eq!(read(&mut end), Poll::Ready(b"d".to_vec()));
        pipe.end();
        assert_eq!(read(&mut end), Poll::Ready(vec![]));

        let mut cx = Context::from_waker(Waker::noop());
        let large = vec![7; OUT_BYTES_MAX + 1];
        let written = Pin::new(&mut end).poll_write(&mut cx, &large);
        assert!(matches!(written, Poll::Ready(Ok(OUT_BYTES_MAX))));
        assert!(Pin::new(&mut end).poll_write(&mut cx, b"x").is_pending());
        let mut out = Vec::new();
        assert!(pipe.drain(&mut out));
        assert_eq!(out.len(), OUT_BYTES_MAX);
        assert!(Pin::new(&mut end).poll_write(&mut cx, b"x").is_ready());
    }
}
