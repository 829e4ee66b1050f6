//! Good heads, the table of refused ones, what is forwarded, every prefix and split.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::{
    super::{
        origin::Style,
        path::{Doubt, doubt},
        unescape,
    },
    *,
};

const REFUSED: &str = include_str!("../../../../testdata/requests/refused.txt");

const ORIGIN: Origin<'static> = Origin {
    client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
    scheme: Scheme::Http,
    style: Style::XForwarded,
    trusted: false,
    request_id: None,
    subject: None,
};

fn limits() -> HeadLimits {
    HeadLimits::default()
}

/// The head of a good request; every prefix of it must be undecided, and what follows it
/// must not matter.
fn head(request: &str) -> RequestHead {
    let end = request.find("\r\n\r\n").unwrap() + 4;
    for prefix in 0..end {
        assert_eq!(
            parse_request(&request.as_bytes()[..prefix], Scheme::Http, &limits()),
            Verdict::NeedMore,
            "prefix of {prefix} bytes of {request:?}"
        );
    }
    let verdict = parse_request(request.as_bytes(), Scheme::Http, &limits());
    let Verdict::Head(head) = verdict.clone() else {
        panic!("{request:?}: {verdict:?}");
    };
    assert_eq!(head.head_bytes, end);
    let pipelined = format!("{}GET / HTTP/1.1\nrubbish\0", &request[..end]);
    assert_eq!(
        parse_request(pipelined.as_bytes(), Scheme::Http, &limits()),
        verdict
    );
    head
}

/// What goes to the upstream, and that the edge would take it as it took the original.
fn forwarded(request: &str) -> String {
    let head = head(request);
    let mut out = Vec::new();
    write_upstream_head(&head, request.as_bytes(), &ORIGIN, &mut out);
    let Verdict::Head(again) = parse_request(&out, Scheme::Http, &limits()) else {
        panic!("the forwarded head is malformed: {out:?}");
    };
    assert_eq!(again.head_bytes, out.len());
    assert_eq!(
        (again.method, again.version, again.host, again.body),
        (head.method, head.version, head.host, head.body)
    );
    assert_eq!(again.upgrade, head.upgrade);
    assert_eq!(again.expect_continue, head.expect_continue);
    String::from_utf8(out).unwrap()
}

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let mut rules = 0;
    let mut bad = Vec::new();
    for line in REFUSED.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parts: Vec<&str> = line.splitn(4, " | ").collect();
        let [status, reason, _, request] = parts[..] else {
            panic!("not four parts: {line}");
        };
        let bytes = unescape(request);
        rules += 1;
        let refused = match parse_request(&bytes, Scheme::Http, &limits()) {
            Verdict::Reject(refused) => refused,
            // Two kinds are refused because of the route, not the head alone.
            Verdict::Head(head) if head.method == Method::Connect => RejectReason::Connect,
            Verdict::Head(head) if doubt(head.path(&bytes)) != Doubt::None => RejectReason::Path,
            verdict => {
                bad.push(format!("{verdict:?} of {line}"));
                continue;
            }
        };
        if format!("{refused:?}") != reason || refused.status().to_string() != status {
            bad.push(format!("{refused:?} ({}) of {line}", refused.status()));
        }
        if !matches!(refused, RejectReason::Connect | RejectReason::Path) {
            assert_stays_refused(&bytes, request);
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(rules > 250, "the table was read: {rules} rules");
}

/// No prefix is taken, and what is refused stays refused when more arrives.
fn assert_stays_refused(bytes: &[u8], request: &str) {
    let mut refused = false;
    for end in 0..=bytes.len() {
        match parse_request(&bytes[..end], Scheme::Http, &limits()) {
            Verdict::NeedMore => assert!(!refused, "{request} at {end}"),
            Verdict::Reject(_) => refused = true,
            Verdict::Head(_) => panic!("{request} is taken at {end}"),
        }
    }
}

