//! ClientHello: a verdict once given never changes with more bytes, and no bytes make it panic.
#![no_main]

use flocker_proxy::logic::sniff::{
    SniffLimits,
    tls::{Sniff, client_hello},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = SniffLimits::default();
    let whole = client_hello(bytes, &limits);
    let mut decided = None;
    for end in 0..=bytes.len() {
        let verdict = client_hello(&bytes[..end], &limits);
        match decided {
            None if verdict != Sniff::NeedMore => decided = Some(verdict),
            None => {}
            Some(before) => assert_eq!(before, verdict, "another verdict at byte {end}"),
        }
    }
    assert_eq!(decided.unwrap_or(Sniff::NeedMore), whole);
});
