//! What an edge's table and gates ought to be, against what they are.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use flocker_api::{
    gate::GateState,
    name::EdgeName,
    route::{Operation, Route, RouteKey, Transaction},
};

use super::{Action, EdgeReport, Observed};
use crate::logic::state::{AppRecord, Life, State};

/// The routes of an app as they shall be, given the address of its node.
pub(in crate::logic) fn routes_of(
    record: &AppRecord,
    address: IpAddr,
) -> impl Iterator<Item = Route> {
    record.app.routes.iter().map(move |route| {
        Route::new(route.key.clone(), [SocketAddr::new(address, route.port)])
            .with_on_move(route.on_move)
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
        let differs =
            |route: &Route| report.routes.get(&route.key).map(|found| &found.route) != Some(route);
        let routes = routes_of(record, address).filter(differs);
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
        let token = state.moves.get(&record.last_move?)?.facts().token?;
        let keys = record.app.routes.iter().map(|route| &route.key);
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
