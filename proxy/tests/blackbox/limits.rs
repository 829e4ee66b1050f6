//! Timeouts of HTTP, from outside: who is waited for, and for how long; and clients that try to
//! hold connections for nothing.

use std::{
    io::{ErrorKind, Read},
    time::{Duration, Instant},
};

use crate::harness::{Conn, Edge, Upstream, get, hold, ok};

const KEY: &str = "http:a.test";

fn edge(limits: &str) -> (Edge, Upstream) {
    let edge = Edge::start_with(limits, 1);
    let upstream = Upstream::listen();
    edge.route(KEY, &[upstream.address]);
    (edge, upstream)
}

/// Nothing comes for so long, not even an end.
fn assert_silent_for(conn: &mut Conn, time: Duration) {
    conn.stream.set_read_timeout(Some(time)).unwrap();
    let mut byte = [0];
    let error = conn.stream.read(&mut byte).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    conn.stream
        .set_read_timeout(Some(crate::harness::PATIENCE))
        .unwrap();
}

const MANY: Duration = Duration::from_millis(700);

#[test]
fn a_stream_of_events_may_be_silent_for_longer_than_a_body() {
    let (edge, upstream) = edge("body_timeout_ms = 100\nresponse_timeout_ms = 100");
    let mut client = Conn::connect(edge.http());
    client.send(get("/events"));
    let mut service = upstream.accept();
    service.read_request();
    service.send(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    client.read_head();
    for event in ["5\r\ndata1\r\n", "5\r\ndata2\r\n"] {
        assert_silent_for(&mut client, MANY);
        service.send(event);
        assert_eq!(client.read_exact(10), event.as_bytes());
    }
    // But not for ever.
    drop((client, service, edge));
    let (edge, upstream) = self::edge("body_timeout_ms = 100\nresponse_idle_ms = 300");
    let mut client = Conn::connect(edge.http());
    client.send(get("/events"));
    let mut service = upstream.accept();
    service.read_request();
    service.send("HTTP/1.1 200 OK\r\n\r\n");
    client.read_head();
    service.wait_gone();
    client.wait_gone();
}

#[test]
fn an_upgraded_connection_may_be_silent_for_longer_than_a_body() {
    let (edge, upstream) = edge("body_timeout_ms = 100\nresponse_timeout_ms = 100");
    let mut client = Conn::connect(edge.http());
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    let mut service = upstream.accept();
    service.read_request();
    service.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    client.read_head();
    assert_silent_for(&mut client, MANY);
    client.send("ping");
    assert_eq!(service.read_exact(4), b"ping");
}

#[test]
fn a_body_in_drips_is_a_408() {
    let (edge, upstream) = edge("body_timeout_ms = 300\nbody_rate = 1000");
    let mut client = Conn::connect(edge.http());
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\n");
    let mut service = upstream.accept();
    service.read_head();
    let started = Instant::now();
    // A byte at a time, as fast as the upstream shows them: progress, but no use.
    let mut sent = 0;
    client
        .stream
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let mut first = [0; 12];
    while client.stream.read(&mut first).is_err() {
        client.send("x");
        sent += 1;
        service.read_exact(1);
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "after {sent} bytes"
        );
    }
    assert_eq!(&first, b"HTTP/1.1 408");
    service.wait_gone();
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_left() {
    let (edge, upstream) = edge("body_timeout_ms = 200\nbody_rate = 1000");
    let mut client = Conn::connect(edge.http());
    client.send(get("/big"));
    let mut service = upstream.accept();
    service.read_request();
    let length = 64 << 20;
    service.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
    ));
    // The service is cut off while it sends, and not because it was slow.
    let chunk = vec![b'x'; 1 << 20];
    let mut cut = false;
    for _ in 0..64 {
        cut |= std::io::Write::write_all(&mut service.stream, &chunk).is_err();
    }
    assert!(cut);
    edge.wait_in_flight(KEY, 0);
    client.wait_gone();
}

#[test]
fn a_client_that_waits_for_100_is_told_by_the_edge_when_the_upstream_does_not() {
    let (edge, upstream) = edge("continue_timeout_ms = 50");
    let mut client = Conn::connect(edge.http());
    client.send(
        "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
    );
    let mut service = upstream.accept();
    service.read_head();
    assert_eq!(client.read_head(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body");
    assert_eq!(service.read_exact(4), b"body");
    // Late, and said already.
    service.send(format!("HTTP/1.1 100 Continue\r\n\r\n{}", ok("done")));
    assert_eq!(client.read_response().text(), "done");
}

#[test]
fn a_request_has_to_be_whole_in_time() {
    let (edge, upstream) = edge("request_timeout_ms = 300\nbody_timeout_ms = 10000");
    let mut client = Conn::connect(edge.http());
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhalf");
    let mut service = upstream.accept();
    service.read_head();
    assert_eq!(client.read_response().status(), 408);
    service.wait_gone();
}

/// Slowloris: many connections that never finish their heads. Others are served meanwhile, and
/// each ends in its time.
#[test]
fn heads_that_never_end_hold_nobody_up() {
    let (edge, _upstream) = edge("head_timeout_ms = 500");
    edge.route(KEY, &[Upstream::serve("well")]);
    let started = Instant::now();
    let mut slow: Vec<Conn> = (0..200)
        .map(|_| {
            let mut conn = Conn::connect(edge.http());
            conn.send("GET / HTTP/1.1\r\nHost: a.test\r\nX-");
            conn
        })
        .collect();
    let mut client = Conn::connect(edge.http());
    for _ in 0..20 {
        assert_eq!(client.ask(get("/")).text(), "well");
    }
    for conn in &mut slow {
        assert_eq!(conn.read_response().status(), 408);
    }
    assert!(started.elapsed() < Duration::from_secs(8));
}

/// A parked client is one that waits for us; it must not be able to make us keep more than its
/// head, nor to stay after its deadline by sending on.
#[test]
fn what_a_parked_client_sends_on_stays_with_the_kernel() {
    let (edge, upstream) = edge("");
    let token = edge.pause(KEY, hold(30_000));
    let mut client = Conn::connect(edge.http());
    let length = 100_000_000;
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n"
    ));
    edge.wait_parked(KEY, 1);
    let before = edge.resident();
    client
        .stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let chunk = vec![b'x'; 1 << 20];
    let mut blocked = false;
    for _ in 0..100 {
        blocked |= std::io::Write::write_all(&mut client.stream, &chunk).is_err();
        if blocked {
            break;
        }
    }
    assert!(blocked, "the kernel's buffers are bounded");
    assert!(edge.resident() < before + (2 << 20));
    assert!(edge.show(KEY).gate.parked_bytes < 1000);
    // An end would wait behind what the kernel holds; a reset does not.
    client.reset();
    edge.wait_parked(KEY, 0);
    edge.resume(KEY, token).unwrap();
    assert!(!upstream.is_connected(Duration::from_millis(20)));
}
