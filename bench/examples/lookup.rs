//! `lookup ROUTES`: ns of a lookup and us of a change of one route in the edge's table of so
//! many, without anything around it. `flocker-bench edge --workload routes` runs it, if it is
//! built: `cargo build --release -p flocker-bench --example lookup`.
#![expect(clippy::disallowed_methods, reason = "measures how long lookups take")]

use std::{error::Error, hint::black_box, io::Write as _, time::Instant};

use flocker_api::{
    route::{Operation, Route, Transaction},
    upstream::Upstream,
};
use flocker_proxy::logic::table::RouteTable;

/// Hosts that are looked up, in an order that no cache foresees.
const HOSTS: usize = 1 << 17;
/// Rounds over all hosts, and changes.
const ROUNDS: usize = 8;
const CHANGES: usize = 200;

fn main() -> Result<(), Box<dyn Error>> {
    let routes: usize = std::env::args().nth(1).ok_or("lookup ROUTES")?.parse()?;
    let upstream: Upstream = "10.0.0.1:80".parse()?;
    let put = |number: usize| -> Result<Operation, Box<dyn Error>> {
        let key = format!("http:app-{number}.example.net").parse()?;
        Ok(Operation::Put {
            route: Route::new(key, [upstream.clone()]),
        })
    };
    let all = (0..routes).map(put).collect::<Result<_, _>>()?;
    let filled = Transaction {
        against: None,
        operations: all,
    };
    let mut table = RouteTable::new().apply(&filled, |_| ())?;

    // A full period of numbers modulo 2^17 (Knuth: odd increment, multiplier 1 modulo 4).
    let mut number = 1usize;
    let mut next = || {
        number = (number * 5 + 12_345) % HOSTS;
        number
    };
    let hosts: Vec<String> = (0..HOSTS)
        .map(|_| format!("app-{}.example.net", next() * 7919 % routes))
        .collect();
    let began = Instant::now();
    let mut found = 0;
    for _ in 0..ROUNDS {
        for host in &hosts {
            found += usize::from(black_box(table.lookup_http(host, "/")).is_some());
        }
    }
    let lookups = ROUNDS * HOSTS;
    if found != lookups {
        return Err(format!("{found} of {lookups} were found").into());
    }
    #[expect(clippy::cast_precision_loss, reason = "a million")]
    let ns = began.elapsed().as_nanos() as f64 / lookups as f64;

    let mut us = Vec::new();
    for change in 0..CHANGES {
        let operations = vec![put(change * 7919 % routes)?];
        let began = Instant::now();
        table = table.apply(
            &Transaction {
                against: None,
                operations,
            },
            |_| (),
        )?;
        us.push(began.elapsed().as_secs_f64() * 1e6);
    }
    us.sort_by(f64::total_cmp);
    writeln!(std::io::stdout(), "{ns:.1} {:.1}", us[CHANGES / 2])?;
    Ok(())
}
