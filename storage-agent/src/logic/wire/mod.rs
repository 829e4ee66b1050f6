//! The replication stream's frames: bytes to frames and back, without a socket.
//!
//! ```text
//! type u8 | length u32 | crc32 of the payload u32 | crc32 of the nine bytes before u32 | payload
//! ```
//!
//! Numbers are big-endian. The header has a checksum of its own, so that a damaged length is
//! found at once and not after the bytes that it promises. Who says what, in order:
//!
//! ```text
//! sender    Hello         Begin Data* End        Heartbeat at any time
//! receiver         Accept                 Ack    or Refuse, or Nack at any time
//! ```
//!
//! After Ack the sender may begin with another Hello, or close. A sender that gives up sends Nack
//! and closes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flocker_api::{
    ErrorBody,
    agent::{Handshake, StorageKind},
    name::NodeName,
    volume::{Epoch, Guid, Snapshot},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Version of what is spoken here; both sides must have the same.
pub const PROTOCOL: u32 = 1;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 13;
/// Longest payload of a frame that is taken.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Longest payload of a data frame that is made.
pub const DATA_BYTES_MAX: usize = 256 << 10;

/// The first frame of a sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The sender's storage.
    pub storage: StorageKind,
    /// Who sends what.
    pub handshake: Handshake,
    /// Whether the receiver shall look at what it has rather than rely on what it knows: an
    /// attempt before has failed.
    #[serde(default)]
    pub look: bool,
}

/// The receiver is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accept {
    /// The receiving node.
    pub node: NodeName,
    /// The newest epoch that its copy has seen; `None` without a copy.
    pub epoch: Option<Epoch>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// What may be in the stream.
    #[serde(default)]
    pub takes: StreamFeatures,
    /// It keeps a part of a stream that broke off; with this token that stream goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<String>,
}

/// What may be in a stream of ZFS beyond what all versions understand (zfs-send(8)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamFeatures {
    /// Blocks as they are compressed in the pool.
    pub compressed: bool,
    /// Blocks that are part of their pointers.
    pub embedded: bool,
    /// Blocks above 128 KiB.
    pub large_blocks: bool,
}

/// A stream begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begin {
    /// The base of an increment; `None` for a full stream.
    pub from: Option<Guid>,
    /// Name of the snapshot that the stream makes.
    pub to: String,
    /// Whether it goes on where one broke off. If not, what is kept of that one is thrown away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resumes: bool,
    /// What the receiver has after the base and the sender lacks. The receiver keeps it aside,
    /// if it is just that, and goes back to the base.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aside: Vec<Guid>,
}

/// The stream is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The snapshot that the receiver must now have.
    pub guid: Guid,
    /// Bytes of all data frames.
    pub bytes: u64,
}

/// The receiver has the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ack {
    /// Which.
    pub guid: Guid,
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The sender introduces itself.
    Hello(Hello),
    /// The receiver is ready.
    Accept(Accept),
    /// The receiver will not take the stream.
    Refuse(ErrorBody),
    /// A stream begins.
    Begin(Begin),
    /// Bytes of the stream.
    Data(Bytes),
    /// Still alive.
    Heartbeat,
    /// The stream is complete.
    End(End),
    /// The receiver has the snapshot.
    Ack(Ack),
    /// Either side gives up.
    Nack(ErrorBody),
}

impl Frame {
    /// What kind of frame it is, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Accept(_) => "accept",
            Self::Refuse(_) => "refuse",
            Self::Begin(_) => "begin",
            Self::Data(_) => "data",
            Self::Heartbeat => "heartbeat",
            Self::End(_) => "end",
            Self::Ack(_) => "ack",
            Self::Nack(_) => "nack",
        }
    }
}

