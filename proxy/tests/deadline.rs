//! A pause ends at its deadline, whatever has become of the admin side.
#![expect(clippy::disallowed_methods, reason = "measures how long a hold lasted")]

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use flocker_api::{
    gate::{HoldLimits, PauseRequest},
    route::{Operation, Route, RouteKey, Transaction},
};
use flocker_proxy::{config::Config, driver::edge::Edge};

const HOLD: Duration = Duration::from_millis(300);

/// An address of this process's own, and a port that is free there.
fn address() -> SocketAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let ip = IpAddr::from(Ipv4Addr::new(127, 64 | (high & 63), middle, low.max(1)));
    let probe = TcpListener::bind((ip, 0)).expect("a port on loopback");
    probe.local_addr().expect("it is bound")
}

fn start(address: SocketAddr) -> Arc<Edge> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("edge.toml");
    let config = format!(
        "name = \"stuck\"\nworkers = 2\n[listen]\nhttp = [\"{address}\"]\n\
         [admin]\nsocket = \"{}\"\n",
        directory.path().join("edge.sock").display()
    );
    std::fs::write(&path, config).expect("it can be written");
    let config = Config::load(&path).expect("it is right");
    let (edge, _workers) = Edge::start(config, None).expect("it starts");
    edge
}

#[test]
fn a_pause_lapses_while_the_admin_side_is_stuck() {
    let address = address();
    // It runs only while something is blocked on it, and after the pause nothing is: its timers
    // never fire again.
    let admin = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let edge = admin.block_on(async { start(address) });
    let key: RouteKey = "http:a.test".parse().unwrap();
    admin.block_on(async {
        let route = Route::new(key.clone(), [SocketAddr::from(([127, 0, 0, 1], 9))]);
        let transaction = Transaction {
            against: None,
            operations: vec![Operation::Put { route }],
        };
        edge.transact(&transaction).unwrap();
        let request = PauseRequest {
            token: None,
            keys: vec![key.clone()],
            limits: HoldLimits {
                hold_ms: HOLD.as_millis().try_into().unwrap(),
                ..HoldLimits::default()
            },
        };
        edge.pause(&request).unwrap();
    });

    let paused = Instant::now();
    let mut client = TcpStream::connect(address).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        .unwrap();
    let mut answer = [0; 512];
    let count = client.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(paused.elapsed() >= HOLD / 2, "it was held");
    let status = edge.route(&key).unwrap().gate;
    assert_eq!(status.state, flocker_api::gate::GateState::Open);
}
