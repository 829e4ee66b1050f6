//! `node`: nodes as control knows them.

use flocker_api::{
    agent::{NodeStatus, RuntimeKind, StorageKind},
    control::{ClusterStatus, NodeSummary},
};

use super::{Cli, DEADLINE, drain, now_ms};
use crate::{
    args::{self, NodeVerb},
    failure::{Failure, Verdict},
    human,
    output::Output,
};

/// `flockerctl node`
pub(crate) async fn run(cli: &Cli<'_>, args: args::Node) -> Result<Verdict, Failure> {
    match args.verb {
        NodeVerb::Ls => list(cli).await,
        NodeVerb::Cordon { node } => drain::cordon(cli, &node, true).await,
        NodeVerb::Uncordon { node } => drain::cordon(cli, &node, false).await,
        NodeVerb::Drain(args) => drain::run(cli, args).await,
    }
}

async fn list(cli: &Cli<'_>) -> Result<Verdict, Failure> {
    let status: ClusterStatus = cli.control.get("/v2/status", DEADLINE).await?;
    if cli.out.json {
        cli.out.json(&status.nodes)?;
    } else {
        cli.out.text(&table(cli.out, &status, now_ms()))?;
    }
    Ok(Verdict::Done)
}

/// The table of nodes.
pub(crate) fn table(out: &Output, status: &ClusterStatus, now_ms: u64) -> String {
    let rows = status.nodes.iter().map(|node| {
        let name = match node.cordoned {
            true => format!("{} (cordoned)", node.name),
            false => node.name.to_string(),
        };
        let mut row = vec![name];
        match &node.status {
            Ok(seen) => row.extend(columns(seen)),
            Err(error) => {
                let agent = node.agent.ip().to_string();
                let state = format!("unreachable ({})", error.code);
                row.extend([agent, state, "-".to_owned(), "-".to_owned()]);
            }
        }
        row.push(apps(status, node));
        row.push(human::age(now_ms, node.observed_ms));
        row
    });
    let header = [
        "NODE", "ADDRESS", "STORAGE", "FREE", "RUNTIME", "APPS", "SEEN",
    ];
    out.table(&header, rows.collect())
}

fn columns(node: &NodeStatus) -> [String; 4] {
    let storage = match node.storage.kind {
        StorageKind::OpenZfs => "openzfs",
        StorageKind::ZfsFuse => "zfs-fuse",
        StorageKind::Directory => "directory",
    };
    let runtime = match node.runtime.kind {
        RuntimeKind::Docker => "docker",
        RuntimeKind::Process => "process",
    };
    [
        node.address.to_string(),
        with_version(storage, &node.storage.version),
        human::bytes(node.storage.available_bytes),
        with_version(runtime, &node.runtime.version),
    ]
}

fn with_version(kind: &str, version: &str) -> String {
    // Some versions say the kind themselves, and some are a whole sentence.
    let version = version.trim_start_matches(kind).trim_matches([' ', '-']);
    match version.split_whitespace().next() {
        Some(first) => format!("{kind} {first}"),
        None => kind.to_owned(),
    }
}

fn apps(status: &ClusterStatus, node: &NodeSummary) -> String {
    let here = status.apps.iter().filter(|app| app.node == node.name);
    let names: Vec<String> = here.map(|app| app.app.name().to_string()).collect();
    if names.is_empty() {
        "-".to_owned()
    } else {
        names.join(", ")
    }
}
