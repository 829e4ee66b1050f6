//! Reads the files in which people declare apps and deployments.
//!
//! Pure: texts in; a [`Deployment`], or every error that the texts contain, out. Three formats
//! are read, told apart by what they hold and never by their names, and mixed as one likes:
//!
//! ```text
//! Flocker's pair                                        Compose             Fig
//! version: 1          version: 1                        services:           notes:
//! applications:       nodes:                              notes:              image: notes
//!   notes:              n1: [notes]                         image: notes      ports: ["80:80"]
//!     image: notes      n2: []                              x-flocker:
//!     x-flocker: ...                                          node: n1
//! ```
//!
//! Nothing is ever passed over in silence: an unknown key is an error, and so is a known one
//! that this version cannot carry out. Which nodes there are only control knows.
//!
//! | module | duty |
//! | --- | --- |
//! | `yaml` | texts to trees that know the place of everything |
//! | `reader` | typed values out of trees, errors noted |
//! | `keys` | every key of every format |
//! | `application`, `volumes`, `extension`, `replication`, `deployment` | Flocker's own files |
//! | `compose` | Compose and Fig |
//! | `interpolate`, `dotenv` | variables, and the files that hold them |
//! | `declared` | what apps need of one another |
//! | `sources` | what files refer to and do not hold |
//! | `quantity`, `words` | sizes and durations; commands |
//! | `error` | what can be wrong |

mod application;
mod compose;
mod declared;
mod deployment;
mod dotenv;
mod error;
mod extension;
mod interpolate;
mod keys;
mod quantity;
mod reader;
mod replication;
mod sources;
#[cfg(test)]
mod tests;
mod volumes;
mod words;
mod yaml;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    time::Duration,
};

use flocker_api::{
    app::{Deployment, Placement},
    name::{AppName, NodeName},
};

use compose::Outside;
use declared::{Applications, Declared, Unplaced};
use deployment::Placed;
pub use error::{FormatError, Place, Problem};
use reader::Reader;
pub use sources::{Sources, dotenv_variables, gather};
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

/// Reads files of any kind; which is which is seen from their keys.
///
/// Apps of application files that are placed on no node are checked and then left out; services
/// that are placed nowhere are part of the deployment, without a node.
///
/// # Errors
/// All that is wrong with them, in the order of the files.
pub fn parse(sources: &Sources) -> Result<Deployment, Vec<FormatError>> {
    let mut errors = Vec::new();
    let outside = Outside {
        variables: sources.variables.clone(),
        env_files: sources
            .env_files
            .iter()
            .map(|file| (file.name.as_str(), file.text.as_str()))
            .collect(),
    };
    let kinds = load(sources, &outside, &mut errors);
    let every_file_is_known = kinds.len() == sources.files.len();
    let mut found = declarations(&kinds, &outside, &mut errors);
    let declared: Vec<AppName> = found.names.iter().map(|(name, _)| name.clone()).collect();
    let mut placed = placements(&kinds, &declared, &mut errors);
    for app in &found.apps {
        if let Some((node, at)) = &app.node {
            placed.push(Placed {
                app: app.app.name().clone(),
                node: node.clone(),
                at: at.clone(),
            });
        }
    }
    check_repeated(&found, &placed, &mut errors);
    declared::resolve(&mut found, &mut errors);
    let placements = join(found.apps, placed, &mut errors);
    if every_file_is_known {
        errors.extend(missing_kinds(&kinds));
    }
    if errors.is_empty() {
        return Ok(Deployment { apps: placements });
    }
    let files = sources.files.iter().chain(&sources.env_files);
    let order: Vec<&str> = files.map(|file| file.name.as_str()).collect();
    errors.sort_by_key(|error| {
        let file = order.iter().position(|name| *name == error.place.file);
        (file, error.place.line, error.place.column)
    });
    // A value that is wrong for one reason is seldom right otherwise.
    errors.dedup_by(|next, first| {
        next.place == first.place && next.place.line > 0 && {
            matches!(*first.problem, Problem::Refused { .. }) || next.problem == first.problem
        }
    });
    Err(errors)
}

/// Files with what they are; variables of Compose files have their values.
fn load<'s>(
    sources: &'s Sources,
    outside: &Outside<'_>,
    errors: &mut Vec<FormatError>,
) -> Vec<(&'s str, Kind, Node)> {
    let mut kinds = Vec::new();
    for file in &sources.files {
        let Some(root) = yaml::load(&file.name, &file.text, errors) else {
            continue;
        };
        match detect(&file.name, &root) {
            Ok(kind @ (Kind::Compose | Kind::Fig)) => {
                let root = compose::merged(&file.name, root, errors);
                let root = match kind {
                    Kind::Compose => compose::settled(&file.name, root, &outside.variables, errors),
                    // Fig had no variables: a dollar sign is one.
                    _ => root,
                };
                kinds.push((file.name.as_str(), kind, root));
            }
            Ok(kind) => kinds.push((file.name.as_str(), kind, root)),
            Err(error) => errors.push(error),
        }
    }
    kinds
}

