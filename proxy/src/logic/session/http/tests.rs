//! What a route says of its requests, and whom an exchange waits for, on virtual time.

use std::{sync::Arc, time::Duration};

use flocker_api::{
    redirect::Redirect,
    route::{Operation, Route, Transaction},
};

use super::super::{
    Action, Ending, Event, Policy, Reuse, Want,
    tests::{Current, DOWN, GET, OK, POST, Rig, UP, connect, first},
};
use crate::logic::http::{
    accept::Format,
    origin::{Ids, Origins, Style},
    pages::{Page, Pages},
};

const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

impl Rig {
    /// Changes the route of the tests.
    fn with_route(mut self, change: impl FnOnce(&mut Route)) -> Self {
        let key = "http:notes.demo".parse().unwrap();
        let mut route = self.tables.0.get(&key).unwrap().route.clone();
        change(&mut route);
        let transaction = Transaction {
            against: None,
            operations: vec![Operation::Set { route }],
        };
        let table = self.tables.0.apply(&transaction, |_| unreachable!());
        self.tables = Current(table.unwrap());
        self
    }

    /// A request, up to the head that the upstream gets.
    fn asked(&mut self, bytes: &[u8]) -> String {
        self.request(bytes, false);
        self.written(UP)
    }

    fn wait(&mut self, time: Duration) -> Vec<Action> {
        let until = self.now + time;
        let mut actions = Vec::new();
        while let Some(deadline) = self.session().deadline()
            && deadline <= until
            && actions.is_empty()
        {
            self.now = self.now.max(deadline);
            actions = self.event(Event::Timer);
        }
        self.now = until;
        actions
    }
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn request(line: &str, fields: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: notes.demo\r\n{fields}\r\n").into_bytes()
}

#[test]
fn a_safe_request_is_sent_again_once_when_its_new_connection_breaks() {
    let mut rig = Rig::http();
    rig.asked(GET);
    let again = rig.event(Event::Broken(UP));
    assert_eq!(
        again,
        [Action::DropUpstream, connect(first(), Reuse::Never)]
    );
    rig.event(Event::Connected { reused: false });
    assert!(rig.written(UP).starts_with("GET /a "));
    assert_eq!(rig.event(Event::Eof(UP)), [Action::DropUpstream]);
    assert!(rig.written(DOWN).starts_with("HTTP/1.1 502 "));
}

#[test]
fn an_interim_response_is_something_that_came_back() {
    let mut rig = Rig::http();
    rig.asked(GET);
    rig.event(Event::Bytes(UP, b"HTTP/1.1 103 Early Hints\r\n\r\n"));
    rig.event(Event::Eof(UP));
    let said = rig.written(DOWN);
    assert!(
        said.starts_with("HTTP/1.1 103 ") && said.contains("HTTP/1.1 502 "),
        "{said}"
    );
}

#[test]
fn a_client_that_waits_for_100_is_told_once() {
    let expecting = request("POST /a", "Content-Length: 3\r\nExpect: 100-continue\r\n");
    // By the upstream.
    let mut rig = Rig::http();
    assert!(
        rig.asked(&expecting)
            .contains("\r\nExpect: 100-continue\r\n")
    );
    rig.event(Event::Bytes(UP, b"HTTP/1.1 100 Continue\r\n\r\n"));
    assert_eq!(rig.written(DOWN), "HTTP/1.1 100 Continue\r\n\r\n");
    rig.wait(s(5));
    assert_eq!(rig.written(DOWN), "");

    // By the edge, because the upstream says nothing; and then its word is one too many.
    let mut rig = Rig::http();
    rig.asked(&expecting);
    rig.wait(Duration::from_millis(999));
    assert_eq!(rig.written(DOWN), "");
    rig.wait(s(1));
    assert_eq!(rig.written(DOWN), "HTTP/1.1 100 Continue\r\n\r\n");
    rig.event(Event::Bytes(UP, b"HTTP/1.1 100 Continue\r\n\r\n"));
    assert_eq!(rig.written(DOWN), "");
    rig.event(Event::Piped {
        from: DOWN,
        bytes: 3,
    });
    rig.event(Event::Bytes(UP, OK));
    assert!(rig.written(DOWN).starts_with("HTTP/1.1 200 "));

    // Nobody: the client did not wait.
    let mut rig = Rig::http();
    rig.asked(&expecting);
    rig.event(Event::Piped {
        from: DOWN,
        bytes: 1,
    });
    rig.wait(s(5));
    assert_eq!(rig.written(DOWN), "");

    // A final answer in place of it ends the connection: the body may still come.
    let mut rig = Rig::http();
    rig.asked(&expecting);
    let no = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
    let actions = rig.event(Event::Bytes(UP, no));
    assert_eq!(
        actions,
        [Action::DropUpstream, Action::Close(Ending::Linger)]
    );
    assert!(rig.written(DOWN).contains("\r\nConnection: close\r\n"));
}

#[test]
fn a_body_that_drips_is_ended_and_one_that_streams_is_not() {
    let post = request("POST /a", "Content-Length: 1000000\r\n");
    for (bytes_a_second, survives) in [(99, false), (104, true)] {
        let mut rig = Rig::http();
        rig.asked(&post);
        for _ in 0..100 {
            rig.wait(s(1));
            if rig.session().wants(DOWN) == Want::Nothing {
                break;
            }
            let bytes = bytes_a_second;
            rig.event(Event::Piped { from: DOWN, bytes });
        }
        let said = rig.written(DOWN);
        assert_eq!(said.is_empty(), survives, "{bytes_a_second}: {said}");
        assert_eq!(said.starts_with("HTTP/1.1 408 "), !survives);
    }
}

#[test]
fn a_request_has_to_be_whole_in_the_end() {
    let mut rig = Rig::http();
    rig.limits.request_timeout = s(100);
    rig.asked(&request("POST /a", "Content-Length: 1000000\r\n"));
    for second in 1..=100 {
        assert_eq!(rig.written(DOWN), "", "after {second} s");
        rig.wait(s(1));
        rig.event(Event::Piped {
            from: DOWN,
            bytes: 1000,
        });
    }
    assert!(rig.written(DOWN).starts_with("HTTP/1.1 408 "));
}

#[test]
fn an_upstream_that_takes_no_body_is_to_blame_itself() {
    let mut rig = Rig::http();
    rig.asked(&request("POST /a", "Content-Length: 1000000\r\n"));
    rig.event(Event::Piped {
        from: DOWN,
        bytes: 1000,
    });
    rig.pending[1] = 500;
    rig.wait(s(59));
    assert_eq!(rig.written(DOWN), "");
    rig.wait(s(40));
    assert!(rig.written(DOWN).starts_with("HTTP/1.1 504 "));
}

#[test]
fn a_response_may_be_silent_for_long() {
    let mut rig = Rig::http();
    rig.asked(GET);
    rig.event(Event::Bytes(UP, STREAM));
    for _ in 0..3 {
        assert_eq!(rig.wait(s(3590)), []);
        rig.event(Event::Piped {
            from: UP,
            bytes: 10,
        });
    }
    assert_eq!(
        rig.wait(s(3601)),
        [Action::DropUpstream, Action::Close(Ending::Reset(DOWN))]
    );
}

#[test]
fn a_client_that_takes_its_response_in_drips_is_left() {
    let mut rig = Rig::http();
    rig.asked(GET);
    rig.event(Event::Bytes(UP, STREAM));
    rig.pending[0] = 32_768;
    let mut actions = Vec::new();
    let start = rig.now;
    while actions.is_empty() {
        actions = rig.wait(s(1));
        // A byte a second goes, which is progress, but no use.
        rig.pending[0] -= 1;
        rig.event(Event::Piped { from: UP, bytes: 0 });
    }
    assert_eq!(
        actions,
        [Action::DropUpstream, Action::Close(Ending::Clean)]
    );
    assert!(rig.now - start <= s(61), "{:?}", rig.now - start);

    // One that takes enough stays.
    let mut rig = Rig::http();
    rig.asked(GET);
    rig.event(Event::Bytes(UP, STREAM));
    for _ in 0..200 {
        rig.pending[0] = 32_768;
        assert_eq!(rig.wait(s(1)), []);
        rig.event(Event::Piped {
            from: UP,
            bytes: 100,
        });
    }
}

#[test]
fn a_flood_of_interim_responses_is_ended() {
    let mut rig = Rig::http();
    rig.asked(GET);
    let flood = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(40);
    rig.event(Event::Bytes(UP, &flood));
    let said = rig.written(DOWN);
    assert_eq!(said.matches("HTTP/1.1 103 ").count(), 32);
    assert!(said.contains("HTTP/1.1 502 "), "{said}");
}

#[test]
fn a_body_longer_than_its_route_allows_is_refused() {
    let mut rig = Rig::http().with_route(|route| route.body_bytes_max = Some(3));
    assert_eq!(
        rig.event(Event::Bytes(
            DOWN,
            &request("POST /a", "Content-Length: 4\r\n")
        )),
        [Action::Close(Ending::Linger)]
    );
    assert!(rig.written(DOWN).starts_with("HTTP/1.1 413 "));

    let mut rig = Rig::http().with_route(|route| route.body_bytes_max = Some(3));
    rig.request(POST, false);
    assert!(rig.written(UP).ends_with("\r\n\r\nabc"));

    // Chunked ones as they come; the upstream sees a body without an end.
    let chunked = request("POST /a", "Transfer-Encoding: chunked\r\n");
    let mut rig = Rig::http().with_route(|route| route.body_bytes_max = Some(20));
    rig.asked(&chunked);
    assert_eq!(rig.event(Event::Bytes(DOWN, b"3\r\nabc\r\n")), []);
    rig.event(Event::Bytes(DOWN, b"9\r\nabcdefghi\r\n0\r\n\r\n"));
    assert_eq!(rig.written(UP), "3\r\nabc\r\n");
    assert!(rig.written(DOWN).starts_with("HTTP/1.1 413 "));

    // The same when it comes with its head.
    let mut rig = Rig::http().with_route(|route| route.body_bytes_max = Some(3));
    rig.request(&[&chunked[..], b"3\r\nabc\r\n0\r\n\r\n"].concat(), false);
    rig.wait(s(1));
    assert!(rig.written(DOWN).starts_with("HTTP/1.1 413 "));
}

#[test]
fn a_redirect_keeps_host_path_and_query_and_drops_the_port() {
    let redirect = |status| Redirect::new(status).unwrap();
    for (line, host, location) in [
        ("GET /a?b=c", "Notes.Demo:80", "https://notes.demo/a?b=c"),
        (
            "GET http://notes.demo?x",
            "notes.demo",
            "https://notes.demo/?x",
        ),
        ("OPTIONS *", "notes.demo", "https://notes.demo/"),
    ] {
        let mut rig = Rig::http().with_route(|route| route.redirect_https = Some(redirect(307)));
        let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(rig.event(Event::Bytes(DOWN, request.as_bytes())), []);
        let said = rig.written(DOWN);
        assert!(
            said.starts_with("HTTP/1.1 307 Temporary Redirect\r\n"),
            "{said}"
        );
        assert!(
            said.contains(&format!("\r\nLocation: {location}\r\n")),
            "{said}"
        );
    }
    // With a body that is not read, the connection ends.
    let mut rig = Rig::http().with_route(|route| route.redirect_https = Some(redirect(308)));
    assert_eq!(
        rig.event(Event::Bytes(DOWN, POST)),
        [Action::Close(Ending::Linger)]
    );
    // And it does not wait at a paused gate.
    let mut rig = Rig::http().with_route(|route| route.redirect_https = Some(redirect(308)));
    rig.pause("http:notes.demo");
    rig.event(Event::Bytes(DOWN, GET));
    assert!(rig.written(DOWN).starts_with("HTTP/1.1 308 "));
}

#[test]
fn thousands_of_pipelined_requests_are_answered_one_after_the_other() {
    let stray = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut rig = Rig::http();
    // Each within the one before would be a stack of thousands.
    rig.event(Event::Bytes(DOWN, &stray.repeat(3000)));
    assert_eq!(rig.written(DOWN).matches("HTTP/1.1 404 ").count(), 3000);

    // What is said to one is not said to the next.
    let redirect = Redirect::new(308).unwrap();
    let mut rig = Rig::http().with_route(|route| route.redirect_https = Some(redirect));
    rig.event(Event::Bytes(DOWN, &[GET, stray, GET].concat()));
    let said = rig.written(DOWN);
    assert_eq!(said.matches("HTTP/1.1 308 ").count(), 2);
    assert_eq!(said.matches("\r\nLocation: ").count(), 2, "{said}");
}

const CONNECT: &[u8] = b"CONNECT notes.demo:22 HTTP/1.1\r\nHost: notes.demo:22\r\n\r\n";

#[test]
fn connect_is_refused_unless_its_route_allows_it() {
    let mut rig = Rig::http();
    assert_eq!(
        rig.event(Event::Bytes(DOWN, CONNECT)),
        [Action::Close(Ending::Linger)]
    );
    assert!(rig.written(DOWN).starts_with("HTTP/1.1 501 "));
    let elsewhere = b"CONNECT nobody.demo:22 HTTP/1.1\r\nHost: nobody.demo:22\r\n\r\n";
    let mut rig = Rig::http();
    rig.event(Event::Bytes(DOWN, elsewhere));
    assert!(rig.written(DOWN).starts_with("HTTP/1.1 501 "));
}

#[test]
fn a_connect_is_a_tunnel_after_2xx_and_not_before() {
    let allowed = || Rig::http().with_route(|route| route.allow_connect = true);
    let early = [CONNECT, b"early"].concat();
    // What is sent too early waits for the answer.
    let mut rig = allowed();
    assert_eq!(rig.asked(&early).matches("early").count(), 0);
    assert_eq!(rig.session().wants(DOWN), Want::Nothing);
    // A length in such an answer means nothing (RFC 9110, section 9.3.6).
    let yes = b"HTTP/1.1 200 Connected\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(rig.event(Event::Bytes(UP, yes)), []);
    assert_eq!(rig.written(DOWN), "HTTP/1.1 200 Connected\r\n\r\nhello");
    assert_eq!(rig.written(UP), "early");
    assert_eq!(rig.session().wants(DOWN), Want::Pipe(None));
    assert_eq!(rig.session().wants(UP), Want::Pipe(None));

    // Without a 2xx it was never a tunnel, and it is no request either.
    let mut rig = allowed();
    rig.asked(&[CONNECT, GET].concat());
    let no = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
    let actions = rig.event(Event::Bytes(UP, no));
    assert_eq!(actions.last(), Some(&Action::Close(Ending::Linger)));
    assert_eq!(rig.written(UP), "");
}

#[test]
fn a_switch_before_the_request_is_whole_is_refused() {
    let mut rig = Rig::http();
    let fields = "Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n";
    rig.asked(&request("POST /a", fields));
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    rig.event(Event::Bytes(UP, switch));
    assert!(rig.written(DOWN).starts_with("HTTP/1.1 502 "));
    assert_eq!(rig.session().wants(DOWN), Want::Nothing);
}

#[test]
fn what_a_client_sends_early_is_no_tunnel_data_before_the_101() {
    let upgrade = request("GET /ws", "Connection: Upgrade\r\nUpgrade: websocket\r\n");
    let mut rig = Rig::http();
    let sent = rig.asked(&[&upgrade[..], b"\x81\x05early"].concat());
    assert!(
        sent.ends_with("\r\n\r\n") && !sent.contains("early"),
        "{sent}"
    );
    assert_eq!(rig.session().wants(DOWN), Want::Nothing);
    // It is not switched: what follows has to be a request, and is none.
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    rig.event(Event::Bytes(UP, ok));
    assert!(rig.written(DOWN).contains("HTTP/1.1 400 "));
    assert_eq!(rig.written(UP), "");
}

#[test]
fn a_parked_client_cannot_make_the_edge_read_on() {
    let mut rig = Rig::http();
    rig.pause("http:notes.demo");
    rig.event(Event::Bytes(
        DOWN,
        &request("POST /a", "Content-Length: 1000000\r\n"),
    ));
    assert!(rig.session().is_parked());
    assert_eq!(rig.session().wants(DOWN), Want::Nothing);

    // One whose head is not complete is not parked, and its time is running.
    let mut rig = Rig::http();
    rig.pause("http:notes.demo");
    rig.event(Event::Bytes(DOWN, &GET[..GET.len() - 1]));
    assert!(!rig.session().is_parked());
    assert_eq!(rig.wait(s(10)), [Action::Close(Ending::Linger)]);
    assert!(rig.written(DOWN).starts_with("HTTP/1.1 408 "));
}

#[test]
fn a_head_that_drips_has_no_more_time_than_any_other() {
    let mut rig = Rig::http();
    let start = rig.now;
    for byte in GET {
        if rig.written(DOWN).starts_with("HTTP/1.1 408 ") {
            break;
        }
        rig.event(Event::Bytes(DOWN, &[*byte]));
        rig.wait(s(1));
    }
    assert_eq!(rig.now - start, s(10));
}

fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (other, value) = line.split_once(": ")?;
        (other == name).then_some(value)
    })
}

