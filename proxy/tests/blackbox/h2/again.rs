//! Requests that an upstream has not begun with, sent again with their bodies; connections to
//! upstreams that are one client's; CONNECT; windows that parked uploads do not take from others.

use bytes::Bytes;
use flocker_api::{
    route::{Operation, Route, UpstreamProtocol},
    upstream::SendProxy,
};
use h2::Reason;
use http::{Request, Response};

use super::{
    client::{Client, Raw, frame, post},
    upstreams::{Service, answer, route},
};
use crate::harness::{Conn, Edge, Upstream, get as get1, hold, parse, post as post1};

const KEY: &str = "http:a.test";

#[test]
fn a_stream_that_is_refused_is_sent_again_with_what_there_is_of_its_body() {
    let edge = Edge::start();
    let service = Service::start();
    route(&edge, &[service.address]);
    let mut client = Client::connect(edge.http());
    // Its end is not there yet, and then it is.
    let mut asked = client.send(post("a.test", "/"), false);
    client.write(&mut asked.body, Bytes::from_static(b"first "), false);
    let (_, request, mut respond) = service.next();
    assert_eq!(service.some(request, 6), b"first ");
    respond.send_reset(Reason::REFUSED_STREAM);
    let (_, request, respond) = service.next();
    client.write(&mut asked.body, Bytes::from_static(b"second"), true);
    assert_eq!(service.whole(request).0, b"first second");
    answer(respond, "both");
    assert_eq!(client.answer(asked).unwrap().text(), "both");
    // The same of HTTP/1.1, and the connection serves another request.
    let mut client = Conn::connect(edge.http());
    client.send(post1("/", "body") + &get1("/next"));
    let (_, request, mut respond) = service.next();
    assert_eq!(service.some(request, 4), b"body");
    respond.send_reset(Reason::REFUSED_STREAM);
    let (_, request, respond) = service.next();
    assert_eq!(service.whole(request).0, b"body");
    answer(respond, "1");
    assert_eq!(client.read_response().text(), "1");
    let (_, request, respond) = service.next();
    assert_eq!(request.uri().path(), "/next");
    answer(respond, "2");
    assert_eq!(client.read_response().text(), "2");
}

#[test]
fn a_body_that_is_too_long_to_be_kept_is_not_sent_again() {
    let edge = Edge::start_with("upstream_h2_replay_bytes = 1000", 1);
    let service = Service::start();
    route(&edge, &[service.address]);
    for (length, status) in [(900, 200), (1001, 502)] {
        let mut client = Client::connect(edge.http());
        let mut asked = client.send(post("a.test", "/"), false);
        client.write(&mut asked.body, Bytes::from(vec![b'x'; length]), true);
        let (_, request, mut respond) = service.next();
        assert_eq!(service.some(request, length).len(), length);
        respond.send_reset(Reason::REFUSED_STREAM);
        if status == 200 {
            let (_, request, respond) = service.next();
            assert_eq!(service.whole(request).0.len(), length);
            answer(respond, "yes");
        }
        assert_eq!(client.answer(asked).unwrap().status, status, "{length}");
    }
}

#[test]
fn a_goaway_before_a_stream_sends_its_body_elsewhere_and_one_after_it_does_not() {
    let edge = Edge::start();
    let upstream = Upstream::listen();
    route(&edge, &[upstream.address]);
    let mut client = Client::connect(edge.http());
    let send = |client: &mut Client, body: &'static [u8]| {
        let mut asked = client.send(post("a.test", "/"), false);
        client.write(&mut asked.body, Bytes::from_static(body), true);
        asked
    };
    let first = send(&mut client, b"first");
    let mut service = raw_service(&upstream);
    let stream = data(&mut service, b"first");
    let second = send(&mut client, b"second");
    data(&mut service, b"second");
    let goaway = [stream.to_be_bytes(), 0u32.to_be_bytes()].concat();
    service.send(frame(7, 0, 0, &goaway));
    let mut elsewhere = raw_service(&upstream);
    let moved = data(&mut elsewhere, b"second");
    elsewhere.send(frame(1, 5, moved, &[0x89]));
    assert_eq!(client.answer(second).unwrap().status, 204);
    // The first was begun with, and is lost: a POST is not sent twice.
    drop(service);
    assert_eq!(client.answer(first).unwrap().status, 502);
}

