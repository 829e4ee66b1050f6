//! flockerctl as a program: its output, word for word, and its exit codes, against a server
//! that gives canned answers. The words are in `snapshots/`.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test of a program starts the program, counts ages from now, and fails by a panic"
)]

mod asides;
mod ca;
mod edges;
mod files;
mod help;
mod inside;
mod moves;
mod routes;
mod samples;
mod server;
mod status;
mod volumes;

use std::process::{Command, Output, Stdio};

use server::Server;

/// A command that sees nothing of this machine's environment.
fn flockerctl(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flockerctl"));
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

/// Everything that a run has shown, in the form of the snapshots.
fn shown(server: &Server, output: &Output) -> String {
    let code = output.status.code().unwrap_or(-1);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let text = format!("exit status: {code}\n--- stdout\n{stdout}--- stderr\n{stderr}");
    text.replace(&server.address(), "SERVER")
}

/// Runs flockerctl against a control service that answers so.
fn against_control(server: &Server, args: &[&str]) -> String {
    let output = flockerctl(args)
        .env("FLOCKER_CONTROL", server.address())
        .output();
    shown(
        server,
        &output.expect("the program was built with this test"),
    )
}

/// Runs flockerctl against a single edge that answers so.
fn against_edge(server: &Server, args: &[&str]) -> String {
    let output = flockerctl(args)
        .env("FLOCKER_EDGE", server.address())
        .output();
    shown(
        server,
        &output.expect("the program was built with this test"),
    )
}

/// Asserts words that must be in what was shown, for what a snapshot would pin too hard.
fn assert_has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no '{word}' in:\n{text}");
    }
}
