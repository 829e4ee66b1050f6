//! `volume` and its verbs.

use flocker_api::{
    ErrorBody, ErrorCode,
    work::{Comparison, JobState, JobStatus, NodeJob, VolumeReport},
};
use serde_json::{Value, json};

use super::{against_control, assert_has, flockerctl, samples::cluster, server::Server};

fn job(verb: &str, state: JobState, result: &Value) -> NodeJob {
    let job = json!({
        "id": "6f1c0000-0000-4000-8000-000000000001", "verb": verb,
        "volume": "00000000-0000-0000-0000-000000000007", "name": "notes", "by": "ann",
        "state": state, "started_ms": 1, "elapsed_ms": 40, "result": result,
    });
    let job: JobStatus = serde_json::from_value(job).unwrap();
    NodeJob {
        node: "n1".parse().unwrap(),
        job,
    }
}

const SNAPSHOT: &str = r#"{"name":"monday","guid":7,"createtxg":1}"#;

fn snapshot() -> Value {
    serde_json::from_str(SNAPSHOT).unwrap()
}

#[test]
fn a_volume_is_shown_with_cursor_and_lag() {
    let report: VolumeReport = serde_json::from_value(json!({
        "name": "notes", "id": "00000000-0000-0000-0000-000000000007", "app": "notes",
        "node": "n1", "epoch": 3,
        "replication": { "nodes": ["n1", "n2"], "interval_ms": 10_000 },
        "copies": [
            {
                "node": "n1", "id": "00000000-0000-0000-0000-000000000007", "name": "notes",
                "role": "primary", "epoch": 3, "mounted_at": "/srv/notes",
                "used_bytes": 2_097_152, "size_bytes": 1_073_741_824, "snapshots": [snapshot()],
                "replication": {
                    "epoch": 3,
                    "policy": { "targets": [], "interval_ms": 10_000 },
                    "targets": [{
                        "peer": "n2", "state": "idle", "acknowledged": snapshot(),
                        "lag_ms": 2_500, "lag_bytes": 4_096, "rounds": 9,
                    }],
                },
            },
            {
                "node": "n2", "id": "00000000-0000-0000-0000-000000000007", "name": "notes",
                "role": "replica", "epoch": 3, "mounted_at": null,
                "used_bytes": 2_097_152, "size_bytes": 1_073_741_824, "snapshots": [],
            },
        ],
    }))
    .unwrap();
    let server = Server::new()
        .answer("GET /v2/volumes/notes", &report)
        .answer("GET /v2/status", &cluster())
        .start();
    let text = against_control(&server, &["volume", "show", "notes"]);
    assert_has(
        &text,
        &[
            "exit status: 0",
            "n1, epoch 3",
            "1.0 GiB",
            "/srv/notes",
            "n1, n2 every 10s",
            "monday",
            "2.50 s, 4.0 KiB",
        ],
    );
}

#[test]
fn a_rollback_says_what_it_takes_out() {
    let loss = json!({
        "to": snapshot(), "snapshots": [snapshot()], "changes": 3, "bytes": 2048,
        "paths": ["a", "d/b"], "aside": "rolledback-1-77",
    });
    let server = Server::new()
        .answer(
            "POST /v2/volumes/notes",
            &[job("rollback", JobState::Done, &loss)],
        )
        .start();
    let args = ["volume", "rollback", "notes", "@monday", "--stop-app"];
    let text = against_control(&server, &args);
    assert_has(
        &text,
        &[
            "exit status: 0",
            "notes went back to monday: 3 paths of 2.0 KiB differ, 1 snapshot since",
            "  d/b",
            "  and 1 more",
            "kept aside as rolledback-1-77",
        ],
    );
    let request = &server.requests("POST /v2/volumes/notes")[0];
    assert_eq!(request["verb"], "roll_back");
    assert_eq!(
        (&request["to"], &request["stop_app"]),
        (&json!("monday"), &json!(true))
    );
}

#[test]
fn a_job_is_followed_to_its_end_and_its_failure_is_ours() {
    let mut failed = job("clone", JobState::Failed, &Value::Null);
    failed.job.error = Some(ErrorBody::new(ErrorCode::NoSpace, "no space is left"));
    let path = "6f1c0000-0000-4000-8000-000000000001";
    let call = format!("GET /v2/nodes/n1/jobs/{path}");
    let running = job("clone", JobState::Running, &Value::Null);
    let server = Server::new()
        .answer("POST /v2/volumes/notes", &vec![running.clone()])
        .answer(&call, &running)
        .answer(&call, &failed)
        .start();
    let text = against_control(&server, &["volume", "clone", "notes@monday", "copy"]);
    assert_has(&text, &["exit status: 1", "no space is left"]);
    assert_eq!(server.calls().len(), 3);
}

#[test]
fn copies_that_differ_are_a_failure() {
    let found = Comparison {
        primary: "n1".parse().unwrap(),
        replica: "n2".parse().unwrap(),
        snapshot: serde_json::from_str(SNAPSHOT).unwrap(),
        entries: 1_234,
        files_read: 1_000,
        bytes_read: 1 << 20,
        differences: 1,
        paths: vec!["d/b".to_owned()],
    };
    let result = serde_json::to_value(found).unwrap();
    let server = Server::new()
        .answer(
            "POST /v2/volumes/notes",
            &[job("verify", JobState::Done, &result)],
        )
        .start();
    let text = against_control(&server, &["volume", "verify", "notes", "--whole"]);
    assert_has(&text, &["exit status: 1", "1,234", "1 differ", "  d/b"]);
    assert_eq!(
        server.requests("POST /v2/volumes/notes")[0]["sample"],
        1_000
    );
}

#[test]
fn what_is_dangerous_or_wrong_is_refused_before_anything_is_asked() {
    for (args, words) in [
        (&["volume", "destroy", "notes", "--now"][..], "--yes"),
        (
            &["volume", "destroy", "notes", "--grace", "0s"],
            "above zero",
        ),
        (
            &["volume", "clone", "notes@", "copy"],
            "no snapshot after the @",
        ),
        (
            &["volume", "verify", "notes", "--sample", "200%"],
            "percentage",
        ),
        (&["volume", "resize", "notes", "big"], "such as 512M"),
        (
            &["volume", "receive", "copy", "/nowhere/at/all"],
            "/nowhere/at/all",
        ),
    ] {
        let output = flockerctl(args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert_has(&stderr, &[words]);
    }
}
