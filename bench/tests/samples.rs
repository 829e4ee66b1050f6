//! Every sample file in `config/` is what its program takes, and what is wrong is named.

mod files;

use std::{
    fs,
    path::{Path, PathBuf},
};

use files::files;
use flocker_api::control::SourceFile;

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Loads a file by the program that its name says.
fn load(path: &Path) -> Result<(), String> {
    let name = path
        .file_stem()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let result = match name.split('-').next().unwrap_or_default() {
        "control" => flocker_control::config::Config::load(path).map(|_| ()),
        "storage" | "agent" => flocker_storage_agent::config::Config::load(path).map(|_| ()),
        "proxy" | "edge" => flocker_proxy::config::Config::load(path).map(|_| ()),
        _ => return Err(format!("nobody knows what '{name}' is a sample of")),
    };
    result.map_err(|error| error.to_string())
}

#[test]
fn every_sample_of_a_service_is_valid() {
    let mut checked = 0;
    for path in files(&folder("../config"), "toml") {
        // Images of the process runtime; the demo and its tests start from them.
        if path.components().any(|part| part.as_os_str() == "images") {
            continue;
        }
        if let Err(error) = load(&path) {
            panic!("{}: {error}", path.display());
        }
        checked += 1;
    }
    assert!(checked >= 10, "only {checked} samples found");
}

/// The samples with every key explained, and each example in each of its formats; the words of
/// Compose files are checked where the formats are.
#[test]
fn every_example_of_apps_is_valid() {
    let examples = folder("../config/examples");
    let read = |path: PathBuf| SourceFile {
        name: path.display().to_string(),
        text: fs::read_to_string(&path).unwrap_or_default(),
    };
    let mut checked = 0;
    for first in files(&examples, "yml") {
        let beside = first.with_file_name("deployment.yml");
        let alone = first.ends_with("compose.yml") || first == beside;
        let mut sources = vec![read(first.clone())];
        if !alone || first == beside {
            sources.push(read(if first == beside {
                first.with_file_name("application.yml")
            } else {
                beside
            }));
        }
        let sources = flocker_control::formats::Sources::new(sources);
        match flocker_control::formats::parse(&sources) {
            Ok(deployment) => assert!(!deployment.apps.is_empty(), "{}", first.display()),
            Err(errors) => panic!("{errors:#?}"),
        }
        checked += 1;
    }
    assert!(checked >= 10, "only {checked} examples found");
}

/// The first line of an invalid file is a comment with what the error has to contain.
#[test]
fn every_invalid_file_fails_with_the_expected_message() {
    let invalid = files(&folder("tests/invalid"), "toml");
    assert!(invalid.len() >= 6, "only {} files found", invalid.len());
    for path in invalid {
        let text = fs::read_to_string(&path).unwrap();
        let expected = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# expect: "));
        let expected = expected.unwrap_or_else(|| panic!("{} expects nothing", path.display()));
        match load(&path) {
            Ok(()) => panic!("{} was taken", path.display()),
            Err(error) => {
                assert!(error.contains(expected), "{}: {error}", path.display());
                let name = path
                    .file_name()
                    .and_then(|name| name.to_str())
                    .unwrap_or_default();
                assert!(error.contains(name), "{error} does not name {name}");
            }
        }
    }
}
