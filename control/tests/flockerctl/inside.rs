//! `app logs`, `app exec`, `app restart`.

use flocker_api::{
    ErrorBody, ErrorCode,
    control::RestartReply,
    exec::ExecReply,
    logs::{AppLogReply, LogLine, LogReply},
};
use serde_json::json;

use super::{against_control, assert_has, server::Server};

fn output(node: &str, lines: &[&str], cursor: &str, more: bool) -> AppLogReply {
    let lines = lines.iter().map(|text| LogLine {
        at_ms: Some(1_764_000_000_123),
        stream: None,
        text: (*text).to_owned(),
    });
    AppLogReply {
        node: node.parse().unwrap(),
        reply: LogReply {
            lines: lines.collect(),
            cursor: Some(cursor.to_owned()),
            more,
        },
    }
}

#[test]
fn output_is_read_to_its_end_over_several_answers() {
    let server = Server::new()
        .answer(
            "GET /v2/apps/notes/logs",
            &output("n1", &["one"], "n1/1", true),
        )
        .answer(
            "GET /v2/apps/notes/logs",
            &output("n1", &["two"], "n1/2", false),
        )
        .start();
    let text = against_control(&server, &["app", "logs", "notes", "--timestamps"]);
    assert_has(
        &text,
        &[
            "exit status: 0",
            "2025-11-24T16:00:00.123Z one\n",
            "Z two\n",
        ],
    );
}

#[test]
fn following_goes_where_the_app_goes() {
    let gone = ErrorBody::new(ErrorCode::NotFound, "there is no app 'notes'");
    let server = Server::new()
        .answer(
            "GET /v2/apps/notes/logs",
            &output("n1", &["one"], "n1/1", false),
        )
        .answer(
            "GET /v2/apps/notes/logs",
            &output("n2", &["two"], "n2/9", false),
        )
        .start();
    let follow = ["app", "logs", "notes", "-f", "--json"];
    // Interrupted after a while, as a person would.
    let mut child = super::flockerctl(&follow)
        .env("FLOCKER_CONTROL", server.address())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap());
    while first.matches("text").count() < 2 {
        std::io::BufRead::read_line(&mut lines, &mut first).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_has(&first, &["\"text\":\"one\"", "\"text\":\"two\""]);
    let server = Server::new()
        .refuse("GET /v2/apps/notes/logs", &gone)
        .start();
    let text = against_control(&server, &["app", "logs", "notes", "-f"]);
    assert_has(&text, &["exit status: 1", "there is no app 'notes'"]);
}

#[test]
fn a_command_gives_its_output_and_its_code() {
    let reply = ExecReply {
        exit_code: 4,
        stdout: "out\n".to_owned(),
        stderr: "bad\n".to_owned(),
        truncated: false,
    };
    let server = Server::new()
        .answer("POST /v2/apps/notes/exec", &reply)
        .start();
    let text = against_control(&server, &["app", "exec", "notes", "--", "ls", "-l"]);
    assert_eq!(text, "exit status: 4\n--- stdout\nout\n--- stderr\nbad\n");
    assert_eq!(
        server.requests("POST /v2/apps/notes/exec"),
        [json!({"command": ["ls", "-l"], "timeout_ms": 60_000})]
    );
}

#[test]
fn a_restart_says_when_the_app_was_ready() {
    let reply = RestartReply { ready_ms: 250 };
    let server = Server::new()
        .answer("POST /v2/apps/notes/restart", &reply)
        .start();
    let text = against_control(&server, &["app", "restart", "notes"]);
    assert_has(&text, &["exit status: 0", "ready (after 250 ms)"]);
}
