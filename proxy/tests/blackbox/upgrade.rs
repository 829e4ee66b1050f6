//! One process of an edge after the other, while clients come, wait and stay.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use flocker_api::{
    ErrorCode,
    certificate::{CertificateList, CertificateStatus, PutCertificate, PutTicketKey, TicketKeys},
    gate::QuiesceReply,
};

use crate::harness::{Conn, Edge, Upstream, eventually, get, hold, ok, post};

const KEY: &str = "http:a.test";

/// Clients of a service that answers `ok`, until they are told to stop: half keep their
/// connection, half open one for each request.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    pub(crate) fn start(to: SocketAddr, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let served = Arc::new(AtomicU64::new(0));
        let clients = (0..clients)
            .map(|number| {
                let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
                thread::spawn(move || client(to, number % 2 == 0, &stop, &served))
            })
            .collect();
        Self {
            stop,
            served,
            clients,
        }
    }

    /// Waits until so many more have been served.
    pub(crate) fn wait_more(&self, count: u64) {
        let goal = self.served.load(Ordering::Relaxed) + count;
        eventually(&format!("{count} more are served"), || {
            let failed = self.clients.iter().any(JoinHandle::is_finished);
            (failed || self.served.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    pub(crate) fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap().unwrap();
        }
        self.served.load(Ordering::Relaxed)
    }
}

fn client(
    to: SocketAddr,
    keeps: bool,
    stop: &AtomicBool,
    served: &AtomicU64,
) -> Result<(), String> {
    let mut kept: Option<Conn> = None;
    while !stop.load(Ordering::Relaxed) {
        let mut conn = kept.take().unwrap_or_else(|| Conn::connect(to));
        let request = match keeps {
            true => get("/"),
            false => "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n".to_owned(),
        };
        let answer = conn.ask(request);
        if answer.status() != 200 || answer.text() != "ok" {
            return Err(answer.head);
        }
        served.fetch_add(1, Ordering::Relaxed);
        let closes = answer
            .field("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if keeps && !closes {
            kept = Some(conn);
        }
    }
    Ok(())
}

#[test]
fn upgrades_under_load_refuse_and_reset_nothing() {
    let mut edge = Edge::start_with("", 2);
    edge.route(KEY, &[Upstream::serve("ok")]);
    let first = edge.status();
    let load = Load::start(edge.http(), 8);
    load.wait_more(100);
    let mut pids = vec![first.pid];
    for _ in 0..4 {
        pids.push(edge.upgrade(None).unwrap());
        load.wait_more(100);
    }
    let status = edge.status();
    assert_eq!(status.pid, pids[4]);
    assert_eq!(status.generation, first.generation);
    assert_eq!(status.listeners.len(), first.listeners.len());
    assert!(load.end() >= 500);
    pids.dedup();
    assert_eq!(pids.len(), 5);
    // Nobody has anything left, so all but the last end.
    let path = edge.file("");
    eventually("the old processes have ended", || {
        let sockets = std::fs::read_dir(&path).unwrap();
        let old = sockets.filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("edge.sock.")
        });
        (old.count() == 0).then_some(())
    });
    assert!(edge.status().predecessors.is_empty());
}

/// An upgrade every 5 s for a minute: `cargo nextest run upgrades_for_a_minute --run-ignored all`
#[test]
#[ignore = "takes a minute"]
#[expect(clippy::print_stderr, reason = "a measurement prints what it finds")]
fn upgrades_for_a_minute_fail_nothing() {
    let mut edge = Edge::start_with("", 2);
    edge.route(KEY, &[Upstream::serve("ok")]);
    let load = Load::start(edge.http(), 16);
    let started = Instant::now();
    let mut longest = Duration::ZERO;
    let mut upgrades = 0;
    while started.elapsed() < Duration::from_secs(60) {
        let before = Instant::now();
        edge.upgrade(None).unwrap();
        longest = longest.max(before.elapsed());
        upgrades += 1;
        while before.elapsed() < Duration::from_secs(5) {
            load.wait_more(10);
        }
    }
    let served = load.end();
    eprintln!("{upgrades} upgrades, the longest took {longest:?}; {served} requests, 0 failed");
    assert!(upgrades >= 12 && served > 1_000);
}

