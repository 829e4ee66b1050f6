//! The table against a naive list, and the refusals one by one.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;

/// A gate that only has an identity.
type Gate = u64;

fn counter() -> impl FnMut(&RouteKey) -> Gate {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    |_| NEXT.fetch_add(1, Ordering::Relaxed)
}

fn route(key: &str, upstreams: &[&str]) -> Route {
    Route::new(
        key.parse().unwrap(),
        upstreams
            .iter()
            .map(|address| address.parse::<Upstream>().unwrap()),
    )
}

fn add(key: &str) -> Operation {
    Operation::Add {
        route: route(key, &["10.0.0.1:80"]),
    }
}

fn transaction(operations: &[Operation]) -> Transaction {
    Transaction {
        against: None,
        operations: operations.to_vec(),
    }
}

fn table(keys: &[&str]) -> RouteTable<Gate> {
    let operations: Vec<_> = keys.iter().map(|key| add(key)).collect();
    RouteTable::new()
        .apply(&transaction(&operations), counter())
        .unwrap()
}

fn found(entry: Option<&Arc<Entry<Gate>>>) -> Option<String> {
    entry.map(|entry| entry.route.key.to_string())
}

#[test]
fn an_exact_host_comes_before_a_wildcard_of_one_label() {
    let table = table(&[
        "http:*.example.com",
        "http:a.example.com",
        "https:*.example.com",
        "tcp:80",
    ]);
    let http = |host| found(table.lookup_http(host, "/x"));
    assert_eq!(http("a.example.com").unwrap(), "http:a.example.com");
    assert_eq!(http("b.example.com").unwrap(), "http:*.example.com");
    assert_eq!(http("example.com"), None);
    assert_eq!(http("c.b.example.com"), None);
    assert_eq!(http(""), None);
    let https = |host| found(table.lookup_https(host, ""));
    assert_eq!(https("a.example.com").unwrap(), "https:*.example.com");
    assert_eq!(https("example.com"), None);
    assert_eq!(found(table.lookup_tcp(80)).unwrap(), "tcp:80");
    assert_eq!(found(table.lookup_tcp(81)), None);
    assert_eq!(found(table.lookup_tcp(0)), None);
}

#[test]
fn the_longest_prefix_wins_on_segment_borders() {
    let table = table(&[
        "http:a.b",
        "http:a.b/api",
        "http:a.b/api/v1",
        "http:a.b/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p",
        "http:*.b/static",
        "http:only.b/x",
    ]);
    for (host, path, expected) in [
        ("a.b", "", Some("http:a.b")),
        ("a.b", "/", Some("http:a.b")),
        ("a.b", "/apiary", Some("http:a.b")),
        ("a.b", "/API", Some("http:a.b")),
        ("a.b", "//api", Some("http:a.b")),
        ("a.b", "/api", Some("http:a.b/api")),
        ("a.b", "/api/v10", Some("http:a.b/api")),
        ("a.b", "/api/v1", Some("http:a.b/api/v1")),
        ("a.b", "/api/v1/x/y", Some("http:a.b/api/v1")),
        ("a.b", "/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o", Some("http:a.b")),
        (
            "a.b",
            "/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r",
            Some("http:a.b/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p"),
        ),
        // The exact host's root comes before the wildcard's path.
        ("a.b", "/static", Some("http:a.b")),
        ("c.b", "/static/x", Some("http:*.b/static")),
        ("c.b", "/", None),
        // The exact host has none for it, so the wildcard is asked.
        ("only.b", "/static", Some("http:*.b/static")),
        ("only.b", "/x", Some("http:only.b/x")),
        ("only.b", "/y", None),
    ] {
        let found = found(table.lookup_http(host, path));
        assert_eq!(found.as_deref(), expected, "{host}{path}");
    }
    // The last one that goes takes the host's paths with it.
    let remove = |key: &str| Operation::Remove {
        key: key.parse().unwrap(),
    };
    assert!(table.has_paths_http("only.b"));
    let after = table
        .apply(
            &transaction(&[remove("http:only.b/x"), remove("http:*.b/static")]),
            counter(),
        )
        .unwrap();
    assert!(!after.has_paths_http("only.b"));
    assert!(after.has_paths_http("a.b"));
    assert!(!after.has_paths_https("a.b"));
}

