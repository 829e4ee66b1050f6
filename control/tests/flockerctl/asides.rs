//! `volume resolve`: what nodes keep aside, and what becomes of it.

use flocker_api::{
    aside::{
        Aside, AsideDetails, ChangedPath, Changes, CommonSnapshot, PathChange, Resolved, SetAside,
    },
    control::ClusterStatus,
    name::VolumeId,
    volume::{Epoch, Guid, Role, Snapshot, VolumeStatus},
};
use serde_json::json;

use super::{against_control, assert_has, samples::cluster, server::Server};

const ID: &str = "0d5c1a3e-5e0e-4b8e-9f8e-0a6a9d9d9d01";
const KEY: &str = "diverged-3-1790000000000000";

fn id() -> VolumeId {
    ID.parse().unwrap()
}

fn aside(key: &str) -> Aside {
    let key: flocker_api::aside::AsideKey = key.parse().unwrap();
    Aside {
        volume: id(),
        name: "notes".parse().unwrap(),
        key,
        cause: key.cause,
        epoch: key.epoch,
        since_ms: key.micros / 1000,
        node: "n1".parse().unwrap(),
        common: Some(CommonSnapshot {
            name: "flocker-3-17".to_owned(),
            guid: Guid(0xabc),
        }),
        written_bytes: 12 << 20,
        used_bytes: 12 << 20,
        snapshots: vec![key.to_string()],
    }
}

fn details(key: &str) -> AsideDetails {
    let path = |path: &str, change, from: Option<&str>| ChangedPath {
        path: path.to_owned(),
        change,
        from: from.map(str::to_owned),
    };
    AsideDetails {
        aside: aside(key),
        changes: Some(Changes {
            created: 1,
            modified: 1,
            removed: 40,
            renamed: 1,
            paths: vec![
                path("a\u{1b}[31m", PathChange::Created, None),
                path("b", PathChange::Renamed, Some("c")),
            ],
        }),
    }
}

fn copy(role: Role) -> VolumeStatus {
    VolumeStatus {
        id: id(),
        name: "notes".parse().unwrap(),
        role,
        epoch: Epoch(4),
        mounted_at: Some("/var/lib/flocker/volumes/notes-before".into()),
        used_bytes: 64 << 20,
        size_bytes: None,
        snapshots: vec![Snapshot {
            name: "flocker-4-1".to_owned(),
            guid: Guid(1),
            createtxg: 1,
        }],
        transfer: None,
        replication: None,
    }
}

fn with_asides(keys: &[&str]) -> ClusterStatus {
    let mut cluster = cluster();
    for (node, role) in [(0, Role::Replica), (1, Role::Primary)] {
        let node = cluster.nodes[node].status.as_mut().unwrap();
        node.volumes = vec![copy(role)];
    }
    let node = cluster.nodes[0].status.as_mut().unwrap();
    node.asides = keys.iter().map(|key| aside(key)).collect();
    cluster
}

fn path(key: &str) -> String {
    format!("/v2/nodes/n1/asides/{ID}/{key}")
}

fn server(keys: &[&str]) -> Server {
    let mut server = Server::new().answer("GET /v2/status", &with_asides(keys));
    for key in keys {
        server = server.answer(&format!("GET {}", path(key)), &details(key));
    }
    server
}

#[test]
fn what_is_kept_is_shown_with_what_was_changed() {
    let server = server(&[KEY]).start();
    let text = against_control(&server, &["volume", "resolve", "notes"]);
    assert_has(
        &text,
        &[
            "exit status: 0",
            &format!("{KEY} of 'notes' on n1"),
            "written on n1 under epoch 3, and on no other node",
            "12.0 MiB written",
            "after snapshot flocker-3-17 (0000000000000abc)",
            "1 created, 1 modified, 40 removed, 1 renamed",
            // What a terminal would obey is not passed on.
            "created   a\\u{1b}[31m",
            "renamed   b (was c)",
            "and 41 more",
        ],
    );
    let json = ["volume", "resolve", "notes", "--paths", "0", "--json"];
    let text = against_control(&server, &json);
    assert_has(&text, &["\"cause\": \"diverged\"", "\"epoch\": 3"]);
    assert!(!text.contains("\"changes\""), "nobody looked:\n{text}");
}

#[test]
fn nothing_is_decided_without_a_word() {
    let server = server(&[KEY]).start();
    for decision in [&["--discard"][..], &["--keep", "notes-before"]] {
        let text = against_control(
            &server,
            &[&["volume", "resolve", "notes"], decision].concat(),
        );
        assert_has(
            &text,
            &[
                "exit status: 2",
                "12.0 MiB written",
                "there is nobody to ask here",
            ],
        );
    }
    let text = against_control(
        &server,
        &[
            "volume",
            "resolve",
            "notes",
            "--discard",
            "--keep",
            "x",
            "--yes",
        ],
    );
    assert_has(&text, &["exit status: 2", "cannot be used with"]);
    assert!(server.calls().iter().all(|call| call.starts_with("GET ")));
}

#[test]
fn a_decision_goes_to_the_node() {
    let call = format!("POST {}", path(KEY));
    let kept = Resolved {
        volume: Some(copy(Role::Primary)),
    };
    let server = server(&[KEY])
        .answer(&call, &Resolved { volume: None })
        .answer(&call, &kept)
        .start();
    let resolve = ["volume", "resolve", "notes", "--node", "n1", "--yes"];
    let text = against_control(&server, &[&resolve[..], &["--discard"]].concat());
    assert_has(
        &text,
        &["exit status: 0", "of volume 'notes' on n1 is discarded"],
    );
    let keep = ["--keep", "notes-before", "--json"];
    let text = against_control(&server, &[&resolve[..], &keep].concat());
    assert_has(&text, &["exit status: 0", "\"resolved\"", "\"mounted_at\""]);
    assert_eq!(
        server.requests(&call),
        [
            json!({"how": "discard"}),
            json!({"how": "keep", "name": "notes-before"})
        ]
    );
}

#[test]
fn of_several_one_has_to_be_named() {
    let other = "touched-4-1790000000000001";
    let server = server(&[KEY, other])
        .answer(&format!("POST {}", path(other)), &Resolved { volume: None })
        .start();
    let discard = ["volume", "resolve", "notes", "--discard", "--yes"];
    let text = against_control(&server, &discard);
    assert_has(
        &text,
        &["exit status: 2", &format!("--node n1 --aside {KEY}"), other],
    );
    let text = against_control(&server, &[&discard[..], &["--aside", other]].concat());
    assert_has(
        &text,
        &["exit status: 0", "written by somebody to the replica on n1"],
    );
    let text = against_control(&server, &[&discard[..], &["--node", "n2"]].concat());
    assert_has(
        &text,
        &[
            "exit status: 2",
            "nothing is kept aside of volume 'notes' there",
        ],
    );
}

#[test]
fn a_whole_replica_is_put_aside_but_never_the_primary() {
    let call = format!("POST /v2/nodes/n1/volumes/{ID}/aside");
    let server = server(&[]).answer(&call, &SetAside { aside: None }).start();
    let set_aside = [
        "volume",
        "resolve",
        "notes",
        "--set-aside",
        "--yes",
        "--node",
    ];
    let text = against_control(&server, &[&set_aside[..], &["n1"]].concat());
    assert_has(&text, &["exit status: 0", "the next round sends all of it"]);
    assert_eq!(server.requests(&call), [json!({"epoch": 4})]);
    let text = against_control(&server, &[&set_aside[..], &["n2"]].concat());
    assert_has(&text, &["exit status: 2", "on node n2 is its primary"]);
}
