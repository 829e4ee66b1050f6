//! House rules that no compiler checks, checked on the files themselves.

mod files;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use files::files;

const CRATES: [&str; 5] = ["proxy", "storage-agent", "control", "control/api", "bench"];
/// Lines of a file without its tests; past these it is split, or its `//!` says why not.
const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    bench.parent().unwrap_or(bench).to_owned()
}

fn sources() -> Vec<(PathBuf, String)> {
    let found: Vec<_> = files(&root(), "rs")
        .into_iter()
        .filter_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?)))
        .collect();
    assert!(found.len() > 50, "only {} sources found", found.len());
    found
}

/// The part of a file before its tests and before a clock that is only for them.
fn without_tests(text: &str) -> &str {
    let starts = [
        "\n#[cfg(test)]\nmod ",
        "\n#[cfg(test)]\n#[expect(clippy::disallowed_methods",
    ];
    let end = starts.iter().filter_map(|start| text.find(start)).min();
    &text[..end.unwrap_or(text.len())]
}

fn in_folder(path: &Path, name: &str) -> bool {
    path.components().any(|part| part.as_os_str() == name)
}

fn report(what: &str, offenders: &[String]) {
    assert!(
        offenders.is_empty(),
        "{what}:\n  {}",
        offenders.join("\n  ")
    );
}

/// Every line of these texts that `is_bad`, as file:line.
fn bad_lines(texts: Vec<(PathBuf, String)>, is_bad: impl Fn(&str) -> bool) -> Vec<String> {
    let mut bad = Vec::new();
    for (path, text) in texts {
        for (number, line) in text.lines().enumerate() {
            if is_bad(line) {
                bad.push(format!(
                    "{}:{}: {}",
                    path.display(),
                    number + 1,
                    line.trim()
                ));
            }
        }
    }
    bad
}

#[test]
fn every_file_opens_with_its_duty() {
    let bad: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(path, _)| path.display().to_string())
        .collect();
    report("files that do not open with `//!`", &bad);
}

#[test]
fn nothing_is_left_to_do() {
    // Put together here, or this file would find itself.
    let words = [["TO", "DO"].concat(), ["FIX", "ME"].concat()];
    let bad = bad_lines(sources(), |line| {
        let mut tokens = line.split(|c: char| !c.is_ascii_alphanumeric());
        tokens.any(|token| words.iter().any(|word| word == token))
    });
    report("an issue or nothing", &bad);
}

#[test]
fn files_are_of_a_length_that_can_be_read() {
    let bad: Vec<_> = sources()
        .into_iter()
        .filter(|(path, _)| !path.ends_with("tests.rs") && !in_folder(path, "tests"))
        .filter(|(_, text)| {
            !text
                .lines()
                .take(20)
                .any(|line| line.contains("long because"))
        })
        .map(|(path, text)| (path, without_tests(&text).lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    let what = "files over 600 lines whose `//!` gives no reason (\"long because ...\")";
    report(what, &bad);
}

/// What a file under `logic/` cannot use: whatever touches the world or reads a clock.
const WORLD: [&str; 12] = [
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os",
    "std::process",
    "std::thread",
    "std::env",
    "Instant::now",
    "SystemTime::now",
    "tokio::",
    "mio::",
    "rustix::",
];

#[test]
fn logic_does_not_touch_the_world() {
    let logic: Vec<_> = sources()
        .into_iter()
        .filter(|(path, _)| in_folder(path, "logic"))
        // Loom's tests drive threads of their own making.
        .filter(|(path, _)| !path.ends_with("tests.rs") && !path.ends_with("loom.rs"))
        .filter(|(path, _)| !in_folder(path, "tests"))
        .map(|(path, text)| (path, without_tests(&text).to_owned()))
        .collect();
    assert!(logic.len() > 5, "only {} files of logic found", logic.len());
    let bad = bad_lines(logic, |line| {
        let code = line.split("//").next().unwrap_or_default();
        // A signal is a number with a name; sending it is another matter.
        let code = code.replace("use rustix::process::Signal;", "");
        WORLD.iter().any(|word| code.contains(word))
    });
    report("logic takes values and gives values", &bad);
}

#[test]
fn crates_depend_on_one_another_in_one_direction_only() {
    let allowed: BTreeMap<&str, &[&str]> = [
        ("control/api", &[][..]),
        ("proxy", &["flocker-api"]),
        ("storage-agent", &["flocker-api"]),
        ("control", &["flocker-api"]),
        ("bench", &["flocker-api"]),
    ]
    .into();
    let mut bad = Vec::new();
    for folder in CRATES {
        let manifest = root().join(folder).join("Cargo.toml");
        let text = fs::read_to_string(&manifest).unwrap();
        let table: toml::Table = toml::from_str(&text).unwrap();
        let dependencies = table.get("dependencies").and_then(toml::Value::as_table);
        for name in dependencies.into_iter().flat_map(toml::Table::keys) {
            if name.starts_with("flocker-") && !allowed[folder].contains(&name.as_str()) {
                bad.push(format!("{folder} depends on {name}"));
            }
        }
        if !text.contains("[lints]\nworkspace = true") {
            bad.push(format!("{folder} has lints of its own"));
        }
    }
    report("services never depend on one another, nor on bench", &bad);
}

#[test]
fn nothing_of_one_machine_is_in_the_repository() {
    let words = [
        ["/wo", "rk/"].concat(),
        ["/ro", "ot/"].concat(),
        ["/ho", "me/"].concat(),
    ];
    let texts = ["rs", "toml", "yml", "md", "sh"]
        .iter()
        .flat_map(|ending| files(&root(), ending))
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap_or_default()))
        .collect();
    let bad = bad_lines(texts, |line| {
        words.iter().any(|word| line.contains(word.as_str()))
    });
    report("paths of one machine", &bad);
}