#[test]
fn a_refused_transaction_names_what_is_wrong_and_changes_nothing() {
    let table = table(&["http:a.b", "tcp:5432"]);
    let refused = |operations: &[Operation]| {
        let error = table
            .apply(&transaction(operations), counter())
            .unwrap_err();
        (ErrorBody::from(error.clone()).code, error.to_string())
    };
    let set = |key, upstreams: &[&str]| Operation::Set {
        route: route(key, upstreams),
    };
    let remove = |key: &str| Operation::Remove {
        key: key.parse().unwrap(),
    };
    let cases = [
        (
            refused(&[add("http:new.b"), add("http:A.b.")]),
            ErrorCode::AlreadyExists,
            "route http:a.b exists already",
        ),
        (
            refused(&[add("tcp:1"), add("tcp:1")]),
            ErrorCode::AlreadyExists,
            "route tcp:1 exists already",
        ),
        (
            refused(&[set("tcp:1", &["10.0.0.1:1"])]),
            ErrorCode::NotFound,
            "there is no route tcp:1",
        ),
        (
            refused(&[remove("tcp:5432"), remove("tcp:5432")]),
            ErrorCode::NotFound,
            "there is no route tcp:5432",
        ),
        (
            refused(&[add("https:a.b/api")]),
            ErrorCode::InvalidRequest,
            "route https:a.b/api is passed through undecrypted: its key takes no path",
        ),
        (
            refused(&[set("tcp:5432", &[])]),
            ErrorCode::InvalidRequest,
            "route tcp:5432 has no upstream: name at least one ADDRESS:PORT",
        ),
        (
            refused(&[set("tcp:5432", &["10.0.0.1:0"])]),
            ErrorCode::InvalidRequest,
            "route tcp:5432 leads to 10.0.0.1:0: give an address and a port other than 0",
        ),
        (
            refused(&[set("tcp:5432", &["0.0.0.0:5"])]),
            ErrorCode::InvalidRequest,
            "route tcp:5432 leads to 0.0.0.0:5: give an address and a port other than 0",
        ),
        (
            refused(&[set("tcp:5432", &["[::1]:5", "[::1]:5"])]),
            ErrorCode::InvalidRequest,
            "route tcp:5432 names upstream [::1]:5 twice",
        ),
    ];
    for ((code, message), expected_code, expected) in cases {
        assert_eq!((code, message.as_str()), (expected_code, expected));
    }
    assert_eq!(table.len(), 2);
    assert_eq!(table.generation(), Generation(1));
}

#[test]
fn a_field_that_means_nothing_for_a_route_is_refused() {
    let refused = |key: &str, change: fn(&mut Route)| {
        let mut route = route(key, &["10.0.0.1:80"]);
        change(&mut route);
        let operations = [Operation::Add { route }];
        let error = table(&[]).apply(&transaction(&operations), counter());
        error.err().map(|error| error.to_string())
    };
    let moved = |route: &mut Route| {
        route.redirect_https = flocker_api::redirect::Redirect::new(308).ok();
    };
    let connect = |route: &mut Route| route.allow_connect = true;
    let body = |route: &mut Route| route.body_bytes_max = Some(1);
    let pages = |route: &mut Route| route.error_pages = Some("x".to_owned());
    let changes: [fn(&mut Route); 4] = [moved, connect, body, pages];
    for change in changes {
        assert_eq!(refused("http:a.b", change), None);
        for key in ["tcp:1", "https:a.b"] {
            let said = refused(key, change).unwrap();
            assert!(said.contains(": that is for "), "{said}");
        }
    }
    assert!(
        refused("http:a.b/x", connect)
            .unwrap()
            .contains("without a path")
    );
    assert_eq!(refused("http:a.b/x", pages), None);
}

