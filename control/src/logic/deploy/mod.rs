//! A deployment against the known apps: what changes, or all that is wrong with it.
//!
//! Files are checked for themselves where they are parsed; here is what only the cluster
//! knows: nodes, routes and volumes of other apps, apps that are being moved, and where apps
//! are that the files place nowhere.

mod difference;
mod order;

use std::collections::{BTreeMap, BTreeSet};

use flocker_api::{
    app::{App, Deployment, Placement},
    container::Mount,
    control::{DeployChange, Destination, PlanVersion, route_keys},
    name::{AppName, NodeName, VolumeId, VolumeName},
    route::RouteKey,
    volume::Epoch,
};
use uuid::Uuid;

pub(super) use self::order::{needs, owners};
use super::state::{AppRecord, Change, Life, Primary, State};

/// What a deployment comes to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// For people, in the order in which it is done.
    pub summary: Vec<DeployChange>,
    /// Where each declared app shall run.
    pub destinations: Vec<Destination>,
    /// For the store.
    pub changes: Vec<Change>,
}

/// How a deployment is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Where new apps go that are placed nowhere.
    pub node: Option<NodeName>,
    /// Whether apps that are not declared are removed.
    pub prune: bool,
}

/// The version of what plans are made on: the declarations, and where apps are and shall be.
/// What an app is doing does not count.
#[must_use]
pub fn version(state: &State) -> PlanVersion {
    let mut text = String::new();
    for (name, record) in &state.apps {
        let primary = state.primaries.get(name);
        let seen = (&record.app, record.life, &record.wanted, primary);
        // A declaration that could not be written could not have been stored.
        text.push_str(&serde_json::to_string(&seen).unwrap_or_default());
        text.push('\n');
    }
    PlanVersion(Uuid::new_v5(&Uuid::nil(), text.as_bytes()))
}

/// Plans a deployment. `new_id` draws the identity of a volume that is new.
///
/// # Errors
/// All that is wrong with it, a line each.
pub fn plan(
    state: &State,
    nodes: &BTreeSet<NodeName>,
    deployment: Deployment,
    wishes: &Wishes,
    mut new_id: impl FnMut() -> VolumeId,
) -> Result<Plan, Vec<String>> {
    let mut errors = Vec::new();
    let mut plan = Plan::default();
    let mut after = Clashes::default();
    let (pruned, mut lasting) = others(state, &deployment, wishes.prune);
    for record in &lasting {
        let name = record.app.name();
        let node = record.wanted.as_ref();
        let node = node.or_else(|| state.primaries.get(name).map(|primary| &primary.node));
        after.add(&record.app, node, &mut errors);
    }
    for record in pruned {
        plan.remove(state, record, &mut errors);
    }
    let declared = deployment.apps.iter().map(|placement| &placement.app);
    let owners = owners(declared.chain(lasting.iter().map(|record| &record.app)));
    let named: BTreeSet<AppName> = deployment
        .apps
        .iter()
        .map(|placement| placement.app.name().clone())
        .collect();
    lasting.retain(|record| record.life == Life::Wanted);
    for Placement { mut app, node } in order::ordered(deployment.apps, &owners) {
        errors.extend(missing_needs(&app, &named, &lasting, &owners));
        let record = state.apps.get(app.name()).map(AsRef::as_ref);
        let Some(node) = destination(state, nodes, &app, node, wishes, &mut errors) else {
            continue;
        };
        errors.extend(unknown_copies(&app, nodes));
        errors.extend(identify_volumes(&mut app, record, &mut new_id));
        after.add(&app, Some(&node), &mut errors);
        plan.destinations.push(Destination {
            app: app.name().clone(),
            node: node.clone(),
        });
        let at = state.primaries.get(app.name());
        let stays = at.is_some_and(|at| at.node == node);
        match record {
            None => plan.create(AppRecord::new(app), node),
            Some(record) if record.life != Life::Wanted => plan.revive(state, record, app, node),
            Some(record)
                if state.move_of(app.name()).is_some() && (record.app != app || !stays) =>
            {
                errors.push(format!(
                    "app '{}' is being moved; deploy again when it has ended",
                    app.name()
                ));
            }
            Some(record) => plan.change(state, record, app, node),
        }
    }
    if errors.is_empty() {
        Ok(plan)
    } else {
        Err(errors)
    }
}

