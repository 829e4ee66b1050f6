//! What an edge's table and gates ought to be, against what they are.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use flocker_api::{
    app::AppRoute,
    gate::GateState,
    name::EdgeName,
    route::{Operation, Route, RouteKey, Transaction},
    upstream::Upstream,
};

use super::{Action, EdgeReport, Observed};
use crate::logic::{
    links,
    state::{AppRecord, Life, State},
};

/// A route of an app as it shall be at an edge that has it like `found`, given the address of
/// the app's node: what the app declares is set, everything else stays as it stands there.
pub(crate) fn wanted(route: &AppRoute, address: IpAddr, found: Option<&Route>) -> Route {
    let upstream = Upstream::from(SocketAddr::new(address, route.port));
    let mut wanted = match found {
        Some(found) => found.clone(),
        None => Route::new(route.key.clone(), Vec::<Upstream>::new()),
    };
    // An upstream that leads there already may drain, or have a weight.
    let leads = |there: &[Upstream]| there.len() == 1 && there[0].address == upstream.address;
    if !leads(&wanted.upstreams) {
        wanted.upstreams = vec![upstream];
    }
    route.options.apply(wanted.with_on_move(route.on_move))
}

/// The routes of an app that an edge lacks or has otherwise than they shall be.
pub(in crate::logic) fn lacking<'r>(
    state: &'r State,
    record: &'r AppRecord,
    address: IpAddr,
    report: &'r EdgeReport,
) -> impl Iterator<Item = Route> + 'r {
    let links = match report.links {
        true => links::leading_to(state, record.app.name()),
        false => Vec::new(),
    };
    let routes = record.app.routes.iter().cloned().chain(links);
    routes.filter_map(move |route| {
        let found = report.routes.get(&route.key).map(|found| &found.route);
        let wanted = wanted(&route, address, found);
        (found != Some(&wanted)).then_some(wanted)
    })
}

/// What must change in an edge's table. The generation is named, so that the change is refused
/// if a move has switched routes since the table was read.
pub(super) fn route_changes(
    state: &State,
    observed: &Observed,
    edge: &EdgeName,
    report: &EdgeReport,
) -> Option<Action> {
    let mut operations = Vec::new();
    let mut wanted = BTreeSet::new();
    for (name, record) in &state.apps {
        let ours = record.app.routes.iter().map(|route| &route.key);
        if record.life == Life::Wanted {
            wanted.extend(ours);
        }
        if record.life != Life::Wanted || state.move_of(name).is_some() {
            continue;
        }
        // A node that is down keeps its routes: its last known address is the right one.
        let node = state
            .primaries
            .get(name)
            .and_then(|primary| observed.nodes.get(&primary.node));
        let Some(address) = node
            .and_then(|node| node.last.as_ref())
            .map(|node| node.address)
        else {
            continue;
        };
        let routes = lacking(state, record, address, report);
        operations.extend(routes.map(|route| Operation::Put { route }));
    }
    for (name, record) in &state.apps {
        if state.move_of(name).is_some() {
            continue;
        }
        let left = record.retired.iter();
        let left = left.filter(|key| report.routes.contains_key(key) && !wanted.contains(key));
        operations.extend(left.map(|key| Operation::Remove { key: key.clone() }));
    }
    // The addresses of links are ours alone, so what is there and is none any more can go.
    let links = links::keys(state);
    let over = report.routes.keys().filter(|key| links::is_ours(key));
    let over = over.filter(|key| !report.links || !links.contains(*key));
    operations.extend(over.map(|key| Operation::Remove { key: key.clone() }));
    (!operations.is_empty()).then(|| Action::Routes {
        edge: edge.clone(),
        transaction: Transaction {
            against: Some(report.generation),
            operations,
        },
    })
}

/// Gates that the last move of an app has left paused at an edge that did not answer in time.
pub(super) fn forgotten_gates(state: &State, edge: &EdgeName, report: &EdgeReport) -> Vec<Action> {
    let apps = state
        .apps
        .iter()
        .filter(|(name, _)| state.move_of(name).is_none());
    let forgotten = apps.filter_map(|(_, record)| {
        let of_move = || state.moves.get(&record.last_move?)?.facts().token;
        // While an app is being changed its pause is in use.
        let of_change = record.pause.filter(|_| !record.changed);
        // Tokens go up: the newer of the two is the one that a gate may still have.
        let token = of_move().max(of_change)?;
        let links = links::leading_to(state, record.app.name());
        let keys = record
            .app
            .routes
            .iter()
            .chain(&links)
            .map(|route| &route.key);
        let paused = |key: &&RouteKey| {
            report.routes.get(key).is_some_and(|status| {
                status.gate.state == GateState::Paused && status.gate.token == token
            })
        };
        let keys: Vec<_> = keys.filter(paused).cloned().collect();
        (!keys.is_empty()).then(|| Action::Resume {
            edge: edge.clone(),
            token,
            keys,
        })
    });
    forgotten.collect()
}
