//! HTTP/2 as the edge sees it: the framing and its own state machines are the h2 crate's, on
//! pipes in memory; what is decided about it is decided here.
//!
//! Every stream becomes an HTTP/1.1 exchange and back, so that routing, gates, retries and
//! limits exist once: in [`super::session::http`]. The translation is strict, because what is
//! let through here is HTTP/1.1 to whoever comes next. Section numbers in this module are of
//! RFC 9113, unless another is named.
//!
//! | module | duty |
//! | --- | --- |
//! | [`request`] | a request's fields to an HTTP/1.1 head, and back |
//! | [`response`] | a response's fields to an HTTP/1.1 head, and back |
//! | [`body`] | takes HTTP/1.1 framing off a body |
//! | [`websocket`] | keys of the WebSocket handshake, which HTTP/2 does without |
//! | [`meter`] | counts frames, and says when it is a flood |
//! | [`carrier`] | a client's connection: how long it lives, and its floods |
//! | [`trunk`] | an upstream's connection: how it begins, lives and ends |

pub mod body;
pub mod carrier;
pub mod meter;
pub mod request;
pub mod response;
pub mod trunk;
pub mod websocket;

use http::{HeaderMap, HeaderName, header};

/// Largest window (6.9.1).
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// Limits of one HTTP/2 connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct H2Limits {
    /// Most streams that a client may have open at a time.
    pub streams: u32,
    /// Most bytes of a stream's body that may be on their way to us and not dealt with.
    pub stream_window: u32,
    /// Most bytes of a request's body that are kept until its response begins: an upstream that
    /// refuses the stream has it sent again.
    pub replay_bytes: usize,
    /// Most frames of each kind.
    pub frames: meter::FrameLimits,
}

impl H2Limits {
    /// Most bytes of all bodies of a connection with so many streams that may be on their way
    /// to us: what one stream leaves unread must not take the window from another.
    #[must_use]
    pub fn connection_window(&self, streams: u32) -> u32 {
        let window = self.stream_window.saturating_mul(streams);
        window.clamp(self.stream_window, WINDOW_MAX)
    }
}

/// Why a message cannot be translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// A field of one connection: Connection, Transfer-Encoding and their like (8.2.2).
    #[error("a field that belongs to one connection of HTTP/1.1")]
    ConnectionField,
    /// TE with anything but `trailers` (8.2.2).
    #[error("TE says more than trailers")]
    Te,
    /// CR, LF or NUL in a value, or space around it (8.2.1).
    #[error("malformed field value")]
    FieldValue,
    /// A path that is neither `*` nor begins with `/` (8.3.1).
    #[error("malformed :path")]
    Path,
    /// The method of the preface (3.4).
    #[error("malformed :method")]
    Method,
    /// Neither `:authority` nor Host.
    #[error("neither :authority nor Host")]
    HostMissing,
    /// More than one Host.
    #[error("more than one Host")]
    HostDuplicate,
    /// `:authority` and Host name different hosts (8.3.1).
    #[error(":authority and Host name different hosts")]
    HostMismatch,
    /// An authority with user information (8.3.1).
    #[error("user information in :authority")]
    UserInfo,
    /// Content-Length more than once, or not a number.
    #[error("Content-Length is not one number")]
    Length,
    /// An extended CONNECT to something that is not WebSocket (RFC 8441).
    #[error("a :protocol other than websocket")]
    Protocol,
    /// A message of HTTP/1.1 that cannot be read; a fault of ours or of an upstream.
    #[error("a message that cannot be read")]
    Http1,
}

/// Limits for tests.
#[cfg(all(test, not(flocker_loom)))]
pub(crate) const TEST_LIMITS: H2Limits = H2Limits {
    streams: 100,
    stream_window: 65_535,
    replay_bytes: 1024,
    frames: meter::FrameLimits {
        resets: 100,
        pings: 100,
        settings: 50,
        empty_data: 100,
        continuations: 20,
        window_updates: 1_000,
        others: 200,
    },
};

/// Whether a field belongs to one connection of HTTP/1.1 (8.2.2).
fn is_of_connection(name: &HeaderName) -> bool {
    [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ]
    .contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Refuses a value that HTTP/1.1 would read otherwise (8.2.1). The h2 crate refuses the
/// control bytes as well; this is where it matters.
fn check_value(value: &[u8]) -> Result<(), Malformed> {
    let spaced = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if memchr::memchr3(b'\r', b'\n', 0, value).is_some()
        || spaced(value.first())
        || spaced(value.last())
    {
        return Err(Malformed::FieldValue);
    }
    Ok(())
}

/// The one Content-Length of a message.
fn content_length(fields: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut values = fields.get_all(header::CONTENT_LENGTH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    match (super::http::decimal(value.as_bytes()), values.next()) {
        (Some(length), None) => Ok(Some(length)),
        _ => Err(Malformed::Length),
    }
}

/// Appends trailers and the end of a chunked body. What would be framing is left out.
pub fn write_trailers(trailers: Option<&HeaderMap>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        let framing = is_of_connection(name)
            || [
                header::CONTENT_LENGTH,
                header::HOST,
                header::TE,
                header::TRAILER,
            ]
            .contains(name);
        if !framing && check_value(value.as_bytes()).is_ok() {
            super::http::write_field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the size line of a chunk.
pub fn write_chunk_size(size: usize, out: &mut Vec<u8>) {
    use std::io::Write;
    // Writing to a Vec cannot fail.
    write!(out, "{size:x}\r\n").unwrap_or_default();
}
