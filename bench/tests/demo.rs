//! The demo itself, shortened, on the best bed that this machine can carry.

use std::{path::Path, process::Command};

/// Runs `flocker-bench demo --short` with its output in a folder of its own, and answers
/// with its exit code, its report and what it said.
#[expect(clippy::disallowed_methods, reason = "the demo is a program")]
fn demo(arguments: &[&str]) -> std::io::Result<(Option<i32>, serde_json::Value, String)> {
    let folder = tempfile::tempdir()?;
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let output = Command::new(env!("CARGO_BIN_EXE_flocker-bench"))
        .args(["demo", "--short", "--config"])
        .arg(config)
        .arg("--output")
        .arg(folder.path())
        .args(arguments)
        .output()?;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let report = std::fs::read(folder.path().join("report.json")).unwrap_or_default();
    let report = serde_json::from_slice(&report).unwrap_or_default();
    Ok((output.status.code(), report, said))
}

fn check(report: &serde_json::Value, said: &str) {
    let moves = report["moves"].as_array().expect(said);
    let apps: Vec<_> = moves.iter().filter_map(|m| m["app"].as_str()).collect();
    assert_eq!(apps, ["notes", "notes", "postgres", "postgres"], "{said}");
    for one in moves {
        assert_eq!(one["lost_writes"], 0, "{said}");
        assert!(one["acknowledged_writes"].as_u64() > Some(0), "{said}");
        assert!(one["pause_ms"].as_f64() > Some(0.0), "{said}");
        assert!(
            one["steps"]
                .as_array()
                .is_some_and(|steps| steps.len() == 11),
            "{said}"
        );
        if one["app"] == "notes" {
            assert_eq!(one["failed"], 0, "{said}");
            assert!(one["requests"].as_u64() > Some(0), "{said}");
        }
    }
}

#[test]
fn two_apps_move_on_the_best_bed_and_nothing_fails() {
    let (code, report, said) = demo(&[]).unwrap();
    assert_eq!(code, Some(0), "{said}");
    check(&report, &said);
}

#[test]
fn two_apps_move_on_loopback_without_privileges() {
    let (code, report, said) = demo(&["--bed", "loopback"]).unwrap();
    assert_eq!(code, Some(0), "{said}");
    check(&report, &said);
    assert_eq!(report["storage"], "directory");
    assert_eq!(report["runtime"], "process");
}
