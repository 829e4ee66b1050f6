//! Routes with several upstreams: who is next, who is left out, who comes back.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::Duration,
};

use flocker_api::{
    edge::UpstreamState,
    gate::QuiesceReply,
    route::{Operation, Route},
    upstream::{Balance, Upstream as Lead},
};

use crate::harness::{
    Conn, Edge, PATIENCE, Setup, Upstream, eventually, get, hold, nobody, parse, post,
};

const KEY: &str = "http:a.test";

fn leads(upstreams: &[&str]) -> Vec<Lead> {
    upstreams.iter().map(|text| text.parse().unwrap()).collect()
}

fn route(key: &str, upstreams: &[SocketAddr]) -> Route {
    Route::new(parse(key), upstreams.iter().copied())
}

fn put(edge: &Edge, route: Route) {
    edge.apply(vec![Operation::Put { route }]).unwrap();
}

/// Who answers so many requests, each on a connection of its own.
fn answers(edge: &Edge, count: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        let answer = Conn::connect(edge.http()).ask(get("/"));
        assert_eq!(answer.status(), 200, "{}", answer.head);
        *answers.entry(answer.text().to_owned()).or_default() += 1;
    }
    answers
}

fn state(edge: &Edge, key: &str, at: usize) -> UpstreamState {
    edge.show(key).upstreams[at].state
}

/// A service that answers `name`, or with an error if it is told so.
pub(crate) fn moody(name: &'static str) -> (SocketAddr, Arc<AtomicU16>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let status = Arc::new(AtomicU16::new(200));
    let mood = Arc::clone(&status);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), mood) = (stream, Arc::clone(&mood)) else {
                return;
            };
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while stream.read(&mut bytes).is_ok_and(|count| count > 0) {
                    let status = mood.load(Ordering::SeqCst);
                    let length = name.len();
                    let answer = format!(
                        "HTTP/1.1 {status} As told\r\nContent-Length: {length}\r\n\r\n{name}"
                    );
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, status)
}

#[test]
fn several_upstreams_take_turns_by_weight_over_all_workers() {
    let edge = Edge::start_with("", 2);
    let (one, two) = (Upstream::serve("one"), Upstream::serve("two"));
    let weighted = format!("{two},weight=3");
    let route = Route::new(parse(KEY), leads(&[&one.to_string(), &weighted]));
    put(&edge, route);
    let answers = answers(&edge, 80);
    assert!((19..=21).contains(&answers["one"]), "{answers:?}");
    let status = edge.show(KEY);
    assert_eq!(status.upstreams[1].weight, 3);
    assert_eq!(
        status
            .upstreams
            .iter()
            .map(|line| line.requests)
            .sum::<u64>(),
        80
    );
}

#[test]
fn a_client_address_stays_with_its_upstream() {
    let edge = Edge::start_with("", 2);
    let upstreams = ["one", "two", "three"].map(Upstream::serve);
    put(
        &edge,
        Route {
            balance: Balance::Source,
            ..route(KEY, &upstreams)
        },
    );
    assert_eq!(answers(&edge, 20).len(), 1);
}

#[test]
fn checks_take_an_upstream_out_and_bring_it_back_before_a_client_notices() {
    let edge = Edge::start();
    let (address, mood) = moody("moody");
    let steady = Upstream::serve("steady");
    let health = "http,path=/ready,interval_ms=20,rise=2,fall=2"
        .parse()
        .unwrap();
    put(
        &edge,
        Route {
            health: Some(health),
            ..route(KEY, &[address, steady])
        },
    );
    assert_eq!(answers(&edge, 10).len(), 2);
    mood.store(500, Ordering::SeqCst);
    eventually("it is out", || {
        (state(&edge, KEY, 0) == UpstreamState::Down).then_some(())
    });
    let reason = edge.show(KEY).upstreams[0].reason.clone().unwrap();
    assert!(reason.contains("it answered 500"), "{reason}");
    assert_eq!(answers(&edge, 10).keys().collect::<Vec<_>>(), ["steady"]);
    mood.store(200, Ordering::SeqCst);
    eventually("it is back", || {
        (state(&edge, KEY, 0) == UpstreamState::Up).then_some(())
    });
    assert_eq!(answers(&edge, 10).len(), 2);
}

#[test]
fn a_tcp_check_finds_that_nobody_listens() {
    let edge = Edge::start();
    let (_, key) = edge.tcp(0);
    let health = "tcp,interval_ms=20".parse().unwrap();
    put(
        &edge,
        Route {
            health: Some(health),
            ..route(&key, &[nobody(), Upstream::serve("there")])
        },
    );
    eventually("it is found out", || {
        let lines = edge.show(&key).upstreams;
        let states: Vec<UpstreamState> = lines.iter().map(|line| line.state).collect();
        (states == [UpstreamState::Down, UpstreamState::Up]).then_some(())
    });
}

