//! `volume resolve`: what nodes keep aside of a volume, and what becomes of it.

use std::time::Duration;

use flocker_api::{
    agent::EpochRequest,
    aside::{Aside, AsideCause, AsideDetails, ChangedPath, Changes, Resolve, Resolved, SetAside},
    control::ClusterStatus,
    name::{NodeName, VolumeName},
    volume::Role,
};
use serde::Serialize;

use super::{Cli, DEADLINE, now_ms, volume::copies};
use crate::{
    args_asides::VolumeResolve,
    failure::{Failure, Verdict},
    human,
    output::{Output, Paint},
};

/// Longest wait for a walk through all files, or for a destruction.
const WORK_MAX: Duration = Duration::from_secs(130);

/// What a node keeps, and what was changed in it.
#[derive(Debug, Serialize)]
struct Kept {
    node: NodeName,
    #[serde(flatten)]
    details: AsideDetails,
}

#[derive(Serialize)]
struct Decided {
    asides: Vec<Kept>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved: Option<Resolved>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set_aside: Option<SetAside>,
}

/// What nodes keep aside of a volume, without looking at what was changed in it.
pub(crate) async fn kept(cli: &Cli<'_>, name: &VolumeName) -> Result<String, Failure> {
    let status: ClusterStatus = cli.control.get("/v2/status", DEADLINE).await?;
    let all = details(cli, asides(&status, name), 0).await?;
    let text = all.iter().map(|kept| describe(cli.out, kept));
    Ok(text.collect())
}

/// `flockerctl volume resolve`
pub(crate) async fn resolve(cli: &Cli<'_>, args: &VolumeResolve) -> Result<Verdict, Failure> {
    let status: ClusterStatus = cli.control.get("/v2/status", DEADLINE).await?;
    if let (true, Some(node)) = (args.set_aside, &args.node) {
        return set_aside(cli, args, &status, node).await;
    }
    let mut found = asides(&status, &args.name);
    found.retain(|(node, aside)| {
        args.node.as_ref().is_none_or(|wanted| wanted == *node)
            && args.aside.is_none_or(|wanted| wanted == aside.key)
    });
    let how = match (&args.keep, args.discard) {
        (Some(name), _) => Some(Resolve::Keep { name: name.clone() }),
        (None, true) => Some(Resolve::Discard),
        (None, false) => None,
    };
    let asides = details(cli, found, args.paths).await?;
    let Some(how) = how else {
        return preview(cli, args, asides);
    };
    let one = match asides.as_slice() {
        [one] => one,
        [] => {
            return Err(Failure::Usage(format!(
                "nothing is kept aside of volume '{}' there",
                args.name
            )));
        }
        several => return Err(ambiguous(several)),
    };
    let (node, aside) = (one.node.clone(), one.details.aside.clone());
    if !cli.out.json {
        cli.out.text(&describe(cli.out, one))?;
    }
    let question = match &how {
        Resolve::Discard => format!(
            "Destroy these {} on {node} for good?",
            human::bytes(aside.written_bytes)
        ),
        Resolve::Keep { name } => format!("Make it volume '{name}' on {node}?"),
    };
    if !agreed(cli.out, args.yes, &question)? {
        return Ok(Verdict::Failed);
    }
    let path = format!("/v2/nodes/{node}/asides/{}/{}", aside.volume, aside.key);
    let resolved: Resolved = cli.control.post(&path, &how, WORK_MAX).await?;
    if cli.out.json {
        cli.out.json(&Decided {
            asides,
            resolved: Some(resolved),
            set_aside: None,
        })?;
        return Ok(Verdict::Done);
    }
    let text = match resolved.volume {
        None => format!(
            "{} of volume '{}' on {node} is discarded\n",
            aside.key, args.name
        ),
        Some(volume) => {
            let mounted = volume.mounted_at.unwrap_or_default();
            format!(
                "it is volume '{}' now, at {} on {node}\n",
                volume.name,
                mounted.display()
            )
        }
    };
    cli.out.text(&text)?;
    Ok(Verdict::Done)
}

/// What there is, and what may be done with it.
fn preview(cli: &Cli<'_>, args: &VolumeResolve, asides: Vec<Kept>) -> Result<Verdict, Failure> {
    if cli.out.json {
        cli.out.json(&Decided {
            asides,
            resolved: None,
            set_aside: None,
        })?;
        return Ok(Verdict::Done);
    }
    let mut text = String::new();
    for kept in &asides {
        text.push_str(&describe(cli.out, kept));
    }
    if asides.is_empty() {
        text.push_str(&format!(
            "nothing is kept aside of volume '{}'\n",
            args.name
        ));
    } else {
        text.push_str(&format!(
            "\ndecide: flockerctl volume resolve {} --node NODE --keep NAME or --discard\n",
            args.name
        ));
    }
    cli.out.text(&text)?;
    Ok(Verdict::Done)
}

