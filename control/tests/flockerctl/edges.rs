//! `edge`, and whole tables: `route watch`, `export`, `import`, `quiesce`.

use flocker_api::{
    ErrorBody, ErrorCode,
    edge::{DrainRequest, LogFilter, ReloadReply, TransactionReply, UpgradeReply},
    gate::{InFlight, QuiesceReply, Token},
    route::Generation,
};
use serde_json::json;

use super::{against_control, against_edge, assert_has, samples::table, server::Server};

fn edge() -> Server {
    let status = json!({"name": "n1-a", "version": "0.1.0", "uptime_s": 61, "generation": 7,
        "routes": 2, "sessions": 5, "parked": 1, "workers": 2, "pid": 42,
        "listeners": [{"address": "0.0.0.0:80", "kind": "http"}],
        "predecessors": [{"pid": 41, "sessions": 3, "parked": 0}]});
    Server::new().answer("GET /v1/status", &status)
}

#[test]
fn show_tells_of_the_process_and_of_those_before_it() {
    let text = against_edge(&edge().start(), &["edge", "show"]);
    assert_has(
        &text,
        &[
            "exit status: 0",
            "n1-a",
            "serving",
            "42, version 0.1.0",
            "2 in generation 7",
            "5, 1 parked",
            "http at 0.0.0.0:80",
            "process 41 still serves 3 sessions, 0 parked",
        ],
    );
}

#[test]
fn upgrade_drain_reload_and_log_ask_the_edge() {
    let server = edge()
        .answer("POST /v1/upgrade", &UpgradeReply { pid: 43 })
        .answer("POST /v1/drain", &())
        .answer(
            "POST /v1/reload",
            &ReloadReply {
                generation: Generation(8),
                changes: vec!["- route tcp:1".into()],
                later: vec!["workers: 1 becomes 2".into()],
            },
        )
        .answer(
            "PUT /v1/log",
            &LogFilter {
                filter: "debug".into(),
            },
        )
        .start();
    let text = against_edge(&server, &["edge", "upgrade", "--binary", "/bin/new"]);
    assert_has(&text, &["exit status: 0", "process 43 serves now"]);
    assert_eq!(
        server.requests("POST /v1/upgrade"),
        [json!({"binary": "/bin/new"})]
    );
    let drain = ["edge", "drain", "--notice", "2s", "--deadline", "1m"];
    against_edge(&server, &drain);
    let request = DrainRequest {
        deadline_ms: Some(60_000),
        notice_ms: 2_000,
    };
    assert_eq!(
        server.requests("POST /v1/drain"),
        [serde_json::to_value(request).unwrap()]
    );
    let text = against_edge(&server, &["edge", "reload"]);
    assert_has(
        &text,
        &[
            "- route tcp:1",
            "workers: 1 becomes 2 (counts after an upgrade)",
        ],
    );
    assert_has(
        &against_edge(&server, &["edge", "log", "debug"]),
        &["debug"],
    );
}

#[test]
fn an_upgrade_that_fails_says_why() {
    let error = ErrorBody::new(ErrorCode::Precondition, "/bin/new did not take over: no");
    let server = edge().refuse("POST /v1/upgrade", &error).start();
    let text = against_edge(&server, &["edge", "upgrade"]);
    assert_has(&text, &["exit status: 1", "did not take over: no"]);
}

#[test]
fn an_export_can_be_compared_imported_and_pruned() {
    let reply = TransactionReply {
        generation: Generation(8),
    };
    let here = table("10.77.1.1:8081", 0);
    let server = edge()
        .answer("GET /v1/routes", &here)
        .answer("POST /v1/routes", &reply)
        .start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("routes.json");
    let file = path.to_str().unwrap();
    let text = against_edge(&server, &["route", "export", file]);
    assert_has(&text, &["exit status: 0", "2 routes written"]);
    let text = against_edge(&server, &["route", "import", file]);
    assert_has(&text, &["0 added, 0 changed, 0 removed"]);
    assert!(server.requests("POST /v1/routes").is_empty());

    let exported = std::fs::read_to_string(&path).unwrap();
    let changed = exported.replace("10.77.1.1:8081", "10.77.2.1:8081");
    assert_ne!(exported, changed);
    std::fs::write(&path, changed).unwrap();
    let text = against_edge(&server, &["route", "import", file, "--dry-run"]);
    assert_has(&text, &["- {", "+ {", "2 changed, 0 removed"]);
    assert!(server.requests("POST /v1/routes").is_empty());
    let text = against_edge(&server, &["route", "import", file]);
    assert_has(&text, &["exit status: 0", "done on n1-a (generation 8)"]);
    let made = server.requests("POST /v1/routes");
    assert_eq!(made[0]["against"], 7);
    assert_eq!(made[0]["operations"].as_array().unwrap().len(), 2);

    std::fs::write(&path, "[]").unwrap();
    let text = against_edge(&server, &["route", "import", file, "--prune", "--dry-run"]);
    assert_has(&text, &["0 added, 0 changed, 2 removed"]);
    std::fs::write(&path, "[{\"key\": \"udp:1\"}]").unwrap();
    let text = against_edge(&server, &["route", "import", file]);
    assert_has(&text, &["exit status: 2", "routes.json", "udp:1"]);
}

