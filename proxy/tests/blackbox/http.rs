//! HTTP/1.1 through the edge: framing, persistence, bodies, upstreams that fail.
//!
//! It is long because it holds a story per rule of HTTP/1.1.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use crate::harness::{Conn, Edge, Upstream, eventually, get, nobody, ok, post};

const KEY: &str = "http:a.test";

/// An edge with one route to a scripted upstream.
fn edge() -> (Edge, Upstream) {
    edge_with("")
}

fn edge_with(limits: &str) -> (Edge, Upstream) {
    let edge = Edge::start_with(limits, 1);
    let upstream = Upstream::listen();
    edge.route(KEY, &[upstream.address]);
    (edge, upstream)
}

/// Many bytes that are all different from their neighbours.
fn pattern(count: usize) -> Vec<u8> {
    let mut state = 1u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(count)
    .collect()
}

#[test]
fn connections_are_kept_on_both_sides() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send(get("/1"));
    let mut service = upstream.accept();
    for path in ["/1", "/2", "/3"] {
        let request = service.read_request();
        assert!(
            request
                .head
                .starts_with(&format!("GET {path} HTTP/1.1\r\n"))
        );
        assert_eq!(request.field("host"), Some("a.test"));
        assert_eq!(request.field("x-forwarded-proto"), Some("http"));
        assert!(
            request
                .field("x-forwarded-for")
                .unwrap()
                .starts_with("127.")
        );
        service.send(ok(path));
        let response = client.read_response();
        assert_eq!((response.status(), response.text()), (200, path));
        match path {
            "/1" => client.send(get("/2")),
            // The upstream's connection serves another client, too.
            _ => {
                client = Conn::connect(edge.http());
                client.send(get("/3"));
            }
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send([get("/1"), post("/2", "hello"), get("/3")].concat());
    let mut service = upstream.accept();
    for (path, body) in [("/1", ""), ("/2", "hello"), ("/3", "")] {
        let request = service.read_request();
        assert!(request.head.contains(path), "{}", request.head);
        assert_eq!(request.text(), body);
        service.send(ok(path));
    }
    for path in ["/1", "/2", "/3"] {
        assert_eq!(client.read_response().text(), path);
    }
}

#[test]
fn answers_without_bodies_leave_the_connection_in_step() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send("HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let mut service = upstream.accept();
    service.read_request();
    service.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
    let head = client.read_head();
    assert!(head.contains("Content-Length: 1000\r\n"), "{head}");
    for start in ["204 No Content", "304 Not Modified"] {
        client.send(get("/"));
        service.read_request();
        service.send(format!("HTTP/1.1 {start}\r\nX-A: 1\r\n\r\n"));
        assert!(client.read_head().starts_with(&format!("HTTP/1.1 {start}")));
    }
    client.send(get("/"));
    service.read_request();
    service.send(ok("still in step"));
    assert_eq!(client.read_response().text(), "still in step");
}

#[test]
fn chunked_bodies_pass_both_ways_in_any_pieces() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    let body = "5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nDigest: z\r\n\r\n";
    for piece in body.as_bytes().chunks(3) {
        client.send(piece);
    }
    client.send(get("/next"));
    let mut service = upstream.accept();
    assert_eq!(service.read_request().text(), "hello world");
    service.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in body.as_bytes().chunks(4) {
        service.send(piece);
    }
    assert_eq!(client.read_response().text(), "hello world");
    assert!(service.read_request().head.starts_with("GET /next "));
    service.send(ok("next"));
    assert_eq!(client.read_response().text(), "next");
}

#[test]
fn a_malformed_chunk_ends_both_connections() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send("5\r\nhello\r\n");
    let mut service = upstream.accept();
    service.read_head();
    client.send("5\nhello\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let seen = service.read_to_end_or_reset();
    assert!(!seen.windows(8).any(|bytes| bytes == b"smuggled"));
    assert!(!seen.ends_with(b"0\r\n\r\n"), "the body has no end");
    let answer = client.read_to_end_or_reset();
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
        "{answer}"
    );
}

#[test]
fn a_malformed_chunk_of_a_response_is_not_passed_on() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send(get("/"));
    let mut service = upstream.accept();
    service.read_request();
    service.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n-1\r\n");
    let answer = client.read_to_end_or_reset();
    assert!(!answer.ends_with(b"0\r\n\r\n"), "the body has no end");
    service.wait_gone();
}

