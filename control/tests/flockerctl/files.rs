//! `deploy`: the plan, the progress, and files that are wrong.

use flocker_api::{
    ErrorBody, ErrorCode,
    control::{AppPhase, ClusterStatus, DeployChange, DeployReply},
};
use insta::assert_snapshot;

use super::{
    against_control, assert_has,
    samples::{cluster, formats_file, notes},
    server::Server,
};

/// A folder with an application and a deployment file of the app notes alone.
fn folder() -> (tempfile::TempDir, [String; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    let app = place("application.yml", &formats_file("application.yml").text);
    let deployment = place("deployment.yml", "version: 1\nnodes: {n1: [notes]}\n");
    (folder, [app, deployment])
}

fn changes() -> DeployReply {
    let name = |text: &str| text.parse().unwrap();
    DeployReply {
        changes: vec![
            DeployChange::Create {
                app: name("notes"),
                node: "n1".parse().unwrap(),
            },
            DeployChange::Change { app: name("shop") },
            DeployChange::Move {
                app: name("postgres"),
                from: "n1".parse().unwrap(),
                to: "n2".parse().unwrap(),
            },
        ],
    }
}

fn with_phase(phase: AppPhase, reason: &str) -> ClusterStatus {
    let mut app = notes();
    app.phase = phase;
    app.reason = (!reason.is_empty()).then(|| reason.to_owned());
    ClusterStatus {
        apps: vec![app],
        ..cluster()
    }
}

#[test]
fn the_plan_is_like_a_diff() {
    let (_folder, [app, deployment]) = folder();
    let server = Server::new().answer("POST /v2/deploy", &changes()).start();
    assert_snapshot!(against_control(
        &server,
        &["deploy", &app, &deployment, "--dry-run"]
    ));
    let request = &server.requests("POST /v2/deploy")[0];
    assert_eq!(request["dry_run"], true);
    assert_eq!(request["files"][1]["name"], deployment.as_str());
    assert_eq!(server.calls().len(), 1, "a dry run waits for nothing");
}

#[test]
fn it_waits_until_every_app_serves() {
    let (_folder, [app, deployment]) = folder();
    let server = Server::new()
        .answer("POST /v2/deploy", &changes())
        .answer(
            "GET /v2/status",
            &with_phase(AppPhase::Failed, "from before"),
        )
        .answer(
            "GET /v2/status",
            &with_phase(AppPhase::Starting, "its volume is being made"),
        )
        .answer(
            "GET /v2/status",
            &with_phase(AppPhase::Starting, "its volume is being made"),
        )
        .answer("GET /v2/status", &with_phase(AppPhase::Serving, ""))
        .start();
    assert_snapshot!(against_control(&server, &["deploy", &app, &deployment]));
}

#[test]
fn a_wait_has_a_limit() {
    let (_folder, [app, deployment]) = folder();
    let server = Server::new()
        .answer("POST /v2/deploy", &changes())
        .answer(
            "GET /v2/status",
            &with_phase(AppPhase::Failed, "the image flocker/notes is missing"),
        )
        .start();
    let args = ["deploy", &app, &deployment, "--timeout", "300ms"];
    assert_has(
        &against_control(&server, &args),
        &[
            "exit status: 1",
            "notes failed on n1: the image flocker/notes is missing",
            "not all apps serve; control goes on trying: flockerctl status",
        ],
    );
}

#[test]
fn wrong_files_are_wrong_arguments_and_all_errors_are_shown() {
    let (folder, [app, _]) = folder();
    let bad = folder.path().join("bad.yml");
    std::fs::write(&bad, "version: 2\nnodes: {n1: [note], n2: notes}\n").unwrap();
    let bad = bad.to_string_lossy();
    let text = against_control(&Server::new(), &["deploy", &app, &bad]);
    assert_snapshot!(text.replace(&*folder.path().to_string_lossy(), "FOLDER"));
    let text = against_control(&Server::new(), &["deploy", "/nowhere.yml"]);
    assert_has(
        &text,
        &["exit status: 2", "cannot read /nowhere.yml: No such file"],
    );
}

#[test]
fn what_only_control_knows_to_be_wrong_is_a_wrong_argument_too() {
    let (_folder, [app, deployment]) = folder();
    let error = ErrorBody::new(ErrorCode::InvalidRequest, "there is no node 'n1'");
    let server = Server::new().refuse("POST /v2/deploy", &error).start();
    let text = against_control(&server, &["deploy", &app, &deployment]);
    assert_has(
        &text,
        &[
            "exit status: 2",
            "there is no node 'n1'\nerror: 1 error in the files; nothing is deployed",
        ],
    );
}

#[test]
fn json_tells_changes_and_apps() {
    let (_folder, [app, deployment]) = folder();
    let server = Server::new()
        .answer("POST /v2/deploy", &changes())
        .answer("GET /v2/status", &with_phase(AppPhase::Serving, ""))
        .start();
    let text = against_control(&server, &["deploy", &app, &deployment, "--json"]);
    let body = text.split("--- stdout\n").nth(1).unwrap();
    let body = body.split("--- stderr").next().unwrap();
    let value: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(value["changes"][0]["change"], "create");
    assert_eq!(value["apps"][0]["phase"], "serving");
}
