//! The examples: each in three formats, read, planned, and meaning the same.

use std::collections::BTreeSet;

use flocker_api::{
    app::{App, Deployment},
    control::{DeployChange, SourceFile},
    name::{NodeName, VolumeId},
};

use super::super::{Sources, gather};
use crate::logic::{
    deploy::{Wishes, plan},
    state::State,
};

const EXAMPLES: [&str; 4] = ["postgres", "redis", "mongodb", "shop"];

fn read(example: &str, names: &[&str]) -> Deployment {
    let folder = format!(
        "{}/../config/examples/{example}",
        env!("CARGO_MANIFEST_DIR")
    );
    let file = |name: &&str| SourceFile {
        name: (*name).to_owned(),
        text: std::fs::read_to_string(format!("{folder}/{name}")).unwrap(),
    };
    let sources: Sources = gather(names.iter().map(file).collect(), |_| None, |_| None);
    super::super::parse(&sources).unwrap_or_else(|errors| panic!("{example}: {errors:#?}"))
}

fn of_each_format(example: &str) -> [Deployment; 3] {
    [
        read(example, &["compose.yml"]),
        read(example, &["application.yml", "deployment.yml"]),
        read(example, &["fig.yml", "deployment.yml"]),
    ]
}

#[test]
fn each_is_planned_in_each_format() {
    let nodes: BTreeSet<NodeName> = ["n1", "n2"].map(|node| node.parse().unwrap()).into();
    for example in EXAMPLES {
        for deployment in of_each_format(example) {
            let count = deployment.apps.len();
            let wishes = Wishes::default();
            let state = State::default();
            let plan = plan(&state, &nodes, deployment, &wishes, VolumeId::random);
            let plan = plan.unwrap_or_else(|errors| panic!("{example}: {errors:#?}"));
            assert_eq!(plan.summary.len(), count, "{example}");
            assert!(
                plan.summary
                    .iter()
                    .all(|change| matches!(change, DeployChange::Create { .. })),
                "{example}"
            );
            if example == "shop" {
                assert_eq!(
                    plan.summary[0].app().as_str(),
                    "db",
                    "the database comes first"
                );
            }
        }
    }
}

#[test]
fn what_all_formats_can_say_they_say_alike() {
    let core = |app: &App| {
        let container = &app.container;
        let mounts = container.volumes.iter();
        let mounts: Vec<_> = mounts.map(|mount| mount.mountpoint.clone()).collect();
        (
            container.image.clone(),
            mounts,
            container.memory_bytes,
            app.move_policy.clone(),
            app.replication.clone(),
        )
    };
    for example in EXAMPLES {
        let [compose, pair, fig] = of_each_format(example);
        for placement in &compose.apps {
            let name = placement.app.name();
            let same = |other: &Deployment| {
                let found = other.apps.iter().find(|other| other.app.name() == name);
                found.unwrap_or_else(|| panic!("{example}: {name}")).clone()
            };
            for other in [same(&pair), same(&fig)] {
                assert_eq!(core(&other.app), core(&placement.app), "{example}: {name}");
                assert_eq!(other.node, placement.node, "{example}: {name}");
            }
            // Those of one host fit beside each other and beside its edge.
            for route in &placement.app.routes {
                assert_ne!(
                    route.key.to_string(),
                    format!("tcp:{}", route.port),
                    "{example}"
                );
            }
        }
    }
}

#[test]
fn compose_and_flocker_say_the_same_of_stop_and_readiness() {
    for example in EXAMPLES {
        let [compose, pair, _] = of_each_format(example);
        for placement in &compose.apps {
            let mut others = pair.apps.iter();
            let other = others.find(|other| other.app.name() == placement.app.name());
            let (one, other) = (&placement.app.container, &other.unwrap().app.container);
            assert_eq!(
                (&one.stop, &one.ready),
                (&other.stop, &other.ready),
                "{example}"
            );
            assert_eq!(one.command, other.command, "{example}");
        }
    }
}
