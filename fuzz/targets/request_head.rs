//! Request heads: what is accepted is passed on so that it reads the same again, with the same
//! host and the same length of its body; and a verdict once given never changes with more bytes.
#![no_main]

use flocker_proxy::logic::http::{
    HeadLimits, Scheme, Verdict,
    origin::{Origin, Style},
    parse_request, write_upstream_head,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = HeadLimits::default();
    let whole = parse_request(bytes, Scheme::Http, &limits);
    for end in 0..bytes.len().min(512) {
        match (parse_request(&bytes[..end], Scheme::Http, &limits), &whole) {
            (Verdict::NeedMore, _) => {}
            (Verdict::Head(early), Verdict::Head(late)) => assert_eq!(&early, late),
            (Verdict::Reject(_), Verdict::Reject(_)) => {}
            (early, late) => panic!("{early:?} at byte {end}, and then {late:?}"),
        }
    }
    let Verdict::Head(head) = whole else { return };
    assert!(head.head_bytes <= bytes.len());
    let origin = Origin {
        client: [192, 0, 2, 1].into(),
        scheme: Scheme::Http,
        style: Style::Both,
        trusted: true,
        request_id: None,
        subject: None,
    };
    let mut passed_on = Vec::new();
    write_upstream_head(&head, bytes, &origin, &mut passed_on);
    // The upstream's copy is longer by what was added.
    let limits = HeadLimits {
        head_bytes: passed_on.len() + 1,
        headers: flocker_proxy::logic::http::HEADERS_MAX,
        ..limits
    };
    match parse_request(&passed_on, Scheme::Http, &limits) {
        Verdict::Head(again) => {
            assert_eq!(again.head_bytes, passed_on.len(), "it ends elsewhere");
            assert_eq!(again.host, head.host, "it names another host");
            assert_eq!(again.body, head.body, "it has another body");
            assert_eq!(again.method, head.method, "it has another method");
        }
        // A head at the very limit of fields has no room for those that are added.
        Verdict::Reject(flocker_proxy::logic::http::RejectReason::TooManyFields) => {}
        other => panic!("{other:?} of {}", String::from_utf8_lossy(&passed_on)),
    }
});