#[test]
fn a_client_that_expects_100_gets_it_from_the_upstream() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send(
        "POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    let mut service = upstream.accept();
    let head = service.read_head();
    assert!(head.contains("Expect: 100-continue\r\n"), "{head}");
    service.send("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.read_response().status(), 100);
    client.send("hello");
    assert_eq!(service.read_exact(5), b"hello");
    service.send("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
    assert_eq!(client.read_response().status(), 103);
    service.send(ok("done"));
    assert_eq!(client.read_response().text(), "done");
    assert_eq!(client_next(&mut client, &mut service), "next");
}

fn client_next(client: &mut Conn, service: &mut Conn) -> String {
    client.send(get("/next"));
    service.read_request();
    service.send(ok("next"));
    client.read_response().text().to_owned()
}

#[test]
fn an_answer_in_place_of_100_ends_the_exchange_in_order() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send(
        "POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    let mut service = upstream.accept();
    service.read_head();
    service.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.read_response().status(), 417);
    // Whether the client sends the body now is unknown: neither connection is used again.
    service.wait_gone();
}

#[test]
fn large_bodies_pass_whole_in_both_directions() {
    let (edge, upstream) = edge();
    let body = pattern(24 << 20);
    let mut client = Conn::connect(edge.http());
    let mut sender = Conn::new(client.stream.try_clone().unwrap());
    let sent = body.clone();
    let sending = std::thread::spawn(move || {
        let length = sent.len();
        sender.send(format!(
            "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n"
        ));
        sender.send(sent);
    });
    let mut service = upstream.accept();
    let request = service.read_request();
    sending.join().unwrap();
    assert!(
        request.body == body,
        "the request's body is not what was sent"
    );
    let returned = body.clone();
    let answering = std::thread::spawn(move || {
        let length = returned.len();
        service.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
        ));
        service.send(returned);
        service
    });
    assert!(
        client.read_response().body == body,
        "the response's body is not what was sent"
    );
    let mut service = answering.join().unwrap();
    assert_eq!(client_next(&mut client, &mut service), "next");
}

#[test]
fn a_body_without_length_ends_with_its_connection() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send(get("/"));
    let mut service = upstream.accept();
    service.read_request();
    service.send("HTTP/1.1 200 OK\r\n\r\nup to ");
    service.send("the end");
    drop(service);
    let response = client.read_response();
    assert_eq!(response.field("connection"), Some("close"));
    assert_eq!(response.text(), "up to the end");
}

#[test]
fn clients_of_http_1_0_are_served() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n");
    let mut service = upstream.accept();
    service.read_request();
    service.send("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let response = client.read_response();
    assert_eq!(response.text(), "ok");
    assert_eq!(response.field("connection"), Some("close"));
    client.assert_ends();
}

#[test]
fn a_client_that_wants_its_connection_closed_gets_that() {
    let (edge, upstream) = edge();
    for _ in 0..2 {
        let mut client = Conn::connect(edge.http());
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
        let mut service = upstream.accept();
        assert_eq!(service.read_request().field("connection"), None);
        service.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        let response = client.read_response();
        assert_eq!(response.field("connection"), Some("close"));
        client.assert_ends();
    }
}

#[test]
fn unknown_hosts_get_404_and_keep_their_connection() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    let other = get("/").replace("a.test", "b.test");
    assert_eq!(client.ask(&other).status(), 404);
    assert!(!upstream.is_connected(Duration::from_millis(1)));
    client.send(get("/"));
    let mut service = upstream.accept();
    service.read_request();
    service.send(ok("found"));
    assert_eq!(client.read_response().text(), "found");
}

#[test]
fn one_connection_may_ask_for_several_hosts() {
    let edge = Edge::start();
    let (a, b) = (Upstream::serve("a"), Upstream::serve("b"));
    edge.route(KEY, &[a]);
    edge.route("http:*.b.test", &[b]);
    let mut client = Conn::connect(edge.http());
    for (host, name) in [("a.test", "a"), ("x.b.test:80", "b"), ("A.TEST.", "a")] {
        let response = client.ask(get("/").replace("a.test", host));
        assert_eq!(response.text(), name, "{host}");
    }
}