#[test]
fn a_path_of_https_needs_a_host_whose_tls_ends_here() {
    use flocker_api::termination::{Terminate, Tls};
    let put = |key: &str, tls: bool| {
        let mut route = route(key, &["10.0.0.1:80"]);
        if tls {
            route.tls = Tls::Terminate(Terminate::default());
        }
        Operation::Put { route }
    };
    let remove = |key: &str| Operation::Remove {
        key: key.parse().unwrap(),
    };
    let apply = |table: &RouteTable<Gate>, operations: &[Operation]| {
        table.apply(&transaction(operations), counter())
    };
    let refused = |table: &RouteTable<Gate>, operations: &[Operation], key: &str| {
        let error = apply(table, operations).unwrap_err();
        assert_eq!(error, TransactionError::NoTermination(key.parse().unwrap()));
    };
    let empty = table(&[]);
    refused(&empty, &[put("https:a.b/x", true)], "https:a.b/x");
    refused(
        &table(&["https:a.b"]),
        &[put("https:a.b/x", true)],
        "https:a.b/x",
    );
    // In any order, and by a wildcard, too.
    let both = [put("https:a.b/x", true), put("https:a.b", true)];
    let with = apply(&empty, &both).unwrap();
    assert_eq!(
        found(with.lookup_https("a.b", "/x")).unwrap(),
        "https:a.b/x"
    );
    let below = [put("https:*.b", true), put("https:a.b/x", true)];
    assert!(apply(&empty, &below).is_ok());
    // What others need stays as it is.
    refused(&with, &[remove("https:a.b")], "https:a.b");
    refused(&with, &[put("https:a.b", false)], "https:a.b");
    let gone = [remove("https:a.b"), remove("https:a.b/x")];
    assert!(apply(&with, &gone).unwrap().is_empty());
}

#[test]
fn a_stale_generation_is_refused_with_the_current_one() {
    let table = table(&["tcp:1"]);
    let mut late = transaction(&[add("tcp:2")]);
    late.against = Some(Generation(0));
    let body = ErrorBody::from(table.apply(&late, counter()).unwrap_err());
    assert_eq!(body.code, ErrorCode::StaleGeneration);
    assert_eq!(body.details, json!({ "current": 1 }));
    late.against = Some(Generation(1));
    let table = table.apply(&late, counter()).unwrap();
    assert_eq!(table.generation(), Generation(2));
}

#[test]
fn gates_stay_with_their_routes() {
    let before = table(&["tcp:1", "tcp:2"]);
    let gate = |table: &RouteTable<Gate>, port| table.lookup_tcp(port).unwrap().gate;
    let upstreams = vec!["10.9.9.9:9".parse().unwrap()];
    let after = before
        .retarget(&[Retarget {
            key: "tcp:1".parse().unwrap(),
            upstreams: upstreams.clone(),
        }])
        .unwrap();
    assert_eq!(gate(&after, 1), gate(&before, 1));
    assert_eq!(after.lookup_tcp(1).unwrap().route.upstreams, upstreams);
    assert_eq!(after.generation(), Generation(2));
    // What was not touched is shared.
    assert!(Arc::ptr_eq(
        after.lookup_tcp(2).unwrap(),
        before.lookup_tcp(2).unwrap()
    ));
    let again = after
        .apply(
            &transaction(&[
                Operation::Remove {
                    key: "tcp:1".parse().unwrap(),
                },
                add("tcp:1"),
                Operation::Put {
                    route: route("tcp:2", &["10.0.0.2:2"]),
                },
            ]),
            counter(),
        )
        .unwrap();
    assert_ne!(gate(&again, 1), gate(&before, 1));
    assert_eq!(gate(&again, 2), gate(&before, 2));

    let missing = after.retarget(&[Retarget {
        key: "tcp:3".parse().unwrap(),
        upstreams,
    }]);
    assert_eq!(
        missing.unwrap_err(),
        TransactionError::NotFound("tcp:3".parse().unwrap())
    );
}

