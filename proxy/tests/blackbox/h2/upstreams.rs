//! Upstreams that speak HTTP/2: shared connections, requests that go elsewhere, tunnels.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
};

use bytes::Bytes;
use flocker_api::{
    ErrorCode,
    route::{Operation, Route, UpstreamProtocol},
};
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};

use super::{
    client::{Client, Raw, frame, get, get_frame, post},
    tools::{has, say_missing},
};
use crate::harness::{Conn, Edge, PATIENCE, Upstream, eventually, get as get1, hold};
use crate::terminated::{Authority, put_route};

const KEY: &str = "http:a.test";

pub(crate) fn route(edge: &Edge, to: &[SocketAddr]) {
    let route = Route::new(KEY.parse().unwrap(), to.iter().copied())
        .with_upstream_protocol(UpstreamProtocol::H2);
    edge.apply(vec![Operation::Put { route }]).unwrap();
}

/// A service by the book: requests come out, and the test answers them.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) runtime: tokio::runtime::Runtime,
    requests: Receiver<(usize, Request<RecvStream>, SendResponse<Bytes>)>,
}

impl Service {
    pub(crate) fn start() -> Self {
        Self::start_with(h2::server::Builder::new())
    }

    fn start_with(builder: h2::server::Builder) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (sender, requests) = channel();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
        let listener = listener.unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            for number in 0.. {
                let (socket, _) = listener.accept().await.unwrap();
                let (builder, sender) = (builder.clone(), sender.clone());
                tokio::spawn(async move {
                    let mut connection = builder.handshake(socket).await.unwrap();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        if sender.send((number, request, respond)).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            address,
            runtime,
            requests,
        }
    }

    /// The next request, and by which connection it came.
    pub(crate) fn next(&self) -> (usize, Request<RecvStream>, SendResponse<Bytes>) {
        self.requests.recv_timeout(PATIENCE).unwrap()
    }

    /// So many bytes of a body that may have more.
    pub(crate) fn some(&self, request: Request<RecvStream>, count: usize) -> Vec<u8> {
        let mut body = request.into_body();
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let data = self.runtime.block_on(body.data()).unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            bytes.extend_from_slice(&data);
        }
        bytes
    }

    pub(crate) fn whole(&self, request: Request<RecvStream>) -> (Vec<u8>, Option<HeaderMap>) {
        let mut body = request.into_body();
        self.runtime.block_on(async {
            let mut bytes = Vec::new();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                bytes.extend_from_slice(&data);
            }
            (bytes, body.trailers().await.unwrap())
        })
    }
}

pub(crate) fn answer(mut respond: SendResponse<Bytes>, body: &'static str) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream
        .send_data(Bytes::from_static(body.as_bytes()), true)
        .unwrap();
}

#[test]
fn requests_of_http1_share_a_connection_of_http2() {
    let edge = Edge::start();
    let service = Service::start();
    route(&edge, &[service.address]);
    let mut clients: Vec<Conn> = (0..10).map(|_| Conn::connect(edge.http())).collect();
    for client in &mut clients {
        client.send(get1("/p?q"));
    }
    let mut held = Vec::new();
    for _ in 0..10 {
        let (number, request, respond) = service.next();
        assert_eq!(number, 0, "one connection serves all");
        assert_eq!(request.uri(), "http://a.test/p?q");
        assert_eq!(request.headers()["te"], "trailers");
        assert!(request.headers().contains_key("x-forwarded-for"));
        assert!(!request.headers().contains_key("connection"));
        held.push(respond);
    }
    for respond in held {
        answer(respond, "yes");
    }
    for client in &mut clients {
        assert_eq!(client.read_response().text(), "yes");
        // And the client's connection is kept.
        client.send(get1("/again"));
        answer(service.next().2, "again");
        assert_eq!(client.read_response().text(), "again");
    }
}

