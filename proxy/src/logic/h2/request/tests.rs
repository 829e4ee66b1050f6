//! Requests both ways: what is refused, rule by rule, and what becomes of the rest.

use http::request::Builder;

use super::*;
use crate::logic::http::{HeadLimits, Scheme as Http1, Verdict, parse_request};

fn request(build: impl FnOnce(Builder) -> Builder) -> Parts {
    let builder = Request::builder().uri("http://a.test/p?q=1");
    build(builder).body(()).unwrap().into_parts().0
}

fn head(parts: &Parts, ended: bool) -> Result<(String, Carried), Malformed> {
    let mut out = Vec::new();
    let carried = write_http1(parts, None, ended, "", &mut out)?;
    Ok((String::from_utf8(out).unwrap(), carried))
}

type Build = fn(Builder) -> Builder;

/// A line per rule: the section of RFC 9113, the request, the verdict.
#[rustfmt::skip]
const RULES: [(&str, Build, Malformed); 19] = [
    ("8.2.2", |b| b.header("connection", "x"), Malformed::ConnectionField),
    ("8.2.2", |b| b.header("transfer-encoding", "chunked"), Malformed::ConnectionField),
    ("8.2.2", |b| b.header("upgrade", "h2c"), Malformed::ConnectionField),
    ("8.2.2", |b| b.header("keep-alive", "1"), Malformed::ConnectionField),
    ("8.2.2", |b| b.header("proxy-connection", "1"), Malformed::ConnectionField),
    ("8.2.2", |b| b.header("te", "gzip"), Malformed::Te),
    ("8.2.2", |b| b.header("te", "trailers, gzip"), Malformed::Te),
    ("8.2.1", |b| b.header("x", " a"), Malformed::FieldValue),
    ("8.2.1", |b| b.header("x", "a\t"), Malformed::FieldValue),
    ("8.3.1", |b| b.uri("*"), Malformed::HostMissing),
    ("8.3.1", |b| b.uri("/p"), Malformed::HostMissing),
    ("8.3.1", |b| b.header("host", "b.test"), Malformed::HostMismatch),
    ("8.3.1", |b| b.header("host", "a.test:81"), Malformed::HostMismatch),
    ("8.3.1", |b| b.header("host", "a.test").header("host", "a.test"), Malformed::HostDuplicate),
    ("8.3.1", |b| b.uri("http://u:p@a.test/"), Malformed::UserInfo),
    ("8.1.1", |b| b.header("content-length", "1").header("content-length", "1"), Malformed::Length),
    ("8.1.1", |b| b.header("content-length", "+1"), Malformed::Length),
    ("8.1.1", |b| b.header("content-length", ""), Malformed::Length),
    ("3.4", |b| b.method("PRI"), Malformed::Method),
];

#[test]
fn what_could_be_read_otherwise_reaches_nobody() {
    for (section, build, verdict) in RULES {
        let parts = request(build);
        assert_eq!(head(&parts, true), Err(verdict), "{section}: {parts:?}");
    }
}

#[test]
fn a_value_with_a_line_in_it_cannot_even_be_made() {
    for bytes in [&b"a\r\nb: c"[..], b"a\nb", b"a\0b"] {
        assert!(HeaderValue::from_bytes(bytes).is_err());
        // Nor would it pass if it could.
        assert_eq!(check_value(bytes), Err(Malformed::FieldValue));
    }
}

#[test]
fn a_request_becomes_one_of_http1() {
    let parts = request(|b| {
        b.header("cookie", "a=1")
            .header("x-one", "1")
            .header("cookie", "b=2")
            .header("te", "trailers")
            .header("host", "A.test.:80")
    });
    let (text, carried) = head(&parts, true).unwrap();
    assert_eq!(
        text,
        "GET /p?q=1 HTTP/1.1\r\nHost: a.test\r\nx-one: 1\r\nCookie: a=1; b=2\r\n\
         Connection: close\r\n\r\n"
    );
    assert_eq!(carried, Carried::None);
    // And the strict reader of HTTP/1.1 takes it.
    let verdict = parse_request(text.as_bytes(), Http1::Http, &HeadLimits::default());
    assert!(matches!(verdict, Verdict::Head(_)), "{verdict:?}");
}

