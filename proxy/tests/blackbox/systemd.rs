//! The sample units, by systemd's own word.

use std::{fs, path::Path, process::Command};

#[test]
fn systemd_has_nothing_against_the_units() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/systemd");
    let directory = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        // What they start has to be there; any program does.
        let here = text
            .lines()
            .map(|line| match line.split_once("/usr/bin/flocker-") {
                Some((before, after)) if line.starts_with("Exec") => {
                    let rest = after.split_once(' ').map_or("", |(_, rest)| rest);
                    format!("{before}{} {rest}\n", env!("CARGO_BIN_EXE_flocker-proxy"))
                }
                _ => format!("{line}\n"),
            });
        let unit = directory.path().join(path.file_name().unwrap());
        fs::write(&unit, here.collect::<String>()).unwrap();
        units.push(unit);
    }
    assert!(!units.is_empty());
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(&units)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success(), "{said}");
    assert_eq!(said, "");
}

#[test]
fn the_unit_looks_at_the_configuration_before_it_counts() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/systemd/flocker-proxy.service");
    let text = fs::read_to_string(path).unwrap();
    let lines = |key: &str| -> Vec<&str> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(key));
        lines.collect()
    };
    assert!(lines("ExecStartPre=")[0].ends_with("--check"));
    let reload = lines("ExecReload=");
    assert!(reload[0].ends_with("--check"), "{reload:?}");
    assert!(reload[1].contains("HUP"), "{reload:?}");
}
