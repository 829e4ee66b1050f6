//! What each difference between desired and observed state leads to.

use std::{net::SocketAddr, sync::Arc};

use flocker_api::{
    ErrorCode,
    agent::{RuntimeKind, RuntimeStatus, StorageKind, StorageStatus},
    app::App,
    container::ContainerStatus,
    control::MoveStep,
    gate::{GateState, GateStatus},
    name::MoveId,
    replication::{Keep, ReplicationPolicy, ReplicationStatus},
    route::{Operation, Route},
    volume::VolumeStatus,
};

use super::*;
use crate::logic::{
    migration::{Entry, Facts, Header},
    saga::Event,
    state::Change,
};

const APP: &str = r#"{
    "container": {
        "app": "notes", "image": "notes",
        "volumes": [{
            "volume": "00000000-0000-0000-0000-000000000007",
            "name": "notes", "mountpoint": "/data"
        }]
    },
    "volume_sizes": [1024],
    "routes": [{"key": "http:notes.demo", "port": 8081}]
}"#;

fn app() -> App {
    serde_json::from_str(APP).unwrap()
}

fn name() -> AppName {
    "notes".parse().unwrap()
}

fn key() -> RouteKey {
    "http:notes.demo".parse().unwrap()
}

fn volume() -> VolumeId {
    VolumeId(uuid::Uuid::from_u128(7))
}

fn edge() -> EdgeName {
    "e1".parse().unwrap()
}

fn node_named(name: &str) -> NodeName {
    name.parse().unwrap()
}

/// The app is declared on n1 at epoch 3; both nodes and one edge answer and have nothing.
struct Scene {
    state: State,
    observed: Observed,
    touched: Touched,
}

impl Scene {
    fn new() -> Self {
        let mut state = State::default();
        let record = Box::new(AppRecord::new(app()));
        state.apply(&Change::PutApp { record }).unwrap();
        let primary = Primary {
            node: node_named("n1"),
            epoch: Epoch(3),
        };
        let place = Change::PlacePrimary {
            app: name(),
            primary,
        };
        state.apply(&place).unwrap();
        let mut observed = Observed::default();
        for (node, last) in [("n1", 1), ("n2", 2)] {
            let mut seen = Seen::never(ErrorBody::new(ErrorCode::Unavailable, ""));
            seen.update(Ok(node_status(node, last)), 100.0, 101.0);
            observed.nodes.insert(node_named(node), seen);
        }
        let mut seen = Seen::never(ErrorBody::new(ErrorCode::Unavailable, ""));
        seen.update(Ok(EdgeReport::default()), 100.0, 101.0);
        observed.edges.insert(edge(), seen);
        Self {
            state,
            observed,
            touched: Touched::new(),
        }
    }

    /// Volume, container and route are as they should be.
    fn serving() -> Self {
        let mut scene = Self::new();
        scene.node("n1", |node| {
            node.volumes.push(copy(Role::Primary, 3));
            node.containers.push(container(ContainerState::Running));
        });
        scene.record(|record| {
            record.made.extend([volume()]);
            record.started = true;
        });
        scene.edge(|report| {
            Arc::make_mut(&mut report.routes).extend([(key(), route("10.0.0.1:8081"))]);
        });
        scene
    }

    fn record(&mut self, change: impl FnOnce(&mut AppRecord)) {
        change(Arc::make_mut(self.state.apps.get_mut(&name()).unwrap()));
    }

    fn node(&mut self, node: &str, change: impl FnOnce(&mut NodeStatus)) {
        let seen = self.observed.nodes.get_mut(&node_named(node)).unwrap();
        let mut status = seen.ok().unwrap().clone();
        change(&mut status);
        seen.update(Ok(status), 100.0, 101.0);
    }

    fn edge(&mut self, change: impl FnOnce(&mut EdgeReport)) {
        let seen = self.observed.edges.get_mut(&edge()).unwrap();
        let mut report = seen.ok().unwrap().clone();
        change(&mut report);
        seen.update(Ok(report), 100.0, 101.0);
    }

    fn silence(&mut self, node: &str) {
        let seen = self.observed.nodes.get_mut(&node_named(node)).unwrap();
        let error = ErrorBody::new(ErrorCode::Unavailable, "silence");
        seen.update(Err(error), 200.0, 201.0);
    }

