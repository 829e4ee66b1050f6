//! `volume create`, `resize`, `snapshot`, `clone`, `verify`, `destroy` and the like: what changes
//! volumes, and what is told of snapshots and the trash.

use std::time::Duration;

use flocker_api::{
    name::{SnapshotName, VolumeName},
    replication::{Keep, ReplicationPolicy},
    work::{
        Comparison, Loss, NewVolume, NodeJob, OnNode, SnapshotDetail, Trashed, VolumeReport,
        VolumeRequest, VolumeVerb,
    },
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Cli, DEADLINE, jobs, now_ms, volume_show};
use crate::{
    args_volume::{Create, Source},
    failure::{Failure, Verdict},
    human,
};

/// Longest wait for the first answer: several nodes may have their parts in it.
const WORK: Duration = Duration::from_secs(180);

/// Who wants it, as far as the machine knows.
pub(crate) fn by() -> String {
    let name = ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    name.unwrap_or_else(|| "somebody".to_owned())
}

/// Asks for a verb and sees it through.
pub(crate) async fn ask(
    cli: &Cli<'_>,
    name: &VolumeName,
    verb: VolumeVerb,
) -> Result<Vec<NodeJob>, Failure> {
    let request = VolumeRequest { by: by(), verb };
    let path = format!("/v2/volumes/{name}");
    let jobs: Vec<NodeJob> = cli.control.post(&path, &request, WORK).await?;
    let mut ended = Vec::new();
    for job in jobs {
        ended.push(jobs::finish(cli, job).await?);
    }
    Ok(ended)
}

/// Shows the jobs as JSON, or a line.
fn tell(cli: &Cli<'_>, jobs: &[NodeJob], line: &str) -> Result<Verdict, Failure> {
    if cli.out.json {
        cli.out.json(&jobs)?;
    } else {
        cli.out.line(line)?;
    }
    Ok(Verdict::Done)
}

/// What the first job answered.
pub(crate) fn result<A: DeserializeOwned>(jobs: &[NodeJob]) -> Option<A> {
    let first = jobs.first()?;
    serde_json::from_value(first.job.result.clone()).ok()
}

/// `flockerctl volume create`
pub(crate) async fn create(cli: &Cli<'_>, args: &Create) -> Result<Verdict, Failure> {
    let interval_ms = u64::try_from(args.interval.as_millis()).unwrap_or(u64::MAX);
    let request = NewVolume {
        name: args.name.clone(),
        node: args.node.clone(),
        size_bytes: args.size,
        replication: (!args.replicas.is_empty()).then(|| ReplicationPolicy {
            nodes: args.replicas.clone(),
            interval_ms,
            keep: Keep::default(),
        }),
        by: by(),
    };
    let report: VolumeReport = cli.control.post("/v2/volumes", &request, WORK).await?;
    volume_show::show(cli.out, &report)?;
    Ok(Verdict::Done)
}

/// `flockerctl volume resize`
pub(crate) async fn resize(
    cli: &Cli<'_>,
    name: &VolumeName,
    size_bytes: Option<u64>,
) -> Result<Verdict, Failure> {
    let jobs = ask(cli, name, VolumeVerb::Resize { size_bytes }).await?;
    let line = match size_bytes {
        Some(bytes) => format!("{name} is limited to {}", human::bytes(bytes)),
        None => format!("{name} has no limit"),
    };
    tell(cli, &jobs, &line)
}

/// `flockerctl volume snapshot`
pub(crate) async fn snapshot(
    cli: &Cli<'_>,
    name: &VolumeName,
    snapshot: Option<&SnapshotName>,
) -> Result<Verdict, Failure> {
    let snapshot = match snapshot {
        Some(snapshot) => snapshot.clone(),
        None => {
            let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
            let parsed = now.to_string().parse();
            parsed.map_err(|error| Failure::Usage(format!("no name can be made: {error}")))?
        }
    };
    let line = format!("{name}@{snapshot}");
    let jobs = ask(cli, name, VolumeVerb::Snapshot { name: snapshot }).await?;
    tell(cli, &jobs, &line)
}

