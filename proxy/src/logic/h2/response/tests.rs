//! Responses both ways.

use super::*;
use crate::logic::http::{HeadLimits, Method, Verdict, Version, parse_response, response::Asked};

fn to_stream(text: &str, upgrade: bool) -> Response<()> {
    let asked = Asked {
        method: Method::Get,
        version: Version::Http11,
        upgrade,
    };
    let Verdict::Head(head) = parse_response(text.as_bytes(), &asked, &HeadLimits::default())
    else {
        panic!("not a response: {text}");
    };
    to_h2(&head, text.as_bytes()).unwrap()
}

#[test]
fn what_belongs_to_the_connection_stays_behind() {
    let response = to_stream(
        "HTTP/1.1 404 Not Found\r\nServer: x\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
         Connection: close\r\nKeep-Alive: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        false,
    );
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let fields: Vec<_> = response
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    assert_eq!(fields, ["server: x", "set-cookie: a=1", "set-cookie: b=2"]);
}

#[test]
fn a_switch_of_protocols_is_a_success() {
    let response = to_stream(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
         Sec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
        true,
    );
    assert_eq!(response.status(), StatusCode::OK);
    let fields: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
    assert_eq!(fields, ["sec-websocket-protocol"]);
}

fn upstream(
    status: u16,
    fields: &[(&'static str, &'static str)],
    question: &Question,
    ended: bool,
) -> Result<(String, Carried), Malformed> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    let (parts, ()) = response.body(()).unwrap().into_parts();
    let mut out = Vec::new();
    let carried = write_http1(&parts, question, ended, &mut out)?;
    Ok((String::from_utf8(out).unwrap(), carried))
}

const GET: Question = Question {
    is_head: false,
    tunnel: None,
};

#[test]
fn responses_are_framed_by_what_they_say() {
    let length = [("content-length", "5")];
    for (status, fields, ended, framing, carried) in [
        (200, &length[..], false, "", Carried::Plain),
        (
            200,
            &[],
            false,
            "Transfer-Encoding: chunked\r\n",
            Carried::Chunked,
        ),
        (200, &[], true, "Content-Length: 0\r\n", Carried::None),
        (204, &[], true, "", Carried::None),
        (304, &length, true, "", Carried::None),
        (103, &[("link", "x")], false, "", Carried::None),
        (
            200,
            &[("content-length", "5"), ("trailer", "x")],
            false,
            "Transfer-Encoding: chunked\r\n",
            Carried::Chunked,
        ),
    ] {
        let (text, found) = upstream(status, fields, &GET, ended).unwrap();
        assert_eq!(found, carried, "{status}");
        assert!(text.ends_with(&format!("{framing}\r\n")), "{text}");
        assert_eq!(
            text.contains("Transfer-Encoding") || text.contains("Content-Length"),
            !framing.is_empty(),
            "{text}"
        );
    }
    let head = Question {
        is_head: true,
        ..GET
    };
    let (text, carried) = upstream(200, &length, &head, true).unwrap();
    assert!(text.contains("content-length: 5\r\n"));
    assert_eq!(carried, Carried::None);
}

/// A line per rule: status, fields, whether it ends, the section of RFC 9113.
#[test]
fn a_response_in_doubt_is_none() {
    let twice = [("content-length", "5"), ("content-length", "6")];
    for (status, fields, ended, section, reason) in [
        (101, &[][..], false, "8.6", Malformed::Http1),
        (
            200,
            &[("connection", "close")],
            true,
            "8.2.2",
            Malformed::ConnectionField,
        ),
        (
            200,
            &[("transfer-encoding", "x")],
            true,
            "8.2.2",
            Malformed::ConnectionField,
        ),
        (200, &twice, false, "8.1.1", Malformed::Length),
        (200, &twice[..1], true, "8.1.1", Malformed::Length),
        (200, &[("x", "a ")], true, "8.2.1", Malformed::FieldValue),
    ] {
        assert_eq!(
            upstream(status, fields, &GET, ended),
            Err(reason),
            "{section}"
        );
    }
}

#[test]
fn an_accepted_tunnel_is_a_switch_of_protocols() {
    let question = Question {
        is_head: false,
        tunnel: Some(Opened::WebSocket {
            accept: "YWNjZXB0".to_owned(),
        }),
    };
    let (text, carried) = upstream(200, &[("x", "1")], &question, false).unwrap();
    assert_eq!(
        text,
        "HTTP/1.1 101 Switching Protocols\r\nx: 1\r\nConnection: upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Accept: YWNjZXB0\r\n\r\n"
    );
    assert_eq!(carried, Carried::Tunnel);
    let (text, carried) = upstream(403, &[], &question, true).unwrap();
    assert!(text.starts_with("HTTP/1.1 403 Forbidden\r\n"));
    assert_eq!(carried, Carried::None);
}

#[test]
fn a_connect_is_answered_by_any_2xx_and_then_a_tunnel() {
    let question = Question {
        is_head: false,
        tunnel: Some(Opened::Connect),
    };
    let length = [("content-length", "7")];
    let (text, carried) = upstream(200, &length, &question, false).unwrap();
    // RFC 9110, section 9.3.6: a length is to be ignored.
    assert_eq!(text, "HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(carried, Carried::Tunnel);
    let (text, carried) = upstream(502, &length, &question, false).unwrap();
    assert!(text.contains("content-length: 7"), "{text}");
    assert_eq!(carried, Carried::Plain);
}