/// The keys that random transactions are made of: few, so that they meet.
const KEYS: [&str; 14] = [
    "tcp:1",
    "tcp:2",
    "http:a.b/x",
    "http:a.b/x/y",
    "http:a.b/x/y/z",
    "http:*.b/x",
    "http:a.b",
    "http:c.b",
    "http:*.b",
    "http:b",
    "https:a.b",
    "https:*.b",
    "https:*.a.b",
    "https:b",
];

fn any_operation() -> impl Strategy<Value = Operation> {
    let upstreams = prop_oneof![
        8 => Just(vec!["10.0.0.1:80"]),
        4 => Just(vec!["10.0.0.2:80", "10.0.0.3:80"]),
        1 => Just(vec![]),
        1 => Just(vec!["10.0.0.1:80", "10.0.0.1:80"]),
    ];
    (0..4u8, prop::sample::select(&KEYS[..]), upstreams).prop_map(|(op, key, upstreams)| {
        let route = route(key, &upstreams);
        match op {
            0 => Operation::Add { route },
            1 => Operation::Set { route },
            2 => Operation::Put { route },
            _ => Operation::Remove { key: route.key },
        }
    })
}

/// The model: a list, searched from the front.
#[derive(Debug, Clone, Default)]
struct List {
    generation: u64,
    routes: Vec<(Route, Gate)>,
}

impl List {
    fn find(&self, key: &str) -> Option<&(Route, Gate)> {
        self.routes
            .iter()
            .find(|(route, _)| route.key.to_string() == key)
    }

    fn lookup(&self, kind: &str, host: &str, path: &str) -> Option<&(Route, Gate)> {
        self.longest(&format!("{kind}:{host}"), path).or_else(|| {
            let (_, domain) = host.split_once('.')?;
            self.longest(&format!("{kind}:*.{domain}"), path)
        })
    }

    fn longest(&self, site: &str, path: &str) -> Option<&(Route, Gate)> {
        let mut prefix = path;
        loop {
            let found = self.find(&format!("{site}{prefix}"));
            if found.is_some() || prefix.is_empty() {
                return found;
            }
            prefix = &prefix[..prefix.rfind('/').unwrap()];
        }
    }

    fn apply(&self, transaction: &Transaction, next_gate: &mut Gate) -> Option<Self> {
        let mut after = self.clone();
        if transaction
            .against
            .is_some_and(|against| against.0 != self.generation)
        {
            return None;
        }
        for operation in &transaction.operations {
            let key = operation.key().to_string();
            let at = after
                .routes
                .iter()
                .position(|(route, _)| route.key.to_string() == key);
            let route = match (operation, at) {
                (Operation::Remove { .. }, Some(at)) => {
                    after.routes.remove(at);
                    continue;
                }
                (Operation::Add { route }, None)
                | (Operation::Set { route }, Some(_))
                | (Operation::Put { route }, _) => route,
                _ => return None,
            };
            let unlike: std::collections::BTreeSet<_> = route.upstreams.iter().collect();
            if unlike.is_empty() || unlike.len() < route.upstreams.len() {
                return None;
            }
            match at {
                Some(at) => after.routes[at].0 = route.clone(),
                None => {
                    *next_gate += 1;
                    after.routes.push((route.clone(), *next_gate));
                }
            }
        }
        after.generation += 1;
        Some(after)
    }
}

fn same(entry: Option<&Arc<Entry<Gate>>>, model: Option<&(Route, Gate)>) -> bool {
    entry.map(|entry| (&entry.route, &entry.gate)) == model.map(|(route, gate)| (route, gate))
}

