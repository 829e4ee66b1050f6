//! Every kind of connection at once, while one process of the edge follows the other; and what
//! connections cost while nothing happens on them.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use crate::{
    h2::client::{Client, Raw, trusting},
    harness::{Conn, Edge, PATIENCE, Upstream, eventually, get},
    terminated::{Authority, terminate},
    upgrade::Load,
};

type Secure = StreamOwned<ClientConnection, TcpStream>;

/// A TLS connection by HTTP/1.1.
fn secure(to: SocketAddr, config: &Arc<ClientConfig>, host: &str) -> Secure {
    let socket = TcpStream::connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let host = ServerName::try_from(host.to_owned()).unwrap();
    let session = ClientConnection::new(Arc::clone(config), host).unwrap();
    StreamOwned::new(session, socket)
}

/// One request; the head of its answer, whose body is `ok`.
fn ask(conn: &mut Secure) -> std::io::Result<String> {
    conn.write_all(b"GET / HTTP/1.1\r\nHost: a.demo\r\n\r\n")?;
    let mut bytes = Vec::new();
    let mut part = [0; 1024];
    while !bytes.ends_with(b"\r\n\r\nok") {
        match conn.read(&mut part)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend_from_slice(&part[..count]),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).to_lowercase())
}

/// Clients of one kind each, until they are told to stop.
fn clients<F>(count: usize, stop: &Arc<AtomicBool>, served: &Arc<AtomicU64>, client: F) -> Threads
where
    F: Fn(&AtomicBool, &AtomicU64) -> Result<(), String> + Clone + Send + 'static,
{
    let client = |_| {
        let (stop, served, client) = (Arc::clone(stop), Arc::clone(served), client.clone());
        thread::spawn(move || client(&stop, &served))
    };
    (0..count).map(client).collect()
}

type Threads = Vec<thread::JoinHandle<Result<(), String>>>;

/// Requests one after the other over TLS, on a new connection where the old one is ended.
fn keep_asking(
    connect: impl Fn() -> Secure,
    stop: &AtomicBool,
    served: &AtomicU64,
) -> Result<(), String> {
    while !stop.load(Ordering::Relaxed) {
        let mut conn = connect();
        while !stop.load(Ordering::Relaxed) {
            let head = ask(&mut conn).map_err(|error| format!("TLS: {error}"))?;
            served.fetch_add(1, Ordering::Relaxed);
            if head.contains("connection: close") {
                break;
            }
        }
    }
    Ok(())
}

