//! Chunked bodies: wherever they are cut, the same bytes belong to the body.
#![no_main]

use flocker_fuzz::pieces;
use flocker_proxy::logic::http::chunked::{ChunkError, Validator};
use libfuzzer_sys::fuzz_target;

/// Bytes of the body, and whether it is complete.
fn run<'b>(pieces: impl Iterator<Item = &'b [u8]>) -> Result<(usize, bool), ChunkError> {
    let mut validator = Validator::new();
    let mut consumed = 0;
    for piece in pieces {
        let progress = validator.advance(piece)?;
        assert!(progress.consumed <= piece.len());
        assert!(progress.finished || progress.consumed == piece.len());
        assert_eq!(progress.finished, validator.is_finished());
        consumed += progress.consumed;
        if progress.finished {
            break;
        }
    }
    Ok((consumed, validator.is_finished()))
}

fuzz_target!(|input: &[u8]| {
    let Some((seed, bytes)) = input.split_first() else {
        return;
    };
    let whole = run(std::iter::once(bytes));
    let in_pieces = run(pieces(*seed, bytes));
    assert_eq!(whole, in_pieces);
});
