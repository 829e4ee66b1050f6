//! `status`, `app`, `node`.

use flocker_api::{ErrorBody, ErrorCode, control::ClusterStatus};
use insta::assert_snapshot;
use serde_json::json;

use super::{
    against_control, assert_has, flockerctl,
    samples::{cluster, notes, troubled_cluster},
    server::Server,
};

fn server(status: &ClusterStatus) -> Server {
    Server::new().answer("GET /v2/status", status).start()
}

#[test]
fn all_is_well() {
    assert_snapshot!(against_control(&server(&cluster()), &["status"]));
}

#[test]
fn a_node_is_down() {
    let server = server(&troubled_cluster());
    let text = against_control(&server, &["status"]);
    assert_has(&text, &["exit status: 0"]);
    assert_snapshot!(text);
    assert_has(
        &against_control(&server, &["status", "--check"]),
        &["exit status: 1"],
    );
}

#[test]
fn an_empty_cluster() {
    let empty = ClusterStatus {
        apps: Vec::new(),
        ..cluster()
    };
    let text = against_control(&server(&empty), &["status"]);
    assert_has(&text, &["0 apps", "no apps yet: flockerctl deploy"]);
}

#[test]
fn json_is_what_control_said() {
    let cluster = cluster();
    let text = against_control(&server(&cluster), &["status", "--json"]);
    let body = text.split("--- stdout\n").nth(1).unwrap();
    let body = body.split("--- stderr").next().unwrap();
    assert_eq!(
        serde_json::from_str::<ClusterStatus>(body).unwrap(),
        cluster
    );
}

#[test]
fn apps_and_nodes() {
    let server = Server::new()
        .answer("GET /v2/status", &cluster())
        .answer("GET /v2/apps/notes", &notes())
        .answer("DELETE /v2/apps/notes", &json!({}))
        .start();
    let mut text = String::new();
    for args in [
        &["app", "ls"][..],
        &["app", "show", "notes"],
        &["app", "rm", "notes"],
        &["node", "ls"],
    ] {
        text.push_str(&format!("$ flockerctl {}\n", args.join(" ")));
        text.push_str(&against_control(&server, args));
        text.push('\n');
    }
    assert_snapshot!(text);
    assert_eq!(server.requests("DELETE /v2/apps/notes"), [json!({})]);
}

#[test]
fn what_control_refuses_is_shown_as_it_says_it() {
    let error = ErrorBody::new(ErrorCode::NotFound, "there is no app 'x'; there are: notes");
    let server = Server::new().refuse("GET /v2/apps/x", &error).start();
    assert_eq!(
        against_control(&server, &["app", "show", "x"]),
        "exit status: 1\n--- stdout\n--- stderr\nerror: there is no app 'x'; there are: notes\n"
    );
    let text = against_control(&server, &["--json", "app", "show", "x"]);
    assert_has(
        &text,
        &[r#"{"error":{"code":"not_found","message":"there is"#],
    );
}

#[test]
fn a_control_that_is_not_there_is_named_with_its_endpoint() {
    let output = flockerctl(&["--control", "unix:/nowhere/control.sock", "status"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_has(
        &text,
        &["error: control (unix:/nowhere/control.sock) does not answer: No such file"],
    );
}

#[test]
fn colours_only_when_wanted() {
    let server = server(&cluster());
    let run = |args: &[&str], no_color: bool| {
        let mut command = flockerctl(args);
        command.env("FLOCKER_CONTROL", server.address());
        if no_color {
            command.env("NO_COLOR", "1");
        }
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert!(
        !run(&["status"], false).contains('\u{1b}'),
        "stdout is no terminal"
    );
    assert!(!run(&["status"], true).contains('\u{1b}'));
    let always = run(&["status", "--color", "always"], false);
    assert_has(&always, &["\u{1b}[32mall is well\u{1b}[0m"]);
    assert!(!run(&["status", "--color", "always", "--json"], false).contains('\u{1b}'));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let server = Server::new().answer("GET /v2/status", &cluster());
    let mut child = flockerctl(&["status"])
        .env("FLOCKER_CONTROL", server.address())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Closed before there is anything to write: nothing is answered yet.
    drop(child.stdout.take());
    let _server = server.start();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
