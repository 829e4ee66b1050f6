//! Links: the loopback addresses at which an app finds others, as routes of those others.
//!
//! A link is provided by one edge of each node, at an address that is reckoned from the names of
//! the app and of the link ([`Link::address`]). It is a route like any other but for its key: a
//! move of the app that it leads to pauses it, holds who connects, and switches it. Every such
//! edge has it, not only that of the node where the linking app runs, so that the linking app may
//! move as well and finds it there already.

use std::{collections::BTreeSet, net::SocketAddrV4};

use flocker_api::{
    app::{App, AppRoute},
    container::{Link, LinkTarget},
    name::AppName,
    route::{OnMove, RouteKey},
};

use super::state::{AppRecord, Life, State};

/// The routes of links that lead to an app.
#[must_use]
pub fn leading_to(state: &State, target: &AppName) -> Vec<AppRoute> {
    let all = all(state);
    let ours = all.filter(|(_, to)| to.app == *target);
    ours.map(|(key, to)| AppRoute {
        key,
        port: to.port,
        on_move: OnMove::default(),
        options: flocker_api::options::RouteOptions::default(),
    })
    .collect()
}

/// The keys of all links that lead somewhere.
#[must_use]
pub fn keys(state: &State) -> BTreeSet<RouteKey> {
    all(state).map(|(key, _)| key).collect()
}

/// Whether a route is a link of ours: its address is one of those that no one else gives out.
#[must_use]
pub fn is_ours(key: &RouteKey) -> bool {
    matches!(key, RouteKey::Link(address) if Link::provides(*address.ip()))
}

/// The app with the routes of links that lead to it among its own.
#[must_use]
pub fn with_links(state: &State, app: &App) -> App {
    let mut app = app.clone();
    app.routes.extend(leading_to(state, app.name()));
    app
}

/// The apps that an app needs: those that it depends on and those that its links lead to.
#[must_use]
pub fn needs(state: &State, app: &App) -> BTreeSet<AppName> {
    let depends = app.depends_on.iter().map(|need| need.app.clone());
    let links = app.container.links.iter();
    let links = links.filter_map(|link| target(state, link).map(|to| to.app));
    depends.chain(links).collect()
}

/// Why a link of an app leads nowhere, if one does.
#[must_use]
pub fn dangling(state: &State, app: &App) -> Option<String> {
    let links = app.container.links.iter();
    let mut broken = links.filter(|link| target(state, link).is_none());
    broken.next().map(|link| match &link.to {
        Some(to) => format!(
            "link '{}' leads to app '{}', which is not deployed",
            link.alias, to.app
        ),
        None => format!(
            "link '{}' leads to port {} of the edges, which no app declares",
            link.alias, link.remote_port
        ),
    })
}

fn all(state: &State) -> impl Iterator<Item = (RouteKey, LinkTarget)> {
    wanted(state).flat_map(move |record| {
        let app = record.app.name();
        let links = record.app.container.links.iter();
        links.filter_map(move |link| Some((key(app, link), target(state, link)?)))
    })
}

fn key(app: &AppName, link: &Link) -> RouteKey {
    RouteKey::Link(SocketAddrV4::new(link.address(app), link.remote_port))
}

/// Where a link leads: as it says, or where the route of its port does.
fn target(state: &State, link: &Link) -> Option<LinkTarget> {
    if let Some(to) = &link.to {
        let there = state.apps.get(&to.app)?;
        return (there.life == Life::Wanted).then(|| to.clone());
    }
    wanted(state).find_map(|record| {
        let mut routes = record.app.routes.iter();
        let route = routes.find(
            |route| matches!(route.key, RouteKey::Tcp(port) if port.get() == link.remote_port),
        )?;
        Some(LinkTarget {
            app: record.app.name().clone(),
            port: route.port,
        })
    })
}

fn wanted(state: &State) -> impl Iterator<Item = &AppRecord> {
    let records = state.apps.values().map(AsRef::as_ref);
    records.filter(|record| record.life == Life::Wanted)
}

#[cfg(test)]
mod tests {
    use flocker_api::container::ContainerSpec;

    use super::*;
    use crate::logic::state::Change;

    fn state(apps: Vec<App>) -> State {
        let mut state = State::default();
        for app in apps {
            let record = Box::new(AppRecord::new(app));
            state.apply(&Change::PutApp { record }).unwrap();
        }
        state
    }

    fn app(name: &str, links: Vec<Link>) -> App {
        let mut container = ContainerSpec::new(name.parse().unwrap(), name);
        container.links = links;
        App::new(container)
    }

    fn link(alias: &str, remote_port: u16, to: Option<(&str, u16)>) -> Link {
        Link {
            alias: alias.to_owned(),
            local_port: 5432,
            remote_port,
            to: to.map(|(app, port)| LinkTarget {
                app: app.parse().unwrap(),
                port,
            }),
        }
    }

    #[test]
    fn a_link_is_a_route_of_the_app_that_it_leads_to() {
        let web = app("web", vec![link("db", 5432, Some(("db", 15432)))]);
        let state = state(vec![web, app("db", vec![])]);
        let routes = leading_to(&state, &"db".parse().unwrap());
        let [route] = &routes[..] else {
            panic!("{routes:?}")
        };
        assert_eq!(route.port, 15432);
        assert!(is_ours(&route.key), "{}", route.key);
        assert_eq!(leading_to(&state, &"web".parse().unwrap()), []);
        assert_eq!(keys(&state).len(), 1);
    }

    #[test]
    fn a_link_to_a_port_of_the_edges_leads_where_that_does() {
        let web = app("web", vec![link("db", 5432, None)]);
        let mut db = app("db", vec![]);
        assert!(leading_to(&state(vec![web.clone(), db.clone()]), db.name()).is_empty());
        db.routes = vec![AppRoute {
            key: "tcp:5432".parse().unwrap(),
            port: 15432,
            on_move: OnMove::default(),
            options: flocker_api::options::RouteOptions::default(),
        }];
        let state = state(vec![web.clone(), db.clone()]);
        assert_eq!(leading_to(&state, db.name())[0].port, 15432);
        assert_eq!(dangling(&state, &web), None);
        assert_eq!(with_links(&state, &db).routes.len(), 2);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_named() {
        let to_app = app("web", vec![link("db", 5432, Some(("db", 5432)))]);
        let why = dangling(&state(vec![to_app.clone()]), &to_app).unwrap();
        assert!(why.contains("app 'db', which is not deployed"), "{why}");
        let to_port = app("web", vec![link("db", 5432, None)]);
        let why = dangling(&state(vec![to_port.clone()]), &to_port).unwrap();
        assert!(why.contains("port 5432"), "{why}");
    }
}
