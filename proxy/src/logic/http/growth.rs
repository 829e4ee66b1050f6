//! When a head that grows is worth parsing again: a client that sends it byte by byte shall not
//! have all of it read again for each.
//!
//! A head is parsed when its end is there, and before that each time it has doubled, so that
//! nonsense is refused early; the first bytes one by one. The cost of a head is linear in its
//! length, however it is cut.

/// Up to this length every byte is worth a look.
const EAGER_BYTES: usize = 256;

/// How far a head has been looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Growth {
    seen: usize,
    parse_at: usize,
}

impl Growth {
    /// Whether `bytes`, which begin with what was there before, are worth parsing; a head of
    /// `most` bytes always is.
    pub fn is_worth_parsing(&mut self, bytes: &[u8], most: usize) -> bool {
        let new = bytes.get(self.seen.saturating_sub(3)..).unwrap_or_default();
        let complete = memchr::memmem::find(new, b"\r\n\r\n").is_some();
        self.seen = bytes.len();
        if !complete && bytes.len() < self.parse_at && bytes.len() < most {
            return false;
        }
        self.parse_at = match bytes.len() {
            ..EAGER_BYTES => 0,
            length => length * 2,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_drip_is_parsed_a_few_times_and_at_its_end() {
        let mut head = b"GET / HTTP/1.1\r\nX: ".to_vec();
        head.resize(60_000, b'a');
        head.extend_from_slice(b"\r\n\r\n");
        let mut growth = Growth::default();
        let mut parsed: Vec<usize> = Vec::new();
        for end in 1..=head.len() {
            if growth.is_worth_parsing(&head[..end], 100_000) {
                parsed.push(end);
            }
        }
        assert_eq!(parsed.last(), Some(&head.len()));
        let work: usize = parsed.iter().sum();
        assert!(work < 4 * head.len(), "{work} bytes parsed");
    }

    #[test]
    fn the_end_is_found_however_it_is_cut() {
        let head = [&b"x".repeat(300)[..], b"\r\n\r\n"].concat();
        for first in 257..head.len() {
            for second in first..head.len() {
                let mut growth = Growth::default();
                growth.is_worth_parsing(&head[..first], 10_000);
                growth.is_worth_parsing(&head[..second], 10_000);
                assert!(growth.is_worth_parsing(&head, 10_000), "{first} {second}");
            }
        }
    }

    #[test]
    fn a_head_at_its_limit_is_parsed() {
        let mut growth = Growth::default();
        assert!(growth.is_worth_parsing(&[b'x'; 600], 1000));
        assert!(!growth.is_worth_parsing(&[b'x'; 999], 1000));
        assert!(growth.is_worth_parsing(&[b'x'; 1000], 1000));
    }
}
