//! Routes below paths, from outside: where requests go, and which are refused.

use std::time::Duration;

use crate::harness::{Conn, Edge, Upstream, get};

const ROUTES: [(&str, &str); 4] = [
    ("http:a.test", "root"),
    ("http:a.test/api", "api"),
    ("http:a.test/api/v1", "v1"),
    ("http:b.test", "other"),
];

fn edge() -> Edge {
    let edge = Edge::start();
    for (key, name) in ROUTES {
        edge.route(key, &[Upstream::serve(name)]);
    }
    edge
}

#[test]
fn requests_go_to_the_longest_prefix_of_their_path() {
    let edge = edge();
    let mut client = Conn::connect(edge.http());
    for (path, name) in [
        ("/", "root"),
        ("/apiary", "root"),
        ("/api", "api"),
        ("/api/", "api"),
        ("/api?x=/v1", "api"),
        ("/%61pi/x", "api"),
        ("/api/v1", "v1"),
        ("/api/v1/users/7", "v1"),
        ("http://a.test/api/v1/x", "v1"),
        ("http://a.test", "root"),
        // Odd, but it leads to one place in every reading.
        ("/api/users%2F7", "api"),
        ("/api//x", "api"),
        ("/x;y/z", "root"),
        ("/.well-known/x", "root"),
    ] {
        let answer = client.ask(get(path));
        assert_eq!((answer.status(), answer.text()), (200, name), "{path}");
    }
    assert_eq!(edge.show("http:a.test/api/v1").requests, 3);
}

#[test]
fn a_path_of_two_readings_is_refused_where_paths_decide_and_passes_where_they_do_not() {
    let edge = edge();
    for path in [
        "/api/../x",
        "/x/../api",
        "/x/%2e%2e/api",
        "/x/..;a/api",
        "/x/..%2fapi",
        "/./api",
        "//api",
        "/x%",
        "/api%2fv1",
        "/api;x/v1",
        "/api\\v1",
        "/x%00",
    ] {
        let mut client = Conn::connect(edge.http());
        let answer = client.ask(get(path));
        assert_eq!(answer.status(), 400, "{path}");
        client.assert_ends();
        let mut client = Conn::connect(edge.http());
        let to_other = get(path).replace("a.test", "b.test");
        assert_eq!(client.ask(to_other).text(), "other", "{path}");
    }
}

#[test]
fn a_gate_below_a_path_holds_only_what_goes_there() {
    let edge = edge();
    let token = edge.pause("http:a.test/api", crate::harness::hold(10_000));
    let mut held = Conn::connect(edge.http());
    held.send(get("/api/x"));
    edge.wait_parked("http:a.test/api", 1);
    let mut client = Conn::connect(edge.http());
    assert_eq!(client.ask(get("/x")).text(), "root");
    assert_eq!(client.ask(get("/api/v1")).text(), "v1");
    let after = Upstream::listen();
    edge.switch("http:a.test/api", token, after.address, true)
        .unwrap();
    let mut service = after.accept();
    assert!(service.read_request().head.starts_with("GET /api/x "));
    assert!(!after.is_connected(Duration::ZERO));
}