#[test]
fn an_upstream_that_dies_before_its_answer_is_a_502() {
    // What is safe is asked a second time, and no more.
    for (request, tries) in [(get("/"), 2), (post("/", "x"), 1)] {
        let (edge, upstream) = edge();
        let mut client = Conn::connect(edge.http());
        client.send(request);
        for _ in 0..tries {
            let mut service = upstream.accept();
            service.read_request();
        }
        assert_eq!(client.read_response().status(), 502);
        assert!(
            !upstream.is_connected(Duration::from_millis(100)),
            "what may have been served is not sent again"
        );
        edge.wait_in_flight(KEY, 0);
    }
}

#[test]
fn an_upstream_that_dies_within_its_answer_is_not_hidden() {
    let (edge, upstream) = edge();
    for head in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let mut client = Conn::connect(edge.http());
        client.send(get("/"));
        let mut service = upstream.accept();
        service.read_request();
        service.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\n"));
        drop(service);
        let seen = client.read_to_end_or_reset();
        let seen = String::from_utf8_lossy(&seen);
        assert!(seen.starts_with("HTTP/1.1 200 OK\r\n"), "{seen}");
        assert!(seen.ends_with("\r\n\r\n5\r\n"), "{seen}");
    }
    edge.wait_in_flight(KEY, 0);
}

/// A kept connection, that the upstream closes when the next request arrives on it.
fn stale(edge: &Edge, upstream: &Upstream, request: &str) -> Conn {
    let mut client = Conn::connect(edge.http());
    client.send(get("/first"));
    let mut service = upstream.accept();
    service.read_request();
    service.send(ok("first"));
    client.read_response();
    client.send(request);
    service.read_request();
    drop(service);
    client
}

#[test]
fn an_idempotent_request_is_sent_again_when_its_kept_connection_was_stale() {
    let (edge, upstream) = edge();
    let mut client = stale(&edge, &upstream, &get("/again"));
    let mut service = upstream.accept();
    assert!(service.read_request().head.contains("/again"));
    service.send(ok("again"));
    assert_eq!(client.read_response().text(), "again");
}

#[test]
fn a_post_is_not_sent_again() {
    let (edge, upstream) = edge();
    let mut client = stale(&edge, &upstream, &post("/again", "x"));
    assert_eq!(client.read_response().status(), 502);
    assert!(!upstream.is_connected(Duration::from_millis(100)));
}

#[test]
fn an_idle_connection_that_the_upstream_closed_is_not_used() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send(get("/1"));
    let mut service = upstream.accept();
    service.read_request();
    service.send(ok("1"));
    client.read_response();
    drop(service);
    // A POST is never repeated: it must not be tried on the dead connection.
    for _ in 0..20 {
        client.send(post("/2", "x"));
        let mut service = upstream.accept();
        assert_eq!(service.read_request().text(), "x");
        service.send(ok("2"));
        assert_eq!(client.read_response().text(), "2");
        drop(service);
    }
}

#[test]
fn a_restarting_upstream_looks_like_latency() {
    let (edge, upstream) = edge();
    let address = upstream.address;
    let target = nobody();
    edge.route(KEY, &[target]);
    let mut client = Conn::connect(edge.http());
    let started = Instant::now();
    client.send(get("/"));
    client.assert_silent();
    // It comes up at its address.
    let listener = std::net::TcpListener::bind(target).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut service = Conn::new(stream);
    service.read_request();
    service.send(ok("up"));
    assert_eq!(client.read_response().text(), "up");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_ne!(address, target);
}

#[test]
fn an_upstream_that_stays_down_is_told_after_a_bounded_time() {
    let edge = Edge::start_with("connect_hold_ms = 300", 1);
    edge.route(KEY, &[nobody()]);
    let mut client = Conn::connect(edge.http());
    let started = Instant::now();
    let response = client.ask(get("/"));
    assert!([502, 503].contains(&response.status()), "{}", response.head);
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_millis(250), "{elapsed:?}");
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    edge.wait_in_flight(KEY, 0);
    assert_eq!(edge.show(KEY).failed, 1);
}

#[test]
fn of_two_upstreams_the_one_that_answers_is_used() {
    let edge = Edge::start();
    edge.route(KEY, &[nobody(), Upstream::serve("second")]);
    for _ in 0..4 {
        let mut client = Conn::connect(edge.http());
        assert_eq!(client.ask(get("/")).text(), "second");
    }
}

