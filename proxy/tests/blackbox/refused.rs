//! The table of refused requests, over a socket: none of them reaches the upstream.

use std::{io::Write, time::Duration};

use crate::harness::{Conn, Edge, Upstream, get, ok};

const REFUSED: &str = include_str!("../../testdata/requests/refused.txt");
const BODIES: &str = include_str!("../../testdata/requests/bodies.txt");

/// Status and request of every line.
fn rules() -> impl Iterator<Item = (u16, &'static str, Vec<u8>)> {
    REFUSED
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut parts = line.splitn(4, " | ");
            let status = parts.next().unwrap().parse().unwrap();
            let request = parts.nth(2).unwrap();
            (status, request, unescape(request))
        })
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let (escape, after) = rest.split_first().unwrap();
        rest = after;
        bytes.push(match escape {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b'\\' => b'\\',
            _ => {
                let digits = std::str::from_utf8(&rest[..2]).unwrap();
                rest = &rest[2..];
                u8::from_str_radix(digits, 16).unwrap()
            }
        });
    }
    bytes
}

#[test]
fn no_refused_request_reaches_the_upstream() {
    let edge = Edge::start();
    let upstream = Upstream::listen();
    for host in ["http:a.test", "http:b.test", "http:a.test/admin"] {
        edge.route(host, &[upstream.address]);
    }
    let mut count = 0;
    for (status, request, bytes) in rules() {
        let mut client = Conn::connect(edge.http());
        client.send(&bytes);
        let response = client.read_response();
        assert_eq!(response.status(), status, "{request}");
        assert_eq!(response.field("connection"), Some("close"), "{request}");
        client.assert_ends();
        count += 1;
    }
    assert!(count > 250, "the table was read: {count} rules");
    assert!(!upstream.is_connected(Duration::from_millis(50)));
    assert_eq!(edge.show("http:a.test").gate.in_flight, 0);
}

#[test]
fn no_refused_body_reaches_the_upstream_as_a_whole() {
    let edge = Edge::start();
    let upstream = Upstream::listen();
    edge.route("http:a.test", &[upstream.address]);
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let behind = get("/smuggled");
    let mut count = 0;
    for line in BODIES.lines() {
        let Some(body) = line.splitn(3, " | ").nth(2) else {
            continue;
        };
        let body = unescape(body);
        let mut client = Conn::connect(edge.http());
        client.send([head.as_bytes(), &body, behind.as_bytes()].concat());
        let mut service = upstream.accept();
        let seen = service.read_to_end_or_reset();
        let seen = seen.escape_ascii().to_string();
        assert!(!seen.contains("smuggled"), "{line}: {seen}");
        assert!(!seen.ends_with("\\r\\n0\\r\\n\\r\\n"), "{line}: {seen}");
        let answer = client.read_to_end_or_reset();
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
            "{line}: {answer}"
        );
        count += 1;
    }
    assert!(count > 50, "the table was read: {count} rules");
    edge.wait_in_flight("http:a.test", 0);
}

#[test]
fn a_refused_request_behind_a_good_one_does_not_spoil_it() {
    let edge = Edge::start();
    let upstream = Upstream::listen();
    edge.route("http:a.test", &[upstream.address]);
    let mut client = Conn::connect(edge.http());
    client.send(
        get("/good")
            + "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    );
    let mut service = upstream.accept();
    service.read_request();
    service.send(ok("good"));
    assert_eq!(client.read_response().text(), "good");
    assert_eq!(client.read_response().status(), 400);
    client.assert_ends();
    service.assert_silent();
}

#[test]
fn a_refusal_is_read_even_when_the_client_is_still_sending() {
    let edge = Edge::start();
    let mut client = Conn::connect(edge.http());
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: x\r\n\r\n";
    client.send(head);
    // The edge may stop reading at any time; what it said must still arrive.
    drop(client.stream.write_all(&vec![b'x'; 1 << 20]));
    assert_eq!(client.read_response().status(), 400);
}