#[test]
fn heads_past_their_limits_are_refused_and_not_before() {
    let small = HeadLimits {
        head_bytes: 200,
        target_bytes: 20,
        headers: 3,
        body_bytes: 10,
    };
    let status = |request: &str| match parse_request(request.as_bytes(), Scheme::Http, &small) {
        Verdict::Reject(reason) => reason.status(),
        Verdict::Head(_) => 200,
        Verdict::NeedMore => 100,
    };
    let target = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length));
    assert_eq!(status(&target(19)), 200);
    assert_eq!(status(&target(20)), 414);
    assert_eq!(status(&format!("GET /{}", "x".repeat(190))), 414);
    assert_eq!(status(&get("A: 1\r\nB: 2\r\n")), 200);
    assert_eq!(status(&get("A: 1\r\nB: 2\r\nC: 3\r\n")), 431);
    let filled = |length: usize| get(&format!("A: {}\r\n", "x".repeat(length)));
    let room = 200 - filled(0).len();
    assert_eq!(status(&filled(room)), 200);
    assert_eq!(status(&filled(room + 1)), 431);
    assert_eq!(status(&filled(9_000)), 431);
    assert_eq!(status(&get("Content-Length: 10\r\n")), 200);
    assert_eq!(status(&get("Content-Length: 11\r\n")), 413);
}

#[test]
fn method_version_and_host() {
    let plain = head(&get(""));
    assert_eq!(plain.method, Method::Get);
    assert_eq!(plain.version, Version::Http11);
    assert_eq!(plain.host.as_str(), "a.test");
    assert_eq!(plain.body, Body::None);
    assert!(plain.keep_alive && !plain.expect_continue && !plain.upgrade);

    let method = |name: &str| head(&get("").replacen("GET", name, 1)).method;
    assert_eq!(method("HEAD"), Method::Head);
    assert_eq!(method("DELETE"), Method::Idempotent);
    assert_eq!(method("POST"), Method::Other);
    // Methods are case-sensitive (RFC 9110, section 9.1).
    assert_eq!(method("get"), Method::Other);
    assert!(!Method::Other.is_idempotent());

    let host = |host: &str| {
        let head = head(&get("").replacen("a.test", host, 1));
        head.host.as_str().to_owned()
    };
    assert_eq!(host("A.Test.:8080"), "a.test");
    assert_eq!(host("[::1]:8080"), "[::1]");
    assert_eq!(host("10.0.0.1"), "10.0.0.1");
    assert_eq!(host("  a.test\t"), "a.test");
}

#[test]
fn an_empty_line_before_the_request_is_ignored() {
    assert_eq!(head_at("\r\nGET /x HTTP/1.1\r\nHost: a.test\r\n\r\n"), "/x");
}

fn head_at(request: &str) -> String {
    let Verdict::Head(head) = parse_request(request.as_bytes(), Scheme::Http, &limits()) else {
        panic!("{request:?}");
    };
    assert_eq!(head.head_bytes, request.len());
    let mut out = Vec::new();
    write_upstream_head(&head, request.as_bytes(), &ORIGIN, &mut out);
    assert!(out.starts_with(b"GET /x HTTP/1.1\r\n"));
    String::from_utf8(head.path(request.as_bytes()).to_vec()).unwrap()
}

#[test]
fn bodies_and_persistence() {
    let head = |fields: &str| head(&get(fields));
    assert_eq!(head("Content-Length: 0\r\n").body, Body::None);
    assert_eq!(head("Content-Length: 007\r\n").body, Body::Length(7));
    assert_eq!(head("content-length:\t 5  \r\n").body, Body::Length(5));
    assert_eq!(head("Transfer-Encoding: CHUNKED\r\n").body, Body::Chunked);
    assert!(head("Connection: keep-alive\r\n").keep_alive);
    assert!(!head("Connection: x, Close\r\n").keep_alive);
    assert!(!head("Connection: keep-alive\r\nConnection: close\r\n").keep_alive);
    assert!(head("Expect: 100-Continue\r\nContent-Length: 5\r\n").expect_continue);
}