#[test]
fn an_upstream_that_fails_clients_is_left_alone_for_a_while() {
    let edge = Edge::start_with("eject_failures = 3\neject_ms = 60000", 1);
    let (address, mood) = moody("moody");
    put(
        &edge,
        Route {
            balance: Balance::InOrder,
            ..route(KEY, &[address, Upstream::serve("steady")])
        },
    );
    // What an application says of itself is no reason.
    mood.store(500, Ordering::SeqCst);
    for _ in 0..5 {
        assert_eq!(Conn::connect(edge.http()).ask(get("/")).status(), 500);
    }
    mood.store(503, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(Conn::connect(edge.http()).ask(get("/")).status(), 503);
    }
    assert_eq!(state(&edge, KEY, 0), UpstreamState::Ejected);
    let line = &edge.show(KEY).upstreams[0];
    assert!(line.ejected_for_ms.unwrap() > 50_000 && line.ejections == 1);
    assert_eq!(answers(&edge, 5).keys().collect::<Vec<_>>(), ["steady"]);
}

#[test]
fn who_cannot_be_connected_costs_clients_nothing() {
    let edge = Edge::start_with("eject_failures = 2\neject_ms = 60000", 1);
    put(&edge, route(KEY, &[nobody(), Upstream::serve("there")]));
    assert_eq!(answers(&edge, 10)["there"], 10);
    assert_eq!(state(&edge, KEY, 0), UpstreamState::Ejected);
}

#[test]
fn a_drained_upstream_keeps_what_it_has_and_gets_nothing_new() {
    let edge = Edge::start();
    let (address, key) = edge.tcp(0);
    let (old, new) = (Upstream::listen(), Upstream::listen());
    put(
        &edge,
        Route {
            balance: Balance::InOrder,
            ..route(&key, &[old.address, new.address])
        },
    );
    let mut client = Conn::connect(address);
    client.send("hello");
    let mut served = old.accept();
    assert_eq!(served.read_exact(5), b"hello");
    let drain = |drain| Operation::Drain {
        key: parse(&key),
        upstream: old.address.to_string().parse().unwrap(),
        drain,
    };
    edge.apply(vec![drain(true)]).unwrap();
    assert_eq!(state(&edge, &key, 0), UpstreamState::Draining);
    for _ in 0..3 {
        let mut other = Conn::connect(address);
        other.send("x");
        assert_eq!(new.accept().read_exact(1), b"x");
    }
    served.send("still");
    assert_eq!(client.read_exact(5), b"still");
    edge.apply(vec![drain(false)]).unwrap();
    let mut back = Conn::connect(address);
    back.send("x");
    assert_eq!(old.accept().read_exact(1), b"x");
    let unknown = Operation::Drain {
        key: parse(&key),
        upstream: "10.9.9.9:9".parse().unwrap(),
        drain: true,
    };
    let error = edge.apply(vec![unknown]).unwrap_err();
    assert!(
        error.message.contains("has no upstream 10.9.9.9:9"),
        "{error}"
    );
}

#[test]
fn a_move_takes_the_sessions_of_all_upstreams_along() {
    let edge = Edge::start_with("", 2);
    let (address, key) = edge.tcp(0);
    let (one, two, other) = (Upstream::listen(), Upstream::listen(), Upstream::listen());
    put(&edge, route(&key, &[one.address, two.address]));
    let mut clients: Vec<Conn> = (0..2).map(|_| Conn::connect(address)).collect();
    for client in &mut clients {
        client.send("x");
    }
    let mut served = [one.accept(), two.accept()];
    for conn in &mut served {
        assert_eq!(conn.read_exact(1), b"x");
    }
    let token = edge.pause(&key, hold(10_000));
    let quiet = edge.quiesce(&key, token, 5_000);
    assert_eq!(quiet, QuiesceReply::Quiesced { closed: 2 });
    for client in &mut clients {
        client.wait_gone();
    }
    let mut parked: Vec<Conn> = (0..2).map(|_| Conn::connect(address)).collect();
    edge.switch(&key, token, other.address, true).unwrap();
    for client in &mut parked {
        client.send("y");
    }
    for _ in &parked {
        assert_eq!(other.accept().read_exact(1), b"y");
    }
    drop(served);
}

#[test]
fn full_upstreams_have_a_line_that_is_bounded_and_in_order() {
    let edge = Edge::start();
    let upstream = Upstream::listen();
    put(
        &edge,
        Route {
            connections_max: 1,
            pending_max: 2,
            ..route(KEY, &[upstream.address])
        },
    );
    let mut first = Conn::connect(edge.http());
    first.send(get("/first"));
    let mut served = upstream.accept();
    assert!(served.read_request().head.starts_with("GET /first"));
    let mut waiting = Vec::new();
    for path in ["/second", "/third"] {
        let mut client = Conn::connect(edge.http());
        client.send(post(path, "x"));
        waiting.push(client);
        let requests = waiting.len() as u64 + 1;
        eventually("it has come", || {
            (edge.show(KEY).requests == requests).then_some(())
        });
    }
    let refused = Conn::connect(edge.http()).ask(get("/fourth"));
    assert_eq!(refused.status(), 503);
    assert_eq!(edge.show(KEY).upstreams[0].in_flight, 1);
    served.send(crate::harness::ok("1"));
    assert_eq!(first.read_response().text(), "1");
    // The connection that has come free serves the next.
    for (client, path) in waiting.iter_mut().zip(["/second", "/third"]) {
        let request = served.read_request();
        assert!(
            request.head.starts_with(&format!("POST {path}")),
            "{}",
            request.head
        );
        served.send(crate::harness::ok("2"));
        assert_eq!(client.read_response().text(), "2");
    }
}