#[test]
fn watch_shows_rates_for_people_and_lines_for_programs() {
    let server = edge()
        .answer("GET /v1/routes", &table("10.77.1.1:8081", 0))
        .answer("GET /v1/routes", &table("10.77.1.1:8081", 400))
        .start();
    let once = ["route", "watch", "--count", "1", "--every", "100ms"];
    let text = against_edge(&server, &once);
    assert_has(&text, &["exit status: 0", "REQUESTS/S", "http:notes.demo"]);
    let mut json = once.to_vec();
    json.push("--json");
    let text = against_edge(&server, &json);
    assert_has(&text, &[r#""requests_per_s":0.0"#, r#""time_ms":"#]);
}

#[test]
fn quiesce_says_what_is_in_flight_and_fails_then() {
    let busy = QuiesceReply::Busy {
        in_flight: vec![InFlight {
            key: "tcp:5432".parse().unwrap(),
            count: 3,
        }],
    };
    let server = edge()
        .answer("POST /v1/gates/quiesce", &busy)
        .answer(
            "POST /v1/gates/quiesce",
            &QuiesceReply::Quiesced { closed: 0 },
        )
        .start();
    let ask = [
        "route", "quiesce", "tcp:5432", "--token", "12", "--within", "1s",
    ];
    let text = against_edge(&server, &ask);
    assert_has(&text, &["exit status: 1", "still in flight: 3 at tcp:5432"]);
    let text = against_edge(&server, &ask);
    assert_has(&text, &["exit status: 0", "nothing is in flight"]);
    let made = server.requests("POST /v1/gates/quiesce");
    assert_eq!(made[0]["token"], json!(Token(12)));
    assert_eq!(made[0]["deadline_ms"], 1_000);
}

#[test]
fn certificates_of_all_edges_are_set_listed_and_removed() {
    let www = json!({"name": "www", "hosts": ["a.demo", "*.b.demo"], "issuer": "CN=ca",
        "not_before_s": 0, "not_after_s": 100, "problem": "it is half written",
        "file": "/etc/www.pem"});
    let edge = edge()
        .answer("PUT /v1/certificates/www", &www)
        .answer("DELETE /v1/certificates/www", &www)
        .answer("GET /v1/certificates", &json!({"certificates": [www]}))
        .answer("PUT /v1/tickets", &json!({"current": "0a1b2c3d"}))
        .start();
    let status = json!({"version": "0", "problems": [], "nodes": [], "apps": [], "edges": [{"name": "n1-a",
        "admin": edge.address(), "generation": {"Ok": 7}, "observed_ms": 0}]});
    let control = Server::new().answer("GET /v2/status", &status).start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("both.pem");
    std::fs::write(&file, "PEM").unwrap();
    let file = file.to_str().unwrap();
    let set = [
        "edge",
        "certificate",
        "set",
        "www",
        "--certificate",
        file,
        "--key",
        file,
    ];
    let text = against_control(&control, &set);
    assert_has(
        &text,
        &["exit status: 0", "n1-a: www serves a.demo, *.b.demo"],
    );
    let put = json!({"certificate": "PEM", "key": "PEM"});
    assert_eq!(edge.requests("PUT /v1/certificates/www"), [put]);
    let text = against_control(&control, &["edge", "certificate", "ls"]);
    let line = [
        "n1-a",
        "www",
        "1970-01-01 (expired)",
        "/etc/www.pem",
        "it is half written",
    ];
    assert_has(&text, &line);
    let text = against_edge(&edge, &["edge", "certificate", "rm", "www"]);
    assert_has(&text, &["www removed"]);

    let text = against_control(&control, &["edge", "tickets", "rotate"]);
    assert_has(&text, &["sealed with key 0a1b2c3d"]);
    against_control(&control, &["edge", "tickets", "rotate"]);
    let keys = edge.requests("PUT /v1/tickets");
    assert_eq!(keys[0]["key"].as_str().unwrap().len(), 64);
    assert_ne!(keys[0], keys[1]);
}
