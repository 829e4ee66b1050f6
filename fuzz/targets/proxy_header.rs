//! PROXY protocol headers: a verdict once given never changes with more bytes, and who is named in
//! a header is named in the one that is written of it.
#![no_main]

use flocker_api::upstream::SendProxy;
use flocker_proxy::logic::proxy_header::{Facts, HEADER_BYTES_MAX, Header, parse, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    for end in 0..bytes.len() {
        match (parse(&bytes[..end]), whole) {
            (Header::NeedMore, _) | (Header::Malformed(_), Header::Malformed(_)) => {}
            (early @ Header::Is { .. }, late) => assert_eq!(early, late, "at byte {end}"),
            (early, late) => panic!("{early:?} at byte {end}, and then {late:?}"),
        }
    }
    let (length, ends) = match whole {
        Header::NeedMore => {
            assert!(bytes.len() < HEADER_BYTES_MAX, "it waits for ever");
            return;
        }
        Header::Malformed(_) => return,
        Header::Is { bytes, ends } => (bytes, ends),
    };
    assert!(length <= bytes.len());
    let Some(ends) = ends else { return };
    for version in [SendProxy::V1, SendProxy::V2] {
        let mut again = Vec::new();
        write(version, &ends, &Facts::default(), &mut again);
        let Header::Is {
            bytes,
            ends: Some(said),
        } = parse(&again)
        else {
            panic!("{version:?} of {ends:?} is {again:?}");
        };
        assert_eq!(bytes, again.len());
        // An IPv4 address may be written as the IPv6 address that stands for it.
        let same = |one: std::net::SocketAddr, other: std::net::SocketAddr| {
            one.ip().to_canonical() == other.ip().to_canonical() && one.port() == other.port()
        };
        assert!(same(said.source, ends.source), "{said:?} of {ends:?}");
        assert!(
            same(said.destination, ends.destination),
            "{said:?} of {ends:?}"
        );
    }
});