#[test]
fn http2_on_both_sides_keeps_bodies_and_trailers() {
    let edge = Edge::start();
    let service = Service::start();
    route(&edge, &[service.address]);
    let mut client = Client::connect(edge.http());
    let body = vec![7; 500_000];
    let mut asked = client.send(post("a.test", "/grpc"), false);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    let (_, request, mut respond) = service.next();
    let (received, sum) = std::thread::scope(|scope| {
        scope.spawn(|| {
            client.write(&mut asked.body, Bytes::from(body.clone()), false);
            asked.body.send_trailers(trailers.clone()).unwrap();
        });
        service.whole(request)
    });
    assert!(received == body && sum == Some(trailers.clone()));
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream
        .send_data(Bytes::from(vec![8; 60_000]), false)
        .unwrap();
    stream.send_trailers(trailers.clone()).unwrap();
    let answer = client.answer(asked).unwrap();
    assert!(answer.body == vec![8; 60_000] && answer.trailers == Some(trailers));
    // An answer that is nothing but fields, as gRPC has it for errors.
    let asked = client.get("a.test", "/");
    let mut response = Response::new(());
    response
        .headers_mut()
        .insert("grpc-status", HeaderValue::from_static("12"));
    service.next().2.send_response(response, true).unwrap();
    let answer = client.answer(asked).unwrap();
    assert_eq!((answer.status, answer.text()), (200, ""));
    assert_eq!(answer.fields["grpc-status"], "12");
}

#[test]
fn what_an_upstream_has_not_begun_with_goes_elsewhere() {
    let edge = Edge::start();
    let service = Service::start();
    route(&edge, &[service.address]);
    let mut client = Client::connect(edge.http());
    // It refuses one stream: the same request comes again, though it is no safe one.
    let mut request = post("a.test", "/");
    request
        .headers_mut()
        .insert("content-length", HeaderValue::from_static("0"));
    let asked = client.send(request, true);
    let (_, _, mut respond) = service.next();
    respond.send_reset(Reason::REFUSED_STREAM);
    answer(service.next().2, "second time");
    assert_eq!(client.answer(asked).unwrap().text(), "second time");
    // But not for ever.
    let asked = client.get("a.test", "/");
    for _ in 0..4 {
        service.next().2.send_reset(Reason::REFUSED_STREAM);
    }
    assert_eq!(client.answer(asked).unwrap().status, 502);
    // Any other reset is a fault of the upstream, and what is not safe is not sent again.
    let asked = client.send(post("a.test", "/"), true);
    service.next().2.send_reset(Reason::INTERNAL_ERROR);
    assert_eq!(client.answer(asked).unwrap().status, 502);
}

