//! What the fuzz targets share: how an input is cut into pieces.

/// Cuts `bytes` into pieces whose lengths are taken from the first byte's seed: the same input is
/// always cut in the same way, and the fuzzer finds the cuts that matter by changing that byte.
pub fn pieces(seed: u8, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut state = u32::from(seed).wrapping_mul(0x9e37_79b9) | 1;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        // Xorshift: small pieces mostly, now and then a large one.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let length = match state % 8 {
            0 => rest.len(),
            1..=4 => 1,
            more => more as usize * 7,
        };
        let (piece, after) = rest.split_at(length.min(rest.len()));
        rest = after;
        Some(piece)
    })
}
