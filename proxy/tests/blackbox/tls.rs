//! TLS passed through by SNI: the upstream gets exactly the bytes that the client sent.

use std::time::Duration;

use crate::harness::{Conn, Edge, Upstream};

const HELLO: &[u8] = include_bytes!("../../testdata/hello/openssl-tls13.bin");
const NO_SNI: &[u8] = include_bytes!("../../testdata/hello/openssl-no-sni.bin");
const BELOW_EXAMPLE: &[u8] = include_bytes!("../../testdata/hello/python-alpn.bin");

fn edge(key: &str) -> (Edge, Upstream) {
    let edge = Edge::start_with("hello_timeout_ms = 400", 1);
    let upstream = Upstream::listen();
    edge.route(key, &[upstream.address]);
    (edge, upstream)
}

/// The hello cut into records of so many bytes.
fn in_records(hello: &[u8], fragment: usize) -> Vec<u8> {
    hello[5..]
        .chunks(fragment)
        .flat_map(|fragment| {
            let length = u16::try_from(fragment.len()).unwrap().to_be_bytes();
            [&[22, 3, 1][..], &length, fragment].concat()
        })
        .collect()
}

/// The hello reaches the upstream as it was sent, and what follows flows both ways.
fn assert_passes(edge: &Edge, upstream: &Upstream, pieces: &[&[u8]]) {
    let mut client = Conn::connect(edge.https());
    for piece in pieces {
        client.send(piece);
    }
    let sent = pieces.concat();
    let mut service = upstream.accept();
    assert_eq!(service.read_exact(sent.len()), sent);
    service.send("not really TLS");
    assert_eq!(client.read_exact(14), b"not really TLS");
    client.send("nor this");
    assert_eq!(service.read_exact(8), b"nor this");
    client.finish();
    service.assert_ends();
    drop(service);
    client.assert_ends();
}

#[test]
fn hellos_pass_in_any_segments_and_records() {
    let (edge, upstream) = edge("https:notes.demo");
    assert_passes(&edge, &upstream, &[HELLO]);
    for cut in [1, 5, 6, 43, HELLO.len() - 1] {
        let (first, second) = HELLO.split_at(cut);
        assert_passes(&edge, &upstream, &[first, second]);
    }
    let bytes: Vec<&[u8]> = HELLO.chunks(1).collect();
    assert_passes(&edge, &upstream, &bytes);
    for fragment in [1, 50, 200] {
        assert_passes(&edge, &upstream, &[&in_records(HELLO, fragment)]);
    }
    // With early data behind it.
    let early = [HELLO, &[23, 3, 3, 0, 3, 1, 2, 3]].concat();
    assert_passes(&edge, &upstream, &[&early]);
}

#[test]
fn a_wildcard_takes_names_of_one_label_more() {
    let (edge, upstream) = edge("https:*.example.com");
    assert_passes(&edge, &upstream, &[BELOW_EXAMPLE]);
}

#[test]
fn what_is_undecided_or_unknown_is_closed_and_goes_nowhere() {
    let (edge, upstream) = edge("https:other.demo");
    let plain = b"GET / HTTP/1.1\r\nHost: other.demo\r\n\r\n";
    let mut two_names = HELLO.to_vec();
    two_names[5] = 2;
    for bytes in [HELLO, NO_SNI, plain, &two_names] {
        let mut client = Conn::connect(edge.https());
        client.send(bytes);
        client.wait_gone();
    }
    // Half a hello and no more; and half of one and the end.
    let mut slow = Conn::connect(edge.https());
    slow.send(&HELLO[..HELLO.len() / 2]);
    slow.wait_gone();
    let mut half = Conn::connect(edge.https());
    half.send(&HELLO[..HELLO.len() / 2]);
    half.finish();
    half.wait_gone();
    let mut huge = Conn::connect(edge.https());
    huge.send([22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff]);
    huge.wait_gone();
    assert!(!upstream.is_connected(Duration::from_millis(50)));
}

#[test]
fn a_parked_hello_is_delivered_after_the_resume() {
    let (edge, upstream) = edge("https:notes.demo");
    let token = edge.pause("https:notes.demo", crate::harness::hold(5_000));
    let mut client = Conn::connect(edge.https());
    client.send(HELLO);
    edge.wait_parked("https:notes.demo", 1);
    assert_eq!(
        edge.show("https:notes.demo").gate.parked_bytes,
        HELLO.len() as u64
    );
    assert!(!upstream.is_connected(Duration::from_millis(20)));
    edge.resume("https:notes.demo", token).unwrap();
    let mut service = upstream.accept();
    assert_eq!(service.read_exact(HELLO.len()), HELLO);
}