proptest! {
    #[test]
    fn it_does_what_a_list_does(
        transactions in prop::collection::vec(
            (prop::option::weighted(0.3, 0..8u64), prop::collection::vec(any_operation(), 0..5)),
            0..20,
        )
    ) {
        let mut table = RouteTable::new();
        let mut list = List::default();
        let (mut table_gates, mut list_gates) = (0, 0);
        for (against, operations) in transactions {
            let transaction = Transaction { against: against.map(Generation), operations };
            let expected = list.apply(&transaction, &mut list_gates);
            let after = table.apply(&transaction, |_| {
                table_gates += 1;
                table_gates
            });
            // A refused transaction may have made gates; both count on from the same number.
            let gates = table_gates.max(list_gates);
            (table_gates, list_gates) = (gates, gates);
            prop_assert_eq!(after.is_ok(), expected.is_some());
            if let (Ok(after), Some(expected)) = (after, expected) {
                (table, list) = (after, expected);
            }
            prop_assert_eq!(table.generation().0, list.generation);
            prop_assert_eq!(table.len(), list.routes.len());
            prop_assert_eq!(table.entries().count(), list.routes.len());
            for key in KEYS {
                prop_assert!(same(table.get(&key.parse().unwrap()), list.find(key)));
            }
            for host in ["a.b", "b", "c.b", "d.b", "x.a.b", "y.x.a.b", ""] {
                for path in ["", "/x", "/x/y", "/x/y/z/z", "/x/z", "/y", "//x", "/xy"] {
                    let model = list.lookup("http", host, path);
                    prop_assert!(same(table.lookup_http(host, path), model));
                }
                let model = list.lookup("https", host, "");
                prop_assert!(same(table.lookup_https(host, "/x"), model));
                let has_paths = |site: &str| {
                    let site = format!("http:{site}/");
                    list.routes.iter().any(|(route, _)| route.key.to_string().starts_with(&site))
                };
                let below = host.split_once('.').is_some_and(|(_, domain)| {
                    has_paths(&format!("*.{domain}"))
                });
                prop_assert_eq!(table.has_paths_http(host), has_paths(host) || below);
                prop_assert!(!table.has_paths_https(host));
            }
            for port in 0..4u16 {
                let key = format!("tcp:{port}");
                prop_assert!(same(table.lookup_tcp(port), list.find(&key)));
            }
        }
    }
}

#[test]
fn keys_that_do_not_fit_into_a_slot_are_told_apart() {
    for length in [45, 46, 47, 200] {
        let host = |last: char| {
            let labels = ["abcdefghi."; 30].concat();
            format!("{}{last}", &labels[..length - 1])
        };
        let (a, b) = (host('a'), host('b'));
        assert_eq!(a.len(), length);
        let table = table(&[&format!("http:{a}"), &format!("https:{b}")]);
        assert!(table.lookup_http(&a, "").is_some());
        assert!(table.lookup_http(&b, "").is_none());
        assert!(table.lookup_https(&b, "").is_some());
        assert!(table.lookup_https(&a, "").is_none());
    }
}

#[test]
fn a_large_table_finds_every_route_through_changes() {
    let key = |number: usize| format!("http:h{number}.example.com");
    let keys: Vec<String> = (0..20_000).map(key).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let mut table = table(&keys);
    for number in (0..20_000).step_by(50) {
        let key = keys[number].parse().unwrap();
        table = table
            .apply(&transaction(&[Operation::Remove { key }]), counter())
            .unwrap();
    }
    assert_eq!(table.len(), 20_000 - 400);
    for number in 0..20_000 {
        let host = format!("h{number}.example.com");
        assert_eq!(
            table.lookup_http(&host, "").is_some(),
            number % 50 != 0,
            "{host}"
        );
    }
}
