//! `move` and `moves`: shown as they happen, over several revisions.

use flocker_api::{
    ErrorBody, ErrorCode,
    control::{MoveState, MoveStatus},
};
use insta::assert_snapshot;
use serde_json::json;

use super::{
    against_control, assert_has,
    samples::{a_move, an_undone_move},
    server::Server,
};

const ONE: &str = "GET /v2/moves/6f1c1dbb-9a5b-4a3e-8d5e-0f6d5d1b7a11";

/// A control whose move goes through these revisions.
fn control(first: &MoveStatus, later: &[MoveStatus]) -> Server {
    let server = Server::new().answer("POST /v2/moves", first);
    let server = later
        .iter()
        .fold(server, |server, status| server.answer(ONE, status));
    server.start()
}

fn to_the_end() -> Server {
    let later: Vec<MoveStatus> = [1, 3, 5, 8, 10, 11]
        .into_iter()
        .zip(2..)
        .map(|(done, revision)| a_move(revision, done))
        .collect();
    control(&a_move(1, 0), &later)
}

#[test]
fn a_move_is_shown_step_by_step() {
    let server = to_the_end();
    assert_snapshot!(against_control(&server, &["move", "notes", "--to", "n2"]));
    assert_eq!(
        server.requests("POST /v2/moves"),
        [json!({"app": "notes", "to": "n2"})]
    );
}

#[test]
fn with_json_only_its_end_is_shown() {
    let text = against_control(&to_the_end(), &["move", "notes", "--to", "n2", "--json"]);
    let body = text.split("--- stdout\n").nth(1).unwrap();
    let body = body.split("--- stderr").next().unwrap();
    let status: MoveStatus = serde_json::from_str(body).unwrap();
    assert_eq!((status.revision, status.state), (7, MoveState::Done));
    assert_has(&text, &["exit status: 0"]);
}

#[test]
fn a_move_that_is_undone_fails_and_says_why() {
    let later = [an_undone_move(2, false), an_undone_move(3, true)];
    let server = control(&a_move(1, 3), &later);
    let text = against_control(&server, &["move", "notes", "--to", "n2"]);
    assert_has(&text, &["exit status: 1"]);
    assert_snapshot!(text);
}

#[test]
fn a_move_that_is_stuck_fails_and_says_why() {
    let mut stuck = a_move(2, 8);
    stuck.state = MoveState::Stuck;
    stuck.reason = Some("start: agent of n2 does not answer".to_owned());
    let server = control(&a_move(1, 3), &[stuck]);
    let text = against_control(&server, &["move", "notes", "--to", "n2"]);
    assert_has(
        &text,
        &[
            "exit status: 1",
            "the move of notes is stuck, it is tried again: start: agent of n2 does not answer",
        ],
    );
}

#[test]
fn control_may_restart_meanwhile() {
    let away = ErrorBody::new(ErrorCode::Unavailable, "control is starting");
    let server = Server::new()
        .answer("POST /v2/moves", &a_move(1, 3))
        .refuse(ONE, &away)
        .refuse(ONE, &away)
        .answer(ONE, &a_move(9, 11))
        .start();
    let text = against_control(&server, &["move", "notes", "--to", "n2"]);
    assert_has(
        &text,
        &[
            "exit status: 0",
            "  ... control is starting; asking again\n",
            "notes serves on n2",
        ],
    );
    assert_eq!(text.matches("asking again").count(), 1, "{text}");
}

#[test]
fn a_wait_has_a_limit() {
    let server = control(&a_move(1, 3), &[a_move(1, 3)]);
    let args = ["move", "notes", "--to", "n2", "--timeout", "50ms"];
    let text = against_control(&server, &args);
    assert_has(
        &text,
        &[
            "exit status: 1",
            "the move goes on; follow it with: flockerctl moves show 6f1c1dbb-",
        ],
    );
}

#[test]
fn without_waiting() {
    let server = control(&a_move(1, 0), &[]);
    let text = against_control(&server, &["move", "notes", "--to", "n2", "--no-wait"]);
    assert_has(&text, &["exit status: 0", "it has begun; follow it with"]);
    assert_eq!(server.calls(), ["POST /v2/moves"]);
}

#[test]
fn a_move_that_is_refused() {
    let error = ErrorBody::new(ErrorCode::Precondition, "app notes is on node n2 already");
    let server = Server::new().refuse("POST /v2/moves", &error).start();
    assert_eq!(
        against_control(&server, &["move", "notes", "--to", "n2"]),
        "exit status: 1\n--- stdout\n--- stderr\nerror: app notes is on node n2 already\n"
    );
}

#[test]
fn old_moves() {
    let mut other = an_undone_move(3, true);
    other.id = "70000000-0000-4000-8000-000000000000".parse().unwrap();
    let server = Server::new()
        .answer("GET /v2/moves", &[a_move(7, 11), other])
        .answer(ONE, &a_move(7, 11))
        .start();
    assert_snapshot!("moves_ls", against_control(&server, &["moves"]));
    assert_snapshot!(
        "moves_show",
        against_control(&server, &["moves", "show", "6f1"])
    );
    let text = against_control(&server, &["moves", "show", "nope"]);
    assert_has(
        &text,
        &[
            "exit status: 1",
            "no move has an id that begins with 'nope'",
        ],
    );
}

#[test]
fn an_ambiguous_id_is_a_wrong_argument() {
    let server = Server::new()
        .answer("GET /v2/moves", &[a_move(7, 11), a_move(7, 11)])
        .start();
    let text = against_control(&server, &["moves", "show", "6f"]);
    assert_has(
        &text,
        &["exit status: 2", "2 moves have ids that begin with '6f'"],
    );
}
