//! Visits with their times, and the lines that become of them.

use std::{net::SocketAddr, time::Duration};

use super::{
    Cause, End, Phase, Protocol, Record, Timers, Visit, Words,
    format::{Style, write},
};
use crate::logic::test_clock;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn record() -> Record {
    Record {
        ended_us: 1_700_000_000_123_456,
        protocol: Protocol::Http1,
        client: address("192.0.2.7:4242"),
        upstream: Some(address("10.0.0.1:81")),
        status: 200,
        cause: Cause::Done,
        phase: Phase::Over,
        timers: Timers {
            head: Some(Duration::from_micros(250)),
            held: None,
            connect: Some(ms(1)),
            response: Some(Duration::from_micros(12_345)),
            total: ms(14),
        },
        bytes_up: 120,
        bytes_down: 4096,
        retries: 1,
        words: Words {
            route: "http:notes.demo".into(),
            method: "GET".into(),
            target: "/a?b=c".into(),
            host: "notes.demo".into(),
            request_id: "r-1".into(),
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
            user_agent: "curl/8 (x)".into(),
            tls: String::new(),
        },
    }
}

fn line(record: &Record, style: Style) -> String {
    let mut line = String::new();
    write(record, style, &mut line);
    line
}

#[test]
fn a_line_of_text() {
    assert_eq!(
        line(&record(), Style::Text),
        "2023-11-14T22:13:20.123Z 192.0.2.7:4242 http/1.1 http:notes.demo 10.0.0.1:81 \
         0.250/-/1.000/12.345/14.000 200 120/4096 -- 1 \"GET notes.demo /a?b=c\" r-1 \
         4bf92f3577b34da6a3ce929d0e0e4736 \"curl/8 (x)\" -\n"
    );
    assert_eq!(line(&record(), Style::Off), "");
}

#[test]
fn a_line_of_json_says_the_same_and_leaves_out_what_there_is_not() {
    let value: serde_json::Value = serde_json::from_str(&line(&record(), Style::Json)).unwrap();
    let expected = serde_json::json!({
        "time": "2023-11-14T22:13:20.123Z", "client": "192.0.2.7:4242", "protocol": "http/1.1",
        "route": "http:notes.demo", "upstream": "10.0.0.1:81", "end": "--", "cause": "done",
        "status": 200, "head_ms": 0.25, "connect_ms": 1.0, "response_ms": 12.345,
        "total_ms": 14.0, "bytes_up": 120, "bytes_down": 4096, "retries": 1, "method": "GET",
        "host": "notes.demo", "target": "/a?b=c", "request_id": "r-1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "user_agent": "curl/8 (x)",
    });
    assert_eq!(value, expected);
}

#[test]
fn no_byte_of_a_client_ends_a_field_or_a_line() {
    let mut record = record();
    record.words.target = "/a\" 200\n\u{fc}\\".into();
    record.words.user_agent = "x\"\r\ny".into();
    let line = line(&record, Style::Text);
    assert_eq!(line.matches('\n').count(), 1);
    assert!(
        line.contains(r#"notes.demo /a\x22\x20200\x0a\xc3\xbc\x5c""#),
        "{line}"
    );
    assert!(line.contains(r#""x\x22\x0d\x0ay""#), "{line}");
    record.words.target = "\n".into();
    let json = self::line(&record, Style::Json);
    assert_eq!(json.matches('\n').count(), 1);
}

#[test]
fn letters_and_names_are_distinct() {
    let letters: std::collections::HashSet<char> =
        Cause::ALL.iter().map(|cause| cause.letter()).collect();
    let names: std::collections::HashSet<&str> =
        Cause::ALL.iter().map(|cause| cause.name()).collect();
    assert_eq!(
        (letters.len(), names.len()),
        (Cause::ALL.len(), Cause::ALL.len())
    );
    for (number, cause) in Cause::ALL.iter().enumerate() {
        assert_eq!(*cause as usize, number);
    }
}

#[test]
fn a_visit_knows_how_long_each_phase_took() {
    let start = test_clock();
    let mut visit = Visit::new(Protocol::Http1, start, [10, 20]);
    visit.headed(start + ms(1), Some(Words::default()));
    visit.parked(start + ms(1));
    visit.connecting(start + ms(501), address("10.0.0.1:81"));
    visit.connecting(start + ms(504), address("10.0.0.2:81"));
    visit.connected(start + ms(506), Phase::Response);
    visit.responded(start + ms(516), 200);
    visit.over();
    let end = End {
        now: start + ms(520),
        client: address("192.0.2.7:1"),
        moved: [110, 220],
    };
    let record = visit.end(&end).unwrap();
    let expected = Timers {
        head: Some(ms(1)),
        held: Some(ms(500)),
        connect: Some(ms(5)),
        response: Some(ms(10)),
        total: ms(520),
    };
    assert_eq!(record.timers, expected);
    assert_eq!((record.bytes_down, record.bytes_up), (100, 200));
    assert_eq!(record.upstream, Some(address("10.0.0.2:81")));
    assert_eq!((record.cause, record.phase), (Cause::Done, Phase::Over));
}

#[test]
fn who_leaves_while_parked_was_held_until_then_and_the_first_to_blame_counts() {
    let start = test_clock();
    let mut visit = Visit::new(Protocol::Tcp, start, [0, 0]);
    visit.headed(start, Some(Words::default()));
    visit.parked(start);
    visit.blame(Cause::Client);
    visit.blame(Cause::Upstream);
    let end = End {
        now: start + ms(300),
        client: address("192.0.2.7:1"),
        moved: [0, 0],
    };
    let record = visit.end(&end).unwrap();
    assert_eq!(record.timers.held, Some(ms(300)));
    assert_eq!((record.cause, record.phase), (Cause::Client, Phase::Held));
    assert_eq!(record.timers.connect, None);
}

#[test]
fn words_are_taken_from_a_head() {
    let head = b"POST /x HTTP/1.1\r\nHost: a\r\nUser-Agent:  me \r\nx-request-ID: 7\r\n\
        traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n";
    let words = Words::of_head(head, b"/x", "a");
    assert_eq!(
        (&*words.method, &*words.target, &*words.host),
        ("POST", "/x", "a")
    );
    assert_eq!((&*words.user_agent, &*words.request_id), ("me", "7"));
    assert_eq!(words.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
    for wrong in [
        "00-0000",
        "nonsense",
        "00-00000000000000000000000000000000-1-1",
    ] {
        assert_eq!(super::trace_id(wrong.as_bytes()), None, "{wrong}");
    }
}
