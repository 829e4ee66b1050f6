//! The files of a deployment with all that they refer to, from this machine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use flocker_api::control::SourceFile;
use flocker_control::formats::{self, Sources};

use crate::failure::Failure;

/// The file of variables beside a Compose file.
const DOTENV: &str = ".env";

/// Reads files, and for Compose files the variables and environment files that they name:
/// variables from the environment, and from `.env` in the folder of the first file.
pub(super) fn read(paths: &[PathBuf]) -> Result<Sources, Failure> {
    let (mut files, mut errors) = (Vec::new(), Vec::new());
    for path in paths {
        match std::fs::read_to_string(path) {
            Ok(text) => files.push(SourceFile {
                name: path.display().to_string(),
                text,
            }),
            Err(error) => errors.push(format!("cannot read {}: {error}", path.display())),
        }
    }
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let folder = paths.first().and_then(|path| path.parent());
    let dotenv = folder.unwrap_or_else(|| Path::new("")).join(DOTENV);
    let mut defaults = BTreeMap::new();
    let mut slips = Vec::new();
    match std::fs::read_to_string(&dotenv) {
        Ok(text) => {
            let name = dotenv.display().to_string();
            let file = SourceFile { name, text };
            (defaults, slips) = formats::dotenv_variables(&file, &environment);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => errors.push(format!("cannot read {}: {error}", dotenv.display())),
    }
    let variable = |name: &str| {
        environment
            .get(name)
            .or_else(|| defaults.get(name))
            .cloned()
    };
    let sources = formats::gather(files, variable, |path| {
        match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            // Whether it has to be there says the Compose file.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                errors.push(format!("cannot read {path}: {error}"));
                None
            }
        }
    });
    // A `.env` that no file needs may be anybody's.
    if !sources.variables.is_empty() {
        errors.extend(slips.iter().map(ToString::to_string));
    }
    if errors.is_empty() {
        Ok(sources)
    } else {
        Err(Failure::Files(errors))
    }
}
