//! Gate verbs while traffic flows: nothing fails, nothing slips through, nothing is forgotten.
//!
//! It is long because it holds a story per promise of the gate.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use flocker_api::{
    ErrorCode,
    gate::{GateState, HoldLimits, QuiesceReply, Token},
    route::{OnMove, Operation},
};

use crate::harness::{Conn, Edge, PATIENCE, Upstream, eventually, get, hold, ok, post};

const KEY: &str = "http:a.test";

fn edge() -> (Edge, Upstream) {
    let edge = Edge::start();
    let upstream = Upstream::listen();
    edge.route(KEY, &[upstream.address]);
    (edge, upstream)
}

/// A client that has sent a request and is parked.
fn parked(edge: &Edge, count: u64) -> Conn {
    let mut client = Conn::connect(edge.http());
    client.send(get("/parked"));
    edge.wait_parked(KEY, count);
    client
}

#[test]
fn a_pause_parks_and_a_resume_lets_go_oldest_first() {
    let (edge, upstream) = edge();
    let token = edge.pause(KEY, hold(10_000));
    let mut clients: Vec<Conn> = (1..=5).map(|count| parked(&edge, count)).collect();
    let gate = edge.show(KEY).gate;
    assert_eq!(gate.state, GateState::Paused);
    assert_eq!((gate.token, gate.in_flight), (token, 0));
    assert!(gate.lapses_in_ms.unwrap() <= 10_000);
    assert!(!upstream.is_connected(Duration::from_millis(30)));
    assert_eq!(
        edge.quiesce(KEY, token, 1_000),
        QuiesceReply::Quiesced { closed: 0 }
    );
    let reply = edge.resume(KEY, token).unwrap();
    let report = &reply.holds[0];
    assert_eq!(
        (report.released, report.refused, report.client_gone),
        (5, 0, 0)
    );
    assert!(report.longest_wait_us >= 30_000 && report.paused_us >= report.longest_wait_us);
    assert!(!report.lapsed);
    for _ in 0..5 {
        let mut service = upstream.accept();
        service.read_request();
        service.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    }
    for client in &mut clients {
        assert_eq!(client.read_response().text(), "ok");
    }
    eventually("the gate is open again", || {
        (edge.show(KEY).gate.state == GateState::Open).then_some(())
    });
}

#[test]
fn a_kept_connection_parks_at_its_next_request() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send(get("/1"));
    let mut service = upstream.accept();
    service.read_request();
    let token = edge.pause(KEY, hold(10_000));
    // The one in flight is served to its end; the one behind it parks.
    service.send(ok("1"));
    assert_eq!(client.read_response().text(), "1");
    client.send(post("/2", "body"));
    edge.wait_parked(KEY, 1);
    service.assert_silent();
    edge.resume(KEY, token).unwrap();
    assert_eq!(service.read_request().text(), "body");
    service.send(ok("2"));
    assert_eq!(client.read_response().text(), "2");
}

#[test]
fn a_quiesce_says_what_is_left_and_ends_when_nothing_is() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send(get("/slow"));
    let mut service = upstream.accept();
    service.read_request();
    let token = edge.pause(KEY, hold(10_000));
    let QuiesceReply::Busy { in_flight } = edge.quiesce(KEY, token, 100) else {
        panic!("quiesced with a request in flight");
    };
    assert_eq!((in_flight.len(), in_flight[0].count), (1, 1));
    // Half of an answer is not the end of a request.
    service.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
    assert!(matches!(
        edge.quiesce(KEY, token, 100),
        QuiesceReply::Busy { .. }
    ));
    service.send("lf");
    assert_eq!(client.read_response().text(), "half");
    assert_eq!(
        edge.quiesce(KEY, token, 5_000),
        QuiesceReply::Quiesced { closed: 0 }
    );
}

#[test]
fn a_switch_leads_the_parked_to_the_new_upstream() {
    let (edge, old) = edge();
    let mut before = Conn::connect(edge.http());
    before.send(get("/"));
    let mut service = old.accept();
    service.read_request();
    service.send(ok("old"));
    assert_eq!(before.read_response().text(), "old");
    let token = edge.pause(KEY, hold(10_000));
    before.send(get("/"));
    edge.wait_parked(KEY, 1);
    let mut after = parked(&edge, 2);
    assert_eq!(
        edge.quiesce(KEY, token, 1_000),
        QuiesceReply::Quiesced { closed: 0 }
    );
    let generation = edge.status().generation;
    let reply = edge
        .switch(KEY, token, Upstream::serve("new"), true)
        .unwrap();
    assert_eq!(reply.generation, generation.next());
    assert_eq!(before.read_response().text(), "new");
    assert_eq!(after.read_response().text(), "new");
    // The idle connection to the old one is not kept.
    service.wait_gone();
}

