//! A connection of the load that speaks HTTP/2 in clear, by prior knowledge (RFC 9113, 3.3), with
//! several streams at a time. By hand, since every request is the same header block and of an
//! answer only its status, its bytes and its end matter: it costs the load next to nothing.

use std::{collections::HashMap, io, net::SocketAddr, os::fd::OwnedFd, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, bail};
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use super::{
    client::{Talk, dial},
    load::Said,
    poller::{Poller, Watch},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame's head (RFC 9113, 4.1).
const FRAME_HEAD: usize = 9;
/// Longest frame that we allow: the default.
const FRAME_BYTES_MAX: usize = 16_384;
/// Our windows: so large that few updates are due.
const WINDOW: u32 = 16 << 20;
/// An update is sent after so many bytes.
const UPDATE_AFTER: u32 = 8 << 20;
/// A stream begins with the window that SETTINGS says.
const INITIAL_WINDOW: u16 = 4;
const ENABLE_PUSH: u16 = 2;
/// HPACK's static entry 8, `:status: 200` (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// See the module.
pub(super) struct H2Client {
    socket: OwnedFd,
    talk: Arc<Talk>,
    /// Streams under way: when each was due, and whether its status came.
    streams: HashMap<u32, (Instant, bool)>,
    next: u32,
    out: Vec<u8>,
    /// A frame that is not whole yet.
    rest: Vec<u8>,
    /// Bytes of bodies since the last update of the connection's window.
    taken: u32,
    /// The subject takes no further streams.
    leaving: bool,
    watch: Watch,
}

impl H2Client {
    pub(super) fn connect(
        target: SocketAddr,
        talk: Arc<Talk>,
        poller: &Poller,
        key: usize,
    ) -> io::Result<Self> {
        let socket = dial(target)?;
        poller.add(&socket, key, Watch::Read)?;
        let mut out = PREFACE.to_vec();
        let mut settings = Vec::new();
        for (id, value) in [(ENABLE_PUSH, 0), (INITIAL_WINDOW, WINDOW)] {
            settings.extend(id.to_be_bytes());
            settings.extend(u32::to_be_bytes(value));
        }
        frame(&mut out, SETTINGS, 0, 0, &settings);
        frame(&mut out, WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
        Ok(Self {
            socket,
            talk,
            streams: HashMap::new(),
            next: 1,
            out,
            rest: Vec::new(),
            taken: 0,
            leaving: false,
            watch: Watch::Read,
        })
    }

    /// Streams under way.
    pub(super) fn open(&self) -> u64 {
        self.streams.len() as u64
    }

    /// Begins an exchange that was due then.
    pub(super) fn begin(&mut self, due: Instant, poller: &Poller, key: usize) -> Result<()> {
        let flags = END_STREAM | END_HEADERS;
        frame(&mut self.out, HEADERS, flags, self.next, &self.talk.request);
        self.streams.insert(self.next, (due, false));
        self.next += 2;
        self.send(poller, key)
    }

    pub(super) fn event(
        &mut self,
        readable: bool,
        buffer: &mut [u8],
        poller: &Poller,
        key: usize,
        said: &mut Said,
    ) -> Result<()> {
        if readable {
            match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((_, 0)) if self.streams.is_empty() => said.closed = true,
                Ok((_, 0)) => bail!("closed with {} streams under way", self.streams.len()),
                Ok((_, count)) => self.take(&buffer[..count], said)?,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
        said.last = self.leaving;
        said.closed |= self.leaving && self.streams.is_empty();
        self.send(poller, key)
    }

    fn send(&mut self, poller: &Poller, key: usize) -> Result<()> {
        let mut sent = 0;
        while sent < self.out.len() {
            match send(&self.socket, &self.out[sent..], SendFlags::NOSIGNAL) {
                Ok(count) => sent += count,
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        self.out.drain(..sent);
        let wanted = match self.out.is_empty() {
            true => Watch::Read,
            false => Watch::Both,
        };
        if wanted != self.watch {
            poller
                .change(&self.socket, key, wanted)
                .context("cannot watch")?;
            self.watch = wanted;
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], said: &mut Said) -> Result<()> {
        let mut whole = std::mem::take(&mut self.rest);
        let mut bytes = match whole.is_empty() {
            true => bytes,
            false => {
                whole.extend_from_slice(bytes);
                &whole
            }
        };
        while let Some((kind, flags, stream, payload, after)) = split(bytes)? {
            bytes = after;
            self.hear(kind, flags, stream, payload, said)?;
        }
        self.rest = bytes.to_vec();
        Ok(())
    }

    fn hear(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        said: &mut Said,
    ) -> Result<()> {
        match kind {
            DATA => {
                self.taken += u32::try_from(payload.len()).unwrap_or(u32::MAX);
                if self.taken >= UPDATE_AFTER {
                    let taken = std::mem::take(&mut self.taken);
                    frame(&mut self.out, WINDOW_UPDATE, 0, 0, &taken.to_be_bytes());
                }
            }
            HEADERS => {
                let skip =
                    usize::from(flags & PADDED != 0) + 5 * usize::from(flags & PRIORITY != 0);
                // A change of the table's size may come before it (RFC 7541, 6.3).
                let block = payload.get(skip..).unwrap_or_default();
                let first = block.iter().find(|byte| **byte >> 5 != 1);
                let Some((_, answered)) = self.streams.get_mut(&stream) else {
                    bail!("an answer on stream {stream}, which nobody opened");
                };
                if !*answered && first != Some(&STATUS_200) {
                    bail!("answered with something else than 200");
                }
                *answered = true;
            }
            RST_STREAM => bail!("stream {stream} was reset: {payload:?}"),
            SETTINGS if flags & ACK == 0 => frame(&mut self.out, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(&mut self.out, PING, ACK, 0, payload),
            GOAWAY => self.go(payload, said)?,
            _ => {}
        }
        if matches!(kind, DATA | HEADERS)
            && flags & END_STREAM != 0
            && let Some((due, _)) = self.streams.remove(&stream)
        {
            said.done.push(due);
        }
        Ok(())
    }
}

impl H2Client {
    /// The subject takes no further streams: those that it will not answer are begun anew on
    /// another connection (RFC 9113, 6.8).
    fn go(&mut self, payload: &[u8], said: &mut Said) -> Result<()> {
        let Some((&[a, b, c, d], reason)) = payload.split_first_chunk::<4>() else {
            bail!("a GOAWAY of {} bytes", payload.len());
        };
        if reason.get(..4) != Some(&[0; 4]) {
            bail!("the subject has ended the connection: {reason:?}");
        }
        let last = u32::from_be_bytes([a & 0x7f, b, c, d]);
        self.leaving = true;
        self.streams.retain(|stream, (due, _)| {
            if *stream > last {
                said.again.push(*due);
            }
            *stream <= last
        });
        Ok(())
    }
}

/// Kind, flags, stream, payload, and what follows.
type Frame<'a> = (u8, u8, u32, &'a [u8], &'a [u8]);

/// The first frame, if it is whole.
fn split(bytes: &[u8]) -> Result<Option<Frame<'_>>> {
    let Some((head, rest)) = bytes.split_at_checked(FRAME_HEAD) else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    if length > FRAME_BYTES_MAX {
        bail!("a frame of {length} bytes, which was not allowed");
    }
    let Some((payload, after)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
    Ok(Some((head[3], head[4], stream, payload, after)))
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A header block of a GET, without Huffman and without the dynamic table, so that it is good
/// any number of times (RFC 7541, 6.1 and 6.2.2).
pub(super) fn get(host: &str, path: &str) -> Vec<u8> {
    // Static entries: 2 is `:method: GET`, 6 `:scheme: http`, 4 the name `:path`, 1 `:authority`.
    let mut block = vec![0x82, 0x86];
    for (name, value) in [(4, path), (1, host)] {
        block.push(name);
        // Shorter than 127 bytes: a length of one byte.
        block.push(u8::try_from(value.len()).unwrap_or(0) & 0x7f);
        block.extend_from_slice(value.as_bytes());
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_only_when_they_are_whole() {
        let mut bytes = Vec::new();
        frame(&mut bytes, DATA, END_STREAM, 5, b"abc");
        frame(&mut bytes, PING, 0, 0, &[7; 8]);
        for cut in 0..FRAME_HEAD + 3 {
            assert!(split(&bytes[..cut]).unwrap().is_none(), "{cut}");
        }
        let (kind, flags, stream, payload, after) = split(&bytes).unwrap().unwrap();
        assert_eq!(
            (kind, flags, stream, payload),
            (DATA, END_STREAM, 5, &b"abc"[..])
        );
        assert_eq!(split(after).unwrap().unwrap().0, PING);
        assert!(split(&[1, 0, 0, 0, 0, 0, 0, 0, 0]).is_err(), "65,536 bytes");
    }

    #[test]
    fn a_request_is_the_block_of_rfc_7541() {
        let block = get("bench.test", "/x");
        assert_eq!(block, b"\x82\x86\x04\x02/x\x01\x0abench.test");
    }
}
