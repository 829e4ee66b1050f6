//! Streams: each routed and held on its own, ended and cancelled without touching the others.

use std::{
    io::{Read, Write},
    time::Duration,
};

use bytes::Bytes;
use flocker_api::gate::GateState;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Request, header};

use super::client::{Client, Raw, fields, frame, get, get_frame, post};
use crate::harness::{Conn, Edge, Upstream, eventually, hold, ok};

const A: &str = "http:a.test";
const B: &str = "http:b.test";

fn edge() -> (Edge, Upstream) {
    edge_with("")
}

fn edge_with(limits: &str) -> (Edge, Upstream) {
    let edge = Edge::start_with(limits, 1);
    let upstream = Upstream::listen();
    edge.route(A, &[upstream.address]);
    (edge, upstream)
}

fn wait_streams(edge: &Edge, count: u64) {
    eventually(&format!("{count} streams"), || {
        let line = format!("\nflocker_edge_h2_streams {count}\n");
        edge.metrics().contains(&line).then_some(())
    });
}

#[test]
fn a_stream_is_an_exchange_with_the_upstream() {
    let (edge, upstream) = edge();
    let mut client = Client::connect(edge.http());
    let mut request = get("a.test", "/p?q=1");
    let fields = request.headers_mut();
    fields.append(header::COOKIE, HeaderValue::from_static("a=1"));
    fields.append(header::COOKIE, HeaderValue::from_static("b=2"));
    let asked = client.send(request, true);
    let mut service = upstream.accept();
    let request = service.read_request();
    assert!(
        request
            .head
            .starts_with("GET /p?q=1 HTTP/1.1\r\nHost: a.test\r\n")
    );
    assert_eq!(request.field("cookie"), Some("a=1; b=2"));
    assert_eq!(request.field("x-forwarded-proto"), Some("http"));
    assert_eq!(request.field("connection"), None);
    service.send("HTTP/1.1 200 OK\r\nSet-Cookie: x\r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 5\r\n\r\nhello");
    let answer = client.answer(asked).unwrap();
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    assert_eq!(answer.fields.get("set-cookie").unwrap(), "x");
    assert!(!answer.fields.contains_key("x-hop"));
    // The upstream's connection serves the next stream.
    let asked = client.get("a.test", "/2");
    assert!(service.read_request().head.starts_with("GET /2 "));
    service.send(ok("2"));
    assert_eq!(client.answer(asked).unwrap().text(), "2");
}

#[test]
fn streams_are_held_each_at_its_own_gate() {
    let (edge, upstream) = edge();
    edge.route(B, &[Upstream::serve("from b")]);
    let mut client = Client::connect(edge.http());
    let token = edge.pause(A, hold(10_000));
    let parked: Vec<_> = (0..5).map(|_| client.get("a.test", "/parked")).collect();
    edge.wait_parked(A, 5);
    // The others of the connection go on.
    for _ in 0..10 {
        let asked = client.get("b.test", "/");
        assert_eq!(client.answer(asked).unwrap().text(), "from b");
    }
    edge.resume(A, token).unwrap();
    for _ in 0..5 {
        let mut service = upstream.accept();
        service.read_request();
        service.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    }
    for asked in parked {
        assert_eq!(client.answer(asked).unwrap().text(), "ok");
    }
}

#[test]
fn a_parked_stream_that_is_reset_frees_its_place_at_once() {
    let (edge, upstream) = edge();
    let mut client = Client::connect(edge.http());
    let token = edge.pause(A, hold(10_000));
    let mut first = client.get("a.test", "/first");
    let second = client.get("a.test", "/second");
    edge.wait_parked(A, 2);
    first.body.send_reset(Reason::CANCEL);
    edge.wait_parked(A, 1);
    wait_streams(&edge, 1);
    edge.resume(A, token).unwrap();
    let mut service = upstream.accept();
    assert!(service.read_request().head.starts_with("GET /second "));
    service.send(ok("2"));
    assert_eq!(client.answer(second).unwrap().text(), "2");
    assert!(!upstream.is_connected(Duration::from_millis(30)));
}

#[test]
fn a_connection_that_is_lost_takes_all_its_streams_along() {
    let (edge, upstream) = edge();
    let token = edge.pause(A, hold(10_000));
    let mut client = Client::connect(edge.http());
    let _parked: Vec<_> = (0..20).map(|_| client.get("a.test", "/")).collect();
    edge.wait_parked(A, 20);
    drop(client);
    edge.wait_parked(A, 0);
    wait_streams(&edge, 0);
    edge.resume(A, token).unwrap();
    assert!(!upstream.is_connected(Duration::from_millis(30)));
    assert_eq!(edge.show(A).gate.state, GateState::Open);
}

#[test]
fn a_stream_that_is_cancelled_in_flight_closes_its_upstream() {
    let (edge, upstream) = edge();
    let mut client = Client::connect(edge.http());
    let mut asked = client.get("a.test", "/");
    let mut service = upstream.accept();
    service.read_request();
    asked.body.send_reset(Reason::CANCEL);
    service.wait_gone();
    edge.wait_in_flight(A, 0);
    wait_streams(&edge, 0);
}

