//! Reads the files in which people declare apps and deployments.
//!
//! Pure: texts in; a [`Deployment`], or every error that the texts contain, out. The format is
//! Flocker's pair of YAML files, with an `x-flocker` block per app for what it has no key for:
//!
//! ```text
//! version: 1                        version: 1
//! applications:                     nodes:
//!   notes:                            n1: [notes]
//!     image: flocker/notes            n2: []
//!     ...
//! ```
//!
//! Nothing is ever passed over in silence: an unknown key is an error, and so is a known one
//! that this version cannot carry out. Which nodes there are only control knows.
//!
//! | module | duty |
//! | --- | --- |
//! | `yaml` | texts to trees that know the place of everything |
//! | `reader` | typed values out of trees, errors noted |
//! | `application`, `volumes`, `extension`, `replication`, `deployment` | the keys of each kind of file |
//! | `quantity` | sizes and durations |
//! | `error` | what can be wrong |

mod application;
mod deployment;
mod error;
mod extension;
mod quantity;
mod reader;
mod replication;
#[cfg(test)]
mod tests;
mod volumes;
mod yaml;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    time::Duration,
};

use flocker_api::{
    app::{Deployment, Placement},
    control::SourceFile,
    name::{AppName, NodeName},
};

use application::{Applications, Declared};
use deployment::Placed;
pub use error::{FormatError, Place, Problem};
use reader::Reader;
use yaml::{Node, Value};

/// Reads a duration as the files have it: `300ms`, `10s`, `1m30s`, up to a day.
///
/// # Errors
/// What would be one.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    let ms = quantity::duration_ms(text).ok_or(quantity::DURATION_EXPECTED)?;
    Ok(Duration::from_millis(ms))
}

/// Reads a size as the files have it: `512M`, `1.5G`, `1T`.
///
/// # Errors
/// What would be one.
pub fn size(text: &str) -> Result<u64, &'static str> {
    quantity::size_bytes(text).ok_or("a size above zero, such as 512M, 1.5G or 1T")
}

/// Reads application and deployment files; which is which is seen from their keys.
///
/// Apps that are declared but placed on no node are checked and then left out.
///
/// # Errors
/// All that is wrong with them, in the order of the files.
pub fn parse(files: &[SourceFile]) -> Result<Deployment, Vec<FormatError>> {
    let mut errors = Vec::new();
    let mut kinds = Vec::new();
    for file in files {
        let mut loaded = Vec::new();
        if let Some(root) = yaml::load(&file.name, &file.text, &mut loaded) {
            match detect(&file.name, &root) {
                Ok(kind) => kinds.push((file.name.as_str(), kind, root)),
                Err(error) => loaded.push(error),
            }
        }
        errors.append(&mut loaded);
    }
    let every_file_is_known = kinds.len() == files.len();
    let of = |wanted: Kind| kinds.iter().filter(move |(_, kind, _)| *kind == wanted);

    let mut found = Applications::default();
    for (file, _, root) in of(Kind::Application) {
        let file_found = Reader {
            file,
            errors: &mut errors,
        }
        .applications(root);
        found.names.extend(file_found.names);
        found.apps.extend(file_found.apps);
    }
    let declared: Vec<AppName> = found.names.iter().map(|(name, _)| name.clone()).collect();
    let mut placed = Vec::new();
    for (file, _, root) in of(Kind::Deployment) {
        placed.extend(
            Reader {
                file,
                errors: &mut errors,
            }
            .deployment(root, &declared),
        );
    }

    check_repeated(&found, &placed, &mut errors);
    let placements = join(found.apps, placed, &mut errors);
    if every_file_is_known {
        errors.extend(missing_kinds(&kinds));
    }
    if errors.is_empty() {
        return Ok(Deployment { apps: placements });
    }
    let order = |error: &FormatError| {
        let file = files.iter().position(|file| file.name == error.place.file);
        (file, error.place.line, error.place.column)
    };
    errors.sort_by_key(order);
    Err(errors)
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Application,
    Deployment,
}

