//! Finds the end of a chunked body that passes through, and refuses it if it is malformed.
//!
//! The bytes are passed on as they are, so all that two parsers could read differently is
//! refused: bare LF, signs and spaces around sizes, sizes that overflow, control bytes,
//! trailers that would be framing (RFC 9112, section 7.1).
//!
//! ```text
//!   Size ──";"──▶ Extension          size line of a chunk
//!    │ CR            │ CR
//!    ▼               ▼
//!   SizeLf ── LF, size > 0 ──▶ Data ──▶ DataCr ──▶ DataLf ──▶ Size
//!    │ LF, size = 0
//!    ▼
//!   Trailer ── name ":" ──▶ TrailerValue ── CR ──▶ TrailerLf ── LF ──▶ Trailer
//!    │ CR
//!    ▼
//!   LastLf ── LF ──▶ Finished
//! ```
#![warn(clippy::indexing_slicing)]

/// Most bytes of the extensions of one chunk.
const EXTENSION_BYTES_MAX: usize = 256;
/// Most bytes of all trailers.
const TRAILER_BYTES_MAX: usize = 8 << 10;
/// Longest name of a trailer.
const TRAILER_NAME_BYTES_MAX: usize = 64;

/// Names that are no trailers (RFC 9110, section 6.5.1): framing, routing, who asks and what
/// for. Whoever merges trailers into the head would be told something else by them.
const FORBIDDEN: [&[u8]; 27] = [
    b"authorization",
    b"cache-control",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"keep-alive",
    b"max-forwards",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"range",
    b"set-cookie",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"www-authenticate",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-real-ip",
];

/// Whether a trailer of this name is forbidden, or could be taken for one that is by a server
/// that turns names into variables.
fn is_forbidden(name: &[u8]) -> bool {
    let same = |known: &[u8]| {
        known.len() == name.len()
            && known.iter().zip(name).all(|(known, byte)| {
                *known == byte.to_ascii_lowercase() || (*known == b'-' && *byte == b'_')
            })
    };
    FORBIDDEN.iter().any(|known| same(known))
}

/// How far [`Validator::advance`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that belong to the body and may be passed on as they are.
    pub consumed: usize,
    /// Whether the body ends with them.
    pub finished: bool,
}

/// Why a chunked body is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// A chunk size that is no hexadecimal number of 64 bits.
    #[error("a chunk size is not a hexadecimal number")]
    Size,
    /// A line that does not end in CR LF.
    #[error("a line of a chunked body does not end in CR LF")]
    LineEnd,
    /// A chunk extension that is malformed or too long.
    #[error("a chunk extension is malformed or too long")]
    Extension,
    /// A trailer that is malformed, forbidden or too long.
    #[error("a trailer is malformed, forbidden or too long")]
    Trailer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the digits of a size.
    Size { size: u64, digits: u8 },
    /// After a `;`.
    Extension { size: u64, bytes: usize },
    /// After the CR of a size line.
    SizeLf { size: u64 },
    /// So many bytes of the chunk's data are to come.
    Data { left: u64 },
    /// After the data.
    DataCr,
    /// After its CR.
    DataLf,
    /// At the beginning or in the name of a trailer, or at the last line.
    Trailer,
    /// After a trailer's `:`.
    TrailerValue,
    /// After the CR of a trailer.
    TrailerLf,
    /// After the CR of the last line.
    LastLf,
    /// The body is complete.
    Finished,
}

/// The state of one chunked body.
#[derive(Debug, Clone)]
pub struct Validator {
    state: State,
    /// Bytes of all trailers so far.
    trailer_bytes: usize,
    /// Name of the trailer being read.
    name: [u8; TRAILER_NAME_BYTES_MAX],
    name_bytes: usize,
}

impl Default for Validator {
    fn default() -> Self {
        Self::new()
    }
}

