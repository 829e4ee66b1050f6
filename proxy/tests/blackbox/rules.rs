//! What a route says of HTTP, from outside: redirects, CONNECT, bodies, error pages, and what
//! upstreams are told of the way of a request.

use std::fs;

use flocker_api::{
    ErrorCode,
    redirect::Redirect,
    route::{Operation, Route},
};

use crate::harness::{Conn, Edge, Upstream, get, nobody, ok, post};

const KEY: &str = "http:a.test";

/// An edge with this route to a scripted upstream.
fn edge(limits: &str, change: impl FnOnce(&mut Route)) -> (Edge, Upstream) {
    let edge = Edge::start_with(limits, 1);
    let upstream = Upstream::listen();
    let mut route = Route::new(KEY.parse().unwrap(), [upstream.address]);
    change(&mut route);
    edge.apply(vec![Operation::Put { route }]).unwrap();
    (edge, upstream)
}

#[test]
fn a_route_sends_clients_that_come_in_clear_to_https() {
    let (edge, upstream) = edge("", |route| {
        route.redirect_https = Some(Redirect::new(308).unwrap());
    });
    let mut client = Conn::connect(edge.http());
    for path in ["/a/b?c=d", "/"] {
        let answer = client.ask(get(path));
        assert_eq!(answer.status(), 308);
        let location = format!("https://a.test{path}");
        assert_eq!(answer.field("location"), Some(&*location));
    }
    let answer = client.ask(post("/form", "x=y"));
    assert_eq!(
        (answer.status(), answer.field("connection")),
        (308, Some("close"))
    );
    assert!(!upstream.is_connected(std::time::Duration::ZERO));
}

#[test]
fn connect_is_a_tunnel_where_the_route_allows_it() {
    let (edge, upstream) = edge("", |route| route.allow_connect = true);
    let connect = "CONNECT a.test:22 HTTP/1.1\r\nHost: a.test:22\r\n\r\n";
    let mut client = Conn::connect(edge.http());
    // Both at once: what is early waits for the answer.
    client.send(format!("{connect}early"));
    let mut service = upstream.accept();
    assert!(
        service
            .read_head()
            .starts_with("CONNECT a.test:22 HTTP/1.1\r\nHost: a.test:22\r\n")
    );
    service.assert_silent();
    service.send("HTTP/1.1 200 Connected\r\n\r\nhello");
    assert_eq!(client.read_head(), "HTTP/1.1 200 Connected\r\n\r\n");
    assert_eq!(client.read_exact(5), b"hello");
    assert_eq!(service.read_exact(5), b"early");
    client.send("ping");
    assert_eq!(service.read_exact(4), b"ping");
    service.finish();
    client.assert_ends();
    drop(client);
    drop(service);
    edge.wait_in_flight(KEY, 0);

    // Refused by the proxy behind: no tunnel, and the connection ends.
    let mut client = Conn::connect(edge.http());
    client.send(format!("{connect}{}", get("/smuggled")));
    let mut service = upstream.accept();
    service.read_head();
    service.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.read_response().status(), 403);
    client.assert_ends();
    assert!(!String::from_utf8_lossy(&service.read_to_end_or_reset()).contains("smuggled"));
}

#[test]
fn a_body_longer_than_the_route_allows_is_a_413() {
    let (edge, upstream) = edge("", |route| route.body_bytes_max = Some(10));
    let mut client = Conn::connect(edge.http());
    assert_eq!(client.ask(post("/", "more than ten")).status(), 413);
    client.assert_ends();
    assert!(!upstream.is_connected(std::time::Duration::ZERO));
    let mut client = Conn::connect(edge.http());
    client.send(post("/", "just ten.."));
    let mut service = upstream.accept();
    assert_eq!(service.read_request().text(), "just ten..");
    service.send(ok("fine"));
    assert_eq!(client.read_response().text(), "fine");
    // Nothing is known of a chunked body before it is there.
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(head);
    service.read_head();
    client.send("5\r\nhello\r\n");
    client.send("5\r\nworld\r\n0\r\n\r\n");
    assert_eq!(client.read_response().status(), 413);
    let seen = service.read_to_end_or_reset();
    assert!(!seen.ends_with(b"0\r\n\r\n"), "{}", seen.escape_ascii());
}