#[test]
fn a_switch_without_resume_keeps_the_parked() {
    let (edge, _old) = edge();
    let token = edge.pause(KEY, hold(10_000));
    let mut client = parked(&edge, 1);
    let new = Upstream::serve("new");
    edge.switch(KEY, token, new, false).unwrap();
    assert_eq!(edge.show(KEY).gate.parked, 1);
    assert_eq!(edge.show(KEY).route.upstreams, [new.into()]);
    client.assert_silent();
    edge.resume(KEY, token).unwrap();
    assert_eq!(client.read_response().text(), "new");
}

/// PgBouncer #498: a retarget while paused dropped what was parked.
#[test]
fn a_route_that_is_set_while_paused_keeps_its_parked() {
    let (edge, _old) = edge();
    let token = edge.pause(KEY, hold(10_000));
    let mut client = parked(&edge, 1);
    edge.route(KEY, &[Upstream::serve("set")]);
    assert_eq!(edge.show(KEY).gate.parked, 1);
    edge.resume(KEY, token).unwrap();
    assert_eq!(client.read_response().text(), "set");
}

/// PgBouncer #715: a resume during a pending pause made it hang for ever.
#[test]
fn a_resume_ends_a_pending_quiesce() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send(get("/"));
    let mut service = upstream.accept();
    service.read_request();
    let token = edge.pause(KEY, hold(10_000));
    let started = Instant::now();
    thread::scope(|scope| {
        let edge = &edge;
        let quiesce = scope.spawn(move || edge.second().quiesce(KEY, token, 9_000));
        // It is pending by then, most likely; if not, it must end at once all the same.
        for _ in 0..20 {
            edge.show(KEY);
        }
        edge.resume(KEY, token).unwrap();
        assert_eq!(quiesce.join().unwrap(), Ok(QuiesceReply::Ended));
    });
    assert!(started.elapsed() < Duration::from_secs(5));
    service.send(ok("on"));
    assert_eq!(client.read_response().text(), "on");
}

/// Knative #13583: requests whose clients had gone filled the memory.
#[test]
fn a_parked_client_that_leaves_frees_its_place() {
    let (edge, upstream) = edge();
    let token = edge.pause(KEY, hold(10_000));
    let stays = parked(&edge, 1);
    let leaves = parked(&edge, 2);
    drop(leaves);
    edge.wait_parked(KEY, 1);
    let resets = parked(&edge, 2);
    resets.reset();
    edge.wait_parked(KEY, 1);
    let report = edge.resume(KEY, token).unwrap().holds.remove(0);
    assert_eq!((report.released, report.client_gone), (1, 2));
    let mut service = upstream.accept();
    service.read_request();
    assert!(!upstream.is_connected(Duration::from_millis(50)));
    drop(stays);
}

#[test]
fn without_control_the_hold_ends_at_its_deadline() {
    let (edge, upstream) = edge();
    let token = edge.pause(KEY, hold(300));
    let started = Instant::now();
    let mut client = parked(&edge, 1);
    let response = client.read_response();
    let waited = started.elapsed();
    assert_eq!(response.status(), 503);
    assert!(response.field("retry-after").is_some());
    assert!(waited >= Duration::from_millis(200), "{waited:?}");
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    // The gate is open towards the upstream that it has, on the same connection if it lasts.
    let mut client = Conn::connect(edge.http());
    client.send(get("/"));
    let mut service = upstream.accept();
    service.read_request();
    service.send(ok("open"));
    assert_eq!(client.read_response().text(), "open");
    assert!(matches!(edge.quiesce(KEY, token, 100), QuiesceReply::Ended));
    // A late resume is told.
    match edge.resume(KEY, token) {
        Ok(reply) => {
            assert!(reply.holds[0].lapsed);
            assert_eq!(reply.holds[0].refused, 1);
        }
        Err(error) => assert_eq!(error.code, ErrorCode::NotPaused),
    }
}