/// The same by HTTP/2.
fn keep_asking_h2(
    connect: impl Fn() -> (Client, &'static str),
    stop: &AtomicBool,
    served: &AtomicU64,
) -> Result<(), String> {
    while !stop.load(Ordering::Relaxed) {
        let (mut client, host) = connect();
        while !stop.load(Ordering::Relaxed) {
            match client.try_get(host) {
                Some(Ok(answer)) if answer.status == 200 => {
                    served.fetch_add(1, Ordering::Relaxed);
                }
                Some(other) => return Err(format!("HTTP/2: {other:?}")),
                None => break,
            }
        }
    }
    Ok(())
}

/// Both ends of a TCP session that has begun.
fn opaque_session(to: SocketAddr, upstream: &Upstream) -> (Conn, Conn) {
    let mut session = Conn::connect(to);
    session.send("hello");
    let mut end = upstream.accept();
    assert_eq!(end.read_exact(5), b"hello");
    (session, end)
}

/// Both ends of a WebSocket of `ws.test`.
fn websocket(to: SocketAddr, upstream: &Upstream) -> (Conn, Conn) {
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut socket = Conn::connect(to);
    socket.send(format!("GET /ws HTTP/1.1\r\nHost: ws.test\r\n{upgrade}"));
    let mut end = upstream.accept();
    end.read_request();
    end.send(format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}"));
    assert_eq!(socket.read_response().status(), 101);
    (socket, end)
}

#[test]
fn upgrades_leave_http2_tls_websockets_and_tcp_as_they_are() {
    let authority = Authority::new("ca");
    authority.write("www", &["a.demo"]);
    let mut edge = Edge::start_with_tables(&authority.tls("www"), "", 2);
    let service = Upstream::serve("ok");
    terminate(&edge, "a.demo", "", service);
    edge.route("http:a.test", &[service]);
    let opaque = Upstream::listen();
    let (tcp, tcp_key) = edge.tcp(0);
    edge.route(&tcp_key, &[opaque.address]);
    edge.route("http:ws.test", &[opaque.address]);
    // What stays with the process that has it.
    let (mut session, mut session_end) = opaque_session(tcp, &opaque);
    let (mut socket, mut socket_end) = websocket(edge.http(), &opaque);
    // What goes on all the time.
    let (stop, served) = (Arc::default(), Arc::new(AtomicU64::new(0)));
    let ca = authority.file("ca.pem");
    let (http, https) = (edge.http(), edge.https());
    let config = Arc::new(trusting(&ca, &[b"http/1.1"]));
    let over_tls = move |stop: &AtomicBool, served: &AtomicU64| {
        let connect = || secure(https, &config, "a.demo");
        keep_asking(connect, stop, served)
    };
    let load = Load::start(edge.http(), 2);
    let mut all = clients(2, &stop, &served, over_tls);
    let in_clear = move |stop: &AtomicBool, served: &AtomicU64| {
        keep_asking_h2(|| (Client::connect(http), "a.test"), stop, served)
    };
    all.extend(clients(2, &stop, &served, in_clear));
    let sealed = move |stop: &AtomicBool, served: &AtomicU64| {
        keep_asking_h2(
            || (Client::secure(https, &ca, "a.demo"), "a.demo"),
            stop,
            served,
        )
    };
    all.extend(clients(2, &stop, &served, sealed));
    let wait_more = |count: u64| {
        let goal = served.load(Ordering::Relaxed) + count;
        eventually("more are served", || {
            let failed = all.iter().any(thread::JoinHandle::is_finished);
            (failed || served.load(Ordering::Relaxed) >= goal).then_some(())
        });
    };
    for round in 0..2 {
        load.wait_more(50);
        wait_more(100);
        edge.upgrade(None).unwrap();
        let word = format!("round {round}");
        session_end.send(&word);
        assert_eq!(session.read_exact(word.len()), word.as_bytes());
        socket.send(&word);
        assert_eq!(socket_end.read_exact(word.len()), word.as_bytes());
    }
    load.wait_more(50);
    wait_more(100);
    stop.store(true, Ordering::Relaxed);
    for client in all {
        client.join().unwrap().unwrap();
    }
    load.end();
    assert!(!edge.status().predecessors.is_empty(), "the tunnels stay");
    drop((session, session_end, socket, socket_end));
    eventually("the old processes have ended", || {
        edge.status().predecessors.is_empty().then_some(())
    });
}

/// Bytes of memory that one of so many idle connections costs. Memory comes by the huge page of
/// 2 MiB: there have to be so many that one of those makes no difference.
fn cost<C>(edge: &Edge, count: usize, connect: impl Fn() -> C) -> u64 {
    // What is made once is not theirs.
    let first: Vec<C> = (0..20).map(|_| connect()).collect();
    let before = edge.resident();
    let all: Vec<C> = (0..count).map(|_| connect()).collect();
    let each = edge.resident().saturating_sub(before) / count as u64;
    drop((first, all));
    each
}

#[test]
fn idle_connections_cost_little() {
    let authority = Authority::new("ca");
    authority.write("www", &["a.demo"]);
    let edge = Edge::start_with_tables(&authority.tls("www"), "", 1);
    let service = Upstream::serve("ok");
    terminate(&edge, "a.demo", "", service);
    edge.route("http:a.test", &[service]);
    let config = Arc::new(trusting(&authority.file("ca.pem"), &[b"http/1.1"]));
    let plain = cost(&edge, 2_000, || {
        let mut conn = Conn::connect(edge.http());
        assert_eq!(conn.ask(get("/")).status(), 200);
        conn
    });
    let tls = cost(&edge, 1_000, || {
        let mut conn = secure(edge.https(), &config, "a.demo");
        ask(&mut conn).unwrap();
        conn
    });
    let h2 = cost(&edge, 1_000, || {
        let mut raw = Raw::connect(edge.http());
        raw.send(crate::h2::client::get_frame(1, "a.test"));
        // The answer's end.
        while raw.next_of(0).flags & 1 == 0 {}
        raw
    });
    let sizes = format!("HTTP/1.1 {plain}, TLS {tls}, HTTP/2 {h2} bytes");
    assert!(plain < 4 << 10, "{sizes}");
    assert!(tls < 16 << 10, "{sizes}");
    assert!(h2 < 48 << 10, "{sizes}");
}

#[test]
fn every_kind_of_listener_serves_ipv6_and_both_families_at_once() {
    let authority = Authority::new("ca");
    authority.write("www", &["a.demo"]);
    let mut edge = Edge::start_with_tables(&authority.tls("www"), "", 1);
    let free = || {
        let listener = std::net::TcpListener::bind("[::]:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let (http, https, tcp) = (free(), free(), free());
    let text = std::fs::read_to_string(edge.config()).unwrap();
    let text = text.replacen("http = [", &format!("http = [\"[::]:{http}\", "), 1);
    let text = text.replacen("https = [", &format!("https = [\"[::]:{https}\", "), 1);
    let start = text.find("tcp = [").unwrap();
    let end = start + text[start..].find(']').unwrap() + 1;
    let text = format!("{}tcp = [\"::\"]{}", &text[..start], &text[end..]);
    std::fs::write(edge.config(), text).unwrap();
    edge.upgrade(None).unwrap();
    let service = Upstream::serve("ok");
    terminate(&edge, "a.demo", "", service);
    let opaque = format!("tcp:{tcp}");
    for key in ["http:a.test", &opaque] {
        edge.route(key, &[service]);
    }
    let config = Arc::new(trusting(&authority.file("ca.pem"), &[b"http/1.1"]));
    for ip in ["[::1]", "127.0.0.1"] {
        let at = |port: u16| -> SocketAddr { format!("{ip}:{port}").parse().unwrap() };
        for port in [http, tcp] {
            let answer = Conn::connect(at(port)).ask(get("/"));
            assert_eq!(answer.text(), "ok", "{ip}:{port}");
        }
        ask(&mut secure(at(https), &config, "a.demo")).unwrap();
        let mut h2 = Client::secure(at(https), &authority.file("ca.pem"), "a.demo");
        assert_eq!(h2.try_get("a.demo").unwrap().unwrap().status, 200);
    }
}
