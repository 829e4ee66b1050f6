//! Takes HTTP/1.1 framing off a body that a session has written: what remains is data and
//! trailers for a stream.
//!
//! ```text
//!   Plain(left) ── last byte ─────────────────────────────► Done
//!   Size ── line ──► Data(left) ── all ──► DataEnd ── CR LF ──► Size
//!     └── line of size 0 ──► Trailers ── empty line ──► Done
//! ```
#![warn(clippy::indexing_slicing)]

use http::{HeaderMap, HeaderName, HeaderValue};
use memchr::memchr;

use super::{Malformed, is_of_connection};
use crate::logic::http::{Body, Framing};

/// Longest line of a chunked body: the session has checked them, so this is for faults.
const LINE_BYTES_MAX: usize = 16 << 10;
/// Most trailers.
const TRAILERS_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Unframer {
    state: State,
    /// The beginning of a line, or of the trailers.
    partial: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Plain(u64),
    UntilClose,
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// What was found at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'b> {
    /// Data; `last` says that nothing follows.
    Data {
        /// The data.
        bytes: &'b [u8],
        /// Nothing follows.
        last: bool,
    },
    /// The end, with trailers if there are any.
    End(Option<HeaderMap>),
    /// Framing only, or part of it.
    Framing,
    /// Data comes next, and there is no room for it.
    NoRoom,
}

impl Unframer {
    /// A response's body.
    #[must_use]
    pub fn of_response(framing: Framing) -> Self {
        Self::new(match framing {
            Framing::None => State::Done,
            Framing::Length(length) => State::Plain(length),
            Framing::Chunked => State::Size,
            Framing::UntilClose => State::UntilClose,
        })
    }

    /// A request's body.
    #[must_use]
    pub fn of_request(body: Body) -> Self {
        Self::new(match body {
            Body::None => State::Done,
            Body::Length(length) => State::Plain(length),
            Body::Chunked => State::Size,
        })
    }

    /// A tunnel.
    #[must_use]
    pub fn tunnel() -> Self {
        Self::new(State::UntilClose)
    }

    fn new(state: State) -> Self {
        Self {
            state,
            partial: Vec::new(),
        }
    }

    /// Whether the body is complete.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether it ends when its connection does.
    #[must_use]
    pub fn ends_by_close(&self) -> bool {
        matches!(self.state, State::UntilClose)
    }

    /// Looks at the beginning of `bytes`, which are not empty: how many of them are dealt with
    /// by the piece. At most `room` bytes of data are given out.
    ///
    /// # Errors
    /// It is no chunked body.
    pub fn next<'b>(
        &mut self,
        bytes: &'b [u8],
        room: usize,
    ) -> Result<(usize, Piece<'b>), Malformed> {
        match self.state {
            State::Plain(left) => {
                let (data, left) = take(bytes, left, room);
                if data.is_empty() {
                    return Ok((0, Piece::NoRoom));
                }
                let last = left == 0;
                self.state = match last {
                    true => State::Done,
                    false => State::Plain(left),
                };
                Ok((data.len(), Piece::Data { bytes: data, last }))
            }
            State::UntilClose => match take(bytes, u64::MAX, room).0 {
                [] => Ok((0, Piece::NoRoom)),
                data => Ok((
                    data.len(),
                    Piece::Data {
                        bytes: data,
                        last: false,
                    },
                )),
            },
            State::Data(left) => {
                let (data, left) = take(bytes, left, room);
                if data.is_empty() {
                    return Ok((0, Piece::NoRoom));
                }
                self.state = match left {
                    0 => State::DataEnd,
                    left => State::Data(left),
                };
                Ok((
                    data.len(),
                    Piece::Data {
                        bytes: data,
                        last: false,
                    },
                ))
            }
            State::Size | State::DataEnd | State::Trailers => self.line(bytes),
            // Nothing may follow; what does is not passed on.
            State::Done => Ok((bytes.len(), Piece::Framing)),
        }
    }

    /// Reads up to the end of a line.
    fn line<'b>(&mut self, bytes: &'b [u8]) -> Result<(usize, Piece<'b>), Malformed> {
        let taken = memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
        let (line, _) = bytes.split_at(taken);
        self.partial.extend_from_slice(line);
        if self.partial.len() > LINE_BYTES_MAX {
            return Err(Malformed::Http1);
        }
        if line.last() != Some(&b'\n') {
            return Ok((taken, Piece::Framing));
        }
        match self.state {
            State::Size => {
                self.state = match chunk_size(&self.partial)? {
                    0 => State::Trailers,
                    size => State::Data(size),
                };
                self.partial.clear();
            }
            State::DataEnd => {
                self.partial.clear();
                self.state = State::Size;
            }
            _ if self.partial == b"\r\n" || self.partial.ends_with(b"\n\r\n") => {
                self.state = State::Done;
                let trailers = trailers(&std::mem::take(&mut self.partial))?;
                return Ok((taken, Piece::End(trailers)));
            }
            _ => {}
        }
        Ok((taken, Piece::Framing))
    }
}