#[test]
fn who_is_parked_in_the_old_process_goes_with_the_switch_of_the_new_one() {
    let mut edge = Edge::start();
    let (old, new) = (Upstream::serve("old"), Upstream::serve("new"));
    edge.route(KEY, &[old]);
    let token = edge.pause(KEY, hold(20_000));
    let mut before = Conn::connect(edge.http());
    before.send(get("/"));
    edge.wait_parked(KEY, 1);
    edge.upgrade(None).unwrap();
    let gate = edge.show(KEY).gate;
    assert_eq!(gate.token, token);
    assert!(gate.lapses_in_ms.unwrap() > 10_000);
    let mut after = Conn::connect(edge.http());
    after.send(get("/"));
    edge.wait_parked(KEY, 1);
    assert_eq!(edge.status().predecessors[0].parked, 1);
    assert_eq!(
        edge.quiesce(KEY, token, 5_000),
        QuiesceReply::Quiesced { closed: 0 }
    );
    let reply = edge.switch(KEY, token, new, true).unwrap();
    assert_eq!(reply.holds[0].released, 2);
    assert_eq!(before.read_response().text(), "new");
    assert_eq!(after.read_response().text(), "new");
}

#[test]
fn a_quiesce_counts_what_the_old_process_has_in_flight() {
    let mut edge = Edge::start();
    let upstream = Upstream::listen();
    edge.route(KEY, &[upstream.address]);
    let mut client = Conn::connect(edge.http());
    client.send(get("/slow"));
    let mut service = upstream.accept();
    service.read_request();
    edge.upgrade(None).unwrap();
    let token = edge.pause(KEY, hold(20_000));
    let QuiesceReply::Busy { in_flight } = edge.quiesce(KEY, token, 100) else {
        panic!("quiesced with a request in flight");
    };
    assert_eq!(in_flight[0].count, 1);
    service.send(ok("late"));
    let answer = client.read_response();
    assert_eq!(answer.text(), "late");
    assert_eq!(
        edge.quiesce(KEY, token, 5_000),
        QuiesceReply::Quiesced { closed: 0 }
    );
    edge.resume(KEY, token).unwrap();
}