#[test]
fn error_pages_are_those_of_the_route_in_a_format_that_the_client_reads() {
    let pages = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = pages.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let html = file("503.html", "<h1>closed</h1> {request_id}");
    let json = file("503.json", "{\"closed\": true}");
    let lost = file("404.html", "lost {status}");
    let tables = format!(
        "connect_hold_ms = 0\n[error_pages.default]\n404 = \"{lost}\"\n\
         [error_pages.shop]\n503 = [\"{html}\", \"{json}\"]\n"
    );
    let (edge, _) = edge(&tables, |route| {
        route.upstreams = vec![nobody().into()];
        route.error_pages = Some("shop".to_owned());
    });
    let mut client = Conn::connect(edge.http());
    let accepting = |accept: &str, host: &str| {
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n\r\n")
    };
    let answer = client.ask(accepting("text/html", "a.test"));
    assert_eq!(answer.status(), 503);
    assert_eq!(
        answer.field("content-type"),
        Some("text/html; charset=utf-8")
    );
    let id = answer.field("x-request-id").unwrap().to_owned();
    assert_eq!(answer.text(), format!("<h1>closed</h1> {id}"));
    let answer = client.ask(accepting("application/json", "a.test"));
    assert_eq!(answer.text(), "{\"closed\": true}");
    assert_ne!(answer.field("x-request-id"), Some(&*id));
    assert_eq!(
        client.ask(accepting("*/*", "nobody.test")).text(),
        "lost 404"
    );
    let answer = client.ask("NONSENSE\r\n\r\n");
    assert_eq!(answer.text(), "the request is malformed\n");

    let mut unknown = Route::new(KEY.parse().unwrap(), [nobody()]);
    unknown.error_pages = Some("none".to_owned());
    let error = edge
        .apply(vec![Operation::Set { route: unknown }])
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::Precondition);
    assert!(
        error.message.contains("error_pages.none"),
        "{}",
        error.message
    );
}

#[test]
fn a_trusted_edge_in_front_is_believed_and_added_to() {
    let upstream = Upstream::listen();
    let inner = Edge::start_with(
        "[http]\ntrusted = [\"127.0.0.0/8\"]\nforwarded = \"both\"",
        1,
    );
    inner.route(KEY, &[upstream.address]);
    let outer = Edge::start_with("[http]\nforwarded = \"both\"", 1);
    outer.route(KEY, &[inner.http()]);
    let mut client = Conn::connect(outer.http());
    client.send(
        "GET / HTTP/1.1\r\nHost: a.test:81\r\nX-Forwarded-For: 6.6.6.6\r\n\
         Forwarded: for=6.6.6.6\r\nX-Request-Id: spoofed\r\n\r\n",
    );
    let mut service = upstream.accept();
    let request = service.read_request();
    let way: Vec<&str> = request
        .field("x-forwarded-for")
        .unwrap()
        .split(", ")
        .collect();
    assert_eq!(way.len(), 2, "{way:?}");
    assert!(way.iter().all(|hop| hop.starts_with("127.")), "{way:?}");
    assert_eq!(request.field("x-forwarded-host"), Some("a.test:81"));
    let forwarded = request.field("forwarded").unwrap();
    let hop = "host=\"a.test:81\";proto=http";
    let expected = format!("for={};{hop}, for={};{hop}", way[0], way[1]);
    assert_eq!(forwarded, expected);
    assert_eq!(
        request
            .head
            .to_ascii_lowercase()
            .matches("x-request-id")
            .count(),
        1
    );
    assert_eq!(request.field("x-request-id").unwrap().len(), 32);
    service.send(ok("x"));
    assert_eq!(client.read_response().status(), 200);

    // Straight to the inner one, whoever comes from a trusted network may say it.
    let mut client = Conn::connect(inner.http());
    client.send(
        "GET / HTTP/1.1\r\nHost: a.test\r\nX-Request-Id: mine\r\nX-Forwarded-Proto: https\r\n\r\n",
    );
    let request = service.read_request();
    assert_eq!(request.field("x-request-id"), Some("mine"));
    assert_eq!(request.field("x-forwarded-proto"), Some("https"));
}
