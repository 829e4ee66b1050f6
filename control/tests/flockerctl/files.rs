//! `deploy`: the plan, the progress, and files that are wrong.

use flocker_api::{
    ErrorBody, ErrorCode,
    control::{
        AppPhase, ClusterStatus, DeployChange, DeployReply, Destination, FieldChange, PlanVersion,
    },
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
    let field = |field: &str, from: &str, to: &str| FieldChange {
        field: field.to_owned(),
        from: (!from.is_empty()).then(|| from.to_owned()),
        to: (!to.is_empty()).then(|| to.to_owned()),
    };
    DeployReply {
        version: version(),
        changes: vec![
            DeployChange::Create {
                app: name("notes"),
                node: "n1".parse().unwrap(),
                fields: vec![field("image", "", "flocker/notes")],
            },
            DeployChange::Change {
                app: name("shop"),
                fields: vec![
                    field("environment.MODE", "slow", "fast"),
                    field("memory", "256 MiB", ""),
                ],
                restarts: true,
            },
            DeployChange::Move {
                app: name("postgres"),
                from: "n1".parse().unwrap(),
                to: "n2".parse().unwrap(),
            },
        ],
        apps: vec![notes_on_n1()],
    }
}

fn version() -> PlanVersion {
    PlanVersion(uuid::Uuid::from_u128(7))
}

fn notes_on_n1() -> Destination {
    Destination {
        app: "notes".parse().unwrap(),
        node: "n1".parse().unwrap(),
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
    assert_snapshot!(against_control(
        &server,
        &["deploy", &app, &deployment, "-y"]
    ));
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
    let args = ["deploy", &app, &deployment, "-y", "--timeout", "300ms"];
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
    let text = against_control(&server, &["deploy", &app, &deployment, "--json", "--yes"]);
    let body = text.split("--- stdout\n").nth(1).unwrap();
    let body = body.split("--- stderr").next().unwrap();
    let value: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(value["changes"][0]["change"], "create");
    assert_eq!(value["apps"][0]["phase"], "serving");
}

#[test]
fn without_a_terminal_nobody_is_asked() {
    let (_folder, [app, deployment]) = folder();
    let server = Server::new().answer("POST /v2/deploy", &changes()).start();
    let text = against_control(&server, &["deploy", &app, &deployment]);
    assert_has(&text, &["exit status: 2", "give --yes, or --dry-run"]);
    let requests = server.requests("POST /v2/deploy");
    assert_eq!(requests.len(), 1, "only planned");
    assert_eq!(requests[0]["dry_run"], true);
}

#[test]
fn what_was_shown_is_what_is_carried_out() {
    let (_folder, [app, deployment]) = folder();
    let server = Server::new()
        .answer("POST /v2/deploy", &changes())
        .answer("GET /v2/status", &with_phase(AppPhase::Serving, ""))
        .start();
    against_control(
        &server,
        &["deploy", &app, &deployment, "-y", "--prune", "--node", "n2"],
    );
    let request = &server.requests("POST /v2/deploy")[1];
    assert_eq!(request["against"], version().0.to_string());
    assert_eq!(request["dry_run"], false);
    assert_eq!(
        (&request["prune"], &request["node"]),
        (&true.into(), &"n2".into())
    );
}

#[test]
fn nothing_to_do_is_not_asked_about_and_a_dry_run_tells_it_by_its_exit_code() {
    let (_folder, [app, deployment]) = folder();
    let reply = DeployReply {
        changes: Vec::new(),
        ..changes()
    };
    let server = Server::new()
        .answer("POST /v2/deploy", &reply)
        .answer("GET /v2/status", &with_phase(AppPhase::Serving, ""))
        .start();
    let text = against_control(&server, &["deploy", &app, &deployment]);
    assert_has(
        &text,
        &["exit status: 0", "nothing changes", "notes serving on n1"],
    );
    let text = against_control(&server, &["deploy", &app, &deployment, "--dry-run"]);
    assert_has(&text, &["exit status: 0", "nothing changes"]);
}

#[test]
fn what_is_removed_is_awaited_until_it_is_gone() {
    let (_folder, [app, deployment]) = folder();
    let reply = DeployReply {
        changes: vec![DeployChange::Remove {
            app: "notes".parse().unwrap(),
            node: "n1".parse().unwrap(),
            volumes: vec!["notes".parse().unwrap()],
        }],
        apps: Vec::new(),
        ..changes()
    };
    let gone = ClusterStatus {
        apps: Vec::new(),
        ..cluster()
    };
    let server = Server::new()
        .answer("POST /v2/deploy", &reply)
        .answer("GET /v2/status", &with_phase(AppPhase::Serving, ""))
        .answer("GET /v2/status", &gone)
        .start();
    let text = against_control(&server, &["deploy", &app, &deployment, "-y", "--prune"]);
    assert_has(
        &text,
        &[
            "- notes: removed from n1, because no file declares it; its volume notes is kept",
            "notes is being removed from n1",
            "notes is removed",
            "exit status: 0",
        ],
    );
}

#[test]
fn the_advice_of_control_stands_where_the_error_does() {
    let (_folder, [app, deployment]) = folder();
    let mut status = with_phase(AppPhase::Failed, "cannot create its container: no image x");
    status.problems = vec![flocker_api::control::Problem {
        subject: "app notes".to_owned(),
        message: "no image x".to_owned(),
        next: "pull it on n1".to_owned(),
        since_ms: 0,
    }];
    let server = Server::new()
        .answer("POST /v2/deploy", &changes())
        .answer("GET /v2/status", &status)
        .start();
    let args = ["deploy", &app, &deployment, "-y", "--timeout", "300ms"];
    let text = against_control(&server, &args);
    assert_has(
        &text,
        &["notes failed on n1: cannot create its container: no image x; pull it on n1"],
    );
}

#[test]
fn compose_files_bring_their_variables_and_environment_files() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    place(".env", "TAG=1.2\nUNUSED=x\nWINS=from the file\n");
    place("db.env", "SECRET=$WINS\n");
    place(
        "compose.yml",
        "services:\n  notes:\n    image: notes:${TAG}\n    env_file: db.env\n    x-flocker: {node: n1}\n",
    );
    let reply = DeployReply {
        changes: Vec::new(),
        ..changes()
    };
    let server = Server::new().answer("POST /v2/deploy", &reply).start();
    let file = folder
        .path()
        .join("compose.yml")
        .to_string_lossy()
        .into_owned();
    let output = super::flockerctl(&["deploy", &file, "--dry-run"])
        .env("FLOCKER_CONTROL", server.address())
        .env("WINS", "from outside")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let request = &server.requests("POST /v2/deploy")[0];
    let variables = serde_json::json!({"TAG": "1.2", "WINS": "from outside"});
    assert_eq!(request["variables"], variables, "no more than is needed");
    assert_eq!(request["env_files"][0]["text"], "SECRET=$WINS\n");
}