#[test]
fn repeating_a_pause_renews_its_deadline() {
    let (edge, upstream) = edge();
    let token = edge.pause(KEY, hold(400));
    let mut client = parked(&edge, 1);
    for _ in 0..4 {
        client.assert_silent();
        client.assert_silent();
        client.assert_silent();
        assert_eq!(edge.try_pause(KEY, Some(token), hold(400)), Ok(token));
    }
    edge.resume(KEY, token).unwrap();
    let mut service = upstream.accept();
    service.read_request();
    service.send(ok("held on"));
    assert_eq!(client.read_response().text(), "held on");
}

#[test]
fn past_a_limit_clients_are_refused_at_once_and_the_parked_stay() {
    for limits in [
        HoldLimits {
            sessions: 2,
            ..hold(10_000)
        },
        HoldLimits {
            per_client: 2,
            ..hold(10_000)
        },
        HoldLimits {
            bytes: 2 * get("/parked").len(),
            ..hold(10_000)
        },
    ] {
        let (edge, _upstream) = edge();
        let token = edge.pause(KEY, limits);
        let mut stay = [parked(&edge, 1), parked(&edge, 2)];
        let mut third = Conn::connect(edge.http());
        let response = third.ask(get("/parked"));
        assert_eq!(response.status(), 503, "{limits:?}");
        assert!(response.field("retry-after").is_some());
        edge.switch(KEY, token, Upstream::serve("new"), true)
            .unwrap();
        for client in &mut stay {
            assert_eq!(client.read_response().text(), "new", "{limits:?}");
        }
    }
}

#[test]
fn verbs_with_a_stale_token_are_refused() {
    let (edge, _upstream) = edge();
    let old = edge.pause(KEY, hold(10_000));
    edge.resume(KEY, old).unwrap();
    let new = edge.pause(KEY, hold(10_000));
    assert!(new > old);
    let code = |error: flocker_api::ErrorBody| error.code;
    assert_eq!(
        edge.resume(KEY, old).map_err(code),
        Err(ErrorCode::StaleToken)
    );
    assert_eq!(
        edge.try_pause(KEY, Some(old), hold(1)).map_err(code),
        Err(ErrorCode::StaleToken)
    );
    let to = "127.0.0.1:1".parse().unwrap();
    assert_eq!(
        edge.switch(KEY, old, to, true).map_err(code),
        Err(ErrorCode::StaleToken)
    );
    assert_eq!(edge.show(KEY).gate.state, GateState::Paused);
    // A newer token takes over.
    assert_eq!(
        edge.try_pause(KEY, Some(Token(new.0 + 10)), hold(10_000)),
        Ok(Token(new.0 + 10))
    );
    assert_eq!(
        edge.resume(KEY, new).map_err(code),
        Err(ErrorCode::StaleToken)
    );
    // Without a token the gate must be open.
    assert!(edge.try_pause(KEY, None, hold(1)).is_err());
}

#[test]
fn a_body_that_is_sent_while_parked_waits_in_the_kernel() {
    let (edge, upstream) = edge();
    let token = edge.pause(KEY, hold(10_000));
    let mut client = Conn::connect(edge.http());
    let body = "x".repeat(3 << 20);
    let mut uploading = Conn::new(client.stream.try_clone().unwrap());
    let request = post("/", &body);
    let upload = thread::spawn(move || uploading.send(request));
    edge.wait_parked(KEY, 1);
    let ahead = edge.show(KEY).gate.parked_bytes;
    assert!(ahead <= 64 << 10, "{ahead} bytes are held for one client");
    edge.resume(KEY, token).unwrap();
    let mut service = upstream.accept();
    assert_eq!(service.read_request().body.len(), body.len());
    upload.join().unwrap();
    service.send(ok("whole"));
    assert_eq!(client.read_response().text(), "whole");
}