#[test]
fn http_1_0_keeps_to_what_it_knows() {
    let head = |fields: &str| head(&get(fields).replacen("1.1", "1.0", 1));
    assert!(!head("").keep_alive);
    assert!(head("Connection: Keep-Alive\r\n").keep_alive);
    assert!(!head("Expect: 100-continue\r\n").expect_continue);
    assert!(!head("Connection: upgrade\r\nUpgrade: websocket\r\n").upgrade);
}

#[test]
fn the_forwarded_head_says_what_the_verdict_says() {
    assert_eq!(
        forwarded(
            "POST /p?q=1 HTTP/1.1\r\nhost: A.Test.:8080\r\nAccept:  */* \r\ncontent-length: 05\r\n\r\nhello"
        ),
        "POST /p?q=1 HTTP/1.1\r\nHost: a.test:8080\r\nAccept: */*\r\nContent-Length: 5\r\n\
         X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.test:8080\r\n\r\n"
    );
    let absolute = |target: &str| {
        let request = forwarded(&get("").replacen("GET /", &format!("GET {target}"), 1));
        request.lines().next().unwrap().to_owned()
    };
    assert_eq!(absolute("http://a.test/x?y"), "GET /x?y HTTP/1.1");
    assert_eq!(absolute("HTTP://A.test:80"), "GET / HTTP/1.1");
    assert_eq!(absolute("http://a.test?y=/z"), "GET /?y=/z HTTP/1.1");
    let options = |target: &str| {
        let request = forwarded(&get("").replacen("GET /", &format!("OPTIONS {target}"), 1));
        request.lines().next().unwrap().to_owned()
    };
    assert_eq!(options("*"), "OPTIONS * HTTP/1.1");
    assert_eq!(options("http://a.test"), "OPTIONS * HTTP/1.1");
    assert!(forwarded(&get("Content-Length: 0\r\n")).contains("\r\nContent-Length: 0\r\n"));
    assert!(
        forwarded(&get("Transfer-Encoding: chunked\r\n"))
            .contains("\r\nTransfer-Encoding: chunked\r\n")
    );
    assert!(forwarded("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n").starts_with("GET / HTTP/1.0\r\n"));
}

#[test]
fn a_connect_names_host_and_port_and_has_no_body() {
    let connect = |target: &str, fields: &str| {
        let request = format!("CONNECT {target} HTTP/1.1\r\n{fields}\r\n");
        match parse_request(request.as_bytes(), Scheme::Http, &limits()) {
            Verdict::Head(head) => {
                let mut out = Vec::new();
                write_upstream_head(&head, request.as_bytes(), &ORIGIN, &mut out);
                Ok(String::from_utf8(out).unwrap())
            }
            Verdict::Reject(reason) => Err(reason),
            Verdict::NeedMore => panic!("{request:?} is whole"),
        }
    };
    let head = connect("DB.test.:5432", "Host: db.test:5432\r\n").unwrap();
    assert!(head.starts_with("CONNECT db.test:5432 HTTP/1.1\r\nHost: db.test:5432\r\n"));
    assert!(connect("db.test:5432", "Host: db.test\r\n").is_ok());
    for (target, fields, reason) in [
        ("db.test", "Host: db.test\r\n", RejectReason::Target),
        (
            "db.test:1",
            "Host: db.test:2\r\n",
            RejectReason::HostMismatch,
        ),
        (
            "db.test:1",
            "Host: a.test:1\r\n",
            RejectReason::HostMismatch,
        ),
        ("/x", "Host: a.test\r\n", RejectReason::Target),
        ("http://a.test/", "Host: a.test\r\n", RejectReason::Target),
        ("u@a.test:1", "Host: a.test:1\r\n", RejectReason::Target),
        ("a.test:1", "", RejectReason::HostMissing),
        (
            "a.test:1",
            "Host: a.test:1\r\nContent-Length: 3\r\n",
            RejectReason::ConnectBody,
        ),
        (
            "a.test:1",
            "Host: a.test:1\r\nTransfer-Encoding: chunked\r\n",
            RejectReason::ConnectBody,
        ),
    ] {
        assert_eq!(connect(target, fields), Err(reason), "{target} {fields}");
    }
}