#[test]
fn every_request_has_an_id_and_a_trusted_one_keeps_its_own() {
    let with_id = request(
        "GET /a",
        "X-Request-Id: mine\r\nX-Forwarded-For: 1.1.1.1\r\n",
    );
    let mut rig = Rig::http();
    let head = rig.asked(&with_id);
    let id = field(&head, "X-Request-Id").unwrap();
    assert_eq!(id.len(), 32);
    assert_eq!(head.matches("X-Request-Id").count(), 1);
    assert_eq!(field(&head, "X-Forwarded-For"), Some("192.0.2.7"));
    assert_eq!(rig.records.len(), 0);
    rig.event(Event::Bytes(UP, OK));
    assert_eq!(rig.records[0].words.request_id, id);

    let mut rig = Rig::http();
    rig.client = "198.51.100.7:1".parse().unwrap();
    let head = rig.asked(&with_id);
    assert_eq!(field(&head, "X-Request-Id"), Some("mine"));
    assert_eq!(
        field(&head, "X-Forwarded-For"),
        Some("1.1.1.1, 198.51.100.7")
    );

    // The same trusted proxy, without an id.
    rig.event(Event::Bytes(UP, OK));
    rig.written(DOWN);
    let head = rig.asked(GET);
    assert_eq!(field(&head, "X-Request-Id").unwrap().len(), 32);
}