/// A service that speaks frames.
fn raw_service(upstream: &Upstream) -> Raw {
    let mut raw = Raw(upstream.accept());
    assert_eq!(raw.0.read_exact(24), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    raw.send(frame(4, 0, 0, &[]));
    raw
}

#[test]
fn a_goaway_sends_what_comes_after_it_elsewhere() {
    let edge = Edge::start();
    let upstream = Upstream::listen();
    route(&edge, &[upstream.address]);
    let mut client = Client::connect(edge.http());
    let first = client.get("a.test", "/first");
    let mut service = raw_service(&upstream);
    let stream = service.next_of(1).stream;
    let second = client.get("a.test", "/second");
    let other = service.next_of(1).stream;
    assert!(other > stream);
    // The first is still to be answered here, the second never was.
    let goaway = [stream.to_be_bytes(), 0u32.to_be_bytes()].concat();
    service.send(frame(7, 0, 0, &goaway));
    let mut elsewhere = raw_service(&upstream);
    let moved = elsewhere.next_of(1).stream;
    // :status 204 is in the static table.
    elsewhere.send(frame(1, 5, moved, &[0x89]));
    assert_eq!(client.answer(second).unwrap().status, 204);
    service.send(frame(1, 5, stream, &[0x89]));
    assert_eq!(client.answer(first).unwrap().status, 204);
    // Then it has nothing more to do.
    service.0.wait_gone();
}

#[test]
fn an_upstream_that_is_lost_has_safe_requests_sent_again() {
    let edge = Edge::start();
    let upstream = Upstream::listen();
    route(&edge, &[upstream.address]);
    let mut client = Conn::connect(edge.http());
    client.send(get1("/"));
    let mut service = raw_service(&upstream);
    let stream = service.next_of(1).stream;
    service.send(frame(1, 5, stream, &[0x89]));
    assert_eq!(client.read_response().status(), 204);
    client.send(get1("/"));
    service.next_of(1);
    drop(service);
    let mut service = raw_service(&upstream);
    let stream = service.next_of(1).stream;
    service.send(frame(1, 5, stream, &[0x89]));
    assert_eq!(client.read_response().status(), 204);
}

#[test]
fn an_upstream_that_is_silent_is_asked_and_given_up() {
    let edge = Edge::start_with("upstream_h2_ping_ms = 100\nconnect_hold_ms = 100", 1);
    let upstream = Upstream::listen();
    route(&edge, &[upstream.address]);
    let mut client = Client::connect(edge.http());
    let mut asked = client.send(post("a.test", "/"), false);
    client.write(&mut asked.body, Bytes::from_static(b"x"), false);
    let mut service = raw_service(&upstream);
    service.next_of(1);
    let ping = service.next_of(6);
    assert_eq!((ping.flags, ping.payload.len()), (0, 8));
    // Who answers is kept.
    service.send(frame(6, 1, 0, &ping.payload));
    service.next_of(6);
    // Who does not is left.
    service.0.wait_gone();
    assert_eq!(client.answer(asked).unwrap().status, 502);
}

#[test]
fn who_does_not_speak_http2_is_not_connected() {
    let edge = Edge::start_with("connect_hold_ms = 200\nconnect_timeout_ms = 300", 1);
    let upstream = Upstream::listen();
    route(&edge, &[upstream.address]);
    let mut client = Conn::connect(edge.http());
    client.send(get1("/"));
    let mut service = upstream.accept();
    service.read_exact(24);
    service.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    service.wait_gone();
    // The next connect is never answered.
    assert_eq!(client.read_response().status(), 504);
}

#[test]
fn an_upstream_that_comes_up_late_is_waited_for() {
    let edge = Edge::start();
    let address = crate::harness::nobody();
    route(&edge, &[address]);
    let mut client = Client::connect(edge.http());
    let asked: Vec<_> = (0..5).map(|_| client.get("a.test", "/")).collect();
    eventually("connects are tried", || {
        let metrics = edge.metrics();
        let line = "\nflocker_edge_connect_failures_total ";
        let at = metrics.find(line)? + line.len();
        metrics[at..]
            .starts_with(|digit: char| ('3'..='9').contains(&digit))
            .then_some(())
    });
    let listener = std::net::TcpListener::bind(address).unwrap();
    let (socket, _) = listener.accept().unwrap();
    let mut service = Raw(Conn::new(socket));
    service.0.read_exact(24);
    service.send(frame(4, 0, 0, &[]));
    for _ in 0..5 {
        let stream = service.next_of(1).stream;
        service.send(frame(1, 5, stream, &[0x89]));
    }
    for asked in asked {
        assert_eq!(client.answer(asked).unwrap().status, 204);
    }
}

#[test]
fn more_requests_than_a_connection_takes_get_another() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(2);
    let edge = Edge::start();
    let service = Service::start_with(builder);
    route(&edge, &[service.address]);
    let mut client = Client::connect(edge.http());
    let asked: Vec<_> = (0..6).map(|_| client.get("a.test", "/")).collect();
    let held: Vec<_> = (0..6).map(|_| service.next()).collect();
    let most = held.iter().map(|(number, ..)| *number).max();
    assert_eq!(most, Some(2), "three connections with two each");
    for (_, _, respond) in held {
        answer(respond, "yes");
    }
    for asked in asked {
        assert_eq!(client.answer(asked).unwrap().text(), "yes");
    }
}