/// Sees from its keys what a file is.
fn detect(file: &str, root: &Node) -> Result<Kind, FormatError> {
    let unknown = |why: String| FormatError::new(root.at.in_file(file), Problem::UnknownKind(why));
    let Value::Map(entries) = &root.value else {
        return Err(unknown(format!("it is {}", root.kind().name())));
    };
    let keys: Vec<&str> = entries
        .iter()
        .map(|entry| entry.key.text.as_str())
        .collect();
    match (keys.contains(&"applications"), keys.contains(&"nodes")) {
        (true, false) => Ok(Kind::Application),
        (false, true) => Ok(Kind::Deployment),
        (true, true) => Err(unknown("it has both keys; make two files of it".to_owned())),
        (false, false) => {
            let is_service = |entry: &&yaml::Entry| match &entry.value.value {
                Value::Map(fields) => fields
                    .iter()
                    .any(|field| ["image", "build"].contains(&field.key.text.as_str())),
                Value::Scalar(_) | Value::List(_) => false,
            };
            if keys.contains(&"services") || entries.iter().any(|entry| is_service(&entry)) {
                return Err(unknown(
                    "it looks like a Compose or Fig file, which this version does not read"
                        .to_owned(),
                ));
            }
            let near = ["applications", "nodes"]
                .iter()
                .find_map(|known| error::nearest(known, keys.iter().copied()));
            let why = match near {
                Some(key) => format!("it has the key '{key}', which is neither"),
                None => format!("its keys are {}", keys.join(", ")),
            };
            Err(unknown(why))
        }
    }
}

/// The kinds of files that are needed and not given.
fn missing_kinds(kinds: &[(&str, Kind, Node)]) -> Vec<FormatError> {
    [
        (Kind::Application, "application", "applications"),
        (Kind::Deployment, "deployment", "nodes"),
    ]
    .into_iter()
    .filter(|(kind, _, _)| kinds.iter().all(|(_, given, _)| given != kind))
    .map(|(_, kind, key)| {
        let place = Place {
            file: "the files".to_owned(),
            line: 0,
            column: 0,
        };
        FormatError::new(place, Problem::MissingKind { kind, key })
    })
    .collect()
}

/// Finds what may be there only once: apps, placements, route keys, volumes.
fn check_repeated(found: &Applications, placed: &[Placed], errors: &mut Vec<FormatError>) {
    let names = found.names.iter().map(|(name, at)| (name, at));
    errors.extend(repeated("app", names));
    errors.extend(repeated(
        "the node of app",
        placed.iter().map(|placed| (&placed.app, &placed.at)),
    ));
    // What a second declaration of the same app repeats needs no lines of its own.
    let mut seen = BTreeSet::new();
    let apps: Vec<&Declared> = found
        .apps
        .iter()
        .filter(|app| seen.insert(app.app.name()))
        .collect();
    let routes = apps.iter().flat_map(|app| {
        let keys = app.app.routes.iter().map(|route| &route.key);
        keys.zip(&app.routes_at)
    });
    errors.extend(repeated("route", routes));
    let mounts = apps.iter().flat_map(|app| {
        let mounts = app.app.container.volumes.iter();
        mounts.zip(&app.volumes_at)
    });
    let names = mounts.clone().map(|(mount, at)| (&mount.name, at));
    errors.extend(repeated("volume", names));
    let ids = mounts.map(|(mount, at)| (&mount.volume, at));
    errors.extend(repeated("dataset_id", ids));
}

/// An error for every thing that came before.
fn repeated<'t, T: Ord + Display + 't>(
    kind: &str,
    things: impl Iterator<Item = (&'t T, &'t Place)>,
) -> Vec<FormatError> {
    let mut first_places: BTreeMap<&T, &Place> = BTreeMap::new();
    let mut errors = Vec::new();
    for (thing, place) in things {
        match first_places.get(thing) {
            Some(first) => {
                let problem = Problem::Repeated {
                    what: format!("{kind} {thing}"),
                    first: (*first).clone(),
                };
                errors.push(FormatError::new(place.clone(), problem));
            }
            None => {
                first_places.insert(thing, place);
            }
        }
    }
    errors
}

/// Puts apps and nodes together; apps of one node may not listen at the same port, because
/// they all listen at their node's address.
fn join(apps: Vec<Declared>, placed: Vec<Placed>, errors: &mut Vec<FormatError>) -> Vec<Placement> {
    let mut listening: BTreeMap<(NodeName, u16), (AppName, Place)> = BTreeMap::new();
    let mut by_name: BTreeMap<AppName, Declared> = BTreeMap::new();
    for app in apps {
        by_name.entry(app.app.name().clone()).or_insert(app);
    }
    let mut placements = Vec::new();
    for Placed { app, node, .. } in placed {
        // Named wrongly, declared wrongly or placed twice: each is noted already.
        let Some(declared) = by_name.remove(&app) else {
            continue;
        };
        for port in &declared.app.container.ports {
            let here = (app.clone(), declared.at.clone());
            if let Some((other, first)) = listening.insert((node.clone(), *port), here) {
                let problem = Problem::PortTaken {
                    app: app.to_string(),
                    other: other.to_string(),
                    port: *port,
                    node: node.to_string(),
                    first,
                };
                errors.push(FormatError::new(declared.at.clone(), problem));
            }
        }
        placements.push(Placement {
            app: declared.app,
            node,
        });
    }
    placements
}