#[test]
fn bodies_flow_both_ways_whatever_their_framing() {
    let (edge, upstream) = edge();
    let mut client = Client::connect(edge.http());
    let body: Vec<u8> = (0..1_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
    for length in [true, false] {
        let mut request = post("a.test", "/up");
        if length {
            let length = HeaderValue::from(body.len());
            request.headers_mut().insert(header::CONTENT_LENGTH, length);
        }
        let mut asked = client.send(request, false);
        let expected = body.clone();
        let accepted = upstream.accept();
        let service = std::thread::spawn(move || {
            let mut service = accepted;
            let request = service.read_request();
            assert_eq!(request.field("content-length").is_some(), length);
            assert!(request.body == expected, "the body is another");
            match length {
                true => {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                        expected.len()
                    );
                    service.send(head);
                    service.send(&expected);
                }
                // Until its end.
                false => {
                    service.send("HTTP/1.0 200 OK\r\n\r\n");
                    service.send(&expected);
                }
            }
        });
        client.write(&mut asked.body, Bytes::from(body.clone()), true);
        let answer = client.answer(asked).unwrap();
        assert!(answer.status == 200 && answer.body == body);
        service.join().unwrap();
    }
}

#[test]
fn trailers_pass_both_ways() {
    let (edge, upstream) = edge();
    let mut client = Client::connect(edge.http());
    let mut asked = client.send(post("a.test", "/"), false);
    client.write(&mut asked.body, Bytes::from_static(b"abc"), false);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("6"));
    asked.body.send_trailers(trailers).unwrap();
    let mut service = upstream.accept();
    assert!(service.read_head().contains("Transfer-Encoding: chunked"));
    let expected = b"3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n";
    assert_eq!(service.read_exact(expected.len()), expected);
    service.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n");
    let answer = client.answer(asked).unwrap();
    assert_eq!(answer.text(), "ok");
    assert_eq!(answer.trailers.unwrap().get("grpc-status").unwrap(), "0");
}

#[test]
fn answers_without_a_body_and_interim_ones() {
    let (edge, upstream) = edge();
    let mut client = Client::connect(edge.http());
    let mut service = None;
    for (method, response, status) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            304,
        ),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            404,
        ),
    ] {
        let mut request = get("a.test", "/");
        *request.method_mut() = method.parse().unwrap();
        let asked = client.send(request, true);
        let service = service.get_or_insert_with(|| upstream.accept());
        service.read_request();
        service.send(response);
        let answer = client.answer(asked).unwrap();
        assert_eq!((answer.status, answer.text()), (status, ""), "{response}");
    }
}

#[test]
fn an_expectation_is_met_by_the_upstream() {
    let (edge, upstream) = edge();
    let mut raw = Raw::connect(edge.http());
    let head = fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "a.test"),
        ("expect", "100-continue"),
        ("content-length", "2"),
    ]);
    raw.send(frame(1, 4, 1, &head));
    let mut service = upstream.accept();
    assert!(service.read_head().contains("100-continue"));
    service.send("HTTP/1.1 100 Continue\r\n\r\n");
    // :status 100 is a literal; it does not end the stream.
    let interim = raw.next_of(1);
    assert_eq!(interim.flags & 1, 0);
    raw.send(frame(0, 1, 1, b"ok"));
    assert_eq!(service.read_exact(2), b"ok");
    service.send(ok("done"));
    assert_eq!(raw.next_of(1).payload.first(), Some(&0x88));
    assert_eq!(raw.next_of(0).payload, b"done");
}

#[test]
fn an_answer_that_breaks_off_is_no_end() {
    let (edge, upstream) = edge();
    let mut client = Client::connect(edge.http());
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
    ] {
        let asked = client.get("a.test", "/");
        let mut service = upstream.accept();
        service.read_request();
        service.send(response);
        let (_, mut body) = client.head(asked.response).unwrap().into_parts();
        assert_eq!(client.data(&mut body).unwrap().unwrap(), "half");
        drop(service);
        let end = client.data(&mut body).unwrap().unwrap_err();
        assert_eq!(end.reason(), Some(Reason::INTERNAL_ERROR));
    }
    // The connection goes on.
    let asked = client.get("none.test", "/");
    assert_eq!(client.answer(asked).unwrap().status, 404);
}

#[test]
fn an_early_answer_stops_the_upload_without_an_error() {
    let (edge, upstream) = edge();
    let mut client = Client::connect(edge.http());
    let mut asked = client.send(post("a.test", "/"), false);
    client.write(&mut asked.body, Bytes::from(vec![0; 10_000]), false);
    let mut service = upstream.accept();
    service.read_head();
    service.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno");
    let answer = client.answer(asked).unwrap();
    assert_eq!((answer.status, answer.text()), (413, "no"));
    wait_streams(&edge, 0);
}