#[test]
fn a_quiesce_closes_upgraded_connections() {
    let (edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send(
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    let mut service = upstream.accept();
    service.read_request();
    service.send(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi",
    );
    assert_eq!(client.read_response().status(), 101);
    assert_eq!(client.read_exact(2), b"hi");
    let token = edge.pause(KEY, hold(10_000));
    assert_eq!(
        edge.quiesce(KEY, token, 5_000),
        QuiesceReply::Quiesced { closed: 1 }
    );
    client.wait_gone();
    service.wait_gone();
}

#[test]
fn a_connect_under_way_parks_when_its_gate_is_paused() {
    let edge = Edge::start();
    // Nobody is there yet: the request is admitted and connects again and again.
    edge.route(KEY, &[crate::harness::nobody()]);
    let mut client = Conn::connect(edge.http());
    client.send(get("/"));
    edge.wait_in_flight(KEY, 1);
    let token = edge.pause(KEY, hold(10_000));
    assert_eq!(
        edge.quiesce(KEY, token, 5_000),
        QuiesceReply::Quiesced { closed: 0 }
    );
    edge.wait_parked(KEY, 1);
    edge.switch(KEY, token, Upstream::serve("new"), true)
        .unwrap();
    assert_eq!(client.read_response().text(), "new");
    assert_eq!(edge.show(KEY).failed, 0);
}

#[test]
fn a_route_that_is_removed_refuses_what_is_parked() {
    let (edge, upstream) = edge();
    edge.pause(KEY, hold(10_000));
    let mut client = parked(&edge, 1);
    let key = KEY.parse().unwrap();
    edge.apply(vec![Operation::Remove { key }]).unwrap();
    let status = client.read_response().status();
    assert!([404, 503].contains(&status), "{status}");
    assert!(!upstream.is_connected(Duration::from_millis(30)));
}

#[test]
fn a_paused_route_does_not_hold_up_others() {
    let (edge, _upstream) = edge();
    edge.route("http:b.test", &[Upstream::serve("b")]);
    edge.pause(KEY, hold(10_000));
    let _parked = parked(&edge, 1);
    let mut client = Conn::connect(edge.http());
    assert_eq!(client.ask(get("/").replace("a.test", "b.test")).text(), "b");
}

#[test]
fn tcp_parks_before_the_first_upstream_byte() {
    let edge = Edge::start();
    let (old, new) = (Upstream::listen(), Upstream::listen());
    let (address, key) = edge.tcp(0);
    edge.route(&key, &[old.address]);
    let token = edge.pause(&key, hold(10_000));
    let mut client = Conn::connect(address);
    client.send("early");
    edge.wait_parked(&key, 1);
    assert!(!old.is_connected(Duration::from_millis(30)));
    edge.switch(&key, token, new.address, true).unwrap();
    let mut service = new.accept();
    assert_eq!(service.read_exact(5), b"early");
    service.send("late");
    assert_eq!(client.read_exact(4), b"late");
    assert!(!old.is_connected(Duration::from_millis(1)));
}

#[test]
fn a_quiesce_closes_established_opaque_sessions_after_their_bytes() {
    let edge = Edge::start();
    let upstream = Upstream::listen();
    let (address, key) = edge.tcp(0);
    edge.route(&key, &[upstream.address]);
    let mut client = Conn::connect(address);
    client.send("question");
    let mut service = upstream.accept();
    assert_eq!(service.read_exact(8), b"question");
    service.send("answer");
    assert_eq!(client.read_exact(3), b"ans");
    let token = edge.pause(&key, hold(10_000));
    assert_eq!(
        edge.quiesce(&key, token, 5_000),
        QuiesceReply::Quiesced { closed: 1 }
    );
    assert_eq!(client.read_to_end_or_reset(), b"wer");
    service.wait_gone();
    // The client reconnects and is held.
    let mut client = Conn::connect(address);
    edge.wait_parked(&key, 1);
    edge.resume(&key, token).unwrap();
    upstream.accept().send("again");
    assert_eq!(client.read_exact(5), b"again");
}

#[test]
fn a_client_that_does_not_read_does_not_hold_up_a_quiesce() {
    let edge = Edge::start_with("linger_ms = 300", 1);
    let upstream = Upstream::listen();
    let (address, key) = edge.tcp(0);
    edge.route(&key, &[upstream.address]);
    let client = Conn::connect(address);
    let mut service = upstream.accept();
    let short = Duration::from_millis(60);
    service.stream.set_write_timeout(Some(short)).unwrap();
    while service.stream.write(&[0; 1 << 16]).is_ok() {}
    let token = edge.pause(&key, hold(10_000));
    let started = Instant::now();
    assert_eq!(
        edge.quiesce(&key, token, 8_000),
        QuiesceReply::Quiesced { closed: 1 }
    );
    assert!(started.elapsed() < Duration::from_secs(4));
    service.wait_gone();
    drop(client);
}

#[test]
fn opaque_sessions_that_shall_wait_are_counted_and_left_alone() {
    let edge = Edge::start();
    let upstream = Upstream::listen();
    let (address, key) = edge.tcp(0);
    edge.route_on_move(&key, &[upstream.address], OnMove::Wait);
    let mut client = Conn::connect(address);
    client.send("x");
    let mut service = upstream.accept();
    assert_eq!(service.read_exact(1), b"x");
    let token = edge.pause(&key, hold(10_000));
    let QuiesceReply::Busy { in_flight } = edge.quiesce(&key, token, 100) else {
        panic!("quiesced with a session");
    };
    assert_eq!(in_flight[0].count, 1);
    service.send("still there");
    assert_eq!(client.read_exact(11), b"still there");
    drop((client, service));
    assert_eq!(
        edge.quiesce(&key, token, 5_000),
        QuiesceReply::Quiesced { closed: 0 }
    );
}

#[test]
fn a_deadline_closes_parked_tcp_sessions() {
    let edge = Edge::start();
    let upstream = Upstream::listen();
    let (address, key) = edge.tcp(0);
    edge.route(&key, &[upstream.address]);
    edge.pause(&key, hold(200));
    let mut client = Conn::connect(address);
    client.wait_gone();
    eventually("nothing is parked", || {
        (edge.show(&key).gate.parked == 0).then_some(())
    });
}

/// Many parked at once, in HTTP and in TCP.
#[test]
fn a_thousand_parked_cost_little_and_are_all_let_go() {
    let edge = Edge::start_with("", 2);
    let upstream = Upstream::serve("a");
    edge.route(KEY, &[upstream]);
    let before = edge.resident();
    let limits = HoldLimits {
        per_client: 10_000,
        ..hold(20_000)
    };
    let token = edge.pause(KEY, limits);
    let mut clients: Vec<Conn> = (0..1_000)
        .map(|_| {
            let mut client = Conn::connect(edge.http());
            client.send(get("/"));
            client
        })
        .collect();
    edge.wait_parked(KEY, 1_000);
    let each = edge.resident().saturating_sub(before) / 1_000;
    assert!(each < 16 << 10, "{each} bytes for each that is parked");
    let report = edge.resume(KEY, token).unwrap().holds.remove(0);
    assert_eq!((report.released, report.refused), (1_000, 0));
    for client in &mut clients {
        assert_eq!(client.read_response().text(), "a");
    }
    // At a deadline all of them hear of it.
    let token = edge.pause(
        KEY,
        HoldLimits {
            hold_ms: 3_000,
            ..limits
        },
    );
    for client in &mut clients {
        client.send(get("/"));
    }
    for client in &mut clients {
        assert_eq!(client.read_response().status(), 503);
    }
    eventually("the gate is open", || {
        (edge.show(KEY).gate.state == GateState::Open).then_some(())
    });
    assert_eq!(edge.show(KEY).gate.token, token);
    assert_eq!(edge.status().parked, 0);
}

/// Clients that ask all the time, on kept connections and on new ones.
struct Traffic {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Traffic {
    fn start(to: SocketAddr, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let clients = (0..clients)
            .map(|number| {
                let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
                thread::spawn(move || ask_until(to, number % 2 == 0, &stop, &answered))
            })
            .collect();
        Self {
            stop,
            answered,
            clients,
        }
    }

    /// Waits until so many more requests are answered.
    fn wait_answers(&self, count: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        eventually("traffic flows", || {
            (self.answered.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// What went wrong.
    fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect()
    }
}

fn ask_until(to: SocketAddr, keep: bool, stop: &AtomicBool, answered: &AtomicU64) -> Vec<String> {
    let mut failures = Vec::new();
    let mut kept: Option<Conn> = None;
    while !stop.load(Ordering::Relaxed) {
        let mut client = kept.take().unwrap_or_else(|| Conn::connect(to));
        match try_ask(&mut client) {
            Ok(()) => {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) => failures.push(failure),
        }
        kept = keep.then_some(client);
    }
    failures
}

fn try_ask(client: &mut Conn) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    client.stream.write_all(get("/").as_bytes()).map_err(text)?;
    let mut seen = Vec::new();
    let mut chunk = [0; 4096];
    while !seen.ends_with(b"\r\n\r\na") && !seen.ends_with(b"\r\n\r\nb") {
        match client.stream.read(&mut chunk).map_err(text)? {
            0 => return Err(String::from_utf8_lossy(&seen).into_owned() + "<end>"),
            count => seen.extend_from_slice(&chunk[..count]),
        }
    }
    match seen.starts_with(b"HTTP/1.1 200 OK\r\n") {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&seen).into_owned()),
    }
}

#[test]
fn moves_under_load_fail_no_request() {
    let edge = Edge::start_with("", 2);
    let upstreams = [Upstream::serve("a"), Upstream::serve("b")];
    edge.route(KEY, &[upstreams[0]]);
    let traffic = Traffic::start(edge.http(), 8);
    for round in 1..=30 {
        traffic.wait_answers(40);
        let token = edge.pause(KEY, hold(10_000));
        assert!(
            matches!(
                edge.quiesce(KEY, token, 5_000),
                QuiesceReply::Quiesced { .. }
            ),
            "round {round}"
        );
        let gate = edge.show(KEY).gate;
        assert_eq!((gate.in_flight, gate.state), (0, GateState::Paused));
        let to = upstreams[round % 2];
        let report = edge.switch(KEY, token, to, true).unwrap().holds.remove(0);
        assert_eq!(
            (report.refused, report.client_gone),
            (0, 0),
            "round {round}"
        );
    }
    traffic.wait_answers(40);
    let failures = traffic.stop();
    assert!(
        failures.is_empty(),
        "{} failed: {:?}",
        failures.len(),
        failures.first()
    );
    assert_eq!(edge.show(KEY).failed, 0);
}

/// After the answer to a pause nothing is admitted any more, on no worker.
#[test]
fn a_pause_is_a_barrier_on_all_workers() {
    let edge = Edge::start_with("", 4);
    edge.route(KEY, &[Upstream::serve("a")]);
    let traffic = Traffic::start(edge.http(), 8);
    for _ in 0..20 {
        traffic.wait_answers(20);
        let token = edge.pause(KEY, hold(10_000));
        assert!(matches!(
            edge.quiesce(KEY, token, 5_000),
            QuiesceReply::Quiesced { .. }
        ));
        let before = edge.show(KEY);
        eventually("all clients are parked", || {
            (edge.show(KEY).gate.parked == 8).then_some(())
        });
        let after = edge.show(KEY);
        assert_eq!(after.gate.in_flight, 0);
        assert_eq!(before.failed, after.failed);
        edge.resume(KEY, token).unwrap();
    }
    assert_eq!(traffic.stop(), Vec::<String>::new());
}

#[test]
fn metrics_tell_of_holds_and_requests() {
    let (edge, upstream) = edge();
    let token = edge.pause(KEY, hold(10_000));
    let mut client = parked(&edge, 1);
    edge.resume(KEY, token).unwrap();
    let mut service = upstream.accept();
    service.read_request();
    service.send(ok("x"));
    client.read_response();
    let metrics = edge.metrics();
    for line in [
        "flocker_edge_sessions 1",
        "flocker_edge_routes 1",
        "flocker_edge_generation 1",
        "flocker_edge_parked 0",
        "flocker_edge_requests_total{route=\"http:a.test\"} 1",
        "flocker_edge_responses_total{route=\"http:a.test\",code=\"2xx\"} 1",
        "flocker_edge_holds_total{route=\"http:a.test\",outcome=\"released\"} 1",
        "flocker_edge_upstream_errors_total 0",
        "flocker_edge_hold_seconds_count 1",
        "flocker_edge_request_seconds_count 1",
    ] {
        assert!(
            metrics.lines().any(|other| other == line),
            "'{line}' is missing:\n{metrics}"
        );
    }
    assert!(metrics.ends_with("\n") && !metrics.contains("# EOF"));
}

#[test]
fn a_stopping_edge_lets_what_is_in_flight_end() {
    let (mut edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send(get("/slow"));
    let mut service = upstream.accept();
    service.read_request();
    let pid = rustix::process::Pid::from_child(edge.child());
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let address = edge.http();
    eventually("nobody listens any more", || {
        std::net::TcpStream::connect_timeout(&address, PATIENCE)
            .is_err()
            .then_some(())
    });
    service.send(ok("finished"));
    assert_eq!(client.read_response().text(), "finished");
    eventually("the edge ends", || edge.child().try_wait().unwrap())
        .success()
        .then_some(())
        .unwrap();
}

#[test]
fn a_stopping_edge_does_not_wait_for_idle_connections() {
    let (mut edge, upstream) = edge();
    let mut client = Conn::connect(edge.http());
    client.send(get("/"));
    let mut service = upstream.accept();
    service.read_request();
    service.send(ok("x"));
    client.read_response();
    let started = Instant::now();
    let pid = rustix::process::Pid::from_child(edge.child());
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    client.assert_ends();
    let status = eventually("the edge ends", || edge.child().try_wait().unwrap());
    assert!(status.success());
    assert!(started.elapsed() < Duration::from_secs(5));
}