async fn set_aside(
    cli: &Cli<'_>,
    args: &VolumeResolve,
    status: &ClusterStatus,
    node: &NodeName,
) -> Result<Verdict, Failure> {
    let copies = copies(status, std::slice::from_ref(&args.name));
    let copy = copies.iter().find(|copy| copy.node == node);
    let copy = copy.ok_or_else(|| {
        Failure::Usage(format!("volume '{}' has no copy on node {node}", args.name))
    })?;
    if copy.volume.role == Role::Primary {
        let message = format!(
            "the copy of volume '{}' on node {node} is its primary",
            args.name
        );
        return Err(Failure::Usage(message));
    }
    let question = format!(
        "Put the copy of '{}' on {node} aside, {} with {}, and have all of it sent anew?",
        args.name,
        human::bytes(copy.volume.used_bytes),
        human::plural(copy.volume.snapshots.len(), "snapshot"),
    );
    if !agreed(cli.out, args.yes, &question)? {
        return Ok(Verdict::Failed);
    }
    let path = format!("/v2/nodes/{node}/volumes/{}/aside", copy.volume.id);
    let request = EpochRequest {
        epoch: copy.volume.epoch,
    };
    let done: SetAside = cli.control.post(&path, &request, WORK_MAX).await?;
    if cli.out.json {
        cli.out.json(&Decided {
            asides: Vec::new(),
            resolved: None,
            set_aside: Some(done),
        })?;
    } else {
        cli.out.text(&format!(
            "it is kept aside on {node}; the next round sends all of it\n"
        ))?;
    }
    Ok(Verdict::Done)
}

/// Whether it shall be done: by `--yes`, or by a person's word.
fn agreed(out: &Output, yes: bool, question: &str) -> Result<bool, Failure> {
    if yes {
        return Ok(true);
    }
    out.ask(question)?.ok_or_else(|| {
        Failure::Usage("there is nobody to ask here; --yes says that it shall be done".to_owned())
    })
}

fn asides<'a>(status: &'a ClusterStatus, name: &VolumeName) -> Vec<(&'a NodeName, &'a Aside)> {
    let nodes = status.nodes.iter();
    let nodes = nodes.filter_map(|node| Some((&node.name, node.status.as_ref().ok()?)));
    nodes
        .flat_map(|(node, seen)| seen.asides.iter().map(move |aside| (node, aside)))
        .filter(|(_, aside)| aside.name == *name)
        .collect()
}

async fn details(
    cli: &Cli<'_>,
    found: Vec<(&NodeName, &Aside)>,
    paths: usize,
) -> Result<Vec<Kept>, Failure> {
    let mut all = Vec::new();
    for (node, aside) in found {
        let details = if paths == 0 {
            AsideDetails {
                aside: aside.clone(),
                changes: None,
            }
        } else {
            let (id, key) = (aside.volume, aside.key);
            let path = format!("/v2/nodes/{node}/asides/{id}/{key}?paths={paths}");
            cli.control.get(&path, WORK_MAX).await?
        };
        all.push(Kept {
            node: node.clone(),
            details,
        });
    }
    Ok(all)
}

fn ambiguous(several: &[Kept]) -> Failure {
    let one = |kept: &Kept| format!("  --node {} --aside {}", kept.node, kept.details.aside.key);
    let all: Vec<_> = several.iter().map(one).collect();
    Failure::Usage(format!("there are several; say which:\n{}", all.join("\n")))
}

fn describe(out: &Output, kept: &Kept) -> String {
    let aside = &kept.details.aside;
    let what = match aside.cause {
        AsideCause::Diverged => format!(
            "written on {} under epoch {}, and on no other node",
            aside.node, aside.epoch
        ),
        AsideCause::Touched => format!("written by somebody to the replica on {}", aside.node),
        AsideCause::RolledBack => format!("rolled back on {}", aside.node),
        AsideCause::Unrelated => format!(
            "a whole copy of {}, with nothing in common with the primary",
            aside.node
        ),
    };
    let title = format!("{} of '{}' on {}", aside.key, aside.name, kept.node);
    let mut text = format!("\n{}\n  {what}\n", out.paint(Paint::Strong, &title));
    text.push_str(&format!(
        "  {} written, {} occupied; kept for {}\n",
        human::bytes(aside.written_bytes),
        human::bytes(aside.used_bytes),
        human::age(now_ms(), aside.since_ms)
    ));
    if let Some(common) = &aside.common {
        text.push_str(&format!(
            "  after snapshot {} ({})\n",
            common.name, common.guid
        ));
    }
    if let Some(changes) = &kept.details.changes {
        text.push_str(&paths(changes));
    }
    text
}

fn paths(changes: &Changes) -> String {
    let mut text = format!(
        "  {} created, {} modified, {} removed, {} renamed\n",
        changes.created, changes.modified, changes.removed, changes.renamed
    );
    for path in &changes.paths {
        text.push_str(&format!("    {}\n", line(path)));
    }
    let told = u64::try_from(changes.paths.len()).unwrap_or(u64::MAX);
    if let Some(more) = changes.total().checked_sub(told).filter(|more| *more > 0) {
        text.push_str(&format!("    and {more} more\n"));
    }
    text
}

fn line(path: &ChangedPath) -> String {
    // A name may hold anything, and this is written to a terminal.
    let shown = |text: &str| text.chars().flat_map(printable).collect::<String>();
    let from = path.from.as_deref();
    let from = from.map_or_else(String::new, |from| format!(" (was {})", shown(from)));
    format!("{:<8}  {}{from}", path.change.as_str(), shown(&path.path))
}

fn printable(c: char) -> Vec<char> {
    if c.is_control() {
        c.escape_default().collect()
    } else {
        vec![c]
    }
}
