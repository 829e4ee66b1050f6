//! Archives: a volume's stream in a file or a pipe, as bytes and back, without either.
//!
//! ```text
//! "FLKVOL", 0, version u8 | head frame | data frames ... | end frame
//! ```
//!
//! Frames are those of [`super::wire`], types of their own: each has checksums of its header and
//! of its content. The head says what is in it; the end how much there was, and a sum over all of
//! it. So an archive that is cut off at any byte, that has any other byte than it was made with,
//! or that lacks a whole frame, is found out before its volume is there.

use bytes::{Bytes, BytesMut};
use flocker_api::{
    agent::StorageKind,
    name::{NodeName, VolumeId, VolumeName},
    volume::Snapshot,
};
use serde::{Deserialize, Serialize};

use super::wire::{self, DATA_BYTES_MAX, HEADER_BYTES, WireError};

/// How an archive begins; the last byte is the version of what follows.
pub const MAGIC: [u8; 8] = *b"FLKVOL\0\x01";

const HEAD: u8 = 65;
const DATA: u8 = 66;
const END: u8 = 67;

/// What is in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// What made it.
    pub storage: StorageKind,
    /// The volume of which it was made.
    pub volume: VolumeId,
    /// That volume's name.
    pub name: VolumeName,
    /// The node on which it was made.
    pub node: NodeName,
    /// The volume's limit, in bytes.
    pub size_bytes: Option<u64>,
    /// The snapshot that it makes.
    pub snapshot: Snapshot,
    /// The one on top of which it makes it; `None`: the whole volume is in it.
    pub from: Option<Snapshot>,
    /// When it was made, Unix time in ms.
    pub made_ms: u64,
    /// Bytes of the stream, where they were known beforehand.
    pub bytes_expected: Option<u64>,
}

/// How much was in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    bytes: u64,
    frames: u64,
    crc32: u32,
}

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It does not begin as one.
    #[error("this is no archive of a volume, or one of a version that is not known here")]
    Foreign,
    /// A frame is damaged.
    #[error("it is damaged after {at} bytes")]
    Damaged {
        /// Where the frame begins.
        at: u64,
        /// How.
        #[source]
        source: WireError,
    },
    /// A frame's content is not what such frames have.
    #[error("it is damaged after {at} bytes")]
    Content {
        /// Where the frame begins.
        at: u64,
        /// How.
        #[source]
        source: serde_json::Error,
    },
    /// A frame stands where none of its type may.
    #[error("it is damaged after {at} bytes: a frame of type {kind} is out of place")]
    Order {
        /// Where the frame begins.
        at: u64,
        /// Its type.
        kind: u8,
    },
    /// Its end does not agree with what came before.
    #[error("it is damaged: a part of it is missing or there twice")]
    Incomplete,
    /// It ends too early.
    #[error("it is cut off after {at} bytes")]
    CutOff {
        /// Where.
        at: u64,
    },
    /// There is more after its end.
    #[error("something follows its end, after {at} bytes")]
    Trailing {
        /// Where.
        at: u64,
    },
}

/// Makes archives.
#[derive(Debug, Default)]
pub struct Writer {
    sum: crc32fast::Hasher,
    bytes: u64,
    frames: u64,
}

fn json_frame<T: Serialize>(kind: u8, value: &T) -> Bytes {
    let payload = serde_json::to_vec(value).expect("these have string keys and cannot fail");
    frame(kind, &payload)
}

fn frame(kind: u8, payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&wire::header(kind, payload));
    bytes.extend_from_slice(payload);
    bytes.freeze()
}

impl Writer {
    /// The first bytes.
    #[must_use]
    pub fn head(&self, head: &Head) -> Bytes {
        let mut bytes = BytesMut::from(&MAGIC[..]);
        bytes.extend_from_slice(&json_frame(HEAD, head));
        bytes.freeze()
    }

    /// A piece of the stream, at most [`DATA_BYTES_MAX`] long.
    pub fn data(&mut self, piece: &[u8]) -> Bytes {
        debug_assert!(piece.len() <= DATA_BYTES_MAX, "streams come in such pieces");
        self.sum.update(piece);
        self.bytes += piece.len() as u64;
        self.frames += 1;
        frame(DATA, piece)
    }

    /// The last bytes.
    #[must_use]
    pub fn end(self) -> Bytes {
        let end = End {
            bytes: self.bytes,
            frames: self.frames,
            crc32: self.sum.finalize(),
        };
        json_frame(END, &end)
    }
}

/// What is read out of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// What is in it; the first.
    Head(Box<Head>),
    /// A piece of the stream.
    Data(Bytes),
    /// The stream was whole.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Magic,
    Head,
    Data,
    Over,
}

/// Reads archives: bytes in, items out.
#[derive(Debug)]
pub struct Reader {
    buffer: BytesMut,
    place: Place,
    sum: crc32fast::Hasher,
    bytes: u64,
    frames: u64,
    /// Bytes of the archive that have been read.
    at: u64,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            buffer: BytesMut::new(),
            place: Place::Magic,
            sum: crc32fast::Hasher::new(),
            bytes: 0,
            frames: 0,
            at: 0,
        }
    }
}

