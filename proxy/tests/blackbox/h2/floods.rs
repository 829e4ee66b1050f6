//! Frames that cost more than they carry, and requests that could be read in two ways.

use std::time::Duration;

use super::client::{Client, Raw, fields, frame, get_frame};
use crate::harness::{Edge, Upstream, eventually};

const KEY: &str = "http:a.test";
/// Codes of RFC 9113, section 7.
const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

fn edge(limits: &str) -> Edge {
    let edge = Edge::start_with(limits, 1);
    edge.route(KEY, &[Upstream::serve("ok")]);
    edge
}

fn assert_alive(edge: &Edge) {
    let mut client = Client::connect(edge.http());
    let asked = client.get("a.test", "/");
    assert_eq!(client.answer(asked).unwrap().status, 200);
    eventually("nothing is left of the flood", || {
        let metrics = edge.metrics();
        (metrics.contains("\nflocker_edge_h2_connections 1\n")
            && metrics.contains("\nflocker_edge_h2_streams 0\n"))
        .then_some(())
    });
}

/// Opens streams and gives them up at once.
fn resets(count: u32) -> Vec<u8> {
    (0..count)
        .flat_map(|number| {
            let stream = 2 * number + 1;
            [
                get_frame(stream, "a.test"),
                frame(3, 0, stream, &8u32.to_be_bytes()),
            ]
            .concat()
        })
        .collect()
}

/// Streams whose window update makes the server reset them (MadeYouReset).
fn caused_resets(count: u32) -> Vec<u8> {
    (0..count)
        .flat_map(|number| {
            let stream = 2 * number + 1;
            [
                get_frame(stream, "a.test"),
                frame(8, 0, stream, &0x7fff_ffffu32.to_be_bytes()),
            ]
            .concat()
        })
        .collect()
}

/// One line for each kind: its limit, and what goes beyond it.
#[test]
fn each_flood_is_told_to_calm_down() {
    let open = get_frame(1, "b.test");
    let head = frame(1, 0, 1, &fields(&[(":method", "GET")]));
    let floods: [(&str, Vec<u8>); 8] = [
        ("h2_resets = 20", resets(21)),
        ("h2_resets = 20\nh2_streams = 1000", caused_resets(30)),
        ("h2_pings = 20", frame(6, 0, 0, &[0; 8]).repeat(21)),
        ("h2_settings = 20", frame(4, 0, 0, &[]).repeat(21)),
        (
            "h2_empty_data = 20",
            [
                frame(
                    1,
                    4,
                    1,
                    &fields(&[
                        (":method", "POST"),
                        (":scheme", "http"),
                        (":path", "/"),
                        (":authority", "a.test"),
                    ]),
                ),
                frame(0, 0, 1, &[]).repeat(21),
            ]
            .concat(),
        ),
        (
            "h2_continuations = 5",
            [head, frame(9, 0, 1, &fields(&[("a", "b")])).repeat(6)].concat(),
        ),
        (
            "h2_window_updates = 20",
            [open, frame(8, 0, 0, &1u32.to_be_bytes()).repeat(30)].concat(),
        ),
        (
            "h2_others = 20",
            frame(2, 0, 1, &[0, 0, 0, 0, 1]).repeat(21),
        ),
    ];
    for (limits, flood) in floods {
        let edge = edge(limits);
        let mut raw = Raw::connect(edge.http());
        raw.send(&flood);
        assert_eq!(raw.goaway(), ENHANCE_YOUR_CALM, "{limits}");
        assert!(
            edge.metrics().contains("flocker_edge_h2_floods_total 1\n"),
            "{limits}"
        );
        assert_alive(&edge);
    }
}

