//! What can be typed about volumes. Help texts are in here.

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;
use flocker_api::{
    name::{NodeName, SnapshotName, VolumeName},
    work::GRACE_MS_MAX,
};

use crate::args::duration;

/// Of how many files `--sample` speaks.
const SAMPLE_OF: f64 = 1_000.0;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flockerctl volume ls
  flockerctl volume create scratch --node n1 --size 10G --replicas n2 --interval 10s
  flockerctl volume snapshot notes before-upgrade
  flockerctl volume rollback notes before-upgrade --stop-app
  flockerctl volume clone notes@before-upgrade notes-test
  flockerctl volume send notes notes.flkvol
  flockerctl volume verify notes --whole
  flockerctl volume resolve notes
  flockerctl volume destroy scratch
  flockerctl volume undelete scratch
  flockerctl volume watch --json --interval 5s | jq .transfer.bytes_per_second

What takes long is a job of the node's agent: it goes on when flockerctl is interrupted; see
'flockerctl volume jobs'.")]
pub(crate) struct Volume {
    #[command(subcommand)]
    pub(crate) verb: VolumeVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeVerb {
    /// Every copy: its role, what is transferred, how far replicas are behind
    Ls,
    /// One volume: size, copies with cursor and lag, snapshots, policy
    Show {
        /// The volume
        #[arg(value_name = "VOLUME")]
        name: VolumeName,
    },
    /// Decide about what a node keeps aside of it: writes that its primary lacks
    Resolve(crate::args_asides::VolumeResolve),
    /// The same as ls over and over, until it is interrupted; with --json a line for each copy
    Watch {
        /// Only these volumes
        #[arg(value_name = "VOLUME")]
        names: Vec<VolumeName>,
        /// Between two looks
        #[arg(long, value_parser = duration, default_value = "1s", value_name = "DURATION")]
        interval: Duration,
        /// End after so many looks
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Make one that belongs to no app
    Create(Create),
    /// Set its limit, or take it away
    #[command(after_help = "Examples:
  flockerctl volume resize notes 20G
  flockerctl volume resize notes none

A limit below what is in the volume is refused. Replicas follow with the next increment. Directory
storage writes the limit down and enforces nothing.")]
    Resize {
        /// The volume
        #[arg(value_name = "VOLUME")]
        name: VolumeName,
        /// The limit, such as 512M, 10G, 1T; none takes it away
        #[arg(value_parser = limit, value_name = "SIZE")]
        size: Limit,
    },
    /// Take a snapshot that stays until it is removed
    #[command(after_help = "Examples:
  flockerctl volume snapshot notes before-upgrade
  flockerctl volume snapshot notes

No retention destroys it. Copies on other nodes get it with the next increment.")]
    Snapshot {
        /// The volume
        #[arg(value_name = "VOLUME")]
        name: VolumeName,
        /// Its name; the time if none is given
        #[arg(value_name = "SNAPSHOT")]
        snapshot: Option<SnapshotName>,
    },
    /// Its snapshots on every node, with age and size
    Snapshots {
        /// The volume
        #[arg(value_name = "VOLUME")]
        name: VolumeName,
    },
    /// Remove a snapshot, on every node
    SnapshotRm {
        /// The volume
        #[arg(value_name = "VOLUME")]
        name: VolumeName,
        /// The snapshot
        #[arg(value_name = "SNAPSHOT")]
        snapshot: String,
    },
    /// Make a new volume of a snapshot, or of what is there now
    #[command(after_help = "Examples:
  flockerctl volume clone notes notes-test
  flockerctl volume clone notes@before-upgrade notes-test

On ZFS it is there at once and shares what is the same; destroying either leaves the other whole.")]
    Clone {
        /// The volume, and after @ the snapshot
        #[arg(value_name = "VOLUME[@SNAPSHOT]", value_parser = source)]
        from: Source,
        /// Name of the new volume
        #[arg(value_name = "NEW")]
        name: VolumeName,
    },
    /// Make it what it was at a snapshot; what it was until now is kept aside
    #[command(after_help = "Examples:
  flockerctl volume rollback notes before-upgrade --preview
  flockerctl volume rollback notes before-upgrade --stop-app

Nothing is lost: what was written since, and the snapshots since, are kept aside on the node and
listed by 'flockerctl volume show'. Replicas follow by an increment from the newest snapshot that
both have; each keeps aside what it has beyond it.")]
    Rollback {
        /// The volume
        #[arg(value_name = "VOLUME")]
        name: VolumeName,
        /// The snapshot
        #[arg(value_name = "SNAPSHOT")]
        snapshot: String,
        /// Only say what it would take out: snapshots, bytes, paths
        #[arg(long, conflicts_with = "stop_app")]
        preview: bool,
        /// Stop the app that uses it meanwhile, and start it again
        #[arg(long)]
        stop_app: bool,
    },
    /// Bring back what another node's copy has
    #[command(after_help = "Examples:
  flockerctl volume restore notes --from n2 --stop-app
  flockerctl volume restore notes@monday --from n2 --as notes-monday

Without --as the volume itself becomes what the copy has, and what it was until now is kept aside.
Where the primary has the snapshot itself nothing is sent.")]
    Restore {
        /// The volume, and after @ the snapshot; the newest if none is given
        #[arg(value_name = "VOLUME[@SNAPSHOT]", value_parser = source)]
        from: Source,
        /// The node whose copy it is
        #[arg(long = "from", value_name = "NODE")]
        node: NodeName,
        /// Make a volume of its own of it
        #[arg(long = "as", value_name = "NEW", conflicts_with = "stop_app")]
        rename: Option<VolumeName>,
        /// Stop the app that uses it meanwhile, and start it again
        #[arg(long)]
        stop_app: bool,
    },
    /// Write it to a file or a pipe
    Send(Send),
    /// Make one of what 'send' wrote
    Receive(Receive),
    /// Compare the content of primary and replica at their newest common snapshot
    #[command(after_help = "Examples:
  flockerctl volume verify notes
  flockerctl volume verify notes --replica n2 --whole
  flockerctl volume verify notes --sample 20%

Each node reads its own copy, at low priority and no faster than verify_bytes_per_second of its
configuration, and tells sums of it; no content is sent.
Exit status: 0 they are equal as far as they were read, 1 they differ.")]
    Verify {
        /// The volume
        #[arg(value_name = "VOLUME")]
        name: VolumeName,
        /// The replica's node, where there are several
        #[arg(long, value_name = "NODE")]
        replica: Option<NodeName>,
        /// Of how many files the content is read; name, kind, mode, owner, times and size of all
        #[arg(long, value_parser = sample, default_value = "10%", value_name = "PERCENT")]
        sample: u32,
        /// Read the content of all files
        #[arg(long, conflicts_with = "sample")]
        whole: bool,
    },
    /// Put it in the trash, where it stays for a grace, on every node
    #[command(after_help = "Examples:
  flockerctl volume destroy scratch
  flockerctl volume destroy scratch --grace 7d
  flockerctl volume destroy scratch --now --yes

It is unmounted at once. Until the grace is over 'flockerctl volume undelete' brings it back.
A volume that an app uses is refused.")]
    Destroy {
        /// The volume
        #[arg(value_name = "VOLUME")]
        name: VolumeName,
        /// How long it stays in the trash
        #[arg(long, value_parser = grace, default_value = "24h", value_name = "DURATION")]
        grace: Duration,
        /// Destroy it for good at once
        #[arg(long, conflicts_with = "grace", requires = "yes")]
        now: bool,
        /// It is meant so
        #[arg(long)]
        yes: bool,
    },
    /// Take one out of the trash again
    Undelete {
        /// The volume, or its id where several of its name are there
        #[arg(value_name = "VOLUME")]
        name: VolumeName,
        /// Another name, where its own is taken
        #[arg(long = "as", value_name = "NAME")]
        rename: Option<VolumeName>,
    },
    /// What is in the trash of each node, and until when
    Trash,
    /// Jobs of the agents that run or have run
    #[command(after_help = "Examples:
  flockerctl volume jobs
  flockerctl volume jobs show 6f1c
  flockerctl volume jobs cancel 6f1c")]
    Jobs {
        #[command(subcommand)]
        verb: Option<JobsVerb>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobsVerb {
    /// List them, newest first (the default)
    Ls,
    /// One of them, until it ends
    Show {
        /// Its id, or the beginning of it
        id: String,
    },
    /// End one; what it had begun is undone
    Cancel {
        /// Its id, or the beginning of it
        id: String,
    },
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flockerctl volume create scratch --node n1
  flockerctl volume create scratch --node n1 --size 10G --replicas n2 n3 --interval 5s")]
pub(crate) struct Create {
    /// Its name
    #[arg(value_name = "NAME")]
    pub(crate) name: VolumeName,
    /// The node of its primary
    #[arg(long, value_name = "NODE")]
    pub(crate) node: NodeName,
    /// Its limit, such as 512M, 10G, 1T
    #[arg(long, value_parser = size, value_name = "SIZE")]
    pub(crate) size: Option<u64>,
    /// Nodes that keep a copy
    #[arg(long, num_args = 1.., value_name = "NODE")]
    pub(crate) replicas: Vec<NodeName>,
    /// Time between two increments while it changes
    #[arg(long, value_parser = duration, default_value = "10s", value_name = "DURATION",
        requires = "replicas")]
    pub(crate) interval: Duration,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flockerctl volume send notes notes.flkvol
  flockerctl volume send notes@monday --node n2 | zstd > monday.zst
  flockerctl volume send notes@tuesday --since monday tuesday.flkvol

The archive has checksums throughout and says where it ends: one that is cut off or damaged is
refused by 'receive'.")]
pub(crate) struct Send {
    /// The volume, and after @ the snapshot; without one, what is in it now
    #[arg(value_name = "VOLUME[@SNAPSHOT]", value_parser = source)]
    pub(crate) from: Source,
    /// The file; - is the standard output
    #[arg(default_value = "-", value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Only what was written since this snapshot
    #[arg(long, value_name = "SNAPSHOT")]
    pub(crate) since: Option<String>,
    /// The node whose copy is sent; the primary's if none is given
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<NodeName>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flockerctl volume receive copy notes.flkvol --node n2
  zstd -d < monday.zst | flockerctl volume receive copy --node n2
  flockerctl volume receive copy tuesday.flkvol

The volume is there once the archive was read to its end and found whole. An archive made with
--since goes into the volume that was received before, where that is as it was.")]
pub(crate) struct Receive {
    /// Name of the volume
    #[arg(value_name = "VOLUME")]
    pub(crate) name: VolumeName,
    /// The file; - is the standard input
    #[arg(default_value = "-", value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The node of a new volume
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<NodeName>,
}

/// A limit, or that there is none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit(pub(crate) Option<u64>);

/// A volume, and perhaps a snapshot of it.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) volume: VolumeName,
    pub(crate) snapshot: Option<String>,
}

fn size(text: &str) -> Result<u64, String> {
    flocker_control::formats::size(text).map_err(str::to_owned)
}

fn limit(text: &str) -> Result<Limit, String> {
    match text {
        "none" => Ok(Limit(None)),
        text => size(text).map(|bytes| Limit(Some(bytes))),
    }
}

fn source(text: &str) -> Result<Source, String> {
    let (volume, snapshot) = match text.split_once('@') {
        Some((_, "")) => return Err("there is no snapshot after the @".to_owned()),
        Some((volume, snapshot)) => (volume, Some(snapshot.to_owned())),
        None => (text, None),
    };
    let volume: Result<VolumeName, _> = volume.parse();
    Ok(Source {
        volume: volume.map_err(|error| error.to_string())?,
        snapshot,
    })
}

/// A duration that may be of days.
fn grace(text: &str) -> Result<Duration, String> {
    let grace = match text.strip_suffix('d') {
        Some(days) => {
            let days: u64 = days
                .parse()
                .map_err(|_| format!("'{days}' is no number of days"))?;
            Duration::from_secs(days.saturating_mul(86_400))
        }
        None => duration(text)?,
    };
    if grace.is_zero() || grace > Duration::from_millis(GRACE_MS_MAX) {
        return Err("a grace is above zero and at most 3652d; --now --yes destroys at once".into());
    }
    Ok(grace)
}

/// `20%` or `20` or `0.5%`, in thousandths.
fn sample(text: &str) -> Result<u32, String> {
    let wrong =
        || format!("'{text}' is no part of the files; write a percentage from 0.1% to 100%");
    let percent: f64 = text
        .strip_suffix('%')
        .unwrap_or(text)
        .parse()
        .map_err(|_| wrong())?;
    let thousandths = (percent / 100.0 * SAMPLE_OF).round();
    if !(1.0..=SAMPLE_OF).contains(&thousandths) {
        return Err(wrong());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is from 1 to 1000"
    )]
    Ok(thousandths as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_graces_are_read_as_people_write_them() {
        for (text, thousandths) in [("10%", 100), ("0.5%", 5), ("100", 1000)] {
            assert_eq!(sample(text), Ok(thousandths));
        }
        for text in ["0", "101%", "x", "NaN"] {
            assert!(sample(text).is_err(), "{text}");
        }
        assert_eq!(grace("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(grace("90m"), Ok(Duration::from_secs(5_400)));
        for text in ["0s", "4000d", "xd"] {
            assert!(grace(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_source_is_a_volume_and_perhaps_a_snapshot() {
        let one = source("notes@before").unwrap();
        assert_eq!(one.snapshot.as_deref(), Some("before"));
        assert!(source("notes").unwrap().snapshot.is_none());
        assert!(source("notes@").is_err());
        assert!(source("No/tes").is_err());
    }
}