/// `flockerctl volume snapshots`
pub(crate) async fn snapshots(cli: &Cli<'_>, name: &VolumeName) -> Result<Verdict, Failure> {
    let path = format!("/v2/volumes/{name}/snapshots");
    let nodes: Vec<OnNode<Vec<SnapshotDetail>>> = cli.control.get(&path, DEADLINE).await?;
    if cli.out.json {
        cli.out.json(&nodes)?;
    } else {
        let now_ms = now_ms();
        let rows = nodes.iter().flat_map(|OnNode { node, result }| {
            let rows = result.iter().flatten().map(move |detail| {
                vec![
                    node.to_string(),
                    detail.snapshot.name.clone(),
                    human::age(now_ms, detail.created_ms),
                    human::bytes(detail.used_bytes),
                    human::bytes(detail.referenced_bytes),
                    detail.snapshot.guid.to_string(),
                ]
            });
            rows.rev()
        });
        let header = ["NODE", "SNAPSHOT", "AGE", "FREES", "HOLDS", "GUID"];
        cli.out.text(&cli.out.table(&header, rows.collect()))?;
    }
    let silent = nodes.iter().filter_map(|one| one.result.as_ref().err());
    Ok(remark_all(cli, silent.map(ToString::to_string)))
}

fn remark_all(cli: &Cli<'_>, complaints: impl Iterator<Item = String>) -> Verdict {
    let mut verdict = Verdict::Done;
    for complaint in complaints {
        cli.out.remark(&complaint);
        verdict = Verdict::Failed;
    }
    verdict
}

/// `flockerctl volume snapshot-rm`
pub(crate) async fn remove_snapshot(
    cli: &Cli<'_>,
    name: &VolumeName,
    snapshot: &str,
) -> Result<Verdict, Failure> {
    let snapshot = snapshot.strip_prefix('@').unwrap_or(snapshot).to_owned();
    let line = format!("{name}@{snapshot} is removed");
    let verb = VolumeVerb::DestroySnapshot { name: snapshot };
    let jobs = ask(cli, name, verb).await?;
    tell(cli, &jobs, &line)
}

/// `flockerctl volume clone`
pub(crate) async fn clone(
    cli: &Cli<'_>,
    from: &Source,
    name: &VolumeName,
) -> Result<Verdict, Failure> {
    let verb = VolumeVerb::Clone {
        from: from.snapshot.clone(),
        name: name.clone(),
    };
    let jobs = ask(cli, &from.volume, verb).await?;
    let node = jobs.first().map(|job| job.node.to_string());
    let line = format!("{name} is on {}", node.unwrap_or_default());
    tell(cli, &jobs, &line)
}

/// `flockerctl volume rollback`
pub(crate) async fn roll_back(
    cli: &Cli<'_>,
    name: &VolumeName,
    to: &str,
    preview: bool,
    stop_app: bool,
) -> Result<Verdict, Failure> {
    let to = to.strip_prefix('@').unwrap_or(to).to_owned();
    let verb = match preview {
        true => VolumeVerb::Preview { to },
        false => VolumeVerb::RollBack { to, stop_app },
    };
    let jobs = ask(cli, name, verb).await?;
    let Some(loss) = result::<Loss>(&jobs) else {
        return Ok(Verdict::Failed);
    };
    if cli.out.json {
        cli.out.json(&loss)?;
        return Ok(Verdict::Done);
    }
    cli.out.text(&lost(name, &loss, preview))?;
    Ok(Verdict::Done)
}

/// What a rollback takes out, or took out.
fn lost(name: &VolumeName, loss: &Loss, preview: bool) -> String {
    let verb = if preview { "would go" } else { "went" };
    let mut text = format!(
        "{name} {verb} back to {}: {} of {} differ, {} since\n",
        loss.to.name,
        human::plural(usize::try_from(loss.changes).unwrap_or(usize::MAX), "path"),
        human::bytes(loss.bytes),
        human::plural(loss.snapshots.len(), "snapshot"),
    );
    for path in &loss.paths {
        text.push_str(&format!("  {path}\n"));
    }
    let more = loss.changes.saturating_sub(loss.paths.len() as u64);
    if more > 0 {
        text.push_str(&format!("  and {} more\n", human::count(more)));
    }
    if let Some(aside) = &loss.aside {
        text.push_str(&format!("what it was is kept aside as {aside}\n"));
    }
    text
}