/// Apps that a deployment does not name: those that are removed, and those that stay.
fn others<'s>(
    state: &'s State,
    deployment: &Deployment,
    prune: bool,
) -> (Vec<&'s AppRecord>, Vec<&'s AppRecord>) {
    let named = |name: &AppName| deployment.apps.iter().any(|p| p.app.name() == name);
    let wanted = state
        .apps
        .iter()
        .filter(|(name, record)| record.life == Life::Wanted && !named(name));
    let wanted: Vec<&AppRecord> = wanted.map(|(_, record)| record.as_ref()).collect();
    if prune {
        (wanted, Vec::new())
    } else {
        (Vec::new(), wanted)
    }
}

/// Where an app goes: where the files say, else where it is, else where the wish says, else to
/// the only node that there is.
fn destination(
    state: &State,
    nodes: &BTreeSet<NodeName>,
    app: &App,
    placed: Option<NodeName>,
    wishes: &Wishes,
    errors: &mut Vec<String>,
) -> Option<NodeName> {
    let name = app.name();
    let stays = || {
        let record = state.apps.get(name)?;
        let wanted = record.wanted.clone();
        wanted.or_else(|| state.primaries.get(name).map(|at| at.node.clone()))
    };
    let only = || nodes.first().filter(|_| nodes.len() == 1).cloned();
    let node = placed
        .or_else(stays)
        .or_else(|| wishes.node.clone())
        .or_else(only);
    let known: Vec<_> = nodes.iter().map(ToString::to_string).collect();
    let known = known.join(", ");
    match node {
        Some(node) if nodes.contains(&node) => Some(node),
        Some(node) => {
            errors.push(format!(
                "app '{name}' shall run on node '{node}', which is not there; the nodes are {known}"
            ));
            None
        }
        None => {
            errors.push(format!(
                "app '{name}' is new and no file says where it shall run; write \
                 'x-flocker: {{node: NODE}}' or give --node NODE; the nodes are {known}"
            ));
            None
        }
    }
}

/// Apps and ports that an app needs and that will not be there.
fn missing_needs(
    app: &App,
    named: &BTreeSet<AppName>,
    lasting: &[&AppRecord],
    owners: &BTreeMap<RouteKey, AppName>,
) -> Vec<String> {
    let name = app.name();
    let there = |need: &AppName| {
        named.contains(need) || lasting.iter().any(|record| record.app.name() == need)
    };
    let mut errors = Vec::new();
    for need in needs(app, owners) {
        if !there(need) {
            errors.push(format!(
                "app '{name}' needs app '{need}', which is not deployed; place it on a node"
            ));
        }
    }
    for link in app.container.links.iter().filter(|link| link.to.is_none()) {
        let key = format!("tcp:{}", link.remote_port).parse::<RouteKey>();
        if !key.is_ok_and(|key| owners.contains_key(&key)) {
            errors.push(format!(
                "app '{name}' links to port {}, which no app has as its external port",
                link.remote_port
            ));
        }
    }
    errors
}

impl Plan {
    fn create(&mut self, record: AppRecord, node: NodeName) {
        let app = record.app.name().clone();
        self.summary.push(DeployChange::Create {
            app: app.clone(),
            node: node.clone(),
            fields: difference::fields(None, &record.app),
        });
        self.put(record);
        let epoch = Epoch(1);
        let primary = Primary { node, epoch };
        self.changes.push(Change::PlacePrimary { app, primary });
    }

    fn remove(&mut self, state: &State, old: &AppRecord, errors: &mut Vec<String>) {
        let name = old.app.name();
        if state.move_of(name).is_some() {
            errors.push(format!(
                "app '{name}' shall be removed and is being moved; deploy again when it has ended"
            ));
            return;
        }
        let Some(primary) = state.primaries.get(name) else {
            return;
        };
        let volumes = old.app.container.volumes.iter();
        self.summary.push(DeployChange::Remove {
            app: name.clone(),
            node: primary.node.clone(),
            volumes: volumes.map(|mount| mount.name.clone()).collect(),
        });
        self.put(deleted(old));
    }

    /// An app that was deleted finds its volumes where they are.
    fn revive(&mut self, state: &State, old: &AppRecord, app: App, node: NodeName) {
        let mut record = revised(old, app);
        record.life = Life::Wanted;
        record.changed = true;
        let primary = state.primaries.get(record.app.name());
        record.wanted = primary.filter(|at| at.node != node).map(|_| node.clone());
        self.summary.push(DeployChange::Create {
            app: record.app.name().clone(),
            node,
            fields: difference::fields(None, &record.app),
        });
        self.put(record);
    }