#[test]
fn a_silent_upstream_is_a_504() {
    let (edge, upstream) = edge_with("response_timeout_ms = 200");
    let mut client = Conn::connect(edge.http());
    client.send(get("/"));
    let mut service = upstream.accept();
    service.read_request();
    assert_eq!(client.read_response().status(), 504);
    service.wait_gone();
}

#[test]
fn a_slow_head_is_a_408_and_an_idle_connection_just_ends() {
    let (edge, _upstream) = edge_with("head_timeout_ms = 200\nkeep_alive_ms = 300");
    let mut client = Conn::connect(edge.http());
    client.send("GET / HTTP/1.1\r\nHost: a");
    assert_eq!(client.read_response().status(), 408);
    client.assert_ends();
    let mut idle = Conn::connect(edge.http());
    idle.assert_ends();
}

#[test]
fn a_body_that_stalls_ends_the_exchange() {
    let (edge, upstream) = edge_with("body_timeout_ms = 200");
    let mut client = Conn::connect(edge.http());
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhalf");
    let mut service = upstream.accept();
    service.read_head();
    service.wait_gone();
    client.wait_gone();
    edge.wait_in_flight(KEY, 0);
}

#[test]
fn ambiguous_answers_are_a_502_and_their_connection_is_closed() {
    let (edge, upstream) = edge();
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: +5",
        "Transfer-Encoding: gzip, chunked",
        "X-A: 1\n",
        "Content-Length : 5",
    ] {
        let mut client = Conn::connect(edge.http());
        client.send(get("/"));
        let mut service = upstream.accept();
        service.read_request();
        service.send(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nhello"));
        assert_eq!(client.read_response().status(), 502, "{fields:?}");
        service.wait_gone();
    }
}

#[test]
fn bytes_after_an_answer_do_not_reach_the_next_client() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send(get("/1"));
    let mut service = upstream.accept();
    service.read_request();
    service.send(ok("1") + &ok("nobody asked"));
    assert_eq!(client.read_response().text(), "1");
    client.send(get("/2"));
    let mut service = upstream.accept();
    service.read_request();
    service.send(ok("2"));
    assert_eq!(client.read_response().text(), "2");
}

#[test]
fn an_upgrade_is_a_tunnel_only_after_101() {
    let (edge, upstream) = edge();
    let upgrade = "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\n\r\n";
    let mut client = Conn::connect(edge.http());
    client.send(upgrade);
    let mut service = upstream.accept();
    let request = service.read_request();
    assert_eq!(request.field("upgrade"), Some("websocket"));
    assert_eq!(request.field("connection"), Some("upgrade"));
    // The first tunnelled bytes come in one piece with the head.
    service.send(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi",
    );
    let response = client.read_response();
    assert_eq!(response.status(), 101);
    assert_eq!(response.field("upgrade"), Some("websocket"));
    assert_eq!(client.read_exact(2), b"hi");
    client.send("GET /not-a-request\n\0");
    assert_eq!(service.read_exact(20), b"GET /not-a-request\n\0");
    client.finish();
    service.assert_ends();
    service.send("bye");
    drop(service);
    assert_eq!(client.read_to_end(), b"bye");
}

#[test]
fn an_upgrade_that_is_refused_stays_http() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    // What follows the request is not tunnel data before the 101; it is the next request.
    client.send(
        "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\
         GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n",
    );
    let mut service = upstream.accept();
    service.read_request();
    service.assert_silent();
    service.send(ok("no"));
    assert_eq!(client.read_response().text(), "no");
    assert!(service.read_request().head.starts_with("GET /next "));
    service.send(ok("next"));
    assert_eq!(client.read_response().text(), "next");
    let mut client = Conn::connect(edge.http());
    client.send(get("/"));
    service.read_request();
    // Nobody asked for this.
    service.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n");
    assert_eq!(client.read_response().status(), 502);
}

#[test]
fn an_early_answer_reaches_the_client() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\nbeginning");
    let mut service = upstream.accept();
    service.read_head();
    service.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!");
    let response = client.read_response();
    assert_eq!((response.status(), response.text()), (413, "no!"));
    edge.wait_in_flight(KEY, 0);
}