#[test]
fn who_waits_in_line_too_long_is_told_and_who_leaves_makes_room() {
    let edge = Edge::start_with("connect_hold_ms = 300", 1);
    let (address, key) = edge.tcp(0);
    let upstream = Upstream::listen();
    put(
        &edge,
        Route {
            connections_max: 1,
            pending_max: 1,
            ..route(&key, &[upstream.address])
        },
    );
    let mut first = Conn::connect(address);
    first.send("x");
    let mut served = upstream.accept();
    assert_eq!(served.read_exact(1), b"x");
    // Its time is over.
    Conn::connect(address).wait_gone();
    // Another stands in line, and goes when the first does.
    let mut second = Conn::connect(address);
    eventually("it has come", || {
        (edge.show(&key).requests == 3).then_some(())
    });
    first.finish();
    served.finish();
    second.send("y");
    assert_eq!(upstream.accept().read_exact(1), b"y");
}

#[test]
fn names_are_resolved_anew_and_their_addresses_join_and_leave_gently() {
    // The edge has an /etc/hosts of its own, in a mount namespace of its own.
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    let write =
        |text: &str| std::fs::write(&hosts, format!("127.0.0.1 localhost\n{text}\n")).unwrap();
    write("127.0.0.1 app.test");
    let mount = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
    let edge = Edge::start_from(&Setup {
        limits: "resolve_interval_ms = 100\nconnect_hold_ms = 5000",
        workers: 1,
        under: &[
            "unshare",
            "-m",
            "sh",
            "-c",
            mount,
            "sh",
            hosts.to_str().unwrap(),
        ],
        ..Setup::default()
    });
    let (address, key) = edge.tcp(0);
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = first.local_addr().unwrap().port();
    let second = TcpListener::bind(("127.0.0.77", port)).unwrap();
    put(
        &edge,
        Route::new(parse(&key), leads(&[&format!("app.test:{port}")])),
    );
    let mut client = Conn::connect(address);
    client.send("x");
    let mut served = Conn::new(first.accept().unwrap().0);
    assert_eq!(served.read_exact(1), b"x");

    let leads_to = |expected: &[&str]| {
        eventually("the name leads there", || {
            let lines = edge.show(&key).upstreams;
            let ips: Vec<String> = lines
                .iter()
                .map(|line| line.address.ip().to_string())
                .collect();
            (ips == expected).then_some(())
        });
    };
    write("127.0.0.77 app.test");
    leads_to(&["127.0.0.77"]);
    let mut other = Conn::connect(address);
    other.send("y");
    assert_eq!(Conn::new(second.accept().unwrap().0).read_exact(1), b"y");
    // Who was there before goes on.
    served.send("still");
    assert_eq!(client.read_exact(5), b"still");

    // A name without an answer keeps its last one, and the operator sees it.
    write("");
    eventually("it is shown", || {
        let status = edge.show(&key);
        (status.unresolved.len() == 1 && status.upstreams.len() == 1).then_some(())
    });
    write("127.0.0.1 app.test\n127.0.0.77 app.test");
    leads_to(&["127.0.0.1", "127.0.0.77"]);
    assert!(edge.show(&key).unresolved.is_empty());
}

#[test]
fn a_session_waits_for_a_name_that_has_no_address_yet() {
    let edge = Edge::start_with("connect_hold_ms = 400", 1);
    let (address, key) = edge.tcp(0);
    put(
        &edge,
        Route::new(parse(&key), leads(&["nobody.invalid:80"])),
    );
    let before = std::time::Instant::now();
    Conn::connect(address).wait_gone();
    assert!(before.elapsed() >= Duration::from_millis(400) && before.elapsed() < PATIENCE);
    assert_eq!(edge.show(&key).unresolved.len(), 1);
}

#[test]
fn a_safe_request_whose_upstream_breaks_off_goes_to_another() {
    let edge = Edge::start();
    let broken = Upstream::listen();
    put(
        &edge,
        Route {
            balance: Balance::InOrder,
            ..route(KEY, &[broken.address, Upstream::serve("other")])
        },
    );
    let mut client = Conn::connect(edge.http());
    client.send(get("/"));
    let mut served = broken.accept();
    served.read_request();
    drop(served);
    assert_eq!(client.read_response().text(), "other");
    // What is not safe is not sent twice.
    client.send(post("/", "x"));
    let mut served = broken.accept();
    served.read_request();
    drop(served);
    assert_eq!(client.read_response().status(), 502);
    assert_eq!(edge.show(KEY).upstreams[0].failed, 2);
}
