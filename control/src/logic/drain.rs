//! Which apps of a node that is drained go next, and where. Pure.
//!
//! What others need goes before those that need it, as far as both are on the node; where needs
//! go round in a circle, the first of the circle goes first. Apart from that apps go in the order
//! of their names, so many at once.

use std::collections::{BTreeMap, BTreeSet};

use flocker_api::{
    app::App,
    drain::{DrainedApp, DrainedState},
    name::{AppName, NodeName, VolumeId},
};

use super::{
    links,
    reconcile::{Observed, Seen},
    state::{Life, State},
};

/// The apps of a node, each behind those that it needs.
#[must_use]
pub fn apps_of(state: &State, node: &NodeName) -> Vec<AppName> {
    let here = state.apps.iter().filter(|(name, record)| {
        let primary = state.primaries.get(*name);
        record.life == Life::Wanted && primary.is_some_and(|at| at.node == *node)
    });
    let here: BTreeMap<_, _> = here.map(|(name, record)| (name, &record.app)).collect();
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for name in here.keys() {
        visit(state, &here, name, &mut seen, &mut order);
    }
    order
}

/// Puts an app into the order, what it needs before it. As deep as the longest chain of needs.
fn visit(
    state: &State,
    here: &BTreeMap<&AppName, &App>,
    name: &AppName,
    seen: &mut BTreeSet<AppName>,
    order: &mut Vec<AppName>,
) {
    let Some(app) = here.get(name) else { return };
    if !seen.insert(name.clone()) {
        return;
    }
    for need in links::needs(state, app) {
        visit(state, here, &need, seen, order);
    }
    order.push(name.clone());
}

/// The apps whose turn has come, given how many may move at once.
#[must_use]
pub fn next(state: &State, apps: &[DrainedApp], concurrency: usize) -> Vec<AppName> {
    let in_state = |wanted| move |one: &&DrainedApp| one.state == wanted;
    let moving = apps.iter().filter(in_state(DrainedState::Moving)).count();
    let free = concurrency.saturating_sub(moving);
    let unsettled: BTreeSet<&AppName> = apps
        .iter()
        .filter(|one| matches!(one.state, DrainedState::Waiting | DrainedState::Moving))
        .map(|one| &one.app)
        .collect();
    let waiting = || apps.iter().filter(in_state(DrainedState::Waiting));
    let ready = waiting().filter(|one| {
        let record = state.apps.get(&one.app);
        let needs = record.map(|record| links::needs(state, &record.app));
        let mut needs = needs.into_iter().flatten();
        !needs.any(|need| need != one.app && unsettled.contains(&need))
    });
    let mut next: Vec<AppName> = ready.take(free).map(|one| one.app.clone()).collect();
    if next.is_empty() && moving == 0 {
        next.extend(waiting().next().map(|one| one.app.clone()));
    }
    next
}

/// Where an app goes: to a node that has copies of its volumes before one that has not, and of
/// those to the one with the fewest apps. `taken`: apps that are on their way to each node.
///
/// # Errors
/// Why there is no node for it.
pub fn choose(
    state: &State,
    observed: &Observed,
    app: &App,
    from: &NodeName,
    among: &[NodeName],
    taken: &BTreeMap<NodeName, usize>,
) -> Result<NodeName, String> {
    let allowed = |node: &NodeName| {
        node != from && !state.cordoned.contains(node) && (among.is_empty() || among.contains(node))
    };
    let volumes: BTreeSet<VolumeId> = app.container.volumes.iter().map(|one| one.volume).collect();
    let best = observed
        .nodes
        .iter()
        .filter(|(node, _)| allowed(node))
        .filter_map(|(node, seen)| {
            let status = Seen::ok(seen)?;
            let copies = status
                .volumes
                .iter()
                .filter(|one| volumes.contains(&one.id));
            let missing = volumes.len().saturating_sub(copies.count());
            let apps = state.primaries.values().filter(|at| at.node == *node);
            let load = apps.count() + taken.get(node).copied().unwrap_or(0);
            Some((missing, load, node))
        })
        .min();
    best.map(|(_, _, node)| node.clone()).ok_or_else(|| {
        "there is no other node that answers, is not cordoned and may be chosen".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use flocker_api::{
        app::{Dependency, DependencyCondition},
        container::ContainerSpec,
        volume::Epoch,
    };

    use super::*;
    use crate::logic::state::{AppRecord, Change, Primary};

    fn name(text: &str) -> AppName {
        text.parse().unwrap()
    }

    /// Apps on n1, each with what it depends on.
    fn state(apps: &[(&str, &[&str])]) -> State {
        let mut state = State::default();
        for (app, needs) in apps {
            let mut declared = App::new(ContainerSpec::new(name(app), *app));
            let needs = needs.iter().map(|need| Dependency {
                app: name(need),
                condition: DependencyCondition::default(),
            });
            declared.depends_on = needs.collect();
            let record = Box::new(AppRecord::new(declared));
            state.apply(&Change::PutApp { record }).unwrap();
            let primary = Primary {
                node: "n1".parse().unwrap(),
                epoch: Epoch(1),
            };
            let app = name(app);
            state.apply(&Change::PlacePrimary { app, primary }).unwrap();
        }
        state
    }

    fn waiting(state: &State) -> Vec<DrainedApp> {
        let apps = apps_of(state, &"n1".parse().unwrap()).into_iter();
        apps.map(|app| DrainedApp {
            app,
            to: None,
            state: DrainedState::Waiting,
            move_id: None,
            reason: None,
            took_ms: None,
            pause_ms: None,
        })
        .collect()
    }

    #[test]
    fn what_is_needed_goes_first() {
        let state = state(&[
            ("api", &["db", "cache"]),
            ("cache", &[]),
            ("db", &[]),
            ("web", &["api"]),
        ]);
        let mut apps = waiting(&state);
        let order: Vec<_> = apps.iter().map(|one| one.app.as_str()).collect();
        assert_eq!(order, ["cache", "db", "api", "web"]);
        assert_eq!(next(&state, &apps, 3), [name("cache"), name("db")]);
        assert_eq!(next(&state, &apps, 1), [name("cache")]);
        apps[0].state = DrainedState::Moved;
        apps[1].state = DrainedState::Moving;
        assert_eq!(next(&state, &apps, 3), []);
        apps[1].state = DrainedState::Stays;
        assert_eq!(next(&state, &apps, 3), [name("api")]);
    }

    #[test]
    fn a_circle_begins_somewhere() {
        let state = state(&[("a", &["b"]), ("b", &["a"])]);
        let mut apps = waiting(&state);
        let first = next(&state, &apps, 2);
        assert_eq!(first.len(), 1);
        apps.iter_mut()
            .filter(|one| first.contains(&one.app))
            .for_each(|one| one.state = DrainedState::Moved);
        assert_eq!(next(&state, &apps, 2).len(), 1);
    }

    #[test]
    fn no_node_is_an_answer() {
        let state = state(&[("a", &[])]);
        let app = &state.apps[&name("a")].app;
        let from = "n1".parse().unwrap();
        let none = BTreeMap::new();
        let why = choose(&state, &Observed::default(), app, &from, &[], &none).unwrap_err();
        assert!(why.contains("no other node"), "{why}");
    }
}
