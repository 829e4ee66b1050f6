//! Help texts, wrong arguments, completions.

use insta::assert_snapshot;

use super::{assert_has, flockerctl};

fn run(args: &[&str]) -> (i32, String, String) {
    let output = flockerctl(args).output().unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn help_texts() {
    for (name, args) in [
        ("help", &["--help"][..]),
        ("help_deploy", &["deploy", "-h"]),
        ("help_move", &["move", "-h"]),
        ("help_route", &["route", "-h"]),
        ("help_edge", &["edge", "-h"]),
        ("help_route_switch", &["route", "switch", "-h"]),
    ] {
        let (code, stdout, _) = run(args);
        assert_eq!(code, 0);
        assert_snapshot!(name, stdout);
    }
}

#[test]
fn wrong_arguments_say_what_would_be_right() {
    for (args, words) in [
        (
            &["stauts"][..],
            &["a similar subcommand exists: 'status'"][..],
        ),
        (&["move", "notes"], &["--to <NODE>"]),
        (
            &["move", "No/tes", "--to", "n2"],
            &["'No/tes' is not a valid app name"],
        ),
        (
            &["move", "notes", "--too", "n2"],
            &["a similar argument exists: '--to'"],
        ),
        (
            &["route", "add", "udp:1", "--to", "1.2.3.4:5"],
            &["write tcp:PORT, http:HOST[/PATH] or https:HOST[/PATH]"],
        ),
        (
            &["route", "add", "http:a..b", "--to", "1.2.3.4:5"],
            &["empty label"],
        ),
        (
            &["route", "pause", "tcp:1", "--hold", "10"],
            &["a number with its unit"],
        ),
        (
            &["--control", "example.com", "status"],
            &["write IP:PORT or unix:/PATH"],
        ),
        (
            &["status", "--edge", "1.2.3.4:5"],
            &["--edge is for `flockerctl route` and `flockerctl edge`"],
        ),
        (
            &[
                "route",
                "switch",
                "tcp:1",
                "--to",
                "1.2.3.4:5",
                "--hold",
                "5s",
                "--quiesce",
                "5s",
            ],
            &["--quiesce must be shorter than --hold"],
        ),
        (&["deploy"], &["<FILES>"]),
    ] {
        let (code, _, stderr) = run(args);
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert_has(&stderr, words);
    }
}

#[test]
fn completions_for_the_usual_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, stdout, _) = run(&["completions", shell]);
        assert_eq!(code, 0);
        assert_has(&stdout, &["flockerctl", "switch"]);
    }
}
