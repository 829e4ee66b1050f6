//! The first record of a `zfs send` stream: which snapshot it makes, on top of which.
//!
//! The layout is that of `dmu_replay_record_t` and `struct drr_begin` in OpenZFS's
//! `sys/zfs_ioctl.h`, the same since the first stream version: type and payload length of 32
//! bits each, then magic, version, creation time (64 bits each), object set type and flags (32
//! bits each), `drr_toguid`, `drr_fromguid`, `drr_toname`. Numbers are in the sender's byte
//! order, which the magic tells.

use flocker_api::volume::Guid;

/// `DMU_BACKUP_MAGIC`.
const MAGIC: u64 = 0x0002_f5ba_cbac;
/// `DRR_BEGIN`.
const BEGIN: u32 = 0;
/// Bytes that are read.
const HEAD: usize = 56;
/// Bytes of a record, whatever its type (`sizeof (dmu_replay_record_t)`).
pub const RECORD_BYTES: u64 = 312;

/// What a stream makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The snapshot that it makes.
    pub to: Guid,
    /// The one that it starts from; `None` in a full stream.
    pub from: Option<Guid>,
}

/// Reads the head of a stream; `None` where these bytes are no beginning of one, or too few.
#[must_use]
pub fn head(bytes: &[u8]) -> Option<Head> {
    let head: &[u8; HEAD] = bytes.first_chunk()?;
    let raw = |at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&head[at..at + 8]);
        number
    };
    let read: fn([u8; 8]) -> u64 = match raw(8) {
        magic if u64::from_le_bytes(magic) == MAGIC => u64::from_le_bytes,
        magic if u64::from_be_bytes(magic) == MAGIC => u64::from_be_bytes,
        _ => return None,
    };
    // Zero in either byte order.
    if head[..4] != BEGIN.to_le_bytes() {
        return None;
    }
    let from = read(raw(48));
    Some(Head {
        to: Guid(read(raw(40))),
        from: (from != 0).then_some(Guid(from)),
    })
}

/// Whether a stream of so many bytes carries nothing: a beginning and an end.
#[must_use]
pub fn is_empty(bytes: u64) -> bool {
    bytes <= 2 * RECORD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(order: fn(u64) -> [u8; 8], from: u64) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        for number in [MAGIC, 17, 1_790_000_000, 0, 0xabcd, from] {
            bytes.extend(order(number));
        }
        bytes.extend(b"tank/flocker/x@flocker-1-2");
        bytes
    }

    #[test]
    fn the_head_tells_both_guids_in_either_byte_order() {
        for order in [u64::to_le_bytes as fn(u64) -> _, u64::to_be_bytes] {
            let increment = Head {
                to: Guid(0xabcd),
                from: Some(Guid(7)),
            };
            assert_eq!(head(&record(order, 7)), Some(increment));
            assert_eq!(head(&record(order, 0)).unwrap().from, None);
        }
    }

    #[test]
    fn what_is_no_stream_has_no_head() {
        let good = record(u64::to_le_bytes, 7);
        for length in 0..HEAD {
            assert_eq!(head(&good[..length]), None);
        }
        let mut other = good.clone();
        other[0] = 1;
        assert_eq!(head(&other), None);
        let mut other = good;
        other[8] ^= 1;
        assert_eq!(head(&other), None);
        assert_eq!(
            head(b"FLKTREE1 and then something else altogether, long enough"),
            None
        );
    }
}