#[test]
fn bodies_are_framed_as_they_come() {
    let post = |b: Builder| b.method("POST");
    let (text, carried) = head(&request(post), false).unwrap();
    assert!(text.contains("Transfer-Encoding: chunked\r\n"));
    assert_eq!(carried, Carried::Chunked);
    let (text, carried) = head(&request(|b| post(b).header("content-length", "5")), false).unwrap();
    assert!(text.contains("content-length: 5\r\n"));
    assert_eq!(carried, Carried::Plain);
    let (text, carried) = head(&request(post), true).unwrap();
    assert!(text.contains("Content-Length: 0\r\n"));
    assert_eq!(carried, Carried::None);
}

#[test]
fn without_an_authority_the_host_counts_and_options_may_ask_for_all() {
    let mut parts = request(|b| b.header("host", "a.test"));
    parts.uri = "/x".parse().unwrap();
    assert!(
        head(&parts, true)
            .unwrap()
            .0
            .contains("\r\nHost: a.test\r\n")
    );
    parts.method = Method::OPTIONS;
    parts.uri = "*".parse().unwrap();
    assert!(
        head(&parts, true)
            .unwrap()
            .0
            .starts_with("OPTIONS * HTTP/1.1\r\n")
    );
    parts.method = Method::GET;
    assert_eq!(head(&parts, true), Err(Malformed::Path));
}

#[test]
fn an_extended_connect_is_an_upgrade() {
    let parts = request(|b| b.method("CONNECT").header("sec-websocket-version", "13"));
    let mut out = Vec::new();
    let carried = write_http1(&parts, Some("websocket"), false, "bm9uY2U=", &mut out).unwrap();
    assert_eq!(carried, Carried::Tunnel);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "GET /p?q=1 HTTP/1.1\r\nHost: a.test\r\nsec-websocket-version: 13\r\n\
         Connection: upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Key: bm9uY2U=\r\n\r\n"
    );
    let other = write_http1(&parts, Some("connect-udp"), false, "", &mut Vec::new());
    assert_eq!(other, Err(Malformed::Protocol));
}

#[test]
fn a_connect_is_left_to_the_reader_of_http1() {
    let parts = request(|b| b.method("CONNECT").uri("a.test:443"));
    let (text, carried) = head(&parts, false).unwrap();
    assert!(text.starts_with("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n"));
    assert_eq!(carried, Carried::Tunnel);
}

fn outgoing(text: &str) -> Result<Outgoing, Malformed> {
    let Verdict::Head(head) = parse_request(text.as_bytes(), Http1::Http, &HeadLimits::default())
    else {
        panic!("not a request: {text}");
    };
    to_h2(&head, text.as_bytes(), Scheme::HTTP)
}

#[test]
fn a_request_of_http1_becomes_a_stream() {
    let text = "POST /p?q HTTP/1.1\r\nHost: a.test:81\r\nX-One: 1\r\nTransfer-Encoding: chunked\r\n\
                Connection: keep-alive\r\n\r\n";
    let Outgoing {
        request,
        body,
        tunnel,
    } = outgoing(text).unwrap();
    assert_eq!(request.method(), Method::POST);
    assert_eq!(request.uri(), "http://a.test:81/p?q");
    let fields: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(fields, ["x-one", "te"]);
    assert_eq!((body, tunnel), (Body::Chunked, None));
}

#[test]
fn an_upgrade_to_websocket_becomes_an_extended_connect_and_others_cannot() {
    let text = |protocol: &str| {
        format!(
            "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\
             Sec-WebSocket-Key: bm9uY2U=\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
    };
    let Outgoing {
        request, tunnel, ..
    } = outgoing(&text("websocket")).unwrap();
    assert_eq!(request.method(), Method::CONNECT);
    assert_eq!(request.uri(), "http://a.test/chat");
    let key = "bm9uY2U=".to_owned();
    assert_eq!(tunnel, Some(Tunnel::WebSocket { key }));
    assert!(!request.headers().contains_key(header::SEC_WEBSOCKET_KEY));
    assert_eq!(outgoing(&text("tls/1.0")).unwrap_err(), Malformed::Protocol);
}

#[test]
fn a_connect_names_an_authority_and_nothing_else() {
    let text = "CONNECT a.test:22 HTTP/1.1\r\nHost: a.test:22\r\nX: 1\r\n\r\n";
    let Outgoing {
        request, tunnel, ..
    } = outgoing(text).unwrap();
    assert_eq!(request.method(), Method::CONNECT);
    assert_eq!(request.uri(), "a.test:22");
    assert_eq!(request.uri().scheme(), None);
    assert_eq!(tunnel, Some(Tunnel::Connect));
    assert!(!request.headers().contains_key(header::TE));
}
