//! Many routes: changes of some touch nothing of the others, however many there are.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use flocker_api::route::{Operation, Route};

use crate::{
    harness::{Conn, Edge, Upstream, get},
    upgrade::Load,
};

const KEY: &str = "http:a.test";

fn put(number: usize, port: u16) -> Operation {
    let key = format!("http:app-{number}.customers.test").parse().unwrap();
    Operation::Put {
        route: Route::new(key, [SocketAddr::from(([10, 0, 0, 1], port))]),
    }
}

fn remove(number: usize) -> Operation {
    Operation::Remove {
        key: format!("http:app-{number}.customers.test").parse().unwrap(),
    }
}

#[test]
fn changes_of_other_routes_touch_no_connection() {
    const MANY: usize = 5_000;
    let edge = Edge::start_with("", 2);
    edge.route(KEY, &[Upstream::serve("ok")]);
    let database = Upstream::listen();
    let (address, key) = edge.tcp(0);
    edge.route(&key, &[database.address]);
    let mut session = Conn::connect(address);
    session.send("hello");
    let mut service = database.accept();
    assert_eq!(service.read_exact(5), b"hello");
    let mut kept = Conn::connect(edge.http());
    assert_eq!(kept.ask(get("/")).text(), "ok");

    let load = Load::start(edge.http(), 6);
    edge.apply((0..MANY).map(|number| put(number, 80)).collect())
        .unwrap();
    assert_eq!(edge.status().routes, MANY as u64 + 2);
    for number in 0..200 {
        edge.apply(vec![put(number * 97 % MANY, 81)]).unwrap();
    }
    edge.apply((0..MANY).map(|number| put(number, 82)).collect())
        .unwrap();
    edge.apply((0..MANY).map(remove).collect()).unwrap();
    assert_eq!(edge.status().routes, 2);
    load.wait_more(100);
    load.end();
    assert_eq!(kept.ask(get("/again")).text(), "ok");
    service.send("still here");
    assert_eq!(session.read_exact(10), b"still here");
}

/// A client that asks every 2 ms, and notes how long each answer took.
struct Prober {
    stop: Arc<AtomicBool>,
    took: mpsc::Receiver<Duration>,
    thread: JoinHandle<()>,
}

impl Prober {
    const EVERY: Duration = Duration::from_millis(2);

    fn start(to: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, took) = mpsc::channel();
        let thread = {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut kept: Option<Conn> = None;
                let mut due = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    let mut conn = kept.take().unwrap_or_else(|| Conn::connect(to));
                    let answer = conn.ask(get("/"));
                    assert_eq!(answer.status(), 200);
                    // From when it was due: an answer that comes late makes the next one late.
                    if sender.send(due.elapsed()).is_err() {
                        return;
                    }
                    due += Self::EVERY;
                    let closes = answer.field("connection").is_some();
                    kept = (!closes).then_some(conn);
                }
            })
        };
        Self { stop, took, thread }
    }

    /// p50 and p99.9 since the last time, in ms.
    fn since(&self) -> String {
        let mut took: Vec<Duration> = self.took.try_iter().collect();
        took.sort();
        let at = |share: usize| took.get(took.len() * share / 1000).copied();
        format!("p50 {:?}, p99.9 {:?} of {}", at(500), at(999), took.len())
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// A measurement: `cargo nextest run --release a_million_routes_under_traffic --run-ignored all
/// --no-capture`.
#[test]
#[ignore = "a measurement: run it with --release"]
#[expect(clippy::print_stderr, reason = "a measurement prints what it finds")]
fn a_million_routes_under_traffic() {
    const MILLION: usize = 1_000_000;
    let mut edge = Edge::start_with("", 2);
    edge.route(KEY, &[Upstream::serve("ok")]);
    let mib = |edge: &Edge| edge.resident_of(edge.status().pid) >> 20;
    eprintln!("resident with one route: {} MiB", mib(&edge));
    let load = Load::start(edge.http(), 2);
    let prober = Prober::start(edge.http());
    load.wait_more(1_000);
    eprintln!("requests before: {}", prober.since());
    let operations: Vec<Operation> = (0..MILLION).map(|number| put(number, 80)).collect();
    let started = Instant::now();
    edge.apply(operations).unwrap();
    eprintln!(
        "a million routes by API, under traffic: {:?}",
        started.elapsed()
    );
    eprintln!("resident: {} MiB", mib(&edge));
    eprintln!("requests meanwhile: {}", prober.since());
    load.wait_more(1_000);
    eprintln!("requests among a million routes: {}", prober.since());
    let mut times: Vec<Duration> = (0..300)
        .map(|number| {
            let started = Instant::now();
            edge.apply(vec![put(number * 7919 % MILLION, 81)]).unwrap();
            started.elapsed()
        })
        .collect();
    times.sort();
    eprintln!(
        "one change by API: median {:?}, p99 {:?}",
        times[150], times[297]
    );
    eprintln!("requests meanwhile: {}", prober.since());
    prober.end();
    let started = Instant::now();
    edge.upgrade(None).unwrap();
    eprintln!("upgrade with a million routes: {:?}", started.elapsed());
    let started = Instant::now();
    let bulk = (0..100_000).map(|number| put(number, 83)).collect();
    edge.apply(bulk).unwrap();
    eprintln!("100,000 changes at once: {:?}", started.elapsed());
    let started = Instant::now();
    let text = edge.metrics();
    eprintln!(
        "/metrics: {:?}, {} KiB",
        started.elapsed(),
        text.len() >> 10
    );
    eprintln!("{} requests meanwhile, 0 failed", load.end());

    // The same from the file, at a start.
    let config = std::fs::read_to_string(edge.config()).unwrap();
    let mut text = config;
    for number in 0..MILLION {
        text.push_str(&format!(
            "[[route]]\nkey = \"http:app-{number}.customers.test\"\nupstreams = [\"10.0.0.1:80\"]\n"
        ));
    }
    std::fs::write(edge.config(), text).unwrap();
    let started = Instant::now();
    let _reloaded: serde_json::Value = edge.post("/v1/reload", &()).unwrap();
    eprintln!(
        "a million routes read again from the file: {:?}",
        started.elapsed()
    );
}
