//! In which order apps are created, changed and moved: first what others need.

use std::collections::{BTreeMap, BTreeSet};

use flocker_api::{
    app::{App, Placement},
    name::AppName,
    route::RouteKey,
};

/// The apps that an app needs: those it depends on and those that its links lead to, `owners`
/// being the apps that have each route.
pub(in crate::logic) fn needs<'a>(
    app: &'a App,
    owners: &'a BTreeMap<RouteKey, AppName>,
) -> BTreeSet<&'a AppName> {
    let depends = app.depends_on.iter().map(|dependency| &dependency.app);
    let links = app.container.links.iter().filter_map(|link| {
        let published = || owners.get(&format!("tcp:{}", link.remote_port).parse().ok()?);
        link.to.as_ref().map_or_else(published, |to| Some(&to.app))
    });
    depends
        .chain(links)
        .filter(|name| *name != app.name())
        .collect()
}

/// Which app of a deployment has which route.
pub(in crate::logic) fn owners<'a>(
    apps: impl Iterator<Item = &'a App>,
) -> BTreeMap<RouteKey, AppName> {
    apps.flat_map(|app| {
        let keys = app.routes.iter().map(|route| route.key.clone());
        keys.map(|key| (key, app.name().clone()))
    })
    .collect()
}

/// The same placements, each app behind those that it needs; apart from that in their order.
/// Where links go round in a circle, the first of the circle comes first.
pub(super) fn ordered(
    placements: Vec<Placement>,
    owners: &BTreeMap<RouteKey, AppName>,
) -> Vec<Placement> {
    let index: BTreeMap<&AppName, usize> = placements
        .iter()
        .enumerate()
        .map(|(index, placement)| (placement.app.name(), index))
        .collect();
    let mut order = Vec::with_capacity(placements.len());
    let mut seen = vec![false; placements.len()];
    for start in 0..placements.len() {
        visit(start, &placements, owners, &index, &mut seen, &mut order);
    }
    let mut places: Vec<Option<Placement>> = placements.into_iter().map(Some).collect();
    order
        .into_iter()
        .filter_map(|index| places.get_mut(index).and_then(Option::take))
        .collect()
}

/// Puts an app into the order, what it needs before it. As deep as the longest chain of needs.
fn visit(
    at: usize,
    placements: &[Placement],
    owners: &BTreeMap<RouteKey, AppName>,
    index: &BTreeMap<&AppName, usize>,
    seen: &mut [bool],
    order: &mut Vec<usize>,
) {
    if std::mem::replace(&mut seen[at], true) {
        return;
    }
    for need in needs(&placements[at].app, owners) {
        if let Some(next) = index.get(need) {
            visit(*next, placements, owners, index, seen, order);
        }
    }
    order.push(at);
}