#[test]
fn trailers_are_asked_for_by_the_edge_when_the_client_takes_them() {
    let head = forwarded(&get("TE: gzip, Trailers;q=1\r\n"));
    assert!(!head.contains("\r\nTE:"), "{head}");
    let head = forwarded(&get("TE: gzip, Trailers\r\nConnection: TE\r\n"));
    assert!(
        head.contains("\r\nTE: trailers\r\nConnection: TE\r\n"),
        "{head}"
    );
}

/// The names of the fields that reach the upstream, apart from those that the edge adds.
fn passed(fields: &str) -> Vec<String> {
    let ours = [
        "host",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
    ];
    forwarded(&get(fields))
        .lines()
        .skip(1)
        .filter_map(|line| Some(line.split_once(':')?.0.to_ascii_lowercase()))
        .filter(|name| !ours.contains(&name.as_str()))
        .collect()
}

#[test]
fn fields_of_one_hop_end_here() {
    assert_eq!(
        passed(
            "Connection: close, X-Mine\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: deflate\r\n\
             X-Mine: 1\r\nX-Yours: 2\r\nUpgrade: websocket\r\nProxy: evil\r\nTrailer: Digest\r\n"
        ),
        ["x-yours", "trailer"]
    );
    // A Connection option cannot take away what is meant for all (CVE-2024-45410).
    assert_eq!(
        passed(
            "Connection: Content-Length, Host, X-Forwarded-For, Cookie, X-B\r\nCookie: 1\r\n\
             X-B: 2\r\nContent-Length: 3\r\n"
        ),
        ["cookie", "content-length"]
    );
}

#[test]
fn what_clients_say_of_themselves_is_replaced() {
    let out = forwarded(&get(
        "X-Forwarded-For: 1.1.1.1\r\nx-forwarded-for: 2.2.2.2\r\nX_Forwarded_For: 3.3.3.3\r\n\
         X-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 1\r\n\
         Forwarded: for=4.4.4.4\r\nTransfer_Encoding: chunked\r\nContent_Length: 9\r\n",
    ));
    assert_eq!(
        out,
        "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 192.0.2.7\r\n\
         X-Forwarded-Proto: http\r\nX-Forwarded-Host: a.test\r\n\r\n"
    );
}

#[test]
fn upgrades_are_asked_for_but_never_to_cleartext_h2() {
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n";
    assert!(head(&get(websocket)).upgrade);
    assert_eq!(
        passed(websocket),
        ["upgrade", "sec-websocket-key", "connection"]
    );
    // Without the Connection option it is of one hop only.
    assert!(!head(&get("Upgrade: websocket\r\n")).upgrade);
    let h2c =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: websocket, h2c\r\nHTTP2-Settings: x\r\n";
    assert!(!head(&get(h2c)).upgrade);
    assert!(passed(h2c).is_empty());
}