#[test]
fn a_switch_leaves_the_old_connection_and_closes_it() {
    let edge = Edge::start();
    let old = Upstream::listen();
    route(&edge, &[old.address]);
    let mut client = Client::connect(edge.http());
    let first = client.get("a.test", "/");
    let mut service = raw_service(&old);
    let stream = service.next_of(1).stream;
    let token = edge.pause(KEY, hold(10_000));
    let parked = client.get("a.test", "/");
    edge.wait_parked(KEY, 1);
    service.send(frame(1, 5, stream, &[0x89]));
    assert_eq!(client.answer(first).unwrap().status, 204);
    edge.quiesce(KEY, token, 5_000);
    let new = Service::start();
    edge.switch(KEY, token, new.address, true).unwrap();
    answer(new.next().2, "from the new one");
    assert_eq!(client.answer(parked).unwrap().text(), "from the new one");
    service.0.wait_gone();
}

#[test]
fn a_cancelled_request_is_cancelled_upstream() {
    let edge = Edge::start();
    let upstream = Upstream::listen();
    route(&edge, &[upstream.address]);
    let mut client = Client::connect(edge.http());
    let mut asked = client.get("a.test", "/");
    let mut service = raw_service(&upstream);
    let stream = service.next_of(1).stream;
    asked.body.send_reset(Reason::CANCEL);
    let reset = service.next_of(3);
    assert_eq!(
        (reset.stream, reset.payload),
        (stream, 8u32.to_be_bytes().to_vec())
    );
    edge.wait_in_flight(KEY, 0);
}

#[test]
fn a_websocket_of_http1_is_an_extended_connect_upstream() {
    let mut builder = h2::server::Builder::new();
    builder.enable_connect_protocol();
    let edge = Edge::start();
    let service = Service::start_with(builder);
    route(&edge, &[service.address]);
    let mut client = Conn::connect(edge.http());
    let upgrade = "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    client.send(upgrade);
    let (_, request, mut respond) = service.next();
    assert_eq!(request.method(), http::Method::CONNECT);
    let protocol = request.extensions().get::<h2::ext::Protocol>().unwrap();
    assert_eq!(
        (protocol.as_str(), request.uri().path()),
        ("websocket", "/chat")
    );
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(
        head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        "{head}"
    );
    client.send("ping");
    let mut body = request.into_body();
    let heard = service.runtime.block_on(body.data()).unwrap().unwrap();
    assert_eq!(heard, "ping");
    stream.send_data(Bytes::from_static(b"pong"), true).unwrap();
    assert_eq!(client.read_exact(4), b"pong");
    client.assert_ends();
    // A service that does not take them is said to.
    let plain = Service::start();
    route(&edge, &[plain.address]);
    let mut client = Conn::connect(edge.http());
    assert_eq!(client.ask(upgrade).status(), 501);
}

#[test]
fn what_is_not_read_takes_no_protocol() {
    let edge = Edge::start();
    for key in ["https:a.test", "tcp:4321"] {
        let route = Route::new(key.parse().unwrap(), [crate::harness::nobody()])
            .with_upstream_protocol(UpstreamProtocol::H2);
        let error = edge.apply(vec![Operation::Put { route }]).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidRequest);
        assert!(
            error.message.contains("upstream_protocol"),
            "{}",
            error.message
        );
    }
}