    fn plan(&self) -> Plan {
        reconcile(&self.state, &self.observed, &self.touched)
    }

    /// The one action for the app, and its node.
    fn app_action(&self) -> (String, AppAction) {
        let plan = self.plan();
        let mut found = plan.actions.iter().filter_map(|action| match action {
            Action::App { node, what, .. } => Some((node.to_string(), what.clone())),
            _ => None,
        });
        let action = found.next().unwrap_or_else(|| panic!("{plan:#?}"));
        assert_eq!(found.next(), None);
        action
    }

    fn operations(&self) -> Vec<Operation> {
        let actions = self.plan().actions.into_iter();
        let transactions = actions.filter_map(|action| match action {
            Action::Routes { transaction, .. } => Some(transaction.operations),
            _ => None,
        });
        transactions.flatten().collect()
    }
}

fn node_status(name: &str, last: u8) -> NodeStatus {
    NodeStatus {
        node: node_named(name),
        version: String::new(),
        address: [10, 0, 0, last].into(),
        replication: ([10, 0, 0, last], 7411).into(),
        storage: StorageStatus {
            kind: StorageKind::Directory,
            version: String::new(),
            capabilities: Vec::new(),
            available_bytes: 0,
            problem: None,
            doubt: None,
        },
        runtime: RuntimeStatus {
            kind: RuntimeKind::Process,
            version: String::new(),
            problem: None,
        },
        volumes: Vec::new(),
        containers: Vec::new(),
        lease: None,
        asides: Vec::new(),
    }
}

fn copy(role: Role, epoch: u64) -> VolumeStatus {
    VolumeStatus {
        id: volume(),
        name: "notes".parse().unwrap(),
        role,
        epoch: Epoch(epoch),
        mounted_at: (role == Role::Primary).then(|| "/v/notes".into()),
        used_bytes: 0,
        size_bytes: None,
        snapshots: Vec::new(),
        transfer: None,
        replication: None,
    }
}

fn container(state: ContainerState) -> ContainerStatus {
    ContainerStatus {
        app: name(),
        state,
        image: "notes".to_owned(),
        epoch: Epoch(3),
        addresses: Vec::new(),
        runtime_id: String::new(),
        restarts: 0,
        health: None,
        restart: None,
    }
}

fn route(upstream: &str) -> RouteStatus {
    RouteStatus {
        route: Route::new(key(), [upstream.parse::<SocketAddr>().unwrap()]),
        gate: GateStatus {
            state: GateState::Open,
            token: Token(0),
            in_flight: 0,
            parked: 0,
            parked_bytes: 0,
            oldest_wait_ms: 0,
            lapses_in_ms: None,
            limits: None,
        },
        requests: 0,
        failed: 0,
        upstreams: Vec::new(),
        unresolved: Vec::new(),
    }
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    assert_eq!(Scene::serving().plan(), Plan::default());
}

#[test]
fn a_new_app_gets_volume_container_and_start_in_that_order() {
    let mut scene = Scene::new();
    let (node, what) = scene.app_action();
    let AppAction::CreateVolume(create) = what else {
        panic!("{what:?}")
    };
    assert_eq!((node.as_str(), create.size_bytes), ("n1", Some(1024)));
    scene.node("n1", |node| node.volumes.push(copy(Role::Primary, 3)));
    let settled = Action::Settle {
        app: name(),
        how: Settled::Made([volume()].into()),
    };
    assert!(scene.plan().actions.contains(&settled));
    scene.record(|record| record.made.extend([volume()]));
    assert!(matches!(
        scene.app_action().1,
        AppAction::CreateContainer(_, Epoch(3))
    ));
    scene.node("n1", |node| {
        node.containers.push(container(ContainerState::Created));
    });
    assert!(matches!(
        scene.app_action().1,
        AppAction::StartContainer(_, Epoch(3))
    ));
}

#[test]
fn a_volume_that_had_content_is_not_made_anew() {
    let mut scene = Scene::serving();
    scene.node("n1", |node| node.volumes.clear());
    let plan = scene.plan();
    assert_eq!(plan.actions, []);
    assert_eq!(
        plan.obstacles[0].message,
        "volume 'notes' is missing on node n1"
    );
}