#[test]
fn a_pause_after_an_upgrade_holds_clients_of_the_old_process_too() {
    let mut edge = Edge::start();
    edge.route(KEY, &[Upstream::serve("ok")]);
    let mut client = Conn::connect(edge.http());
    assert_eq!(client.ask(get("/")).text(), "ok");
    edge.upgrade(None).unwrap();
    let token = edge.pause(KEY, hold(20_000));
    client.send(get("/"));
    eventually("the old process has parked it", || {
        (edge.status().predecessors.first()?.parked == 1).then_some(())
    });
    client.assert_silent();
    let reply = edge.resume(KEY, token).unwrap();
    assert_eq!(reply.holds[0].released, 1);
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn a_pause_lapses_in_both_processes_when_nobody_resumes_it() {
    let mut edge = Edge::start();
    edge.route(KEY, &[Upstream::serve("ok")]);
    edge.pause(KEY, hold(1_500));
    let mut before = Conn::connect(edge.http());
    before.send(get("/"));
    edge.wait_parked(KEY, 1);
    edge.upgrade(None).unwrap();
    let mut after = Conn::connect(edge.http());
    after.send(get("/"));
    assert_eq!(before.read_response().status(), 503);
    assert_eq!(after.read_response().status(), 503);
    assert_eq!(Conn::connect(edge.http()).ask(get("/")).text(), "ok");
}

#[test]
fn established_tcp_sessions_stay_with_the_old_process() {
    let mut edge = Edge::start();
    let upstream = Upstream::listen();
    let (address, key) = edge.tcp(0);
    edge.route(&key, &[upstream.address]);
    let mut client = Conn::connect(address);
    client.send("hello");
    let mut service = upstream.accept();
    assert_eq!(service.read_exact(5), b"hello");
    edge.upgrade(None).unwrap();
    edge.upgrade(None).unwrap();
    service.send("still here");
    assert_eq!(client.read_exact(10), b"still here");
    assert_eq!(edge.status().predecessors.len(), 1);
    // New ones go to the new process, at the same port.
    let mut second = Conn::connect(address);
    second.send("again");
    assert_eq!(upstream.accept().read_exact(5), b"again");
    client.finish();
    service.finish();
    eventually("the old process has ended", || {
        edge.status().predecessors.is_empty().then_some(())
    });
}

#[test]
fn routes_and_tokens_of_before_count_afterwards() {
    let mut edge = Edge::start();
    edge.route(KEY, &[Upstream::serve("ok")]);
    edge.route("http:b.test", &[Upstream::serve("b")]);
    let token = edge.pause(KEY, hold(20_000));
    edge.resume(KEY, token).unwrap();
    let generation = edge.status().generation;
    edge.upgrade(None).unwrap();
    assert_eq!(edge.status().generation, generation);
    let stale = flocker_api::gate::Token(token.0 - 1);
    let error = edge.try_pause(KEY, Some(stale), hold(1_000)).unwrap_err();
    assert_eq!(error.code, ErrorCode::StaleToken);
    let newer = edge.pause(KEY, hold(20_000));
    assert!(newer > token);
    edge.resume(KEY, newer).unwrap();
    edge.route("http:c.test", &[Upstream::serve("c")]);
    assert_eq!(edge.status().generation.0, generation.0 + 1);
    let mut client = Conn::connect(edge.http());
    assert_eq!(client.ask(get("/")).text(), "ok");
}

#[test]
fn certificates_and_ticket_keys_in_memory_are_handed_over() {
    let mut edge = Edge::start();
    let key = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let put = PutCertificate {
        certificate: key.cert.pem(),
        key: key.signing_key.serialize_pem(),
    };
    let sent: CertificateStatus = edge.put("/v1/certificates/a", &put).unwrap();
    let ticket = PutTicketKey {
        key: "00ff".repeat(16).parse().unwrap(),
    };
    let keys: TicketKeys = edge.put("/v1/tickets", &ticket).unwrap();
    edge.upgrade(None).unwrap();
    let list: CertificateList = edge.get("/v1/certificates").unwrap();
    assert_eq!(list.certificates, [sent]);
    // The same key again changes nothing, so the answer is what there is.
    assert_eq!(
        edge.put::<_, TicketKeys>("/v1/tickets", &ticket).unwrap(),
        keys
    );
}

#[test]
fn a_binary_that_does_not_take_over_leaves_the_old_one_serving() {
    let mut edge = Edge::start();
    edge.route(KEY, &[Upstream::serve("ok")]);
    let before = edge.status();
    let error = edge.upgrade(Some(PathBuf::from("/bin/false"))).unwrap_err();
    assert!(
        error.message.contains("/bin/false did not take over"),
        "{error}"
    );
    let error = edge
        .upgrade(Some(PathBuf::from("/nonexistent")))
        .unwrap_err();
    assert!(
        error.message.contains("cannot start /nonexistent"),
        "{error}"
    );
    // A configuration that is wrong is said by the new process.
    let config = std::fs::read_to_string(edge.config()).unwrap();
    std::fs::write(edge.config(), format!("{config}colour = 7\n")).unwrap();
    let error = edge.upgrade(None).unwrap_err();
    assert!(error.message.contains("colour"), "{error}");
    std::fs::write(edge.config(), config).unwrap();
    assert_eq!(edge.status().pid, before.pid);
    let mut client = Conn::connect(edge.http());
    assert_eq!(client.ask(post("/", "")).status(), 200);
    edge.upgrade(None).unwrap();
    assert_ne!(edge.status().pid, before.pid);
}
