//! `volume show`: one volume, its copies, how far each is.

use flocker_api::{
    name::VolumeName,
    volume::Role,
    work::{VolumeCopy, VolumeReport},
};

use super::{Cli, DEADLINE, aside};
use crate::{
    failure::{Failure, Verdict},
    human,
    output::{Output, Paint},
};

/// `flockerctl volume show`
pub(crate) async fn run(cli: &Cli<'_>, name: &VolumeName) -> Result<Verdict, Failure> {
    let path = format!("/v2/volumes/{name}");
    let report: VolumeReport = cli.control.get(&path, DEADLINE).await?;
    show(cli.out, &report)?;
    if !cli.out.json {
        cli.out.text(&aside::kept(cli, name).await?)?;
    }
    Ok(Verdict::Done)
}

/// Shows a volume.
pub(crate) fn show(out: &Output, report: &VolumeReport) -> Result<(), Failure> {
    if out.json {
        out.json(report)?;
        return Ok(());
    }
    let primary = report
        .copies
        .iter()
        .find(|copy| copy.node == report.node && copy.volume.role == Role::Primary);
    out.line(&out.paint(Paint::Strong, report.name.as_str()))?;
    let line = |key: &str, value: String| out.line(&format!("  {key:<10} {value}"));
    line("id", report.id.to_string())?;
    let app = report.app.as_ref();
    line("app", app.map_or_else(dash, ToString::to_string))?;
    line(
        "primary",
        format!("{}, epoch {}", report.node, report.epoch),
    )?;
    let size = primary.and_then(|copy| copy.volume.size_bytes);
    line(
        "size",
        size.map_or_else(|| "no limit".to_owned(), human::bytes),
    )?;
    if let Some(copy) = primary {
        line("used", human::bytes(copy.volume.used_bytes))?;
        let mounted = copy.volume.mounted_at.as_ref();
        let place = mounted.map_or_else(dash, |path| path.display().to_string());
        line("mounted", place)?;
    }
    line("replicas", policy(report))?;
    let rows = report.copies.iter().map(|copy| row(copy, primary));
    let header = [
        "NODE",
        "ROLE",
        "EPOCH",
        "USED",
        "SNAPSHOTS",
        "CURSOR",
        "BEHIND",
    ];
    out.line("")?;
    out.text(&out.table(&header, rows.collect()))?;
    Ok(())
}

fn dash() -> String {
    "-".to_owned()
}

/// `n2, n3 every 10s, the newest 3 snapshots kept`
fn policy(report: &VolumeReport) -> String {
    let Some(policy) = &report.replication else {
        return "none wanted".to_owned();
    };
    let nodes: Vec<_> = policy.nodes.iter().map(ToString::to_string).collect();
    format!(
        "{} every {}, the newest {} snapshots kept",
        nodes.join(", "),
        human::setting_ms(policy.interval_ms),
        policy.keep.last
    )
}

fn row(copy: &VolumeCopy, primary: Option<&VolumeCopy>) -> Vec<String> {
    let volume = &copy.volume;
    let target = primary
        .and_then(|primary| primary.volume.replication.as_ref())
        .and_then(|replication| replication.targets.iter().find(|t| t.peer == copy.node));
    let cursor = target.and_then(|target| target.acknowledged.as_ref());
    let lag = target.map(|target| match (&target.error, target.lag_ms) {
        (Some(error), _) => format!("failing: {error}"),
        (None, Some(ms)) => match target.lag_bytes {
            Some(bytes) if bytes > 0 => format!("{}, {}", human::whole_ms(ms), human::bytes(bytes)),
            _ => human::whole_ms(ms),
        },
        (None, None) => "no copy yet".to_owned(),
    });
    vec![
        copy.node.to_string(),
        volume.role.to_string(),
        volume.epoch.to_string(),
        human::bytes(volume.used_bytes),
        volume.snapshots.len().to_string(),
        cursor.map_or_else(dash, |snapshot| snapshot.name.clone()),
        lag.unwrap_or_else(dash),
    ]
}