/// A service that speaks frames, to whatever says its preface next.
fn raw_service(upstream: &Upstream) -> Raw {
    let mut raw = Raw(upstream.accept());
    assert_eq!(raw.0.read_exact(24), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    raw.send(frame(4, 0, 0, &[]));
    raw
}

/// The stream on which exactly these bytes come.
fn data(service: &mut Raw, expected: &[u8]) -> u32 {
    let mut body = Vec::new();
    loop {
        let part = service.next_of(0);
        body.extend_from_slice(&part.payload);
        if body.len() >= expected.len() {
            assert_eq!(body, expected);
            return part.stream;
        }
    }
}

#[test]
fn a_connection_that_speaks_of_one_client_is_shared_by_its_requests_alone() {
    let edge = Edge::start();
    let upstream = Upstream::listen();
    let mut route =
        Route::new(parse(KEY), [upstream.address]).with_upstream_protocol(UpstreamProtocol::H2);
    route.send_proxy = Some(SendProxy::V1);
    edge.apply(vec![Operation::Put { route }]).unwrap();
    for _ in 0..2 {
        let mut client = Conn::connect(edge.http());
        let own = client.stream.local_addr().unwrap();
        client.send(get1("/1"));
        let mut conn = upstream.accept();
        let line = format!(
            "PROXY TCP4 {} {} {} {}\r\n",
            own.ip(),
            edge.http().ip(),
            own.port(),
            edge.http().port()
        );
        assert_eq!(conn.read_exact(line.len()), line.as_bytes());
        assert_eq!(conn.read_exact(24), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut service = Raw(conn);
        service.send(frame(4, 0, 0, &[]));
        for path in ["/1", "/2", "/3"] {
            if path != "/1" {
                client.send(get1(path));
            }
            let stream = service.next_of(1).stream;
            service.send(frame(1, 5, stream, &[0x89]));
            assert_eq!(client.read_response().status(), 204);
        }
        // The other client's requests come by another connection, though this one stands.
    }
}

#[test]
fn a_connect_is_a_connect_upstream() {
    let edge = Edge::start();
    let service = Service::start();
    let mut route =
        Route::new(parse(KEY), [service.address]).with_upstream_protocol(UpstreamProtocol::H2);
    route.allow_connect = true;
    edge.apply(vec![Operation::Put { route }]).unwrap();
    let serve = || {
        let (_, request, mut respond) = service.next();
        assert_eq!(request.method(), http::Method::CONNECT);
        assert_eq!(request.uri(), "a.test:22");
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        let mut body = request.into_body();
        let heard = service.runtime.block_on(body.data()).unwrap().unwrap();
        assert_eq!(heard, "ping");
        stream.send_data(Bytes::from_static(b"pong"), true).unwrap();
    };
    let mut client = Conn::connect(edge.http());
    client.send("CONNECT a.test:22 HTTP/1.1\r\nHost: a.test:22\r\n\r\nping");
    serve();
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(client.read_exact(4), b"pong");
    client.assert_ends();
    // And so is one of HTTP/2.
    let mut client = Client::connect(edge.http());
    let request = Request::connect("a.test:22").body(()).unwrap();
    let mut asked = client.send(request, false);
    client.write(&mut asked.body, Bytes::from_static(b"ping"), false);
    serve();
    let answer = client.answer(asked).unwrap();
    assert_eq!((answer.status, answer.text()), (200, "pong"));
    // What is refused is answered as anything else is.
    let mut client = Conn::connect(edge.http());
    client.send("CONNECT a.test:22 HTTP/1.1\r\nHost: a.test:22\r\n\r\n");
    let (_, _, mut respond) = service.next();
    let refusal = Response::builder().status(403).body(()).unwrap();
    respond.send_response(refusal, true).unwrap();
    assert_eq!(client.read_response().status(), 403);
}

#[test]
fn uploads_that_are_parked_or_stuck_leave_other_streams_their_window() {
    let edge = Edge::start_with("h2_streams = 40", 1);
    let upstream = Upstream::listen();
    edge.route(KEY, &[upstream.address]);
    let service = Upstream::listen();
    edge.route("http:b.test", &[service.address]);
    let mut client = Client::connect(edge.http());
    let token = edge.pause(KEY, hold(30_000));
    // Each fills the window of its stream: far more than connections begin with (65535).
    let window = 64 << 10;
    let mut parked = Vec::new();
    for _ in 0..39 {
        let mut asked = client.send(post("a.test", "/parked"), false);
        client.write(&mut asked.body, Bytes::from(vec![b'p'; window]), false);
        parked.push(asked);
    }
    edge.wait_parked(KEY, 39);
    // The next one has a window of its own, and it moves on as it is read.
    let mut asked = client.send(post("b.test", "/upload"), false);
    let body = Bytes::from(vec![b'b'; 4 * window]);
    let reader = std::thread::spawn(move || {
        let mut conn = service.accept();
        let request = conn.read_request();
        conn.send(crate::harness::ok("done"));
        request.body.len()
    });
    client.write(&mut asked.body, body, true);
    assert_eq!(client.answer(asked).unwrap().text(), "done");
    assert_eq!(reader.join().unwrap(), 4 * window);
    // What was parked is whole.
    edge.resume(KEY, token).unwrap();
    for asked in &mut parked {
        asked.body.send_data(Bytes::new(), true).unwrap();
    }
    for _ in 0..39 {
        let mut conn = upstream.accept();
        assert_eq!(conn.read_request().body.len(), window);
        conn.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    }
    for asked in parked {
        assert_eq!(client.answer(asked).unwrap().text(), "ok");
    }
}
