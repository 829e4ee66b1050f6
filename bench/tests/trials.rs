//! The trials in small: an edge keeps its promises that are not about time. How long things took
//! is for `flocker-bench` to say; a test that measures time on a busy machine measures the machine.

#![expect(
    clippy::disallowed_methods,
    reason = "starts the program that is tested"
)]

use std::process::{Command, Stdio};

use serde_json::Value;

/// Runs a trial and answers with its figures.
fn figures(arguments: &[&str]) -> Vec<(String, f64)> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("trial.json");
    let output = Command::new(env!("CARGO_BIN_EXE_flocker-bench"))
        .arg("trial")
        .args(arguments)
        .arg("--json")
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        panic!("{arguments:?} has left no figures: {said}")
    });
    let figures: Value = serde_json::from_str(&text).expect("figures are JSON");
    let figure = |figure: &Value| {
        let name = figure["name"]
            .as_str()
            .expect("a figure has a name")
            .to_owned();
        (
            name,
            figure["value"].as_f64().expect("a figure has a value"),
        )
    };
    figures["figures"]
        .as_array()
        .expect("there are figures")
        .iter()
        .map(figure)
        .collect()
}

fn check(figures: &[(String, f64)], ending: &str, is_right: impl Fn(f64) -> bool) {
    let found: Vec<_> = figures
        .iter()
        .filter(|(name, _)| name.ends_with(ending))
        .collect();
    assert!(!found.is_empty(), "no figure '{ending}' in {figures:?}");
    for (name, value) in found {
        assert!(is_right(*value), "{name} is {value}; all: {figures:?}");
    }
}

#[test]
fn a_switch_to_an_upstream_that_is_not_up_yet_fails_nobody() {
    let figures = figures(&["switch", "--rate", "200", "--switches", "2"]);
    check(&figures, ": failed", |failed| failed == 0.0);
    check(&figures, ": answered", |answered| answered > 0.0);
}

#[test]
fn many_switches_fail_nobody() {
    let arguments = [
        "churn",
        "--seconds",
        "2",
        "--runs",
        "1",
        "--routes",
        "10",
        "--rate",
        "100",
    ];
    let figures = figures(&arguments);
    check(&figures, ": failed", |failed| failed == 0.0);
    check(&figures, "switches a second", |rate| rate > 0.0);
    check(&figures, ": answered", |answered| answered > 0.0);
}

#[test]
fn of_the_parked_those_who_stay_are_served_in_order() {
    let figures = figures(&["park", "--clients", "300", "--rounds", "2"]);
    check(&figures, ": not served", |missing| missing == 0.0);
    check(&figures, ": out of order", |overtaken| overtaken == 0.0);
}
