//! `route`: one edge and all edges, and a switch that always resumes.

use flocker_api::{
    ErrorBody, ErrorCode,
    control::FanOut,
    edge::TransactionReply,
    gate::{InFlight, PauseReply, QuiesceReply, Token},
    route::Generation,
};
use insta::assert_snapshot;
use serde_json::json;

use super::{
    against_control, against_edge, assert_has,
    samples::{both, one_of_two, resumed, table},
    server::Server,
};

const TOKEN: Token = Token(12);

fn fan_out<T: Clone>(answer: &T) -> FanOut<T> {
    FanOut {
        token: TOKEN,
        edges: both(answer),
    }
}

fn edge() -> Server {
    let status = json!({"name": "n1-a", "version": "0.1.0", "uptime_s": 1, "generation": 7,
                        "routes": 2, "sessions": 0, "parked": 0, "workers": 1, "listeners": []});
    Server::new().answer("GET /v1/status", &status)
}

#[test]
fn a_table_of_all_edges_joins_what_is_the_same() {
    let mut tables = both(&table("10.77.1.1:8081", 0));
    let server = Server::new().answer("GET /v2/routes", &tables).start();
    assert_snapshot!("ls_alike", against_control(&server, &["route", "ls"]));
    tables[1].result = Ok(table("10.77.2.1:8081", 40));
    let server = Server::new().answer("GET /v2/routes", &tables).start();
    assert_snapshot!("ls_different", against_control(&server, &["route", "ls"]));
}

#[test]
fn an_edge_that_does_not_answer_is_named_and_the_others_are_shown() {
    let tables = one_of_two(&table("10.77.1.1:8081", 0));
    let server = Server::new().answer("GET /v2/routes", &tables).start();
    let text = against_control(&server, &["route", "ls"]);
    assert_has(
        &text,
        &[
            "exit status: 1",
            "error: edge n2-a: edge n2-a (10.77.2.1:7400)",
        ],
    );
    assert_has(&text, &["http:notes.demo"]);
    let text = against_control(&server, &["route", "ls", "--json"]);
    assert_has(
        &text,
        &[
            r#""edge": "n2-a""#,
            r#""code": "unavailable""#,
            r#""ok": {"#,
        ],
    );
}

#[test]
fn one_edge_without_any_control_service() {
    let server = edge()
        .answer("GET /v1/routes", &table("10.77.1.1:8081", 40))
        .answer(
            "GET /v1/routes/http:notes.demo",
            &table("10.77.1.1:8081", 40).routes[0],
        )
        .start();
    assert_snapshot!("edge_ls", against_edge(&server, &["route", "ls"]));
    assert_snapshot!(
        "edge_show",
        against_edge(&server, &["route", "show", "http:Notes.Demo"])
    );
    let flag = ["route", "ls", "--edge", &server.address()];
    let by_flag = against_edge(&Server::new(), &flag);
    assert_has(&by_flag, &["exit status: 0", "http:notes.demo"]);
}

#[test]
fn add_set_and_rm_are_transactions() {
    let reply = TransactionReply {
        generation: Generation(8),
    };
    let server = Server::new()
        .answer("GET /v2/routes", &both(&table("10.77.1.1:8081", 0)))
        .answer("POST /v2/routes", &both(&reply))
        .start();
    let added = against_control(
        &server,
        &[
            "route",
            "add",
            "http:a.demo",
            "--to",
            "10.0.0.1:80",
            "10.0.0.2:80",
        ],
    );
    assert_eq!(
        added,
        "exit status: 0\n--- stdout\nhttp:a.demo added on n1-a (generation 8), \
         n2-a (generation 8)\n--- stderr\n"
    );
    against_control(
        &server,
        &["route", "set", "tcp:5432", "--to", "10.0.0.1:80"],
    );
    against_control(&server, &["route", "rm", "tcp:5432", "http:a.demo"]);
    let operations: Vec<_> = server
        .requests("POST /v2/routes")
        .into_iter()
        .map(|request| request["operations"].clone())
        .collect();
    assert_eq!(
        operations,
        [
            json!([{"op": "add", "route": {"key": "http:a.demo", "on_move": "close",
                    "upstreams": ["10.0.0.1:80", "10.0.0.2:80"]}}]),
            // Its on_move was `wait`, and nobody has asked to change that.
            json!([{"op": "set", "route": {"key": "tcp:5432", "on_move": "wait",
                    "upstreams": ["10.0.0.1:80"]}}]),
            json!([{"op": "remove", "key": "tcp:5432"}, {"op": "remove", "key": "http:a.demo"}]),
        ]
    );
}