#[test]
fn a_client_that_does_not_read_is_not_read_for() {
    let (edge, upstream) = edge();
    let mut client = Client::connect(edge.http());
    let asked = client.get("a.test", "/");
    let mut service = upstream.accept();
    service.read_request();
    service.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
    let before = edge.resident();
    service
        .stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let chunk = vec![0; 1 << 20];
    let mut sent = 0;
    while let Ok(count) = service.stream.write(&chunk) {
        sent += count;
        assert!(sent < 60_000_000, "all of it was taken");
    }
    // Its window is 64 KiB; what else was taken is in the kernel.
    assert!(edge.resident() < before + (8 << 20), "the edge holds it");
    drop(asked);
    service.wait_gone();
}

#[test]
fn more_streams_than_allowed_are_refused_and_the_rest_goes_on() {
    let (edge, upstream) = edge_with("h2_streams = 3");
    let token = edge.pause(A, hold(10_000));
    let mut raw = Raw::connect(edge.http());
    for stream in [1, 3, 5, 7] {
        raw.send(get_frame(stream, "a.test"));
    }
    let refused = raw.next_of(3);
    assert_eq!(
        (refused.stream, refused.payload),
        (7, 7u32.to_be_bytes().to_vec())
    );
    edge.wait_parked(A, 3);
    edge.resume(A, token).unwrap();
    for _ in 0..3 {
        let mut service = upstream.accept();
        service.read_request();
        service.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    }
    for _ in 0..3 {
        // :status 204 is in the static table.
        assert_eq!(raw.next_of(1).payload.first(), Some(&0x89));
    }
}

#[test]
fn an_edge_that_stops_finishes_the_streams_it_has() {
    let (mut edge, upstream) = edge();
    let mut client = Client::connect(edge.http());
    let asked = client.get("a.test", "/");
    let mut service = upstream.accept();
    service.read_request();
    let pid = rustix::process::Pid::from_raw(edge.pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(client.wait_goaway(), Some(Reason::NO_ERROR));
    service.send(ok("last"));
    assert_eq!(client.answer(asked).unwrap().text(), "last");
    assert!(edge.child().wait().unwrap().success());
}

#[test]
fn a_websocket_of_http2_is_an_upgrade_upstream() {
    let (edge, upstream) = edge();
    let mut client = Client::connect(edge.http());
    // The server's SETTINGS have come with the first answer.
    let first = client.get("none.test", "/");
    assert_eq!(client.answer(first).unwrap().status, 404);
    assert!(client.takes_extended_connect());
    let mut request = Request::connect("http://a.test/chat").body(()).unwrap();
    request
        .extensions_mut()
        .insert(h2::ext::Protocol::from_static("websocket"));
    let fields = request.headers_mut();
    fields.insert("sec-websocket-version", HeaderValue::from_static("13"));
    let mut asked = client.send(request, false);
    let mut service = upstream.accept();
    let head = service.read_request();
    assert!(head.head.starts_with("GET /chat HTTP/1.1\r\n"));
    assert_eq!(head.field("upgrade"), Some("websocket"));
    assert_eq!(head.field("connection"), Some("upgrade"));
    assert_eq!(head.field("sec-websocket-key").unwrap().len(), 24);
    service.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhi");
    let (parts, mut body) = client.head(asked.response).unwrap().into_parts();
    assert_eq!(parts.status, 200);
    assert!(!parts.headers.contains_key("sec-websocket-accept"));
    assert_eq!(client.data(&mut body).unwrap().unwrap(), "hi");
    client.write(&mut asked.body, Bytes::from_static(b"ping"), false);
    assert_eq!(service.read_exact(4), b"ping");
    service.send("pong");
    assert_eq!(client.data(&mut body).unwrap().unwrap(), "pong");
    // Each side's end is passed on.
    asked.body.send_data(Bytes::new(), true).unwrap();
    assert_eq!(service.stream.read(&mut [0]).unwrap(), 0);
    drop(service);
    let end = client.data(&mut body);
    assert!(end.is_none(), "{end:?}");
    wait_streams(&edge, 0);
}

#[test]
fn a_quiesce_waits_for_streams_in_flight() {
    let (edge, upstream) = edge();
    let mut client = Client::connect(edge.http());
    let asked = client.get("a.test", "/");
    let mut service: Conn = upstream.accept();
    service.read_request();
    let token = edge.pause(A, hold(10_000));
    let second = client.get("a.test", "/second");
    edge.wait_parked(A, 1);
    service.send(ok("first"));
    assert_eq!(client.answer(asked).unwrap().text(), "first");
    let quiesced = edge.quiesce(A, token, 5_000);
    assert_eq!(
        quiesced,
        flocker_api::gate::QuiesceReply::Quiesced { closed: 0 }
    );
    let new = Upstream::serve("from the new one");
    edge.switch(A, token, new, true).unwrap();
    assert_eq!(client.answer(second).unwrap().text(), "from the new one");
}