fn take(bytes: &[u8], left: u64, room: usize) -> (&[u8], u64) {
    let most = usize::try_from(left).unwrap_or(usize::MAX).min(room);
    let (data, _) = bytes.split_at(most.min(bytes.len()));
    (data, left - data.len() as u64)
}

fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line
        .split(|byte| matches!(byte, b';' | b'\r'))
        .next()
        .unwrap_or_default();
    let all_hex = digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).map_err(|_error| Malformed::Http1)?;
    match all_hex {
        true => u64::from_str_radix(text, 16).map_err(|_error| Malformed::Http1),
        false => Err(Malformed::Http1),
    }
}

/// Trailers, up to their empty line. Those that mean something to one connection are left out.
fn trailers(lines: &[u8]) -> Result<Option<HeaderMap>, Malformed> {
    let mut room = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    let parsed = httparse::parse_headers(lines, &mut room).map_err(|_error| Malformed::Http1)?;
    let httparse::Status::Complete((_, fields)) = parsed else {
        return Err(Malformed::Http1);
    };
    let mut map = HeaderMap::new();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let name = name.map_err(|_error| Malformed::Http1)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_error| Malformed::Http1)?;
        if !is_of_connection(&name) {
            map.append(name, value);
        }
    }
    Ok((!map.is_empty()).then_some(map))
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;

    /// Everything that comes out when the bytes arrive in two parts, with so much room.
    fn unframe(mut unframer: Unframer, bytes: &[u8], split: usize, room: usize) -> String {
        let mut said = String::new();
        for mut part in [&bytes[..split], &bytes[split..]] {
            while !part.is_empty() {
                let (taken, piece) = unframer.next(part, room).unwrap();
                match piece {
                    Piece::Data { bytes, last } => {
                        said.push_str(std::str::from_utf8(bytes).unwrap());
                        if last {
                            said.push('!');
                        }
                    }
                    Piece::End(trailers) => {
                        said.push('!');
                        for (name, value) in trailers.into_iter().flatten() {
                            let name = name.unwrap();
                            said.push_str(&format!("{name}={}", value.to_str().unwrap()));
                        }
                    }
                    Piece::Framing => {}
                    Piece::NoRoom => unreachable!("there is room"),
                }
                part = &part[taken..];
            }
        }
        said
    }

    #[test]
    fn bodies_come_out_the_same_on_every_split() {
        let chunked = b"3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\ngrpc-status: 0\r\n\r\n";
        let plain = b"hello";
        for room in [1, 3, 100] {
            for split in 0..=chunked.len() {
                let said = unframe(
                    Unframer::of_response(Framing::Chunked),
                    chunked,
                    split,
                    room,
                );
                assert_eq!(said, "abc0123456789abcdef!grpc-status=0", "{split}");
            }
            for split in 0..=plain.len() {
                let length = Unframer::of_request(Body::Length(5));
                assert_eq!(unframe(length, plain, split, room), "hello!");
                assert_eq!(unframe(Unframer::tunnel(), plain, split, room), "hello");
            }
        }
    }

    #[test]
    fn without_room_nothing_is_taken() {
        let mut unframer = Unframer::of_response(Framing::Length(3));
        assert_eq!(unframer.next(b"abc", 0).unwrap(), (0, Piece::NoRoom));
        let mut unframer = Unframer::of_response(Framing::Chunked);
        assert_eq!(unframer.next(b"3\r\nabc", 0).unwrap().0, 3);
        assert_eq!(unframer.next(b"abc", 0).unwrap(), (0, Piece::NoRoom));
    }

    #[test]
    fn what_is_no_chunked_body_is_refused() {
        for text in ["x\r\n", "+3\r\n", "11111111111111111\r\n", "-1\r\n"] {
            let mut unframer = Unframer::of_response(Framing::Chunked);
            assert_eq!(
                unframer.next(text.as_bytes(), 9),
                Err(Malformed::Http1),
                "{text}"
            );
        }
        let mut unframer = Unframer::of_response(Framing::Chunked);
        assert!(unframer.next(&[b'1'; LINE_BYTES_MAX + 1], 9).is_err());
    }
}