/// Bytes that are no frame.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The header does not match its checksum.
    #[error("a frame's header is damaged")]
    Header,
    /// The payload does not match its checksum.
    #[error("a frame's payload is damaged")]
    Payload,
    /// The frame is longer than any may be.
    #[error("a frame of {0} bytes; at most {PAYLOAD_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// The type is none of ours.
    #[error("a frame of unknown type {0}")]
    Type(u8),
    /// The payload is not what frames of the type carry.
    #[error("a frame of type {kind} cannot be read")]
    Content {
        /// The type.
        kind: u8,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

const HELLO: u8 = 1;
const ACCEPT: u8 = 2;
const REFUSE: u8 = 3;
const BEGIN: u8 = 4;
const DATA: u8 = 5;
const HEARTBEAT: u8 = 6;
const END: u8 = 7;
const ACK: u8 = 8;
const NACK: u8 = 9;

/// The header of a data frame, for writers that send the payload without copying it.
///
/// # Panics
/// When the payload is longer than [`PAYLOAD_BYTES_MAX`].
#[must_use]
pub fn data_header(payload: &[u8]) -> [u8; HEADER_BYTES] {
    header(DATA, payload)
}

pub(super) fn header(kind: u8, payload: &[u8]) -> [u8; HEADER_BYTES] {
    assert!(
        payload.len() <= PAYLOAD_BYTES_MAX,
        "payloads are bounded by whoever makes them"
    );
    let mut bytes = [0; HEADER_BYTES];
    let mut rest = &mut bytes[..];
    rest.put_u8(kind);
    rest.put_u32(u32::try_from(payload.len()).expect("the limit is below u32::MAX"));
    rest.put_u32(crc32fast::hash(payload));
    let crc = crc32fast::hash(&bytes[..9]);
    bytes[9..].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Appends a frame's bytes.
///
/// # Panics
/// When the payload is longer than [`PAYLOAD_BYTES_MAX`].
pub fn encode(frame: &Frame, out: &mut BytesMut) {
    fn json<T: Serialize>(value: &T) -> Vec<u8> {
        serde_json::to_vec(value).expect("messages have string keys and no failing serializer")
    }
    let (kind, payload) = match frame {
        Frame::Hello(hello) => (HELLO, json(hello)),
        Frame::Accept(accept) => (ACCEPT, json(accept)),
        Frame::Refuse(body) => (REFUSE, json(body)),
        Frame::Begin(begin) => (BEGIN, json(begin)),
        Frame::Data(bytes) => {
            out.put_slice(&header(DATA, bytes));
            return out.put_slice(bytes);
        }
        Frame::Heartbeat => (HEARTBEAT, Vec::new()),
        Frame::End(end) => (END, json(end)),
        Frame::Ack(ack) => (ACK, json(ack)),
        Frame::Nack(body) => (NACK, json(body)),
    };
    out.put_slice(&header(kind, &payload));
    out.put_slice(&payload);
}

/// Takes the first frame out of what has been read; `None` means that more is needed.
///
/// # Errors
/// When the bytes are damaged or no frame of ours. The connection is of no use afterwards.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, WireError> {
    match take(buffer)? {
        Some((kind, payload)) => frame(kind, payload).map(Some),
        None => Ok(None),
    }
}

/// Takes the type and the payload of the first frame, once all of it is there.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<(u8, Bytes)>, WireError> {
    let Some((head, _)) = buffer.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let mut fields = &head[..];
    let kind = fields.get_u8();
    let length = fields.get_u32() as usize;
    let crc = fields.get_u32();
    if crc32fast::hash(&head[..9]) != fields.get_u32() {
        return Err(WireError::Header);
    }
    if length > PAYLOAD_BYTES_MAX {
        return Err(WireError::TooLong(length));
    }
    if buffer.len() < HEADER_BYTES + length {
        // Room for the whole frame, so that the next reads need no further growth.
        buffer.reserve(HEADER_BYTES + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    let payload = buffer.split_to(length).freeze();
    if crc32fast::hash(&payload) != crc {
        return Err(WireError::Payload);
    }
    Ok(Some((kind, payload)))
}

fn frame(kind: u8, payload: Bytes) -> Result<Frame, WireError> {
    fn json<T: DeserializeOwned>(kind: u8, payload: &[u8]) -> Result<T, WireError> {
        serde_json::from_slice(payload).map_err(|source| WireError::Content { kind, source })
    }
    Ok(match kind {
        HELLO => Frame::Hello(json(kind, &payload)?),
        ACCEPT => Frame::Accept(json(kind, &payload)?),
        REFUSE => Frame::Refuse(json(kind, &payload)?),
        BEGIN => Frame::Begin(json(kind, &payload)?),
        DATA => Frame::Data(payload),
        HEARTBEAT => Frame::Heartbeat,
        END => Frame::End(json(kind, &payload)?),
        ACK => Frame::Ack(json(kind, &payload)?),
        NACK => Frame::Nack(json(kind, &payload)?),
        other => return Err(WireError::Type(other)),
    })
}

#[cfg(test)]
mod tests;