#[test]
fn pause_and_resume() {
    let server = edge()
        .answer("POST /v1/gates/pause", &PauseReply { token: TOKEN })
        .answer("POST /v1/gates/resume", &resumed())
        .answer("GET /v1/routes", &table("10.77.1.1:8081", 40))
        .start();
    let pause = ["route", "pause", "http:notes.demo", "--hold", "1m30s"];
    assert_eq!(
        against_edge(&server, &pause),
        "exit status: 0\n--- stdout\nhttp:notes.demo paused under token 12 on n1-a; lapses in \
         1m30s\n  resume with: flockerctl --edge SERVER route resume http:notes.demo --token 12\n\
         --- stderr\n"
    );
    assert_eq!(
        server.requests("POST /v1/gates/pause")[0]["limits"]["hold_ms"],
        90_000
    );
    assert_snapshot!(against_edge(
        &server,
        &["route", "resume", "http:notes.demo"]
    ));
    let keys = json!(["http:notes.demo"]);
    assert_eq!(
        server.requests("POST /v1/gates/resume"),
        [json!({"token": 12, "keys": keys})],
        "the token that holds it now"
    );
    let text = against_edge(&server, &["route", "resume", "tcp:5432"]);
    assert_has(
        &text,
        &["exit status: 1", "error: tcp:5432 is not paused now"],
    );
}

fn switching() -> Server {
    Server::new()
        .answer(
            "POST /v2/gates/pause",
            &fan_out(&PauseReply { token: TOKEN }),
        )
        .answer("POST /v2/gates/switch", &fan_out(&resumed()))
        .answer("POST /v2/gates/resume", &fan_out(&resumed()))
}

const SWITCH: [&str; 5] = [
    "route",
    "switch",
    "http:notes.demo",
    "--to",
    "10.77.2.1:8081",
];

#[test]
fn a_switch_pauses_quiesces_retargets_and_resumes() {
    let quiet = QuiesceReply::Quiesced { closed: 2 };
    let server = switching()
        .answer("POST /v2/gates/quiesce", &fan_out(&quiet))
        .start();
    let text = against_control(&server, &SWITCH);
    assert_has(
        &text,
        &[
            "exit status: 0",
            "http:notes.demo leads to 10.77.2.1:8081\n  pause ",
            "; 4 sessions closed\n",
            "http:notes.demo  n2-a  4.2 ms  1,204",
        ],
    );
    assert_eq!(
        server.calls(),
        [
            "POST /v2/gates/pause",
            "POST /v2/gates/quiesce",
            "POST /v2/gates/switch"
        ]
    );
    let request = &server.requests("POST /v2/gates/switch")[0];
    assert_eq!(request["resume"], true);
    assert_eq!(
        request["changes"][0]["upstreams"],
        json!(["10.77.2.1:8081"])
    );
}

#[test]
fn a_busy_switch_resumes_and_names_what_is_in_flight() {
    let busy = QuiesceReply::Busy {
        in_flight: vec![InFlight {
            key: "http:notes.demo".parse().unwrap(),
            count: 3,
        }],
    };
    let server = switching()
        .answer("POST /v2/gates/quiesce", &fan_out(&busy))
        .start();
    assert_snapshot!(against_control(&server, &SWITCH));
    assert_eq!(server.calls().last().unwrap(), "POST /v2/gates/resume");
    assert!(server.requests("POST /v2/gates/switch").is_empty());

    let mut forced = SWITCH.to_vec();
    forced.push("--force");
    assert_has(&against_control(&server, &forced), &["exit status: 0"]);
    assert_eq!(server.requests("POST /v2/gates/switch").len(), 1);
}

#[test]
fn a_switch_whose_pause_ended_does_not_retarget() {
    let server = switching()
        .answer("POST /v2/gates/quiesce", &fan_out(&QuiesceReply::Ended))
        .start();
    let text = against_control(&server, &SWITCH);
    assert_has(&text, &["exit status: 1", "the pause ended while waiting"]);
    assert!(server.requests("POST /v2/gates/switch").is_empty());
}

#[test]
fn a_switch_that_cannot_pause_all_edges_resumes_those_it_could() {
    let fan_out = FanOut {
        token: TOKEN,
        edges: one_of_two(&PauseReply { token: TOKEN }),
    };
    let server = Server::new()
        .answer("POST /v2/gates/pause", &fan_out)
        .answer("POST /v2/gates/resume", &self::fan_out(&resumed()))
        .start();
    let text = against_control(&server, &SWITCH);
    assert_has(&text, &["exit status: 1", "error: edge n2-a"]);
    assert_eq!(
        server.calls(),
        ["POST /v2/gates/pause", "POST /v2/gates/resume"]
    );
}

#[test]
fn an_edge_that_refuses_a_pause_is_shown() {
    let error = ErrorBody::new(ErrorCode::NotFound, "there is no route http:notes.demo");
    let server = edge().refuse("POST /v1/gates/pause", &error).start();
    let text = against_edge(&server, &SWITCH);
    assert_has(
        &text,
        &[
            "exit status: 1",
            "error: edge n1-a: there is no route http:notes.demo",
        ],
    );
    assert_eq!(server.calls(), ["GET /v1/status", "POST /v1/gates/pause"]);
}

#[test]
fn a_route_that_no_edge_has() {
    let server = Server::new()
        .answer("GET /v2/routes", &both(&table("10.77.1.1:8081", 0)))
        .start();
    let text = against_control(&server, &["route", "show", "tcp:1"]);
    assert_has(
        &text,
        &["exit status: 1", "error: no edge has the route tcp:1;"],
    );
    let text = against_control(&server, &["route", "show", "tcp:5432"]);
    assert_has(
        &text,
        &["exit status: 0", "tcp:5432 on n1-a", "tcp:5432 on n2-a"],
    );
}
