//! Response heads: what is accepted is passed on with the same status and framing.
#![no_main]

use flocker_proxy::logic::http::{
    HeadLimits, Method, Verdict, Version, parse_response, response::Asked, write_downstream_head,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((seed, bytes)) = input.split_first() else {
        return;
    };
    let asked = Asked {
        method: match seed & 1 {
            0 => Method::Get,
            _ => Method::Head,
        },
        version: Version::Http11,
        upgrade: seed & 2 != 0,
    };
    let limits = HeadLimits::default();
    let Verdict::Head(head) = parse_response(bytes, &asked, &limits) else {
        return;
    };
    assert!(head.head_bytes <= bytes.len());
    let mut passed_on = Vec::new();
    write_downstream_head(
        &head,
        &bytes[..head.head_bytes],
        &asked,
        true,
        &mut passed_on,
    );
    let limits = HeadLimits {
        head_bytes: passed_on.len() + 1,
        headers: flocker_proxy::logic::http::HEADERS_MAX,
        ..limits
    };
    match parse_response(&passed_on, &asked, &limits) {
        Verdict::Head(again) => {
            assert_eq!(again.head_bytes, passed_on.len(), "it ends elsewhere");
            assert_eq!(again.status, head.status);
            assert_eq!(again.framing, head.framing);
        }
        Verdict::Reject(flocker_proxy::logic::http::RejectReason::TooManyFields) => {}
        other => panic!("{other:?} of {}", String::from_utf8_lossy(&passed_on)),
    }
});
