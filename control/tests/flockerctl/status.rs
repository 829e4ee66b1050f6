//! `status`, `app`, `node`.

use flocker_api::{
    ErrorBody, ErrorCode,
    control::ClusterStatus,
    doctor::{Diagnosis, Finding},
    name::VolumeId,
    volume::{Epoch, Role, TransferStatus, VolumeStatus},
};
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

#[test]
fn volumes_once_and_over_and_over() {
    let mut cluster = cluster();
    let node = cluster.nodes[0].status.as_mut().unwrap();
    let transfer = TransferStatus {
        peer: "n2".parse().unwrap(),
        snapshot: "1-5".to_owned(),
        bytes: 12 << 20,
        bytes_expected: Some(64 << 20),
        bytes_per_second: 4 << 20,
        eta_ms: Some(13_000),
        elapsed_ms: 3_000,
    };
    node.volumes.push(VolumeStatus {
        id: VolumeId::random(),
        name: "notes".parse().unwrap(),
        role: Role::Primary,
        epoch: Epoch(3),
        mounted_at: None,
        used_bytes: 64 << 20,
        size_bytes: None,
        snapshots: Vec::new(),
        transfer: Some(transfer),
        replication: None,
    });
    let server = server(&cluster);
    let text = against_control(&server, &["volume", "ls"]);
    assert_has(&text, &["n2 12.0 MiB of 64.0 MiB, 4.0 MiB/s, 13s left"]);
    let watch = ["volume", "watch", "--interval", "1ms", "--count", "3"];
    let text = against_control(&server, &watch);
    assert_eq!(text.matches("13s left").count(), 3, "{text}");
    let text = against_control(&server, &[&watch[..], &["--json", "notes"]].concat());
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let sending = lines.filter(|line| line.contains("\"bytes_per_second\":4194304"));
    assert_eq!(sending.count(), 3, "{text}");
    let text = against_control(&server, &[&watch[..], &["other"]].concat());
    assert_eq!(text.matches("13s left").count(), 0, "{text}");
}

#[test]
fn the_doctor_says_what_to_do() {
    let diagnosis = |node: &str, findings| Diagnosis {
        node: node.parse().unwrap(),
        clock_ms: 0,
        findings,
    };
    let full = Finding::fail("space", "tank is 97 % full", "free some");
    let server = Server::new()
        .answer("GET /v2/status", &cluster())
        .answer(
            "GET /v2/nodes/n1/doctor",
            &diagnosis("n1", vec![Finding::ok("pool", "tank is ONLINE"), full]),
        )
        .answer(
            "GET /v2/nodes/n2/doctor",
            &diagnosis("n2", vec![Finding::ok("pool", "tank is ONLINE")]),
        )
        .start();
    let mut text = String::new();
    for args in [&["doctor"][..], &["doctor", "n2"], &["doctor", "--quiet"]] {
        text.push_str(&format!("$ flockerctl {}\n", args.join(" ")));
        text.push_str(&against_control(&server, args));
    }
    assert_snapshot!(text);
    let text = against_control(&server, &["doctor", "--json"]);
    assert_has(&text, &["exit status: 1", "\"level\": \"fail\""]);
}