#[test]
fn trace_context_is_passed_on_whatever_connection_says() {
    let trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    let fields = format!("{trace}tracestate: a=b\r\nConnection: traceparent, tracestate\r\n");
    let head = Rig::http().asked(&request("GET /a", &fields));
    assert!(
        head.contains(trace) && head.contains("tracestate: a=b\r\n"),
        "{head}"
    );
}

#[test]
fn a_route_has_its_own_pages() {
    let mut pages = Pages::default();
    let page = |text: &str| Page {
        format: Format::Html,
        bytes: text.as_bytes().to_vec(),
    };
    pages.add("shop", 502, page("closed {request_id}"));
    let mut rig = Rig::http().with_route(|route| route.error_pages = Some("shop".to_owned()));
    rig.limits.policy = Arc::new(Policy {
        origins: Origins {
            trusted: Vec::new(),
            style: Style::Both,
            request_ids: true,
            ids: Ids::new([3, 4]),
        },
        pages,
    });
    let head = rig.asked(&request("POST /a", ""));
    let id = field(&head, "X-Request-Id").unwrap();
    rig.event(Event::Eof(UP));
    let said = rig.written(DOWN);
    assert!(said.ends_with(&format!("\r\n\r\nclosed {id}")), "{said}");
    assert_eq!(
        field(&said, "Content-Type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(field(&said, "X-Request-Id"), Some(id));
}