/// All apps of all files.
fn declarations(
    kinds: &[(&str, Kind, Node)],
    outside: &Outside<'_>,
    errors: &mut Vec<FormatError>,
) -> Applications {
    let mut found = Applications::default();
    for (file, kind, root) in kinds {
        let mut reader = Reader { file, errors };
        let of_file = match kind {
            Kind::Application => reader.applications(root),
            Kind::Compose => reader.compose(root, outside),
            Kind::Fig => reader.fig(root, outside),
            Kind::Deployment => continue,
        };
        found.names.extend(of_file.names);
        found.apps.extend(of_file.apps);
    }
    found
}

/// All that files say about nodes, but for services that name their own.
fn placements(
    kinds: &[(&str, Kind, Node)],
    declared: &[AppName],
    errors: &mut Vec<FormatError>,
) -> Vec<Placed> {
    let mut placed = Vec::new();
    for (file, kind, root) in kinds {
        let mut reader = Reader { file, errors };
        placed.extend(match kind {
            Kind::Deployment => reader.deployment(root, declared),
            Kind::Compose => reader.compose_placements(root, declared),
            Kind::Application | Kind::Fig => continue,
        });
    }
    placed
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Application,
    Deployment,
    Compose,
    Fig,
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
    let telling = [
        ("services", Kind::Compose),
        ("applications", Kind::Application),
        ("nodes", Kind::Deployment),
    ];
    let mut found = telling.iter().filter(|(key, _)| keys.contains(key));
    match (found.next(), found.next()) {
        (Some((_, kind)), None) => return Ok(*kind),
        (Some((one, _)), Some((other, _))) => {
            let why = format!("it has the keys '{one}' and '{other}'; make two files of it");
            return Err(unknown(why));
        }
        (None, _) => {}
    }
    let is_service = |entry: &yaml::Entry| match &entry.value.value {
        Value::Map(fields) => fields
            .iter()
            .any(|field| ["image", "build"].contains(&field.key.text.as_str())),
        Value::Scalar(_) | Value::List(_) => false,
    };
    if entries.iter().any(is_service) {
        return Ok(Kind::Fig);
    }
    let near = telling
        .iter()
        .find_map(|(known, _)| error::nearest(known, keys.iter().copied()));
    let why = match near {
        Some(key) => format!("it has the key '{key}', which is none of these"),
        None => format!("its keys are {}", keys.join(", ")),
    };
    Err(unknown(why))
}

/// The kinds of files that are needed and not given: Flocker's own come in pairs, unless
/// services stand for one of the pair.
fn missing_kinds(kinds: &[(&str, Kind, Node)]) -> Vec<FormatError> {
    let given = |wanted: Kind| kinds.iter().any(|(_, kind, _)| *kind == wanted);
    let mut missing = Vec::new();
    let apps = [Kind::Application, Kind::Compose, Kind::Fig];
    if !apps.into_iter().any(given) {
        missing.push(("application or Compose", "applications' or 'services"));
    }
    // A Compose file can place the apps of others, and services need no place.
    let placed = given(Kind::Deployment) || given(Kind::Compose);
    if !placed && (given(Kind::Application) || !given(Kind::Fig)) {
        missing.push(("deployment", "nodes"));
    }
    missing
        .into_iter()
        .map(|(kind, key)| {
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
    let ids = ids.filter(|(id, _)| !id.0.is_nil());
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

/// Puts apps and nodes together, in the order in which nodes name their apps; apps of one node
/// may not listen at the same port, because they all listen at their node's address.
fn join(apps: Vec<Declared>, placed: Vec<Placed>, errors: &mut Vec<FormatError>) -> Vec<Placement> {
    let mut order: Vec<AppName> = Vec::new();
    let mut by_name: BTreeMap<AppName, Declared> = BTreeMap::new();
    for app in apps {
        let name = app.app.name().clone();
        if let std::collections::btree_map::Entry::Vacant(place) = by_name.entry(name.clone()) {
            order.push(name);
            place.insert(app);
        }
    }
    let mut placements = Vec::new();
    let mut listening = BTreeMap::new();
    for Placed { app, node, .. } in placed {
        // Named wrongly, declared wrongly or placed twice: each is noted already.
        let Some(declared) = by_name.remove(&app) else {
            continue;
        };
        check_ports(&declared, &node, &mut listening, errors);
        placements.push(Placement {
            app: declared.app,
            node: Some(node),
        });
    }
    for name in order {
        if let Some(declared) = by_name.remove(&name)
            && declared.unplaced == Unplaced::Stays
        {
            placements.push(Placement {
                app: declared.app,
                node: None,
            });
        }
    }
    placements
}

type Listening = BTreeMap<(NodeName, u16), (AppName, Place)>;

fn check_ports(
    declared: &Declared,
    node: &NodeName,
    listening: &mut Listening,
    errors: &mut Vec<FormatError>,
) {
    let app = declared.app.name();
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
}