impl Validator {
    /// At the beginning of a body.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Size { size: 0, digits: 0 },
            trailer_bytes: 0,
            name: [0; TRAILER_NAME_BYTES_MAX],
            name_bytes: 0,
        }
    }

    /// Whether the body is complete.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// Looks at the next bytes of the body. What comes after its end is not consumed.
    ///
    /// # Errors
    /// The body is malformed; both connections must be closed. What came before may have
    /// been passed on: the upstream sees a body that never ends.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Progress, ChunkError> {
        let mut rest = bytes;
        while let [byte, after @ ..] = rest {
            if self.is_finished() {
                break;
            }
            if let State::Data { left } = self.state {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                let left = left - taken as u64;
                self.state = if left == 0 {
                    State::DataCr
                } else {
                    State::Data { left }
                };
                rest = rest.get(taken..).unwrap_or_default();
            } else {
                self.state = self.step(*byte)?;
                rest = after;
            }
        }
        Ok(Progress {
            consumed: bytes.len() - rest.len(),
            finished: self.is_finished(),
        })
    }

    fn step(&mut self, byte: u8) -> Result<State, ChunkError> {
        match (self.state, byte) {
            (State::Size { digits: 1.., size } | State::Extension { size, .. }, b'\r') => {
                Ok(State::SizeLf { size })
            }
            (State::Size { digits: 1.., size }, b';') => Ok(State::Extension { size, bytes: 0 }),
            (State::Size { size, digits }, byte) => {
                let digit = hex(byte).ok_or(ChunkError::Size)?;
                let digits = digits.checked_add(1).filter(|digits| *digits <= 16);
                Ok(State::Size {
                    size: size << 4 | digit,
                    digits: digits.ok_or(ChunkError::Size)?,
                })
            }
            (State::Extension { size, bytes }, byte) => {
                if bytes >= EXTENSION_BYTES_MAX || !is_text(byte) {
                    return Err(ChunkError::Extension);
                }
                let bytes = bytes + 1;
                Ok(State::Extension { size, bytes })
            }
            (State::SizeLf { size: 0 }, b'\n') => Ok(State::Trailer),
            (State::SizeLf { size }, b'\n') => Ok(State::Data { left: size }),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size { size: 0, digits: 0 }),
            (State::LastLf, b'\n') => Ok(State::Finished),
            (State::Trailer | State::TrailerValue | State::TrailerLf, byte) => self.trailer(byte),
            // Of those that go elsewhere, `advance` asks nothing.
            _ => Err(ChunkError::LineEnd),
        }
    }

    fn trailer(&mut self, byte: u8) -> Result<State, ChunkError> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(ChunkError::Trailer);
        }
        match (self.state, byte) {
            (State::Trailer, b'\r') if self.name_bytes == 0 => Ok(State::LastLf),
            (State::Trailer, b':') => {
                let name = self.name.get(..self.name_bytes).unwrap_or_default();
                if name.is_empty() || is_forbidden(name) {
                    return Err(ChunkError::Trailer);
                }
                self.name_bytes = 0;
                Ok(State::TrailerValue)
            }
            (State::Trailer, byte) => {
                let slot = self.name.get_mut(self.name_bytes);
                let slot = slot.filter(|_| is_token(byte)).ok_or(ChunkError::Trailer)?;
                *slot = byte;
                self.name_bytes += 1;
                Ok(State::Trailer)
            }
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, byte) if is_text(byte) => Ok(State::TrailerValue),
            (State::TrailerLf, b'\n') => Ok(State::Trailer),
            (State::TrailerLf, _) => Err(ChunkError::LineEnd),
            _ => Err(ChunkError::Trailer),
        }
    }
}

fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