impl Reader {
    /// Takes the next bytes of an archive.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next item; `None`: more bytes are needed.
    ///
    /// # Errors
    /// When the archive is damaged; it is of no use from there.
    pub fn item(&mut self) -> Result<Option<Item>, ArchiveError> {
        if self.place == Place::Magic {
            let known = self.buffer.len().min(MAGIC.len());
            if self.buffer[..known] != MAGIC[..known] {
                return Err(ArchiveError::Foreign);
            }
            if known < MAGIC.len() {
                return Ok(None);
            }
            drop(self.buffer.split_to(MAGIC.len()));
            (self.at, self.place) = (MAGIC.len() as u64, Place::Head);
        }
        let at = self.at;
        if self.place == Place::Over {
            return match self.buffer.is_empty() {
                true => Ok(None),
                false => Err(ArchiveError::Trailing { at }),
            };
        }
        let taken = wire::take(&mut self.buffer);
        let taken = taken.map_err(|source| ArchiveError::Damaged { at, source })?;
        let Some((kind, payload)) = taken else {
            return Ok(None);
        };
        self.at += (HEADER_BYTES + payload.len()) as u64;
        let content = |source| ArchiveError::Content { at, source };
        match (self.place, kind) {
            (Place::Head, HEAD) => {
                self.place = Place::Data;
                let head = serde_json::from_slice(&payload).map_err(content)?;
                Ok(Some(Item::Head(Box::new(head))))
            }
            (Place::Data, DATA) => {
                self.sum.update(&payload);
                self.bytes += payload.len() as u64;
                self.frames += 1;
                Ok(Some(Item::Data(payload)))
            }
            (Place::Data, END) => {
                let end: End = serde_json::from_slice(&payload).map_err(content)?;
                let found = End {
                    bytes: self.bytes,
                    frames: self.frames,
                    crc32: self.sum.clone().finalize(),
                };
                if end != found {
                    return Err(ArchiveError::Incomplete);
                }
                self.place = Place::Over;
                Ok(Some(Item::End))
            }
            (_, kind) => Err(ArchiveError::Order { at, kind }),
        }
    }

    /// Nothing more comes.
    ///
    /// # Errors
    /// When something should.
    pub fn finish(&self) -> Result<(), ArchiveError> {
        match self.place {
            Place::Over => Ok(()),
            Place::Magic | Place::Head | Place::Data => Err(ArchiveError::CutOff {
                at: self.at + self.buffer.len() as u64,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use flocker_api::volume::Guid;
    use proptest::prelude::*;

    use super::*;

    fn head() -> Head {
        Head {
            storage: StorageKind::ZfsFuse,
            volume: VolumeId::random(),
            name: "notes".parse().unwrap(),
            node: "n1".parse().unwrap(),
            size_bytes: None,
            snapshot: Snapshot {
                name: "monday".to_owned(),
                guid: Guid(7),
                createtxg: 9,
            },
            from: None,
            made_ms: 5,
            bytes_expected: None,
        }
    }

    fn archive(pieces: &[&[u8]]) -> Vec<u8> {
        let mut writer = Writer::default();
        let mut bytes = writer.head(&head()).to_vec();
        for piece in pieces {
            bytes.extend_from_slice(&writer.data(piece));
        }
        bytes.extend_from_slice(&writer.end());
        bytes
    }

    fn read(bytes: &[u8], step: usize) -> Result<Vec<u8>, ArchiveError> {
        let (mut reader, mut stream) = (Reader::default(), Vec::new());
        for part in bytes.chunks(step) {
            reader.feed(part);
            while let Some(item) = reader.item()? {
                if let Item::Data(piece) = item {
                    stream.extend_from_slice(&piece);
                }
            }
        }
        reader.finish().map(|()| stream)
    }

    const PIECES: [&[u8]; 3] = [b"one piece", b"another", b"another"];

    #[test]
    fn what_is_written_is_read_in_steps_of_any_length() {
        let bytes = archive(&PIECES);
        for step in [1, 7, 64, bytes.len()] {
            assert_eq!(read(&bytes, step).unwrap(), PIECES.concat());
        }
        assert!(read(&archive(&[]), 1).unwrap().is_empty());
    }

    #[test]
    fn a_cut_at_any_byte_is_found() {
        let bytes = archive(&PIECES);
        for end in 0..bytes.len() {
            let error = read(&bytes[..end], 50).unwrap_err();
            assert!(
                matches!(error, ArchiveError::CutOff { .. }),
                "{end}: {error}"
            );
        }
    }

    #[test]
    fn a_flip_of_any_bit_is_found() {
        let bytes = archive(&PIECES);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                assert!(read(&bytes, 50).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_frame_that_is_missing_doubled_or_swapped_is_found() {
        let mut writer = Writer::default();
        let mut parts = vec![writer.head(&head())];
        for piece in [&b"one"[..], b"other", b"third"] {
            parts.push(writer.data(piece));
        }
        parts.push(writer.end());
        let joined = |order: &[usize]| -> Vec<u8> {
            order.iter().flat_map(|at| parts[*at].to_vec()).collect()
        };
        assert!(read(&joined(&[0, 1, 2, 3, 4]), 9).is_ok());
        for order in [
            &[0, 1, 3, 4][..],
            &[0, 1, 2, 2, 3, 4],
            &[0, 2, 1, 3, 4],
            &[0, 4],
            &[1, 2, 3, 4],
            &[0, 1, 2, 3, 4, 4],
            &[0, 0, 1, 2, 3, 4],
        ] {
            assert!(read(&joined(order), 9).is_err(), "{order:?}");
        }
    }

    proptest! {
        #[test]
        fn noise_is_refused_and_does_no_harm(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(read(&noise, 13).is_err());
            let mut begun = archive(&PIECES)[..40].to_vec();
            begun.extend_from_slice(&noise);
            prop_assert!(read(&begun, 13).is_err());
        }
    }
}