/// `flockerctl volume restore`
pub(crate) async fn restore(
    cli: &Cli<'_>,
    name: &VolumeName,
    rename: Option<&VolumeName>,
    verb: VolumeVerb,
) -> Result<Verdict, Failure> {
    let jobs = ask(cli, name, verb).await?;
    let what = rename.unwrap_or(name);
    tell(cli, &jobs, &format!("{what} is restored"))
}

/// `flockerctl volume verify`
pub(crate) async fn verify(
    cli: &Cli<'_>,
    name: &VolumeName,
    verb: VolumeVerb,
) -> Result<Verdict, Failure> {
    let jobs = ask(cli, name, verb).await?;
    let Some(found) = result::<Comparison>(&jobs) else {
        return Ok(Verdict::Failed);
    };
    if cli.out.json {
        cli.out.json(&found)?;
    } else {
        let row = vec![
            name.to_string(),
            found.primary.to_string(),
            found.replica.to_string(),
            found.snapshot.name.clone(),
            human::count(found.entries),
            human::count(found.files_read),
            human::bytes(found.bytes_read),
            match found.differences {
                0 => "equal".to_owned(),
                differences => format!("{} differ", human::count(differences)),
            },
        ];
        let header = [
            "VOLUME",
            "PRIMARY",
            "REPLICA",
            "AT",
            "ENTRIES",
            "FILES READ",
            "BYTES READ",
            "",
        ];
        cli.out.text(&cli.out.table(&header, vec![row]))?;
        for path in &found.paths {
            cli.out.line(&format!("  {path}"))?;
        }
    }
    Ok(match found.differences {
        0 => Verdict::Done,
        _ => Verdict::Failed,
    })
}

/// `flockerctl volume destroy`; without a grace it is for good.
pub(crate) async fn destroy(
    cli: &Cli<'_>,
    name: &VolumeName,
    grace: Option<Duration>,
) -> Result<Verdict, Failure> {
    let grace = grace.unwrap_or_default();
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    let jobs = ask(cli, name, VolumeVerb::Destroy { grace_ms }).await?;
    let line = match grace_ms {
        0 => format!("{name} is destroyed"),
        grace_ms => format!(
            "{name} is in the trash for {}; 'flockerctl volume undelete {name}' brings it back",
            human::age(grace_ms, 0)
        ),
    };
    tell(cli, &jobs, &line)
}

/// `flockerctl volume undelete`
pub(crate) async fn undelete(
    cli: &Cli<'_>,
    name: &VolumeName,
    rename: Option<VolumeName>,
) -> Result<Verdict, Failure> {
    let back = rename.clone().unwrap_or_else(|| name.clone());
    let jobs = ask(cli, name, VolumeVerb::Undelete { name: rename }).await?;
    let nodes: Vec<_> = jobs.iter().map(|job| job.node.to_string()).collect();
    tell(
        cli,
        &jobs,
        &format!("{back} is back on {}", nodes.join(", ")),
    )
}

/// `flockerctl volume trash`
pub(crate) async fn trash(cli: &Cli<'_>) -> Result<Verdict, Failure> {
    let nodes: Vec<OnNode<Vec<Trashed>>> = cli.control.get("/v2/trash", DEADLINE).await?;
    if cli.out.json {
        cli.out.json(&json!(nodes))?;
    } else {
        let now_ms = now_ms();
        let rows = nodes.iter().flat_map(|OnNode { node, result }| {
            result.iter().flatten().map(move |one| {
                vec![
                    one.name.to_string(),
                    node.to_string(),
                    one.role.to_string(),
                    human::bytes(one.used_bytes),
                    human::age(now_ms, one.trash.at_ms),
                    human::age(one.trash.until_ms, now_ms),
                    one.trash.by.clone(),
                    one.id.to_string(),
                ]
            })
        });
        let header = [
            "VOLUME", "NODE", "ROLE", "USED", "SINCE", "LEFT", "BY", "ID",
        ];
        cli.out.text(&cli.out.table(&header, rows.collect()))?;
    }
    let silent = nodes.iter().filter_map(|one| one.result.as_ref().err());
    Ok(remark_all(cli, silent.map(ToString::to_string)))
}
