//! What an operator takes over from `config/prometheus` is sound, and the alerts go off when
//! they should and not before: `promtool` of Debian's prometheus package says so.

#![expect(clippy::disallowed_methods, reason = "runs the judge of rules")]

use std::{fs, path::Path, process::Command};

fn promtool(arguments: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/prometheus");
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("promtool is there: see scripts/packages");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[test]
fn the_samples_for_prometheus_are_valid() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "alerts.yml"]);
}

#[test]
fn each_alert_goes_off_when_it_should_and_not_before() {
    promtool(&["test", "rules", "alerts-test.yml"]);
}

#[test]
fn each_alert_is_tried() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/prometheus");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let (rules, tests) = (read("alerts.yml"), read("alerts-test.yml"));
    let alerts: Vec<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        assert!(
            tests.contains(&format!("alertname: {alert}\n")),
            "{alert} is not tried in alerts-test.yml"
        );
    }
}