#[test]
fn a_head_that_unpacks_to_too_much_is_refused() {
    let edge = edge("head_bytes = 4096");
    let mut raw = Raw::connect(edge.http());
    // A field of 100 bytes is remembered, and then named 100 times by one byte each.
    let mut block = fields(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a.test"),
    ]);
    block.extend([0x40, 1, b'x', 100]);
    block.extend([b'y'; 100]);
    block.extend([0xbe; 100]);
    raw.send(frame(1, 5, 1, &block));
    let answer = raw.next_of(1);
    // :status 431, as a literal with the name from the static table.
    assert!(answer.payload.windows(3).any(|three| three == b"431") || answer.payload.len() < 40);
    assert_ne!(answer.payload.first(), Some(&0x88), "answered 200");
    assert_alive_after(&edge, raw);
}

fn assert_alive_after(edge: &Edge, raw: Raw) {
    drop(raw);
    assert_alive(edge);
}

const BASE: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "a.test"),
];

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [&BASE[..], more].concat()
}

fn without(name: &str) -> Vec<(&'static str, &'static str)> {
    let mut list = BASE.to_vec();
    list.retain(|(other, _)| *other != name);
    list
}

fn instead(name: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    [without(name), vec![(name, value)]].concat()
}

/// A line per rule: the section of RFC 9113, and a field section that breaks it.
#[rustfmt::skip]
fn rules() -> [(&'static str, Vec<(&'static str, &'static str)>); 22] {
    [
        ("8.2", with(&[("X-Upper", "1")])),
        ("8.2.1", with(&[("x y", "1")])),
        ("8.2.1", with(&[("x", "a\r\nx-evil: 1")])),
        ("8.2.1", with(&[("x", "a\0")])),
        ("8.2.1", with(&[("x", " a")])),
        ("8.2.2", with(&[("connection", "close")])),
        ("8.2.2", with(&[("transfer-encoding", "chunked")])),
        ("8.2.2", with(&[("te", "gzip")])),
        ("8.3", with(&[(":path", "/again")])),
        ("8.3", with(&[("x", "1"), (":authority", "b.test")])),
        ("8.3", with(&[(":unknown", "1")])),
        ("8.3", with(&[(":status", "200")])),
        ("8.3.1", without(":method")),
        ("8.3.1", without(":scheme")),
        ("8.3.1", without(":path")),
        ("8.3.1", without(":authority")),
        ("8.3.1", instead(":path", "")),
        ("8.3.1", instead(":path", "http://b.test/")),
        ("8.3.1", instead(":authority", "u@a.test")),
        ("8.3.1", with(&[("host", "b.test")])),
        ("8.1.1", with(&[("content-length", "3")])),
        ("8.1.1", with(&[("content-length", "0"), ("content-length", "0")])),
    ]
}

#[test]
fn what_could_be_read_in_two_ways_reaches_no_upstream() {
    let edge = Edge::start();
    let upstream = Upstream::listen();
    edge.route(KEY, &[upstream.address]);
    for (section, list) in rules() {
        let mut raw = Raw::connect(edge.http());
        raw.send(frame(1, 5, 1, &fields(&list)));
        let answer = loop {
            let frame = raw.next();
            if [1, 3, 7].contains(&frame.kind) {
                break frame;
            }
        };
        if answer.kind == 1 {
            // :status 400 is in the static table.
            let first = answer.payload.first();
            assert_eq!(first, Some(&0x8c), "{section}: {list:?}");
        } else {
            let code = &answer.payload[answer.payload.len() - 4..];
            let code = u32::from_be_bytes(code.try_into().unwrap());
            assert_eq!(code, PROTOCOL_ERROR, "{section}: {list:?}");
        }
    }
    assert!(!upstream.is_connected(Duration::from_millis(30)));
}

#[test]
fn a_preface_that_stops_halfway_is_no_request() {
    let edge = Edge::start_with("head_timeout_ms = 200", 1);
    let mut conn = crate::harness::Conn::connect(edge.http());
    conn.send(b"PRI * HTTP/2.0\r\n\r\nS");
    conn.wait_gone();
    // Nor is a connection kept that begins and then says nothing.
    let mut raw = Raw::connect(edge.http());
    assert_eq!(raw.goaway(), 0);
}
