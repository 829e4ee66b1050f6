//! How long lookups and changes take in a table of a million routes, in time of the processor,
//! so that a busy machine does not show. A measurement:
//! `cargo test --release -p flocker-proxy --test table_scale -- --ignored --nocapture`
#![expect(clippy::print_stdout, reason = "a measurement prints what it finds")]

use std::{hint::black_box, sync::Arc, time::Duration};

use flocker_api::route::{Operation, Route, Transaction};
use flocker_proxy::logic::table::RouteTable;
use rustix::time::{ClockId, clock_gettime};

const ROUTES: usize = 1_000_000;
const CHANGES: usize = 200;
const LOOKUPS: usize = 2_000_000;
/// One host in so many has routes below paths.
const PREFIXED: usize = 100;

fn host(number: usize) -> String {
    format!("app-{number}.customers.example.com")
}

fn put(number: usize, port: u16) -> Operation {
    Operation::Put {
        route: Route::new(
            format!("http:{}", host(number))
                .parse()
                .expect("letters, digits and dots"),
            [std::net::SocketAddr::from(([10, 0, 0, 1], port))],
        ),
    }
}

fn transaction(operations: Vec<Operation>) -> Transaction {
    Transaction {
        against: None,
        operations,
    }
}

/// Numbers in no order that a cache could guess.
fn scattered(count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15) % ROUTES)
}

/// Time that this thread has run.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let part = |part: i64| u64::try_from(part).unwrap_or_default();
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}

fn ns(elapsed: Duration, count: usize) -> f64 {
    elapsed.as_secs_f64() * 1e9 / count as f64
}

/// The same lookups when some hosts have routes below paths: what it costs those that have none,
/// and what a change of such a route takes.
fn below_paths(table: &RouteTable<Arc<u64>>, hosts: &[String]) {
    let below = |number: usize, port: u16| Operation::Put {
        route: Route::new(
            format!("http:{}/a", host(number))
                .parse()
                .expect("letters, digits, dots and a path"),
            [std::net::SocketAddr::from(([10, 0, 0, 2], port))],
        ),
    };
    let load = (0..ROUTES)
        .step_by(PREFIXED)
        .map(|number| below(number, 80));
    let mut table = table
        .apply(&transaction(load.collect()), |_| Arc::new(1))
        .expect("new keys");
    let number_of = |host: &str| -> usize {
        let digits = host.trim_start_matches("app-").split('.').next();
        digits
            .and_then(|digits| digits.parse().ok())
            .expect("made here")
    };
    let has = |host: &&String| number_of(host).is_multiple_of(PREFIXED);
    let with: Vec<&String> = hosts.iter().filter(has).collect();
    let without: Vec<&String> = hosts.iter().filter(|host| !has(host)).collect();
    for (what, hosts, gate) in [("with", with, 1), ("without", without, 0)] {
        let started = cpu();
        let mut found = 0;
        for at in 0..LOOKUPS {
            let host = black_box(hosts[at % hosts.len()]);
            let entry = table.lookup_http(host, "/a/b");
            found += usize::from(entry.is_some());
        }
        println!(
            "lookups of {} hosts {what} routes below paths, among others: {:.0} ns",
            hosts.len(),
            ns(cpu() - started, LOOKUPS)
        );
        assert_eq!(found, LOOKUPS);
        let entry = table.lookup_http(hosts[0], "/a/b").expect("it is there");
        assert_eq!(*entry.gate, gate);
    }
    let mut times: Vec<Duration> = (0..CHANGES)
        .map(|number| {
            let change = transaction(vec![below(number * PREFIXED + 1, 81)]);
            let started = cpu();
            table = table.apply(&change, |_| Arc::new(1)).expect("a new key");
            cpu() - started
        })
        .collect();
    times.sort();
    println!(
        "one more route below a path: median {:?}, slowest {:?}",
        times[CHANGES / 2],
        times[CHANGES - 1]
    );
}

#[test]
#[ignore = "a measurement: run it with --release"]
fn a_million_routes() {
    let started = cpu();
    let load = transaction((0..ROUTES).map(|number| put(number, 80)).collect());
    println!("operations made in {:?}", cpu() - started);
    let started = cpu();
    let mut table = RouteTable::new().apply(&load, |_| Arc::new(0u64)).unwrap();
    println!("{ROUTES} routes applied at once in {:?}", cpu() - started);
    drop(load);
    assert_eq!(table.len(), ROUTES);

    let mut times: Vec<Duration> = Vec::with_capacity(CHANGES);
    for number in scattered(CHANGES) {
        let change = transaction(vec![put(number, 81)]);
        let started = cpu();
        let after = table.apply(&change, |_| Arc::new(0)).unwrap();
        // The old table goes at the same time, as it does when it is replaced.
        table = after;
        times.push(cpu() - started);
    }
    // The allocator puts the memory of the load in order first; that is not the table's work.
    let warm = times.split_off(CHANGES / 10);
    println!(
        "first changes after the load: up to {:?}",
        times.iter().max()
    );
    let mut times = warm;
    times.sort();
    println!(
        "one change: median {:?}, p99 {:?}, slowest {:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        times[times.len() - 1]
    );

    let hosts: Vec<String> = scattered(100_000).map(host).collect();
    for (what, hosts) in [("scattered", &hosts[..]), ("few hot", &hosts[..64])] {
        let started = cpu();
        let mut found = 0;
        for at in 0..LOOKUPS {
            let host = black_box(&hosts[at % hosts.len()]);
            found += usize::from(table.lookup_http(host, "/a/b").is_some());
        }
        println!("{what} lookups: {:.0} ns", ns(cpu() - started, LOOKUPS));
        assert_eq!(found, LOOKUPS);
    }
    below_paths(&table, &hosts);
    let started = cpu();
    for at in 0..LOOKUPS {
        let unknown = black_box("nobody.customers.example.com");
        assert!(table.lookup_http(&unknown[at % 2..], "/a/b").is_none());
    }
    println!("misses: {:.0} ns", ns(cpu() - started, LOOKUPS));
}
