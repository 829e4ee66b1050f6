//! Which clients may connect, how many of one, and how fast.

use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use flocker_api::route::{Operation, Route};
use socket2::{Domain, Socket, Type};

use crate::harness::{Conn, Edge, Setup, Upstream, eventually, get, hold, parse};

const KEY: &str = "http:a.test";

/// A connection from an address of ours.
fn from(source: &str, to: SocketAddr) -> Conn {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let source: SocketAddr = format!("{source}:0").parse().unwrap();
    socket.bind(&source.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    Conn::new(TcpStream::from(socket))
}

fn serving(limits: &str) -> Edge {
    let edge = Edge::start_with(limits, 2);
    edge.route(KEY, &[Upstream::serve("ok")]);
    edge
}

fn count(edge: &Edge, name: &str) -> u64 {
    let text = edge.metrics();
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("flocker_edge_{name}_total ")));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_client_has_so_many_connections_and_the_parked_count() {
    let edge = serving("sessions_per_client = 2");
    let token = edge.pause(KEY, hold(10_000));
    let mut clients: Vec<Conn> = (0..2).map(|_| Conn::connect(edge.http())).collect();
    for client in &mut clients {
        client.send(get("/"));
    }
    eventually("both are parked", || {
        (edge.status().parked == 2).then_some(())
    });
    Conn::connect(edge.http()).wait_gone();
    assert_eq!(count(&edge, "client_sessions_exceeded"), 1);
    // Another client has its own.
    let mut other = from("127.0.0.9", edge.http());
    other.send(get("/"));
    eventually("it is parked", || (edge.status().parked == 3).then_some(()));
    // One leaves, and there is room.
    drop(clients.pop());
    eventually("it is gone", || (edge.status().parked == 2).then_some(()));
    edge.resume(KEY, token).unwrap();
    assert_eq!(Conn::connect(edge.http()).ask(get("/")).status(), 200);
}

#[test]
fn a_client_that_comes_too_fast_is_closed() {
    let edge = serving("session_rate_per_client = 3");
    for _ in 0..3 {
        assert_eq!(Conn::connect(edge.http()).ask(get("/")).status(), 200);
    }
    Conn::connect(edge.http()).wait_gone();
    assert!(count(&edge, "client_rate_exceeded") >= 1);
    assert_eq!(from("127.0.0.9", edge.http()).ask(get("/")).status(), 200);
    eventually("it may come again", || {
        let mut client = Conn::connect(edge.http());
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
        let bytes = client.read_to_end_or_reset();
        bytes.starts_with(b"HTTP/1.1 200").then_some(())
    });
}

#[test]
fn lists_say_who_may_connect() {
    let edge = serving("[clients]\nallow = ['127.0.0.0/24']\ndeny = ['127.0.0.9']");
    assert_eq!(from("127.0.0.8", edge.http()).ask(get("/")).status(), 200);
    from("127.0.0.9", edge.http()).wait_gone();
    from("127.0.1.1", edge.http()).wait_gone();
    assert_eq!(count(&edge, "denied"), 2);
}

#[test]
fn a_route_has_lists_of_its_own() {
    let edge = serving("");
    let upstream = Upstream::serve("ok");
    let (address, tcp) = edge.tcp(0);
    for key in [KEY, &tcp] {
        let mut route = Route::new(parse(key), [upstream]);
        route.deny = vec!["127.0.0.9".parse().unwrap()];
        edge.apply(vec![Operation::Put { route }]).unwrap();
    }
    let mut denied = from("127.0.0.9", edge.http());
    assert_eq!(denied.ask(get("/")).status(), 403);
    // The connection is as good as before: another route may serve it.
    assert_eq!(denied.ask(get("/")).status(), 403);
    from("127.0.0.9", address).wait_gone();
    assert_eq!(from("127.0.0.8", edge.http()).ask(get("/")).status(), 200);
    assert_eq!(from("127.0.0.8", address).ask(get("/")).status(), 200);
}

#[test]
fn accepting_is_paced_and_nobody_is_refused_for_it() {
    let edge = Edge::start_from(&Setup {
        limits: "session_rate = 10",
        workers: 4,
        ..Setup::default()
    });
    edge.route(KEY, &[Upstream::serve("ok")]);
    let before = Instant::now();
    for _ in 0..20 {
        assert_eq!(Conn::connect(edge.http()).ask(get("/")).status(), 200);
    }
    // Ten at once, then one each 100 ms.
    assert!(
        before.elapsed() >= Duration::from_millis(900),
        "{:?}",
        before.elapsed()
    );
    // It is one pace of all workers, and none of it is lost to one that has nobody.
    assert!(before.elapsed() < Duration::from_secs(5));
}
