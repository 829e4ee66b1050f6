//! Apps as files declare them, before the files are put together: with the places of their
//! parts, and with the apps that they need by name.

use std::collections::{BTreeMap, BTreeSet};

use flocker_api::{
    app::{App, AppRoute, Dependency, DependencyCondition},
    container::{Link, LinkTarget},
    name::{AppName, NodeName},
    route::RouteKey,
};

use super::{
    deployment::unknown_app,
    error::{FormatError, Place, Problem},
    yaml::Mark,
};

/// A route and where it is declared.
pub(super) struct PlacedRoute {
    pub(super) at: Mark,
    pub(super) route: AppRoute,
}

/// An app and where its parts are declared.
pub(super) struct Declared {
    pub(super) app: App,
    pub(super) at: Place,
    /// In the order of `app.routes`.
    pub(super) routes_at: Vec<Place>,
    /// In the order of `app.container.volumes`.
    pub(super) volumes_at: Vec<Place>,
    /// Where its own file puts it.
    pub(super) node: Option<(NodeName, Place)>,
    /// What becomes of it when no file puts it anywhere.
    pub(super) unplaced: Unplaced,
    /// Apps that it needs, to be found once all files are read.
    pub(super) needs: Vec<Need>,
}

/// What becomes of an app that no file puts anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unplaced {
    /// It is not part of the deployment: an application file may declare more than is deployed.
    LeftOut,
    /// It stays where it is, or goes to the node that the command names.
    Stays,
}

/// An app that another needs.
pub(super) struct Need {
    pub(super) app: AppName,
    pub(super) at: Place,
    /// Which value names it.
    pub(super) path: String,
    pub(super) wish: Wish,
}

/// What it is needed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wish {
    /// To be there first.
    First(DependencyCondition),
    /// To be reached by a name, at the ports at which it listens itself.
    Named { alias: String },
    /// The same where it listens at any port.
    Found { alias: String },
    /// To be reached by a name, at the ports at which edges listen for it: as Fig has it.
    Published { alias: String },
}

/// What a file of apps holds.
#[derive(Default)]
pub(super) struct Applications {
    /// The names of all apps, well declared or not.
    pub(super) names: Vec<(AppName, Place)>,
    /// Those without errors.
    pub(super) apps: Vec<Declared>,
}

/// Finds the apps that apps need, now that all files are read.
pub(super) fn resolve(found: &mut Applications, errors: &mut Vec<FormatError>) {
    let names: Vec<AppName> = found.names.iter().map(|(name, _)| name.clone()).collect();
    let known: BTreeMap<AppName, (Vec<u16>, Vec<AppRoute>)> = found
        .apps
        .iter()
        .map(|app| {
            let seen = (app.app.container.ports.clone(), app.app.routes.clone());
            (app.app.name().clone(), seen)
        })
        .collect();
    for app in &mut found.apps {
        for need in std::mem::take(&mut app.needs) {
            if need.app == *app.app.name() {
                let problem = Problem::BadValue {
                    path: need.path,
                    value: need.app.to_string(),
                    expected: "another app: this is the app itself".to_owned(),
                };
                errors.push(FormatError::new(need.at, problem));
            } else if !names.contains(&need.app) {
                let problem = unknown_app(&need.path, &need.app, &names);
                errors.push(FormatError::new(need.at, problem));
            } else if let Some((ports, routes)) = known.get(&need.app)
                && let Err(problem) = fulfil(&mut app.app, &need, ports, routes)
            {
                errors.push(FormatError::new(need.at, problem));
            }
        }
    }
    errors.extend(circles(&found.apps));
}

fn fulfil(app: &mut App, need: &Need, ports: &[u16], routes: &[AppRoute]) -> Result<(), Problem> {
    let Need {
        app: to,
        path,
        wish,
        ..
    } = need;
    match wish {
        Wish::First(condition) => {
            if !app.depends_on.iter().any(|known| known.app == *to) {
                app.depends_on.push(Dependency {
                    app: to.clone(),
                    condition: *condition,
                });
            }
            Ok(())
        }
        Wish::Named { alias } | Wish::Found { alias } => {
            let links = ports.iter().map(|port| Link {
                alias: alias.clone(),
                local_port: *port,
                remote_port: *port,
                to: Some(LinkTarget {
                    app: to.clone(),
                    port: *port,
                }),
            });
            let links: Vec<_> = links.collect();
            let known = |link: &Link| link.alias == *alias;
            let found = matches!(wish, Wish::Found { .. });
            if found && (links.is_empty() || app.container.links.iter().any(known)) {
                return Ok(());
            }
            join_links(app, links, path, to)
        }
        Wish::Published { alias } => {
            let links = routes.iter().filter_map(|route| match route.key {
                RouteKey::Tcp(external) => Some(Link {
                    alias: alias.clone(),
                    local_port: route.port,
                    remote_port: external.get(),
                    to: None,
                }),
                _ => None,
            });
            join_links(app, links.collect(), path, to)
        }
    }
}

fn join_links(app: &mut App, links: Vec<Link>, path: &str, to: &AppName) -> Result<(), Problem> {
    if links.is_empty() {
        return Err(Problem::Refused {
            path: path.to_owned(),
            reason: format!(
                "app {to} listens at no port that its file declares; give it 'ports' or, for \
                 other apps alone, 'expose'"
            ),
        });
    }
    app.container.links.extend(links);
    Ok(())
}

/// Apps that wait for one another in a circle, each circle once.
fn circles(apps: &[Declared]) -> Vec<FormatError> {
    let by_name: BTreeMap<&AppName, &Declared> =
        apps.iter().map(|app| (app.app.name(), app)).collect();
    let mut cleared = BTreeSet::new();
    let mut errors = Vec::new();
    for app in apps {
        let mut way = Vec::new();
        if let Some(circle) = circle_from(app.app.name(), &by_name, &mut way, &mut cleared) {
            let problem = Problem::Refused {
                path: "depends_on".to_owned(),
                reason: format!("{circle} wait for one another in a circle; leave one out"),
            };
            errors.push(FormatError::new(app.at.clone(), problem));
        }
    }
    errors
}

fn circle_from<'a>(
    name: &'a AppName,
    apps: &BTreeMap<&'a AppName, &'a Declared>,
    way: &mut Vec<&'a AppName>,
    cleared: &mut BTreeSet<&'a AppName>,
) -> Option<String> {
    if let Some(begin) = way.iter().position(|known| *known == name) {
        let circle: Vec<&str> = way[begin..].iter().map(|name| name.as_str()).collect();
        cleared.extend(&way[begin..]);
        return Some(circle.join(", "));
    }
    if cleared.contains(name) {
        return None;
    }
    way.push(name);
    let depends = apps.get(name).map(|app| &app.app.depends_on);
    let circle = depends
        .into_iter()
        .flatten()
        .find_map(|next| circle_from(&next.app, apps, way, cleared));
    way.pop();
    cleared.insert(name);
    circle
}
