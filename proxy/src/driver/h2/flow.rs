//! The bodies of a stream: what is heard gets HTTP/1.1 framing, what is said loses it. Both
//! are bounded by flow control: capacity is given back as a session reads, and a session's
//! write waits for the peer's window.

use std::{
    io,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};

use super::lost;
use crate::{
    driver::relay::Got,
    logic::h2::{
        body::{Piece, Unframer},
        request::Carried,
        write_chunk_size, write_trailers,
    },
};

/// Most bytes that are asked for at a time.
const RESERVE_BYTES: usize = 64 << 10;

/// What is heard of a stream: an HTTP/1.1 head, then a body.
#[derive(Debug)]
pub(super) struct Heard {
    /// Head and framing that are to be read next.
    stage: Vec<u8>,
    staged: usize,
    /// Data that is to be read after the stage.
    data: Bytes,
    /// So much of it has been taken from the window.
    borrowed: usize,
    body: Option<RecvStream>,
    carried: Carried,
    /// Everything has been staged.
    whole: bool,
}

impl Heard {
    pub(super) fn new(head: Vec<u8>, body: Option<RecvStream>, carried: Carried) -> Self {
        Self {
            stage: head,
            staged: 0,
            data: Bytes::new(),
            borrowed: 0,
            whole: carried == Carried::None,
            body,
            carried,
        }
    }

    /// Appends to what is read before everything else.
    pub(super) fn stage(&mut self, head: &[u8]) {
        self.stage.extend_from_slice(head);
    }

    /// The same, with the body that follows.
    pub(super) fn with_body(self, body: RecvStream, carried: Carried) -> Self {
        Self {
            whole: carried == Carried::None,
            body: Some(body),
            carried,
            ..self
        }
    }

    pub(super) fn read(&mut self, buffer: &mut [u8], cx: &mut Context<'_>) -> io::Result<Got> {
        let mut done = 0;
        while done < buffer.len() {
            if self.staged < self.stage.len() {
                done += take(&self.stage[self.staged..], &mut buffer[done..], |count| {
                    self.staged += count;
                });
                if self.staged == self.stage.len() {
                    self.staged = 0;
                    self.stage = Vec::new();
                }
                continue;
            }
            if !self.data.is_empty() {
                let count = self.data.len().min(buffer.len() - done);
                buffer[done..done + count].copy_from_slice(&self.data[..count]);
                self.data.advance(count);
                done += count;
                if self.data.is_empty() {
                    self.give_back()?;
                }
                continue;
            }
            match self.more(cx) {
                Ok(true) => {}
                // What came before a break counts; the break is found again.
                Ok(false) | Err(_) if done > 0 => break,
                // Only a tunnel's end is one: after a message there is just nothing more.
                Ok(false) if self.whole && self.carried == Carried::Tunnel => break,
                Ok(false) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(error) => return Err(error),
            }
        }
        Ok(Got {
            count: done,
            more: true,
        })
    }

    /// The peer may send as much again.
    fn give_back(&mut self) -> io::Result<()> {
        if self.carried == Carried::Chunked {
            self.stage.extend_from_slice(b"\r\n");
        }
        if let Some(body) = &mut self.body {
            let borrowed = std::mem::take(&mut self.borrowed);
            body.flow_control()
                .release_capacity(borrowed)
                .map_err(lost)?;
        }
        Ok(())
    }

    /// Looks for more; whether there is any now.
    fn more(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let Some(body) = &mut self.body else {
            return Ok(false);
        };
        if self.whole {
            return Ok(false);
        }
        match body.poll_data(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Some(Ok(data))) => {
                if !data.is_empty() {
                    self.borrowed = data.len();
                    if self.carried == Carried::Chunked {
                        write_chunk_size(data.len(), &mut self.stage);
                    }
                    self.data = data;
                }
                Ok(true)
            }
            Poll::Ready(Some(Err(error))) => Err(lost(error)),
            Poll::Ready(None) if self.carried == Carried::Chunked => match body.poll_trailers(cx) {
                Poll::Pending => Ok(false),
                Poll::Ready(Ok(trailers)) => {
                    write_trailers(trailers.as_ref(), &mut self.stage);
                    self.whole = true;
                    Ok(true)
                }
                Poll::Ready(Err(error)) => Err(lost(error)),
            },
            Poll::Ready(None) => {
                self.whole = true;
                Ok(false)
            }
        }
    }
}

fn take(from: &[u8], to: &mut [u8], taken: impl FnOnce(usize)) -> usize {
    let count = from.len().min(to.len());
    to[..count].copy_from_slice(&from[..count]);
    taken(count);
    count
}

/// What is said on a stream after its head.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) stream: SendStream<Bytes>,
    unframer: Unframer,
    /// The end has been said.
    ended: bool,
}

impl Said {
    pub(super) fn new(stream: SendStream<Bytes>, unframer: Unframer, ended: bool) -> Self {
        Self {
            stream,
            unframer,
            ended,
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Takes what it can of `bytes` after the first `done` of them, which were a head and have been
    /// taken. Answers with all that is taken; that there is no more room is told only when nothing
    /// was.
    pub(super) fn write_after(
        &mut self,
        done: usize,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> io::Result<usize> {
        if done == bytes.len() {
            return Ok(done);
        }
        match self.write(&bytes[done..], cx) {
            Ok(count) => Ok(done + count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && done > 0 => Ok(done),
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            let rest = &bytes[done..];
            let room = self.stream.capacity();
            let step = self.unframer.next(rest, room);
            let (count, piece) = step.map_err(|_error| io::ErrorKind::InvalidData)?;
            match piece {
                Piece::NoRoom => {
                    if !self.wait(rest.len(), cx)? {
                        break;
                    }
                }
                Piece::Data { bytes, last } => {
                    self.ended = last;
                    let data = Bytes::copy_from_slice(bytes);
                    self.stream.send_data(data, last).map_err(lost)?;
                }
                Piece::End(trailers) => {
                    self.ended = true;
                    match trailers {
                        Some(trailers) => self.stream.send_trailers(trailers),
                        None => self.stream.send_data(Bytes::new(), true),
                    }
                    .map_err(lost)?;
                }
                Piece::Framing => {}
            }
            done += count;
        }
        match done {
            0 if !bytes.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(done),
        }
    }

    /// Asks for room; false if it has to be waited for.
    fn wait(&mut self, want: usize, cx: &mut Context<'_>) -> io::Result<bool> {
        self.stream.reserve_capacity(want.min(RESERVE_BYTES));
        loop {
            if self.stream.capacity() > 0 {
                return Ok(true);
            }
            match self.stream.poll_capacity(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Err(lost(error)),
                Poll::Ready(None) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    /// Ends what ends with its connection.
    pub(super) fn finish(&mut self) {
        if !self.ended && self.unframer.ends_by_close() {
            self.ended = true;
            // Fails only if the stream is lost, which reading tells as well.
            drop(self.stream.send_data(Bytes::new(), true));
        }
    }
}
