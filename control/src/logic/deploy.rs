//! A deployment against the known apps: what changes, or all that is wrong with it.
//!
//! Files are checked for themselves where they are parsed; here is what only the cluster
//! knows: nodes, routes and volumes of other apps, apps that are being moved.

use std::collections::{BTreeMap, BTreeSet};

use flocker_api::{
    app::{App, Deployment, Placement},
    container::Mount,
    control::{DeployChange, route_keys},
    name::{AppName, NodeName, VolumeId, VolumeName},
    route::RouteKey,
    volume::Epoch,
};

use super::state::{AppRecord, Change, Life, Primary, State};

/// What a deployment comes to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// For people.
    pub summary: Vec<DeployChange>,
    /// For the store.
    pub changes: Vec<Change>,
}

/// Plans a deployment. `new_id` draws the identity of a volume that is new.
///
/// # Errors
/// All that is wrong with it, a line each.
pub fn plan(
    state: &State,
    nodes: &BTreeSet<NodeName>,
    deployment: Deployment,
    mut new_id: impl FnMut() -> VolumeId,
) -> Result<Plan, Vec<String>> {
    let mut errors = Vec::new();
    let mut plan = Plan::default();
    let mut after = Clashes::default();
    let named: BTreeSet<_> = deployment
        .apps
        .iter()
        .map(|placement| placement.app.name().clone())
        .collect();
    for (name, record) in &state.apps {
        if record.life == Life::Wanted && !named.contains(name) {
            let node = record.wanted.as_ref();
            let node = node.or_else(|| state.primaries.get(name).map(|primary| &primary.node));
            after.add(&record.app, node, &mut errors);
        }
    }
    for Placement { mut app, node } in deployment.apps {
        if !nodes.contains(&node) {
            let known: Vec<_> = nodes.iter().map(ToString::to_string).collect();
            errors.push(format!(
                "app '{}' shall run on node '{node}', which is not there; the nodes are {}",
                app.name(),
                known.join(", ")
            ));
            continue;
        }
        errors.extend(unknown_copies(&app, nodes));
        let record = state.apps.get(app.name());
        identify_volumes(&mut app, record.map(AsRef::as_ref), &mut new_id);
        after.add(&app, Some(&node), &mut errors);
        let moving = state.move_of(app.name());
        match record {
            None => plan.create(AppRecord::new(app), node),
            Some(record) if record.life != Life::Wanted => plan.revive(state, record, app, node),
            Some(record) => {
                let stays = state
                    .primaries
                    .get(app.name())
                    .is_some_and(|at| at.node == node);
                if moving.is_some() && (record.app != app || !stays) {
                    errors.push(format!(
                        "app '{}' is being moved; deploy again when it has ended",
                        app.name()
                    ));
                } else {
                    plan.change(state, record, app, node);
                }
            }
        }
    }
    if errors.is_empty() {
        Ok(plan)
    } else {
        Err(errors)
    }
}