#[test]
fn a_client_that_leaves_is_noticed() {
    let (edge, upstream) = edge();
    let before = edge.descriptors();
    for _ in 0..10 {
        let mut client = Conn::connect(edge.http());
        client.send(get("/"));
        let mut service = upstream.accept();
        service.read_request();
        edge.wait_in_flight(KEY, 1);
        client.reset();
        service.wait_gone();
        edge.wait_in_flight(KEY, 0);
    }
    eventually("no descriptor is left", || {
        (edge.descriptors() <= before).then_some(())
    });
    assert_eq!(edge.status().sessions, 0);
}

#[test]
fn slow_readers_do_not_fill_memory() {
    let (edge, upstream) = edge();
    let mut clients = Vec::new();
    let before = edge.resident();
    for _ in 0..6 {
        let mut client = Conn::connect(edge.http());
        client.send(get("/"));
        let mut service = upstream.accept();
        service.read_request();
        let length = 1 << 30;
        service.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
        ));
        fill_up(&mut service);
        clients.push((client, service));
    }
    let grown = edge.resident().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes for 6 slow readers");
}

/// Sends until nothing more is taken.
fn fill_up(conn: &mut Conn) {
    let short = Duration::from_millis(100);
    conn.stream.set_write_timeout(Some(short)).unwrap();
    let block = vec![b'x'; 1 << 16];
    while conn.stream.write(&block).is_ok() {}
}

#[test]
fn many_pipelined_requests_do_not_fill_memory() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send(get("/first"));
    let mut service = upstream.accept();
    service.read_request();
    let before = edge.resident();
    // The first is never answered; what waits behind it stays in the kernel.
    fill_up(&mut client);
    let grown = edge.resident().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes");
    assert_eq!(edge.show(KEY).gate.in_flight, 1);
}

#[test]
fn a_slow_reader_of_chunks_does_not_fill_memory() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send(get("/"));
    let mut service = upstream.accept();
    service.read_request();
    service.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40000000\r\n");
    let before = edge.resident();
    fill_up(&mut service);
    let grown = edge.resident().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes");
    drop(client);
}

#[test]
fn a_client_that_has_said_all_is_still_answered() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send(get("/"));
    client.finish();
    let mut service = upstream.accept();
    service.read_request();
    service.send(ok("answered"));
    assert_eq!(client.read_response().text(), "answered");
    client.assert_ends();
    edge.wait_in_flight(KEY, 0);
}

#[test]
fn a_connection_that_its_upstream_wants_closed_is_not_used_again() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    for _ in 0..3 {
        client.send(get("/"));
        let mut service = upstream.accept();
        service.read_request();
        service.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1");
        let response = client.read_response();
        assert_eq!(response.text(), "1");
        // That is between the edge and the upstream.
        assert_eq!(response.field("connection"), None);
        service.assert_ends();
    }
}

#[test]
fn a_head_that_trickles_is_ended_in_time() {
    let (edge, upstream) = edge_with("head_timeout_ms = 300");
    let mut client = Conn::connect(edge.http());
    let started = Instant::now();
    for byte in get("/").bytes().cycle().take(40) {
        if client.stream.write_all(&[byte]).is_err() {
            break;
        }
        let mut seen = [0; 512];
        let short = Duration::from_millis(30);
        client.stream.set_read_timeout(Some(short)).unwrap();
        if let Ok(count) = client.stream.read(&mut seen) {
            assert!(seen[..count].starts_with(b"HTTP/1.1 408 "));
            assert!(started.elapsed() < Duration::from_secs(2));
            assert!(!upstream.is_connected(Duration::from_millis(1)));
            return;
        }
    }
    panic!("a trickling head was never ended");
}

#[test]
fn answers_of_the_edge_to_head_have_no_body() {
    let (edge, _upstream) = edge();
    let mut client = Conn::connect(edge.http());
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: unknown.test\r\n\r\n");
        let head = client.read_head();
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    }
}

#[test]
fn past_the_limit_of_sessions_nobody_else_is_taken() {
    let edge = Edge::start_with("sessions = 2", 1);
    edge.route(KEY, &[Upstream::serve("x")]);
    let mut first = Conn::connect(edge.http());
    let mut second = Conn::connect(edge.http());
    assert_eq!(first.ask(get("/")).text(), "x");
    assert_eq!(second.ask(get("/")).text(), "x");
    let mut third = Conn::connect(edge.http());
    third.send(get("/"));
    // It waits in the kernel until one of the others leaves.
    third.assert_silent();
    drop(first);
    assert_eq!(third.read_response().text(), "x");
    assert_eq!(second.ask(get("/")).text(), "x");
}
