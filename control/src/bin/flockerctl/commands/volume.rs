//! `volume`: copies of volumes as control has last seen them.

use std::io;

use flocker_api::{
    control::ClusterStatus,
    name::{NodeName, VolumeName},
    replication::{ReplicationStatus, TargetState},
    volume::{TransferStatus, VolumeStatus},
};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use super::{Cli, DEADLINE, aside, jobs, volume_archive, volume_show, volume_work as work};
use crate::{
    args_volume::{Volume, VolumeVerb},
    failure::{Failure, Verdict},
    human,
    output::Output,
};

/// Clears a terminal and begins at its top (ECMA-48: ED 2, CUP).
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

/// A copy and where it is.
#[derive(Debug, Serialize)]
pub(super) struct Copy<'a> {
    pub(super) node: &'a NodeName,
    #[serde(flatten)]
    pub(super) volume: &'a VolumeStatus,
}

/// `flockerctl volume`
pub(crate) async fn run(cli: &Cli<'_>, args: &Volume) -> Result<Verdict, Failure> {
    match &args.verb {
        VolumeVerb::Ls => {
            let status: ClusterStatus = cli.control.get("/v2/status", DEADLINE).await?;
            let copies = copies(&status, &[]);
            if cli.out.json {
                cli.out.json(&copies)?;
            } else {
                cli.out.text(&table(cli.out, &copies))?;
            }
        }
        VolumeVerb::Watch {
            names,
            interval: pause,
            count,
        } => {
            let mut pause = interval(*pause);
            pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut looks = 0;
            while count.is_none_or(|count| looks < count) {
                pause.tick().await;
                let status: ClusterStatus = cli.control.get("/v2/status", DEADLINE).await?;
                look(cli.out, &copies(&status, names), looks)?;
                looks += 1;
            }
        }
        verb => return change(cli, verb).await,
    }
    Ok(Verdict::Done)
}

/// What is about one volume, or about jobs.
async fn change(cli: &Cli<'_>, verb: &VolumeVerb) -> Result<Verdict, Failure> {
    match verb {
        VolumeVerb::Ls | VolumeVerb::Watch { .. } => Ok(Verdict::Done),
        VolumeVerb::Show { name } => volume_show::run(cli, name).await,
        VolumeVerb::Resolve(resolve) => aside::resolve(cli, resolve).await,
        VolumeVerb::Create(args) => work::create(cli, args).await,
        VolumeVerb::Resize { name, size } => work::resize(cli, name, size.0).await,
        VolumeVerb::Snapshot { name, snapshot } => {
            work::snapshot(cli, name, snapshot.as_ref()).await
        }
        VolumeVerb::Snapshots { name } => work::snapshots(cli, name).await,
        VolumeVerb::SnapshotRm { name, snapshot } => {
            work::remove_snapshot(cli, name, snapshot).await
        }
        VolumeVerb::Clone { from, name } => work::clone(cli, from, name).await,
        VolumeVerb::Rollback {
            name,
            snapshot,
            preview,
            stop_app,
        } => work::roll_back(cli, name, snapshot, *preview, *stop_app).await,
        VolumeVerb::Restore {
            from,
            node,
            rename,
            stop_app,
        } => {
            let verb = flocker_api::work::VolumeVerb::Restore {
                from: node.clone(),
                snapshot: from.snapshot.clone(),
                name: rename.clone(),
                stop_app: *stop_app,
            };
            work::restore(cli, &from.volume, rename.as_ref(), verb).await
        }
        VolumeVerb::Send(args) => volume_archive::send(cli, args).await,
        VolumeVerb::Receive(args) => volume_archive::receive(cli, args).await,
        VolumeVerb::Verify {
            name,
            replica,
            sample,
            whole,
        } => {
            let verb = flocker_api::work::VolumeVerb::Verify {
                replica: replica.clone(),
                sample: if *whole { 1_000 } else { *sample },
            };
            work::verify(cli, name, verb).await
        }
        VolumeVerb::Destroy {
            name, grace, now, ..
        } => work::destroy(cli, name, (!now).then_some(*grace)).await,
        VolumeVerb::Undelete { name, rename } => work::undelete(cli, name, rename.clone()).await,
        VolumeVerb::Trash => work::trash(cli).await,
        VolumeVerb::Jobs { verb } => jobs::run(cli, verb.as_ref()).await,
    }
}

fn look(out: &Output, copies: &[Copy<'_>], looks: u64) -> io::Result<()> {
    if out.json {
        return copies.iter().try_for_each(|copy| {
            let line = serde_json::to_string(copy)?;
            out.line(&line)
        });
    }
    let before = match (out.live, looks) {
        (true, _) => CLEAR,
        (false, 0) => "",
        (false, _) => "\n",
    };
    out.text(&format!("{before}{}", table(out, copies)))
}

pub(super) fn copies<'a>(status: &'a ClusterStatus, names: &[VolumeName]) -> Vec<Copy<'a>> {
    let mut copies: Vec<_> = status
        .nodes
        .iter()
        .filter_map(|node| Some((&node.name, node.status.as_ref().ok()?)))
        .flat_map(|(node, seen)| seen.volumes.iter().map(move |volume| Copy { node, volume }))
        .filter(|copy| names.is_empty() || names.contains(&copy.volume.name))
        .collect();
    copies.sort_by_key(|copy| {
        (
            &copy.volume.name,
            copy.volume.role != flocker_api::volume::Role::Primary,
            copy.node,
        )
    });
    copies
}

fn table(out: &Output, copies: &[Copy<'_>]) -> String {
    let rows = copies.iter().map(|Copy { node, volume }| {
        vec![
            volume.name.to_string(),
            node.to_string(),
            volume.role.to_string(),
            volume.epoch.to_string(),
            human::bytes(volume.used_bytes),
            volume.snapshots.len().to_string(),
            volume.transfer.as_ref().map_or_else(dash, transfer),
            volume.replication.as_ref().map_or_else(dash, behind),
        ]
    });
    let header = [
        "VOLUME",
        "NODE",
        "ROLE",
        "EPOCH",
        "USED",
        "SNAPSHOTS",
        "TRANSFER",
        "BEHIND",
    ];
    out.table(&header, rows.collect())
}

fn dash() -> String {
    "-".to_owned()
}

/// `n2 12 MiB of 64 MiB, 3.1 MiB/s, 17s left`
fn transfer(transfer: &TransferStatus) -> String {
    let mut text = format!("{} {}", transfer.peer, human::bytes(transfer.bytes));
    if let Some(expected) = transfer.bytes_expected {
        text.push_str(&format!(" of {}", human::bytes(expected)));
    }
    text.push_str(&format!(", {}/s", human::bytes(transfer.bytes_per_second)));
    if let Some(eta) = transfer.eta_ms {
        text.push_str(&format!(", {} left", human::age(eta, 0)));
    }
    text
}

/// `n2 1.2s, n3 failing`
fn behind(replication: &ReplicationStatus) -> String {
    let targets = replication.targets.iter().map(|target| {
        let lag = match (target.state, target.lag_ms) {
            (TargetState::Failing, _) => "failing".to_owned(),
            (_, Some(ms)) => human::whole_ms(ms),
            (_, None) => "no copy yet".to_owned(),
        };
        format!("{} {lag}", target.peer)
    });
    let targets: Vec<_> = targets.collect();
    targets.join(", ")
}