impl Plan {
    fn create(&mut self, record: AppRecord, node: NodeName) {
        let app = record.app.name().clone();
        self.summary.push(DeployChange::Create {
            app: app.clone(),
            node: node.clone(),
        });
        self.put(record);
        let epoch = Epoch(1);
        let primary = Primary { node, epoch };
        self.changes.push(Change::PlacePrimary { app, primary });
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
        });
        self.put(record);
    }

    fn change(&mut self, state: &State, old: &AppRecord, app: App, node: NodeName) {
        let name = app.name().clone();
        let differs = old.app != app;
        let mut record = revised(old, app);
        if differs {
            self.summary
                .push(DeployChange::Change { app: name.clone() });
        }
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
fn identify_volumes(
    app: &mut App,
    known: Option<&AppRecord>,
    new_id: &mut impl FnMut() -> VolumeId,
) {
    let open = |mount: &&mut Mount| mount.volume.0.is_nil();
    for mount in app.container.volumes.iter_mut().filter(open) {
        let mut known = known
            .into_iter()
            .flat_map(|record| &record.app.container.volumes);
        let same = known.find(|other| other.name == mount.name);
        mount.volume = same.map_or_else(&mut *new_id, |other| other.volume);
    }
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
mod tests {
    use flocker_api::{app::AppRoute, container::ContainerSpec, replication::ReplicationPolicy};

    use super::*;

    fn app(name: &str, image: &str, route: &str, port: u16) -> App {
        let spec = format!(r#"{{"app":"{name}","image":"{image}"}}"#);
        let mut container: ContainerSpec = serde_json::from_str(&spec).unwrap();
        container.ports = vec![port];
        container.volumes = vec![Mount {
            volume: VolumeId(uuid::Uuid::nil()),
            name: name.parse().unwrap(),
            mountpoint: "/data".into(),
        }];
        App {
            volume_sizes: vec![None],
            routes: vec![AppRoute {
                key: route.parse().unwrap(),
                port,
                on_move: flocker_api::route::OnMove::default(),
                options: flocker_api::options::RouteOptions::default(),
            }],
            ..App::new(container)
        }
    }

    fn deployment(apps: &[(App, &str)]) -> Deployment {
        let placement = |(app, node): &(App, &str)| Placement {
            app: app.clone(),
            node: node.parse().unwrap(),
        };
        Deployment {
            apps: apps.iter().map(placement).collect(),
        }
    }

    fn plan_on(state: &State, apps: &[(App, &str)]) -> Result<Plan, Vec<String>> {
        let nodes = ["n1", "n2"].map(|name| name.parse().unwrap()).into();
        plan(state, &nodes, deployment(apps), VolumeId::random)
    }

    fn deployed(apps: &[(App, &str)]) -> State {
        let mut state = State::default();
        for change in plan_on(&state, apps).unwrap().changes {
            state.apply(&change).unwrap();
        }
        state
    }

    #[test]
    fn the_same_again_changes_nothing() {
        let notes = app("notes", "notes", "http:a", 1);
        let state = deployed(&[(notes.clone(), "n1")]);
        assert_eq!(plan_on(&state, &[(notes, "n1")]), Ok(Plan::default()));
    }

    #[test]
    fn a_changed_image_keeps_the_volume() {
        let state = deployed(&[(app("notes", "notes", "http:a", 1), "n1")]);
        let plan = plan_on(&state, &[(app("notes", "notes:2", "http:b", 1), "n1")]).unwrap();
        let notes: AppName = "notes".parse().unwrap();
        assert_eq!(plan.summary, [DeployChange::Change { app: notes.clone() }]);
        let [Change::PutApp { record }] = &plan.changes[..] else {
            panic!("{plan:?}")
        };
        let before = &state.apps[&notes];
        assert_eq!(record.app.container.volumes, before.app.container.volumes);
        assert!(record.changed);
        assert_eq!(record.retired, ["http:a".parse().unwrap()].into());
    }

    #[test]
    fn another_node_is_a_move() {
        let notes = app("notes", "notes", "http:a", 1);
        let state = deployed(&[(notes.clone(), "n1")]);
        let plan = plan_on(&state, &[(notes, "n2")]).unwrap();
        assert!(
            matches!(&plan.summary[..], [DeployChange::Move { .. }]),
            "{plan:?}"
        );
        let [Change::PutApp { record }] = &plan.changes[..] else {
            panic!("{plan:?}")
        };
        assert!(!record.changed);
        assert_eq!(record.wanted, Some("n2".parse().unwrap()));
    }

    #[test]
    fn a_deleted_app_finds_its_volumes_again() {
        let notes = app("notes", "notes", "http:a", 1);
        let mut state = deployed(&[(notes.clone(), "n1")]);
        let name = notes.name().clone();
        let before = state.apps[&name].app.container.volumes.clone();
        let mut record = deleted(&state.apps[&name]);
        record.life = Life::Deleted;
        let record = Box::new(record);
        state.apply(&Change::PutApp { record }).unwrap();
        let plan = plan_on(&state, &[(notes, "n1")]).unwrap();
        let [Change::PutApp { record }] = &plan.changes[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(record.app.container.volumes, before);
        assert!(record.retired.is_empty());
    }

    #[test]
    fn all_that_is_wrong_is_said() {
        let state = deployed(&[(app("old", "x", "http:a", 1), "n1")]);
        let mut copied = app("copied", "x", "http:c", 3);
        copied.replication = Some(ReplicationPolicy {
            nodes: ["n2", "n8"].map(|node| node.parse().unwrap()).into(),
            interval_ms: 10_000,
            keep: flocker_api::replication::Keep::default(),
        });
        let errors = plan_on(
            &state,
            &[
                (copied, "n1"),
                (app("new", "x", "http:a", 1), "n1"),
                (app("stray", "x", "http:b", 2), "n9"),
            ],
        )
        .unwrap_err();
        assert_eq!(
            errors,
            [
                "app 'copied' shall have copies on node 'n8', which is not there; the nodes are n1, n2",
                "route http:a is declared by app 'old' and by app 'new'",
                "port 1 of node n1 is needed by app 'old' and by app 'new'",
                "app 'stray' shall run on node 'n9', which is not there; the nodes are n1, n2",
            ]
        );
    }
}