/// A program that ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn nghttpd_serves_files_through_the_edge_to_both_kinds_of_clients() {
    if !has("nghttpd") {
        return;
    }
    let edge = Edge::start();
    let folder = tempfile::tempdir().unwrap();
    let big: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
    std::fs::write(folder.path().join("big"), &big).unwrap();
    let address = crate::harness::nobody();
    let command = Command::new("/usr/sbin/nghttpd")
        .args(["--no-tls", "--trailer", "x-sum: 5", "-a", "127.0.0.1", "-d"])
        .arg(folder.path())
        .arg(address.port().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    let _program = Program(command.unwrap());
    route(&edge, &[address]);
    let mut plain = Conn::connect(edge.http());
    let response = plain.ask(get1("/big"));
    assert_eq!(response.status(), 200);
    assert!(response.body == big, "{} bytes", response.body.len());
    let mut client = Client::connect(edge.http());
    for _ in 0..5 {
        let asked = client.send(get("a.test", "/big"), true);
        let answer = client.answer(asked).unwrap();
        assert!(answer.body == big, "{} bytes", answer.body.len());
        assert_eq!(answer.trailers.unwrap()["x-sum"], "5");
    }
    let mut raw = Raw::connect(edge.http());
    raw.send(get_frame(1, "a.test"));
    // :status 404 is in the static table: there is no index.
    assert_eq!(raw.next_of(1).payload.first(), Some(&0x8d));
}

#[test]
fn grpc_works_from_end_to_end() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/blackbox/h2/grpc.py");
    let has_grpc = Command::new("python3").args(["-c", "import grpc"]).output();
    if !has_grpc.is_ok_and(|output| output.status.success()) {
        say_missing("python3-grpcio");
        return;
    }
    let edge = Edge::start();
    let address = crate::harness::nobody();
    let command = Command::new("python3")
        .args([script, "serve", &address.port().to_string()])
        .stdin(Stdio::null())
        .spawn();
    let _program = Program(command.unwrap());
    // The first call waits at the edge until the service is up.
    route(&edge, &[address]);
    let output = Command::new("python3")
        .args([script, "ask", &edge.http().to_string(), "a.test"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "ok\n",
        "{output:?}"
    );
}

#[test]
fn nginx_is_spoken_to_in_http2_over_tls_and_who_cannot_is_not() {
    let authority = Authority::new("office");
    authority.write("up", &["up.internal"]);
    let tables = format!(
        "[tls.authorities]\noffice = {:?}\n",
        authority.path("ca.pem")
    );
    let edge = Edge::start_with_tables(&tables, "connect_hold_ms = 100", 1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let (good, bad) = (crate::harness::nobody(), crate::harness::nobody());
    let (certificate, key) = (authority.path("up.pem"), authority.path("up.key"));
    let config = format!(
        "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path {path}/a; proxy_temp_path {path}/b;\n\
         fastcgi_temp_path {path}/c; uwsgi_temp_path {path}/d; scgi_temp_path {path}/e;\n\
         ssl_certificate {certificate}; ssl_certificate_key {key};\n\
         server {{ listen {good} ssl http2; location / {{ return 200 \"$server_protocol\"; }} }}\n\
         server {{ listen {bad} ssl; location / {{ return 200 \"$server_protocol\"; }} }} }}\n"
    );
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, config).unwrap();
    let command = Command::new("/usr/sbin/nginx")
        .arg("-c")
        .arg(&file)
        .args(["-p", &path.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _program = Program(command.unwrap());
    eventually("nginx listens", || std::net::TcpStream::connect(bad).ok());
    let lead = |to: SocketAddr| {
        put_route(
            &edge,
            &format!(
                r#"{{"key":"{KEY}","upstreams":["{to}"],"upstream_protocol":"h2",
                    "upstream_tls":{{"server_name":"up.internal","ca":"office"}}}}"#
            ),
        );
    };
    lead(good);
    let mut plain = Conn::connect(edge.http());
    for _ in 0..3 {
        assert_eq!(plain.ask(get1("/")).text(), "HTTP/2.0");
    }
    let mut client = Client::connect(edge.http());
    let asked = client.get("a.test", "/");
    assert_eq!(client.answer(asked).unwrap().text(), "HTTP/2.0");
    assert!(edge.metrics().contains("\nflocker_edge_connects_total 1\n"));
    lead(bad);
    assert_eq!(plain.ask(get1("/")).status(), 502);
}