fn replicated(nodes: &[&str]) -> Option<ReplicationPolicy> {
    Some(ReplicationPolicy {
        nodes: nodes.iter().map(|node| node_named(node)).collect(),
        interval_ms: 10_000,
        keep: Keep::default(),
    })
}

/// What the agent of the scene's primary is told, and where.
fn told(scene: &Scene) -> (String, SetReplication) {
    match scene.app_action() {
        (node, AppAction::Replicate(id, request)) if id == volume() => (node, request),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_primarys_agent_is_told_the_policy_until_it_has_it() {
    let mut scene = Scene::serving();
    scene.record(|record| record.app.replication = replicated(&["n1", "n2"]));
    let (node, request) = told(&scene);
    assert_eq!((node.as_str(), request.epoch), ("n1", Epoch(3)));
    let policy = request.policy.unwrap();
    let to = Target {
        peer: node_named("n2"),
        to: ([10, 0, 0, 2], 7411).into(),
    };
    assert_eq!(
        (&policy.targets[..], policy.interval_ms),
        (&[to][..], 10_000)
    );
    let has = |policy: &VolumePolicy, epoch| {
        Some(ReplicationStatus {
            epoch: Epoch(epoch),
            policy: policy.clone(),
            targets: Vec::new(),
        })
    };
    scene.node("n1", |node| node.volumes[0].replication = has(&policy, 3));
    assert_eq!(scene.plan(), Plan::default());
    // One of an earlier epoch is said again.
    scene.node("n1", |node| node.volumes[0].replication = has(&policy, 2));
    assert_eq!(told(&scene).1.policy, Some(policy.clone()));
    // One that is declared no longer ends.
    scene.node("n1", |node| node.volumes[0].replication = has(&policy, 3));
    scene.record(|record| record.app.replication = None);
    assert_eq!(told(&scene).1.policy, None);
}

#[test]
fn after_a_move_the_copies_are_sent_the_other_way() {
    let mut scene = Scene::serving();
    scene.record(|record| record.app.replication = replicated(&["n1", "n2"]));
    let primary = Primary {
        node: node_named("n2"),
        epoch: Epoch(4),
    };
    scene.state.primaries.insert(name(), primary);
    scene.node("n1", |node| {
        node.volumes = vec![copy(Role::Replica, 4)];
        node.containers.clear();
    });
    scene.node("n2", |node| {
        node.volumes = vec![copy(Role::Primary, 4)];
        node.containers.push(container(ContainerState::Running));
    });
    let (node, request) = told(&scene);
    assert_eq!((node.as_str(), request.epoch), ("n2", Epoch(4)));
    assert_eq!(request.policy.unwrap().targets[0].peer, node_named("n1"));
}

#[test]
fn a_target_that_is_down_keeps_its_address() {
    let mut scene = Scene::serving();
    scene.record(|record| record.app.replication = replicated(&["n2"]));
    let before = told(&scene);
    scene.silence("n2");
    assert_eq!(told(&scene), before);
}

#[test]
fn a_volume_that_is_not_mounted_is_promoted_before_the_start() {
    let mut scene = Scene::serving();
    scene.node("n1", |node| {
        node.volumes[0].mounted_at = None;
        node.containers[0].state = ContainerState::Exited { code: 137 };
    });
    assert_eq!(scene.app_action().1, AppAction::Promote(volume(), Epoch(3)));
}

#[test]
fn a_volume_that_is_newer_than_the_store_is_an_obstacle() {
    let mut scene = Scene::serving();
    scene.node("n1", |node| node.volumes[0].epoch = Epoch(4));
    assert!(
        scene.plan().obstacles[0]
            .message
            .contains("at epoch 4, newer than epoch 3")
    );
}

#[test]
fn a_changed_declaration_replaces_the_container_that_runs() {
    let mut scene = Scene::serving();
    scene.record(|record| record.changed = true);
    assert!(matches!(
        scene.app_action().1,
        AppAction::ReplaceContainer(..)
    ));
    scene.node("n1", |node| {
        node.containers[0].state = ContainerState::Created;
    });
    assert!(matches!(
        scene.app_action().1,
        AppAction::RemoveContainer(..)
    ));
    scene.node("n1", |node| node.containers.clear());
    let settled = Action::Settle {
        app: name(),
        how: Settled::Unchanged,
    };
    assert_eq!(scene.plan().actions, [settled]);
}

#[test]
fn what_was_observed_before_the_last_action_counts_for_nothing() {
    let mut scene = Scene::serving();
    scene.record(|record| record.changed = true);
    scene.touched.insert(name(), 150.0);
    assert_eq!(scene.plan(), Plan::default());
}

#[test]
fn strays_are_removed_before_anything_is_started() {
    let mut scene = Scene::new();
    scene.node("n2", |node| {
        node.containers.push(container(ContainerState::Running));
        node.volumes.push(copy(Role::Primary, 2));
    });
    let (node, what) = scene.app_action();
    assert!(
        node == "n2" && matches!(what, AppAction::RemoveContainer(_, Epoch(3))),
        "{what:?}"
    );
    scene.node("n2", |node| node.containers.clear());
    assert_eq!(
        scene.app_action(),
        ("n2".to_owned(), AppAction::Demote(volume(), Epoch(3)))
    );
}

#[test]
fn a_silent_node_keeps_its_routes_and_is_left_alone() {
    let mut scene = Scene::serving();
    scene.silence("n1");
    assert_eq!(scene.plan(), Plan::default());
    scene.edge(|report| Arc::make_mut(&mut report.routes).clear());
    assert!(matches!(&scene.operations()[..], [Operation::Put { .. }]));
}

#[test]
fn an_edge_gets_the_routes_that_it_lacks_or_has_wrong() {
    let mut scene = Scene::serving();
    for wrong in [None, Some(route("10.0.0.2:8081"))] {
        scene.edge(|report| {
            report.generation = Generation(9);
            Arc::make_mut(&mut report.routes).clear();
            Arc::make_mut(&mut report.routes).extend(wrong.map(|route| (key(), route)));
        });
        let plan = scene.plan();
        let [Action::Routes { transaction, .. }] = &plan.actions[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(transaction.against, Some(Generation(9)));
        let route = route("10.0.0.1:8081").route;
        assert_eq!(transaction.operations, [Operation::Put { route }]);
    }
}

#[test]
fn an_edge_keeps_the_options_that_the_app_does_not_declare() {
    let mut scene = Scene::serving();
    let by_hand = |route: &mut RouteStatus| {
        route.route.balance = flocker_api::upstream::Balance::Source;
        route.route.connections_max = 7;
        route.route.upstreams[0].drain = true;
    };
    scene.edge(|report| {
        let routes = Arc::make_mut(&mut report.routes);
        by_hand(routes.get_mut(&key()).unwrap());
    });
    assert_eq!(scene.plan(), Plan::default());
    scene.record(|record| {
        let options = serde_json::json!({"connections_max": 3, "pending_max": 9});
        record.app.routes[0].options = serde_json::from_value(options).unwrap();
    });
    let [Operation::Put { route }] = &scene.operations()[..] else {
        panic!("{:?}", scene.plan())
    };
    assert_eq!((route.connections_max, route.pending_max), (3, 9));
    assert_eq!(route.balance, flocker_api::upstream::Balance::Source);
    assert!(route.upstreams[0].drain, "it leads there already");
    // What was put there is what is wanted.
    let put = route.clone();
    scene.edge(|report| {
        let routes = Arc::make_mut(&mut report.routes);
        routes.get_mut(&key()).unwrap().route = put;
    });
    assert_eq!(scene.plan(), Plan::default());
}

#[test]
fn routes_of_others_are_left_alone() {
    let mut scene = Scene::serving();
    scene.edge(|report| {
        let other: RouteKey = "http:other".parse().unwrap();
        Arc::make_mut(&mut report.routes).insert(other, route("10.0.0.9:1"));
    });
    assert_eq!(scene.plan(), Plan::default());
}

#[test]
fn a_deleted_app_loses_container_and_routes_and_keeps_its_volume() {
    let mut scene = Scene::serving();
    scene.record(|record| *record = crate::logic::deploy::deleted(record));
    assert_eq!(scene.operations(), [Operation::Remove { key: key() }]);
    assert!(matches!(
        scene.app_action().1,
        AppAction::RemoveContainer(..)
    ));
    scene.node("n1", |node| node.containers.clear());
    scene.edge(|report| Arc::make_mut(&mut report.routes).clear());
    let settled = Action::Settle {
        app: name(),
        how: Settled::Deleted,
    };
    assert_eq!(scene.plan().actions, [settled]);
}

#[test]
fn a_wanted_node_is_moved_to_once_the_app_runs() {
    let mut scene = Scene::serving();
    scene.record(|record| record.wanted = Some(node_named("n2")));
    let to = node_named("n2");
    assert_eq!(scene.plan().actions, [Action::Move { app: name(), to }]);
    scene.node("n1", |node| node.containers.clear());
    assert!(matches!(
        scene.app_action().1,
        AppAction::CreateContainer(..)
    ));
}

/// A move of the app, with its first steps done up to a pause under token 5.
fn begin_move(scene: &mut Scene) -> MoveId {
    let id = MoveId::random();
    let header = Box::new(Header {
        id,
        app: app(),
        from: node_named("n1"),
        to: node_named("n2"),
        epoch: Epoch(3),
        started_ms: 0.0,
    });
    scene.state.apply(&Change::BeginMove { header }).unwrap();
    let steps = [
        MoveStep::Preflight,
        MoveStep::Precopy,
        MoveStep::Prepare,
        MoveStep::Pause,
    ];
    for step in steps {
        for event in [Event::Begun, Event::Done] {
            journal(scene, id, step, event);
        }
    }
    id
}

fn journal(scene: &mut Scene, id: MoveId, step: MoveStep, event: Event) {
    let facts = Facts {
        token: Some(Token(5)),
        ..Facts::default()
    };
    let change = Change::Journal {
        id,
        sequence: scene.state.moves[&id].journal().len() as u64,
        entry: Box::new(Entry::new(0.0, step, event).with("", facts)),
    };
    scene.state.apply(&change).unwrap();
}

#[test]
fn an_app_that_is_being_moved_is_not_touched() {
    let mut scene = Scene::serving();
    begin_move(&mut scene);
    scene.node("n1", |node| node.containers.clear());
    scene.node("n2", |node| {
        node.containers.push(container(ContainerState::Created));
    });
    scene.edge(|report| Arc::make_mut(&mut report.routes).clear());
    assert_eq!(scene.plan(), Plan::default());
}

#[test]
fn a_gate_that_an_ended_move_left_paused_is_resumed() {
    let mut scene = Scene::serving();
    let id = begin_move(&mut scene);
    journal(&mut scene, id, MoveStep::Stop, Event::Begun);
    journal(&mut scene, id, MoveStep::Stop, Event::Failed);
    for step in MoveStep::ALL[..5].iter().rev() {
        journal(&mut scene, id, *step, Event::UndoBegun);
        journal(&mut scene, id, *step, Event::Undone);
    }
    let mut pause_with = |token| {
        scene.edge(|report| {
            let gate = &mut Arc::make_mut(&mut report.routes)
                .get_mut(&key())
                .unwrap()
                .gate;
            (gate.state, gate.token) = (GateState::Paused, Token(token));
        });
        scene.plan().actions
    };
    assert_eq!(pause_with(6), [], "somebody else's pause");
    let resume = Action::Resume {
        edge: edge(),
        token: Token(5),
        keys: vec![key()],
    };
    assert_eq!(pause_with(5), [resume]);
}

/// Another app, which runs on n2 and needs nothing.
fn with_database(scene: &mut Scene, change: impl FnOnce(&mut AppRecord)) {
    let text = r#"{"container":{"app":"db","image":"db"},"volume_sizes":[],"routes":[{"key":"tcp:5432","port":5433}]}"#;
    let mut record = AppRecord::new(serde_json::from_str(text).unwrap());
    record.started = true;
    change(&mut record);
    let record = Box::new(record);
    scene.state.apply(&Change::PutApp { record }).unwrap();
    let place = Change::PlacePrimary {
        app: "db".parse().unwrap(),
        primary: Primary {
            node: node_named("n2"),
            epoch: Epoch(1),
        },
    };
    scene.state.apply(&place).unwrap();
    scene.node("n2", |node| {
        let mut running = container(ContainerState::Running);
        running.app = "db".parse().unwrap();
        running.epoch = Epoch(1);
        node.containers.push(running);
    });
}

fn depend(scene: &mut Scene, condition: &str) {
    let dependency = format!(r#"{{"app":"db","condition":"{condition}"}}"#);
    let dependency = serde_json::from_str(&dependency).unwrap();
    scene.record(|record| record.app.depends_on = vec![dependency]);
}

fn actions_of_notes(scene: &Scene) -> usize {
    let actions = scene.plan().actions.into_iter();
    actions
        .filter(|action| matches!(action, Action::App { app, .. } | Action::Move { app, .. } if *app == name()))
        .count()
}

#[test]
fn a_first_start_waits_for_what_is_needed() {
    let mut scene = Scene::serving();
    scene.node("n1", |node| node.containers.clear());
    scene.record(|record| record.started = false);
    depend(&mut scene, "ready");
    with_database(&mut scene, |record| record.started = false);
    assert_eq!(actions_of_notes(&scene), 0, "it runs and is not ready yet");
    depend(&mut scene, "started");
    assert_eq!(actions_of_notes(&scene), 1, "it runs, which is enough");
    scene.node("n2", |node| node.containers.clear());
    assert_eq!(actions_of_notes(&scene), 0, "it does not run");
    scene.record(|record| record.started = true);
    assert_eq!(actions_of_notes(&scene), 1, "later starts wait for nobody");
}

#[test]
fn an_app_that_never_was_ready_is_asked_again() {
    let mut scene = Scene::serving();
    scene.record(|record| record.started = false);
    assert!(matches!(
        scene.app_action().1,
        AppAction::StartContainer(..)
    ));
}

#[test]
fn changes_and_moves_wait_for_those_of_needed_apps() {
    let link = r#"{"alias":"db","local_port":1,"remote_port":5432}"#;
    let mut scene = Scene::serving();
    scene.record(|record| {
        record.app.container.links = vec![serde_json::from_str(link).unwrap()];
        record.changed = true;
    });
    with_database(&mut scene, |record| record.changed = true);
    assert_eq!(actions_of_notes(&scene), 0);
    with_database(&mut scene, |_| {});
    assert_eq!(actions_of_notes(&scene), 1);
    scene.record(|record| {
        record.changed = false;
        record.wanted = Some(node_named("n2"));
    });
    assert_eq!(actions_of_notes(&scene), 1);
    with_database(&mut scene, |record| record.wanted = Some(node_named("n1")));
    assert_eq!(actions_of_notes(&scene), 0);
}

#[test]
fn who_needs_each_other_waits_for_nobody() {
    let mut scene = Scene::serving();
    depend(&mut scene, "ready");
    scene.record(|record| record.changed = true);
    let link = r#"{"alias":"notes","local_port":1,"remote_port":1,"to":{"app":"notes","port":1}}"#;
    with_database(&mut scene, |record| {
        record.changed = true;
        record.app.container.links = vec![serde_json::from_str(link).unwrap()];
    });
    assert_eq!(actions_of_notes(&scene), 1);
}

#[test]
fn a_gate_that_a_change_left_paused_is_opened_once_the_change_is_over() {
    let mut scene = Scene::serving();
    let token = Token(9);
    scene.record(|record| {
        record.pause = Some(token);
        record.changed = true;
    });
    scene.edge(|report| {
        let routes = Arc::make_mut(&mut report.routes);
        let gate = &mut routes.get_mut(&key()).unwrap().gate;
        gate.state = GateState::Paused;
        gate.token = token;
    });
    let resumes = |scene: &Scene| {
        let actions = scene.plan().actions.into_iter();
        actions
            .filter(|action| matches!(action, Action::Resume { .. }))
            .count()
    };
    assert_eq!(resumes(&scene), 0, "the pause is in use");
    scene.record(|record| record.changed = false);
    assert_eq!(resumes(&scene), 1);
}