    fn change(&mut self, state: &State, old: &AppRecord, app: App, node: NodeName) {
        let name = app.name().clone();
        if old.app != app {
            self.summary.push(DeployChange::Change {
                app: name.clone(),
                fields: difference::fields(Some(&old.app), &app),
                restarts: old.app.container != app.container,
            });
        }
        let mut record = revised(old, app);
        let from = state
            .primaries
            .get(&name)
            .map(|primary| primary.node.clone());
        record.wanted = None;
        if let Some(from) = from.filter(|from| *from != node) {
            record.wanted = Some(node.clone());
            self.summary.push(DeployChange::Move {
                app: name,
                from,
                to: node,
            });
        }
        if record != *old {
            self.put(record);
        }
    }

    fn put(&mut self, record: AppRecord) {
        let record = Box::new(record);
        self.changes.push(Change::PutApp { record });
    }
}

/// A record with a new declaration.
fn revised(old: &AppRecord, app: App) -> AppRecord {
    let mut record = old.clone();
    record.changed |= old.app.container != app.container;
    record.retired.extend(route_keys(&old.app));
    for key in route_keys(&app) {
        record.retired.remove(&key);
    }
    record.app = app;
    record
}

/// The record of an app that shall go: its routes with it, its volumes stay.
#[must_use]
pub fn deleted(old: &AppRecord) -> AppRecord {
    let mut record = old.clone();
    record.life = Life::Deleting;
    record.wanted = None;
    record.retired.extend(route_keys(&old.app));
    record
}

/// Volumes whose identity is left open (nil) keep the one that they have under their name.
/// One that would change its identity is refused: it would be empty, and the data elsewhere.
fn identify_volumes(
    app: &mut App,
    known: Option<&AppRecord>,
    new_id: &mut impl FnMut() -> VolumeId,
) -> Vec<String> {
    let name = app.name().clone();
    let mut errors = Vec::new();
    for mount in &mut app.container.volumes {
        let mut known = known
            .into_iter()
            .flat_map(|record| &record.app.container.volumes);
        let same = known.find(|other: &&Mount| other.name == mount.name);
        match same {
            None if mount.volume.0.is_nil() => mount.volume = new_id(),
            None => {}
            Some(same) if mount.volume.0.is_nil() => mount.volume = same.volume,
            Some(same) if mount.volume == same.volume => {}
            Some(same) => errors.push(format!(
                "volume '{}' of app '{name}' is dataset {}, but the files mean dataset {}; give \
                 the volume 'dataset_id: {}' to keep its data, or another app name for a new one",
                mount.name, same.volume, mount.volume, same.volume
            )),
        }
    }
    errors
}

/// Nodes that shall keep a copy and are not there.
fn unknown_copies(app: &App, nodes: &BTreeSet<NodeName>) -> Vec<String> {
    let copies = app.replication.iter().flat_map(|policy| &policy.nodes);
    let unknown = copies.filter(|node| !nodes.contains(node));
    let known: Vec<_> = nodes.iter().map(ToString::to_string).collect();
    unknown
        .map(|node| {
            format!(
                "app '{}' shall have copies on node '{node}', which is not there; the nodes are {}",
                app.name(),
                known.join(", ")
            )
        })
        .collect()
}

/// What two apps cannot both have.
#[derive(Debug, Default)]
struct Clashes {
    routes: BTreeMap<RouteKey, AppName>,
    volumes: BTreeMap<VolumeName, AppName>,
    ids: BTreeMap<VolumeId, AppName>,
    ports: BTreeMap<(NodeName, u16), AppName>,
}

impl Clashes {
    fn add(&mut self, app: &App, node: Option<&NodeName>, errors: &mut Vec<String>) {
        let name = app.name();
        for key in route_keys(app) {
            if let Some(other) = self.routes.insert(key.clone(), name.clone()) {
                errors.push(format!(
                    "route {key} is declared by app '{other}' and by app '{name}'"
                ));
            }
        }
        for mount in &app.container.volumes {
            if let Some(other) = self.volumes.insert(mount.name.clone(), name.clone()) {
                errors.push(format!(
                    "volume '{}' is declared by app '{other}' and by app '{name}'",
                    mount.name
                ));
            }
        }
        for id in app.container.volumes.iter().map(|mount| mount.volume) {
            if let Some(other) = self.ids.insert(id, name.clone()) {
                errors.push(format!(
                    "volume {id} is declared by app '{other}' and by app '{name}'"
                ));
            }
        }
        for port in &app.container.ports {
            let Some(node) = node else { continue };
            let taken = self.ports.insert((node.clone(), *port), name.clone());
            if let Some(other) = taken.filter(|other| other != name) {
                errors.push(format!(
                    "port {port} of node {node} is needed by app '{other}' and by app '{name}'"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests;
