//! Every prefix, every split, every flipped bit.

use flocker_api::{ErrorCode, name::VolumeId, replication::Keep, volume::Role};
use proptest::prelude::*;

use super::*;

fn frames() -> Vec<Frame> {
    vec![
        Frame::Hello(Hello {
            protocol: PROTOCOL,
            storage: StorageKind::ZfsFuse,
            handshake: Handshake {
                from: "n1".parse().unwrap(),
                volume: VolumeId::random(),
                name: "notes".parse().unwrap(),
                size_bytes: Some(1 << 30),
                epoch: Epoch(4),
                role: Role::Primary,
                keep: Keep::default(),
            },
            look: true,
        }),
        Frame::Accept(Accept {
            node: "n2".parse().unwrap(),
            epoch: Some(Epoch(4)),
            takes: StreamFeatures {
                compressed: true,
                ..StreamFeatures::default()
            },
            partial: Some("1-a-b".to_owned()),
            snapshots: vec![Snapshot {
                name: "flocker-4-1".to_owned(),
                guid: Guid(u64::MAX),
                createtxg: 9,
            }],
        }),
        Frame::Refuse(ErrorBody::new(ErrorCode::StaleEpoch, "epoch 5 is current")),
        Frame::Begin(Begin {
            resumes: true,
            aside: vec![Guid(9)],
            from: Some(Guid(1)),
            to: "flocker-4-2".to_owned(),
        }),
        Frame::Data(Bytes::from_static(b"\x00\x01bytes of a stream")),
        Frame::Data(Bytes::new()),
        Frame::Heartbeat,
        Frame::End(End {
            guid: Guid(2),
            bytes: 19,
        }),
        Frame::Ack(Ack { guid: Guid(2) }),
        Frame::Nack(ErrorBody::new(ErrorCode::NoSpace, "no space is left")),
    ]
}

fn encoded(frames: &[Frame]) -> BytesMut {
    let mut out = BytesMut::new();
    for frame in frames {
        encode(frame, &mut out);
    }
    out
}

fn drain(buffer: &mut BytesMut) -> Result<Vec<Frame>, WireError> {
    let mut frames = Vec::new();
    while let Some(frame) = decode(buffer)? {
        frames.push(frame);
    }
    Ok(frames)
}

#[test]
fn frames_round_trip() {
    let frames = frames();
    let mut bytes = encoded(&frames);
    assert_eq!(drain(&mut bytes).unwrap(), frames);
    assert!(bytes.is_empty());
}

#[test]
fn every_prefix_needs_more() {
    for frame in frames() {
        let bytes = encoded(std::slice::from_ref(&frame));
        for end in 0..bytes.len() {
            let mut prefix = BytesMut::from(&bytes[..end]);
            assert!(decode(&mut prefix).unwrap().is_none(), "{frame:?} at {end}");
            assert_eq!(prefix.len(), end, "a prefix is left alone");
        }
    }
}

#[test]
fn every_split_gives_the_same_frames() {
    let frames = frames();
    let bytes = encoded(&frames);
    for at in 0..=bytes.len() {
        let mut buffer = BytesMut::from(&bytes[..at]);
        let mut seen = drain(&mut buffer).unwrap();
        buffer.extend_from_slice(&bytes[at..]);
        seen.extend(drain(&mut buffer).unwrap());
        assert_eq!(seen, frames, "split at {at}");
    }
}

#[test]
fn every_flipped_bit_is_found_at_its_frame() {
    for frame in frames() {
        let bytes = encoded(std::slice::from_ref(&frame));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&mut damaged).is_err(), "{frame:?}, bit {bit}");
        }
    }
}

#[test]
fn a_frame_that_is_too_long_is_refused_by_its_header_alone() {
    let mut bytes = BytesMut::new();
    bytes.put_u8(DATA);
    bytes.put_u32(u32::try_from(PAYLOAD_BYTES_MAX).unwrap() + 1);
    bytes.put_u32(0);
    let crc = crc32fast::hash(&bytes);
    bytes.put_u32(crc);
    assert!(matches!(decode(&mut bytes), Err(WireError::TooLong(_))));
}

#[test]
fn a_header_for_writing_apart_is_the_same_header() {
    let payload = Bytes::from_static(b"some bytes");
    let whole = encoded(&[Frame::Data(payload.clone())]);
    assert_eq!(whole[..HEADER_BYTES], data_header(&payload));
}

proptest! {
    #[test]
    fn noise_is_never_a_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut buffer = BytesMut::from(&noise[..]);
        // What it answers is of no interest here, only that it answers.
        drop(drain(&mut buffer));
    }
}
