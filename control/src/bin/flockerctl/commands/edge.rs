//! `edge`: one edge as a process.

use std::time::Duration;

use flocker_api::{
    client::Client,
    control::ClusterStatus,
    edge::{
        DrainRequest, EdgeStatus, ListenerKind, LogFilter, ReloadReply, UpgradeReply,
        UpgradeRequest,
    },
};

use super::{Cli, DEADLINE, certificate, now_ms};
use crate::{
    args_edge::{Edge, EdgeVerb},
    failure::{Failure, Verdict},
    human,
    output::{Output, Paint},
};

/// Longest wait for a new process to take over; the edge has its own limit.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(120);

/// `flockerctl edge`
pub(crate) async fn run(cli: &Cli<'_>, args: Edge) -> Result<Verdict, Failure> {
    let edge = cli.one_edge();
    match args.verb {
        EdgeVerb::Ls if cli.edge.is_none() => list(cli).await,
        EdgeVerb::Ls | EdgeVerb::Show => show(cli, &edge).await,
        EdgeVerb::Upgrade { binary } => {
            let binary = binary.map(std::path::absolute).transpose()?;
            let request = UpgradeRequest { binary };
            let reply: UpgradeReply = edge.post("/v1/upgrade", &request, UPGRADE_DEADLINE).await?;
            say(cli, &reply, || {
                format!(
                    "process {} serves now; the old one serves what it has",
                    reply.pid
                )
            })
        }
        EdgeVerb::Drain { notice, deadline } => {
            let request = DrainRequest {
                notice_ms: millis(notice),
                deadline_ms: deadline.map(millis),
            };
            let () = edge.post("/v1/drain", &request, DEADLINE).await?;
            say(cli, &request, || {
                "it accepts no more, and stops once nothing is in flight".to_owned()
            })
        }
        EdgeVerb::Reload => {
            let reply: ReloadReply = edge.post("/v1/reload", &(), UPGRADE_DEADLINE).await?;
            say(cli, &reply, || reloaded(&reply))
        }
        EdgeVerb::Certificate(args) => certificate::run(cli, args).await,
        EdgeVerb::Authority(args) => certificate::authorities(cli, args).await,
        EdgeVerb::Tickets(args) => certificate::tickets(cli, args).await,
        EdgeVerb::Log { filter } => {
            let now: LogFilter = match filter {
                Some(filter) => edge.put("/v1/log", &LogFilter { filter }, DEADLINE).await?,
                None => edge.get("/v1/log", DEADLINE).await?,
            };
            say(cli, &now, || now.filter.clone())
        }
    }
}

fn say<T: serde::Serialize>(
    cli: &Cli<'_>,
    value: &T,
    text: impl FnOnce() -> String,
) -> Result<Verdict, Failure> {
    if cli.out.json {
        cli.out.json(value)?;
    } else {
        cli.out.line(&text())?;
    }
    Ok(Verdict::Done)
}

fn reloaded(reply: &ReloadReply) -> String {
    let mut lines = reply.changes.clone();
    let later = reply.later.iter();
    lines.extend(later.map(|change| format!("{change} (counts after an upgrade)")));
    if lines.is_empty() {
        lines.push("nothing has changed".to_owned());
    }
    lines.join("\n")
}

async fn list(cli: &Cli<'_>) -> Result<Verdict, Failure> {
    let status: ClusterStatus = cli.control.get("/v2/status", DEADLINE).await?;
    if cli.out.json {
        cli.out.json(&status.edges)?;
        return Ok(Verdict::Done);
    }
    let now = now_ms();
    let rows = status.edges.iter().map(|edge| {
        let generation = match &edge.generation {
            Ok(generation) => generation.to_string(),
            Err(error) => format!("unreachable ({})", error.code),
        };
        let seen = human::age(now, edge.observed_ms);
        vec![edge.name.to_string(), edge.admin.clone(), generation, seen]
    });
    let header = ["EDGE", "ADMIN", "GENERATION", "SEEN"];
    cli.out.text(&cli.out.table(&header, rows.collect()))?;
    Ok(Verdict::Done)
}

async fn show(cli: &Cli<'_>, edge: &Client) -> Result<Verdict, Failure> {
    let status: EdgeStatus = edge.get("/v1/status", DEADLINE).await?;
    if cli.out.json {
        cli.out.json(&status)?;
    } else {
        cli.out.text(&details(cli.out, &status))?;
    }
    Ok(Verdict::Done)
}

fn details(out: &Output, status: &EdgeStatus) -> String {
    let state = match status.draining {
        true => "draining",
        false => "serving",
    };
    let mut lines = vec![
        ("state", state.to_owned()),
        (
            "process",
            format!(
                "{}, version {}, up {}, {} workers",
                status.pid,
                status.version,
                human::setting_ms(status.uptime_s.saturating_mul(1_000)),
                status.workers
            ),
        ),
        (
            "routes",
            format!(
                "{} in generation {}",
                human::count(status.routes),
                status.generation
            ),
        ),
        (
            "sessions",
            format!(
                "{}, {} parked",
                human::count(status.sessions),
                human::count(status.parked)
            ),
        ),
    ];
    for listener in &status.listeners {
        let kind = match listener.kind {
            ListenerKind::Tcp => "tcp",
            ListenerKind::Http => "http",
            ListenerKind::Https => "https",
            ListenerKind::Link => "link",
        };
        lines.push(("listens", format!("{kind} at {}", listener.address)));
    }
    for before in &status.predecessors {
        let text = format!(
            "process {} still serves {} sessions, {} parked",
            before.pid,
            human::count(before.sessions),
            human::count(before.parked)
        );
        lines.push(("before", text));
    }
    let mut text = format!("{}\n", out.paint(Paint::Strong, status.name.as_str()));
    for (name, value) in lines {
        let name = out.paint(Paint::Faint, &format!("{name:<9}"));
        text.push_str(&format!("  {name} {value}\n"));
    }
    text
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
