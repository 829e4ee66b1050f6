//! Plans: what changes, in which order, and what is wrong.

use flocker_api::{
    app::{AppRoute, Dependency, DependencyCondition},
    container::{ContainerSpec, Link, LinkTarget},
    control::FieldChange,
    replication::ReplicationPolicy,
};

use super::*;

fn app(name: &str, image: &str, route: &str, port: u16) -> App {
    let spec = format!(r#"{{"app":"{name}","image":"{image}"}}"#);
    let mut container: ContainerSpec = serde_json::from_str(&spec).unwrap();
    container.ports = vec![port];
    container.volumes = vec![Mount {
        volume: VolumeId(Uuid::nil()),
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
        node: (!node.is_empty()).then(|| node.parse().unwrap()),
    };
    Deployment {
        apps: apps.iter().map(placement).collect(),
    }
}

fn plan_on(state: &State, apps: &[(App, &str)]) -> Result<Plan, Vec<String>> {
    let nodes = ["n1", "n2"].map(|name| name.parse().unwrap()).into();
    let wishes = Wishes::default();
    plan(state, &nodes, deployment(apps), &wishes, VolumeId::random)
}

fn deployed(apps: &[(App, &str)]) -> State {
    let mut state = State::default();
    for change in plan_on(&state, apps).unwrap().changes {
        state.apply(&change).unwrap();
    }
    state
}

fn said(change: &FieldChange) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    format!(
        "{}: {} -> {}",
        change.field,
        text(&change.from),
        text(&change.to)
    )
}

#[test]
fn the_same_again_changes_nothing() {
    let notes = app("notes", "notes", "http:a", 1);
    let state = deployed(&[(notes.clone(), "n1")]);
    let plan = plan_on(&state, &[(notes, "n1")]).unwrap();
    assert_eq!((plan.summary, plan.changes), (vec![], vec![]));
}

#[test]
fn a_changed_image_keeps_the_volume() {
    let state = deployed(&[(app("notes", "notes", "http:a", 1), "n1")]);
    let plan = plan_on(&state, &[(app("notes", "notes:2", "http:b", 1), "n1")]).unwrap();
    let notes: AppName = "notes".parse().unwrap();
    let [
        DeployChange::Change {
            app,
            fields,
            restarts: true,
        },
    ] = &plan.summary[..]
    else {
        panic!("{plan:?}")
    };
    assert_eq!(app, &notes);
    let fields: Vec<String> = fields.iter().map(said).collect();
    assert_eq!(
        fields,
        [
            "image: notes -> notes:2",
            "routes.http:a: port 1 -> ",
            "routes.http:b:  -> port 1"
        ]
    );
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

/// The app with a dependency on another.
fn after(mut app: App, other: &str) -> App {
    app.depends_on.push(Dependency {
        app: other.parse().unwrap(),
        condition: DependencyCondition::Ready,
    });
    app
}

/// The app with a link: to a port of an app, or to whatever has an external port.
fn linked(mut app: App, to: Option<&str>, port: u16) -> App {
    app.container.links.push(Link {
        alias: "db".to_owned(),
        local_port: port,
        remote_port: port,
        to: to.map(|app| LinkTarget {
            app: app.parse().unwrap(),
            port,
        }),
    });
    app
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.summary
        .iter()
        .map(|change| change.app().as_str())
        .collect()
}

#[test]
fn what_is_needed_comes_first() {
    let a = after(app("a", "x", "http:a", 1), "b");
    let b = linked(app("b", "x", "http:b", 2), None, 80);
    let c = app("c", "x", "tcp:80", 3);
    let d = linked(app("d", "x", "http:d", 4), Some("a"), 1);
    let plan = plan_on(
        &State::default(),
        &[(d, "n1"), (a, "n1"), (b, "n1"), (c, "n1")],
    )
    .unwrap();
    assert_eq!(names(&plan), ["c", "b", "a", "d"]);
    let order: Vec<_> = plan.destinations.iter().map(|to| to.app.as_str()).collect();
    assert_eq!(order, ["c", "b", "a", "d"]);
}

#[test]
fn links_in_a_circle_are_no_hindrance() {
    let a = linked(app("a", "x", "http:a", 1), Some("b"), 2);
    let b = linked(app("b", "x", "http:b", 2), Some("a"), 1);
    let plan = plan_on(&State::default(), &[(a, "n1"), (b, "n1")]).unwrap();
    assert_eq!(names(&plan), ["b", "a"]);
}

#[test]
fn what_is_needed_must_be_there() {
    let a = after(app("a", "x", "http:a", 1), "gone");
    let b = linked(app("b", "x", "http:b", 2), None, 80);
    let c = linked(app("c", "x", "http:c", 3), Some("gone"), 80);
    let apps = [(a, "n1"), (b, "n1"), (c, "n1")];
    assert_eq!(
        plan_on(&State::default(), &apps).unwrap_err(),
        [
            "app 'a' needs app 'gone', which is not deployed; place it on a node",
            "app 'b' links to port 80, which no app has as its external port",
            "app 'c' needs app 'gone', which is not deployed; place it on a node",
        ]
    );
    let gone = app("gone", "x", "tcp:80", 80);
    let state = deployed(&[(gone, "n2")]);
    assert!(
        plan_on(&state, &apps).is_ok(),
        "an app that is deployed already counts"
    );
}

#[test]
fn an_app_that_is_placed_nowhere_stays_or_goes_where_it_is_wished() {
    let notes = app("notes", "notes", "http:a", 1);
    let state = deployed(&[(notes.clone(), "n2")]);
    let plan = plan_on(&state, &[(notes.clone(), "")]).unwrap();
    assert_eq!(plan.destinations[0].node.as_str(), "n2");
    assert!(plan.summary.is_empty());
    let empty = State::default();
    let errors = plan_on(&empty, &[(notes.clone(), "")]).unwrap_err();
    assert!(
        errors[0].contains("give --node NODE; the nodes are n1, n2"),
        "{errors:?}"
    );
    let on = |nodes: &[&str], wish: Option<&str>| {
        let nodes = nodes.iter().map(|node| node.parse().unwrap()).collect();
        let wishes = Wishes {
            node: wish.map(|node| node.parse().unwrap()),
            prune: false,
        };
        let deployment = deployment(&[(notes.clone(), "")]);
        let plan = super::plan(&empty, &nodes, deployment, &wishes, VolumeId::random);
        plan.map(|plan| plan.destinations[0].node.to_string())
    };
    assert_eq!(on(&["n1", "n2"], Some("n2")).unwrap(), "n2");
    assert_eq!(on(&["n7"], None).unwrap(), "n7", "there is no other");
    assert!(on(&["n1"], Some("n2")).is_err());
}

#[test]
fn pruning_removes_what_no_file_declares_and_keeps_its_volumes() {
    let (a, b) = (app("a", "x", "http:a", 1), app("b", "x", "http:b", 2));
    let mut state = deployed(&[(a.clone(), "n1"), (b, "n2")]);
    let nodes = ["n1", "n2"].map(|name| name.parse().unwrap()).into();
    let prune = Wishes {
        node: None,
        prune: true,
    };
    let plan = |state: &State| {
        plan(
            state,
            &nodes,
            deployment(&[(a.clone(), "n1")]),
            &prune,
            VolumeId::random,
        )
    };
    let first = plan(&state).unwrap();
    assert_eq!(
        first.summary,
        [DeployChange::Remove {
            app: "b".parse().unwrap(),
            node: "n2".parse().unwrap(),
            volumes: vec!["b".parse().unwrap()],
        }]
    );
    for change in &first.changes {
        state.apply(change).unwrap();
    }
    let record = &state.apps[&"b".parse::<AppName>().unwrap()];
    assert_eq!((record.life, record.retired.len()), (Life::Deleting, 1));
    assert!(
        plan(&state).unwrap().summary.is_empty(),
        "it is removed once"
    );
    // What was removed leaves its routes and ports to others.
    let c = app("c", "x", "http:b", 2);
    assert!(plan_on(&state, &[(c, "n2")]).is_ok());
}

#[test]
fn a_volume_never_becomes_another_one_under_its_name() {
    let notes = app("notes", "notes", "http:a", 1);
    let state = deployed(&[(notes.clone(), "n1")]);
    let id = state.apps[notes.name()].app.container.volumes[0].volume;
    let mut other = notes.clone();
    other.container.volumes[0].volume = VolumeId::random();
    let errors = plan_on(&state, &[(other, "n1")]).unwrap_err();
    assert!(
        errors[0].contains(&format!("give the volume 'dataset_id: {id}'")),
        "{errors:?}"
    );
}

#[test]
fn a_version_changes_with_what_is_declared_and_with_nothing_else() {
    let notes = app("notes", "notes", "http:a", 1);
    let mut state = deployed(&[(notes.clone(), "n1")]);
    let before = version(&state);
    let record = |change: &dyn Fn(&mut AppRecord)| {
        let mut record = AppRecord::clone(&state.apps[notes.name()]);
        change(&mut record);
        Change::PutApp {
            record: Box::new(record),
        }
    };
    let made = record(&|record| {
        record.made.insert(VolumeId::random());
        record.changed = true;
    });
    let other = record(&|record| record.app.container.image = "notes:2".to_owned());
    state.apply(&made).unwrap();
    assert_eq!(version(&state), before);
    state.apply(&other).unwrap();
    assert_ne!(version(&state), before);
}

#[test]
fn secrets_are_compared_and_not_shown() {
    let mut old = app("notes", "notes", "http:a", 1);
    old.container.environment = [("DB_PASSWORD", "one"), ("MODE", "")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let mut new = old.clone();
    new.container
        .environment
        .insert("DB_PASSWORD".to_owned(), "two".to_owned());
    new.container
        .environment
        .insert("MODE".to_owned(), "x".repeat(100));
    new.container.memory_bytes = Some(256 << 20);
    new.container.cpu_millis = Some(1500);
    let fields = difference::fields(Some(&old), &new);
    let fields: Vec<String> = fields.iter().map(said).collect();
    assert_eq!(
        fields,
        [
            "cpus:  -> 1.5",
            "environment.DB_PASSWORD: (not shown) -> (not shown)",
            &format!("environment.MODE: \"\" -> {}...", "x".repeat(60)),
            "memory:  -> 256 MiB",
        ]
    );
}