/// Field text: no control bytes but tab (RFC 9110, section 5.5).
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::{super::unescape, *};

    const BODIES: &str = include_str!("../../../testdata/requests/bodies.txt");

    /// Feeds the pieces; what was consumed, and whether it ended.
    fn feed(pieces: &[&[u8]]) -> Result<Progress, ChunkError> {
        let mut validator = Validator::new();
        let mut all = Progress {
            consumed: 0,
            finished: false,
        };
        for piece in pieces {
            let progress = validator.advance(piece)?;
            all.consumed += progress.consumed;
            all.finished = progress.finished;
        }
        Ok(all)
    }

    const GOOD: [&[u8]; 5] = [
        b"0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"A;x=\"y z\";n\r\n0123456789\r\n1\r\n\r\r\n0;end\r\n\r\n",
        b"3\r\n\r\n\n\r\n000\r\nDigest: a b\tc\r\nX-Empty:\r\n\r\n",
        b"000000000000000a\r\n0123456789\r\n0\r\n\r\n",
    ];

    #[test]
    fn good_bodies_end_where_they_end_in_every_split() {
        for body in GOOD {
            let mut bytes = body.to_vec();
            bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
            for cut in 0..=bytes.len() {
                let (first, second) = bytes.split_at(cut);
                let progress = feed(&[first, second]).unwrap();
                assert_eq!(progress.consumed, body.len(), "cut at {cut}");
                assert!(progress.finished, "cut at {cut}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(feed(&single).unwrap().consumed, body.len());
        }
    }

    #[test]
    fn no_prefix_of_a_good_body_is_finished_or_refused() {
        for body in GOOD {
            for end in 0..body.len() {
                let progress = feed(&[&body[..end]]).unwrap();
                assert_eq!(progress.consumed, end);
                assert!(!progress.finished, "prefix of {end}");
            }
        }
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        use ChunkError::{Extension, Trailer};
        let long_extension = format!("1;{}\r\n", "x".repeat(EXTENSION_BYTES_MAX + 1));
        let long_trailer = format!("0\r\nA: {}\r\n", "x".repeat(TRAILER_BYTES_MAX));
        let long_name = format!("0\r\n{}: 1\r\n", "x".repeat(TRAILER_NAME_BYTES_MAX + 1));
        let table: [(&str, ChunkError); 3] = [
            (&long_extension, Extension),
            (&long_trailer, Trailer),
            (&long_name, Trailer),
        ];
        for (body, error) in table {
            assert_refused(body.as_bytes(), &format!("{error:?}"));
        }
        let mut rules = 0;
        for line in BODIES.lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parts: Vec<&str> = line.splitn(3, " | ").collect();
            let [reason, _, body] = parts[..] else {
                panic!("not three parts: {line}");
            };
            assert_refused(&unescape(body), reason);
            rules += 1;
        }
        assert!(rules > 50, "the table was read: {rules} rules");
    }

    /// At once and byte by byte.
    fn assert_refused(body: &[u8], reason: &str) {
        let shown = body.escape_ascii();
        let single: Vec<&[u8]> = body.chunks(1).collect();
        for pieces in [&[body][..], &single[..]] {
            let refused = feed(pieces).expect_err("a body that two parsers could read");
            assert_eq!(format!("{refused:?}"), reason, "{shown}");
        }
    }

    /// Pieces that chunked bodies are made of, and such as spoil them.
    const PIECES: [&[u8]; 16] = [
        b"5\r\nhello\r\n",
        b"1\r\n\r\r\n",
        b"A;x=y\r\n0123456789\r\n",
        b"0\r\n",
        b"0\r\n\r\n",
        b"Digest: x\r\n",
        b"\r\n",
        b"5",
        b"\r",
        b"\n",
        b";",
        b"hello",
        b"+1\r\n",
        b"fffffffffffffffff",
        b"\0",
        b"GET / HTTP/1.1\r\n",
    ];

    /// The naive way: the whole body by lines and lengths. Where it ends, if it does.
    fn naive(bytes: &[u8]) -> Option<usize> {
        let line = |from: usize| {
            let rest = bytes.get(from..)?;
            let end = rest.windows(2).position(|two| two == b"\r\n")?;
            Some((std::str::from_utf8(&rest[..end]).ok()?, from + end + 2))
        };
        let mut at = 0;
        loop {
            let (text, after) = line(at)?;
            let size = usize::from_str_radix(text.split(';').next()?, 16).ok()?;
            at = after;
            if size == 0 {
                loop {
                    let (trailer, after) = line(at)?;
                    at = after;
                    if trailer.is_empty() {
                        return Some(at);
                    }
                }
            }
            at = at.checked_add(size)?;
            if bytes.get(at..at + 2)? != b"\r\n" {
                return None;
            }
            at += 2;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn it_ends_where_the_naive_way_ends_in_any_pieces(
            pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..10),
            cuts in prop::collection::vec(1..12usize, 1..8),
        ) {
            let bytes = pieces.concat();
            let whole = feed(&[&bytes]);
            // In pieces it says the same.
            let mut rest = &bytes[..];
            let mut cut = Vec::new();
            for size in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*size).min(rest.len()));
                cut.push(piece);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(&feed(&cut), &whole);
            // It is stricter than the naive way, and never ends elsewhere.
            if let Ok(Progress { consumed, finished: true }) = whole {
                prop_assert_eq!(naive(&bytes), Some(consumed));
            }
        }
    }
}