/// Lines that requests are made of: good ones, bad ones, and such as contradict each other.
const LINES: [&str; 34] = [
    "Host: a.test",
    "host: A.TEST:80",
    "Host: b.test",
    "Host:",
    "Content-Length: 5",
    "Content-Length: 0",
    "content-length: 05",
    "Content-Length: +5",
    "Content-Length: 5,5",
    "Content-Length : 5",
    "Content_Length: 7",
    "Transfer-Encoding: chunked",
    "transfer-encoding:\tChunked ",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding:",
    "Transfer_Encoding: chunked",
    " Transfer-Encoding: chunked",
    "Connection: close",
    "Connection: keep-alive, x-a",
    "Connection: content-length, transfer-encoding, host, upgrade",
    "Upgrade: websocket",
    "Upgrade: h2c",
    "HTTP2-Settings: x",
    "Expect: 100-continue",
    "Expect: x",
    "X-A: 1",
    "X-A: \u{e4}",
    "X-Forwarded-For: 1.2.3.4",
    "x_forwarded_proto: https",
    "TE: trailers",
    "Trailer: x",
    ": x",
    "x",
    "",
];

const STARTS: [&str; 12] = [
    "GET / HTTP/1.1",
    "POST /a?b HTTP/1.1",
    "GET / HTTP/1.0",
    "HEAD http://a.test HTTP/1.1",
    "PUT HTTP://A.test:80/x HTTP/1.1",
    "GET http://b.test/ HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "OPTIONS http://a.test HTTP/1.0",
    "CONNECT a.test:443 HTTP/1.1",
    "GET /# HTTP/1.1",
    "GET / HTTP/1.2",
    "GET /",
];

fn any_request() -> impl Strategy<Value = Vec<u8>> {
    let line_end = prop_oneof![40 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r"), 1 => Just("")];
    let line = (prop::sample::select(&LINES[..]), line_end.clone());
    let start = (prop::sample::select(&STARTS[..]), line_end);
    (
        start,
        // Most have a Host, or nearly none would be taken.
        prop::option::weighted(0.8, Just(("Host: a.test", "\r\n"))),
        prop::collection::vec(line, 0..4),
        prop::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>())),
    )
        .prop_map(|(start, host, lines, flip)| {
            let lines = std::iter::once(start).chain(host).chain(lines);
            let text: String = lines.flat_map(|(line, end)| [line, end]).collect();
            let mut bytes = (text + "\r\nhello").into_bytes();
            if let Some((at, byte)) = flip {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        })
}

/// How often a field is in a head.
fn count(head: &[u8], name: &str) -> usize {
    fields(head)
        .filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))
        .count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn whatever_is_taken_is_forwarded_without_a_doubt(bytes in any_request()) {
        let verdict = parse_request(&bytes, Scheme::Http, &limits());
        // What a prefix says stands.
        for end in 0..bytes.len() {
            match parse_request(&bytes[..end], Scheme::Http, &limits()) {
                Verdict::NeedMore => {}
                Verdict::Head(head) => {
                    prop_assert_eq!(head.head_bytes, end);
                    prop_assert_eq!(&Verdict::Head(head), &verdict);
                    break;
                }
                Verdict::Reject(_) => {
                    prop_assert!(matches!(verdict, Verdict::Reject(_)));
                    break;
                }
            }
        }
        let Verdict::Head(head) = verdict else {
            return Ok(());
        };
        let mut out = Vec::new();
        write_upstream_head(&head, &bytes, &ORIGIN, &mut out);
        let Verdict::Head(again) = parse_request(&out, Scheme::Http, &limits()) else {
            panic!("{:?} became {:?}", bytes.escape_ascii(), out.escape_ascii());
        };
        prop_assert_eq!(again.head_bytes, out.len());
        prop_assert_eq!(
            (again.method, again.version, again.host, again.body, again.upgrade),
            (head.method, head.version, head.host, head.body, head.upgrade)
        );
        prop_assert_eq!(again.expect_continue, head.expect_continue);
        prop_assert_eq!(count(&out, "host"), 1);
        prop_assert!(count(&out, "content-length") + count(&out, "transfer-encoding") <= 1);
        for ours in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"] {
            prop_assert_eq!(count(&out, ours), 1);
        }
        for one_hop in ["http2-settings", "content_length", "transfer_encoding"] {
            prop_assert_eq!(count(&out, one_hop), 0);
        }
    }
}
