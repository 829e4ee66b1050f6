//! What files refer to and do not hold: variables and environment files.

use std::collections::{BTreeMap, BTreeSet};

use flocker_api::control::SourceFile;

use super::{Kind, compose, detect, dotenv, yaml};

/// Files with all that they refer to: who reads them needs nothing besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// The files.
    pub files: Vec<SourceFile>,
    /// Environment files that Compose files name; their names are relative to where the names of
    /// those are.
    pub env_files: Vec<SourceFile>,
    /// Values of the variables that they name.
    pub variables: BTreeMap<String, String>,
}

impl Sources {
    /// Files that refer to nothing.
    #[must_use]
    pub fn new(files: Vec<SourceFile>) -> Self {
        Self {
            files,
            ..Self::default()
        }
    }
}

/// Asks for all that Compose files refer to: `variable` for the value of a name, `read` for the
/// text of a file. What is not there is left out; reading the files says what it was needed
/// for.
pub fn gather(
    files: Vec<SourceFile>,
    variable: impl Fn(&str) -> Option<String>,
    mut read: impl FnMut(&str) -> Option<String>,
) -> Sources {
    let mut sources = Sources::new(files);
    let mut names = BTreeSet::new();
    let mut roots = Vec::new();
    for file in &sources.files {
        let root = yaml::load(&file.name, &file.text, &mut Vec::new());
        let root = root.filter(|root| detect(&file.name, root) == Ok(Kind::Compose));
        let Some(root) = root else {
            continue;
        };
        let root = compose::merged(&file.name, root, &mut Vec::new());
        compose::names(&root, &mut names);
        roots.push((file.name.clone(), root));
    }
    let ask = |sources: &mut Sources, names: &BTreeSet<String>| {
        for name in names {
            if let Some(value) = variable(name) {
                sources.variables.insert(name.clone(), value);
            }
        }
    };
    // Paths of environment files may hold variables themselves.
    ask(&mut sources, &names);
    let mut paths = BTreeSet::new();
    for (file, root) in roots {
        let root = compose::settled(&file, root, &sources.variables, &mut Vec::new());
        paths.extend(compose::env_file_paths(&file, &root, &mut names));
    }
    for path in paths {
        if let Some(text) = read(&path) {
            dotenv::names(&text, &mut names);
            sources.env_files.push(SourceFile { name: path, text });
        }
    }
    ask(&mut sources, &names);
    sources
}

/// The value of a name in a file `.env`.
#[must_use]
pub fn dotenv_variables(
    file: &SourceFile,
    environment: &BTreeMap<String, String>,
) -> (BTreeMap<String, String>, Vec<super::FormatError>) {
    let mut errors = Vec::new();
    let found = dotenv::variables(&file.name, &file.text, environment, &mut errors);
    (found, errors)
}
