//! `app`: apps as control knows them.

use flocker_api::{
    app::{App, OnBusy},
    container::{ContainerSpec, ContainerState, ContainerStatus, Health, Probe, RestartPolicy},
    control::{AppPhase, AppStatus, ClusterStatus},
    name::AppName,
    replication::ReplicationPolicy,
    route::OnMove,
};
use serde_json::json;

use super::{Cli, DEADLINE, inside};
use crate::{
    args::{self, AppVerb},
    failure::{Failure, Verdict},
    human,
    output::{Output, Paint},
};

/// `flockerctl app`
pub(crate) async fn run(cli: &Cli<'_>, args: args::App) -> Result<Verdict, Failure> {
    match args.verb {
        AppVerb::Ls => list(cli).await,
        AppVerb::Show { app } => show(cli, &app).await,
        AppVerb::Logs(args) => inside::logs(cli, &args).await,
        AppVerb::Exec(args) => inside::exec(cli, args).await,
        AppVerb::Restart { app } => inside::restart(cli, &app).await,
        AppVerb::Rm { app } => remove(cli, &app).await,
    }
}

async fn list(cli: &Cli<'_>) -> Result<Verdict, Failure> {
    let status: ClusterStatus = cli.control.get("/v2/status", DEADLINE).await?;
    if cli.out.json {
        cli.out.json(&status.apps)?;
    } else if status.apps.is_empty() {
        cli.out.line("no apps")?;
    } else {
        cli.out.text(&table(cli.out, &status.apps))?;
    }
    Ok(Verdict::Done)
}

async fn show(cli: &Cli<'_>, app: &AppName) -> Result<Verdict, Failure> {
    let path = format!("/v2/apps/{app}");
    let status: AppStatus = cli.control.get(&path, DEADLINE).await?;
    if cli.out.json {
        cli.out.json(&status)?;
    } else {
        cli.out.text(&details(cli.out, &status))?;
    }
    Ok(Verdict::Done)
}

async fn remove(cli: &Cli<'_>, app: &AppName) -> Result<Verdict, Failure> {
    let path = format!("/v2/apps/{app}");
    let answer: serde_json::Value = cli.control.delete(&path, &json!({}), DEADLINE).await?;
    if cli.out.json {
        cli.out.json(&answer)?;
    } else {
        let line = format!("app {app} is being removed; its volumes are kept");
        cli.out.line(&line)?;
    }
    Ok(Verdict::Done)
}

/// The word for a phase.
pub(crate) fn phase(phase: AppPhase) -> &'static str {
    match phase {
        AppPhase::Starting => "starting",
        AppPhase::Serving => "serving",
        AppPhase::Moving => "moving",
        AppPhase::Ended => "ended",
        AppPhase::Failed => "failed",
        AppPhase::Unknown => "unknown",
    }
}

/// The table of apps; reasons stand under it, because they are sentences.
pub(crate) fn table(out: &Output, apps: &[AppStatus]) -> String {
    let rows = apps.iter().map(|status| {
        let routes = status.app.routes.iter();
        vec![
            status.app.name().to_string(),
            status.node.to_string(),
            phase(status.phase).to_owned(),
            status.epoch.to_string(),
            status.app.container.image.clone(),
            joined(routes.map(|route| route.key.to_string())),
        ]
    });
    let header = ["APP", "NODE", "STATE", "EPOCH", "IMAGE", "ROUTES"];
    let mut text = out.table(&header, rows.collect());
    for status in apps {
        if let Some(reason) = &status.reason {
            let name = out.paint(Paint::Strong, status.app.name().as_str());
            text.push_str(&format!("  {name}: {}\n", reason.replace('\n', "\n    ")));
        }
    }
    text
}

fn details(out: &Output, status: &AppStatus) -> String {
    let app = &status.app;
    let mut lines = vec![
        (
            "state",
            format!("{} on node {}", phase(status.phase), status.node),
        ),
        ("epoch", status.epoch.to_string()),
    ];
    lines.extend(status.reason.clone().map(|reason| ("reason", reason)));
    let last_move = status.last_move.map(|id| ("last move", id.to_string()));
    lines.extend(last_move);
    lines.extend(
        status
            .container
            .as_ref()
            .map(|found| ("container", life(found))),
    );
    lines.extend(container(app));
    lines.extend(routes_and_volumes(app));
    lines.push(("move", move_policy(app)));
    lines.extend(
        app.replication
            .as_ref()
            .map(|policy| ("copies", copies(policy))),
    );
    let mut text = format!("{}\n", out.paint(Paint::Strong, app.name().as_str()));
    for (name, value) in lines {
        let name = out.paint(Paint::Faint, &format!("{name:<10}"));
        text.push_str(&format!("  {name} {value}\n"));
    }
    text
}

/// What goes on with a container, in a few words.
fn life(found: &ContainerStatus) -> String {
    let mut words = match found.state {
        ContainerState::Created => "made, not started yet".to_owned(),
        ContainerState::Running => format!("runs ({})", found.runtime_id),
        ContainerState::Exited { code } => format!("exited with {code}"),
    };
    if found.restarts > 0 {
        words.push_str(&format!(
            ", started again {} by its node",
            human::plural(
                usize::try_from(found.restarts).unwrap_or(usize::MAX),
                "time"
            )
        ));
    }
    match &found.health {
        None => {}
        Some(Health::Starting) => words.push_str(", not well yet"),
        Some(Health::Well) => words.push_str(", well"),
        Some(Health::Unwell { failures, reason }) => {
            words.push_str(&format!(", unwell after {failures} checks: {reason}"));
        }
    }
    words
}

/// What is set beside image and command.
fn limits(container: &ContainerSpec) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let cpus = container.cpu_millis.map(|millis| {
        let (whole, rest) = (millis / 1000, millis % 1000);
        format!("up to {whole}.{rest:03} of one")
    });
    lines.extend(cpus.map(|cpus| ("cpus", cpus)));
    let pids = container.pids_max.map(|most| format!("up to {most}"));
    lines.extend(pids.map(|pids| ("processes", pids)));
    let restart = match container.restart {
        RestartPolicy::Always => None,
        RestartPolicy::Never => Some("never".to_owned()),
        RestartPolicy::OnFailure { retries_max: None } => Some("on failure".to_owned()),
        RestartPolicy::OnFailure {
            retries_max: Some(most),
        } => Some(format!("on failure, {most} times in a row at most")),
    };
    lines.extend(restart.map(|restart| ("restart", restart)));
    for link in &container.links {
        let to = match &link.to {
            Some(to) => format!("{} port {}", to.app, to.port),
            None => format!("route tcp:{}", link.remote_port),
        };
        let at = format!("{}:{}", link.address(&container.app), link.remote_port);
        lines.push(("link", format!("{} at {at} -> {to}", link.alias)));
    }
    lines
}

fn container(app: &App) -> Vec<(&'static str, String)> {
    let container = &app.container;
    let mut lines = vec![("image", container.image.clone())];
    let command = container.command.as_ref();
    lines.extend(command.map(|words| ("command", words.join(" "))));
    if !container.environment.is_empty() {
        // Values are often secrets.
        let names = container.environment.keys().cloned();
        lines.push(("variables", joined(names)));
    }
    let memory = container.memory_bytes.map(human::bytes);
    lines.extend(memory.map(|limit| ("memory", format!("up to {limit}"))));
    let shares = container.cpu_shares.map(|shares| shares.to_string());
    lines.extend(shares.map(|shares| ("cpu shares", shares)));
    lines.extend(limits(container));
    let stop = &container.stop;
    let grace = human::setting_ms(stop.grace_ms);
    lines.push(("stop", format!("{}, killed after {grace}", stop.signal)));
    lines.extend(
        container
            .ready
            .as_ref()
            .map(|probe| ("ready", ready(probe))),
    );
    let hook = container.pre_stop.as_ref();
    lines.extend(hook.map(|words| ("pre-stop", words.join(" "))));
    lines
}

fn ready(probe: &Probe) -> String {
    match probe {
        Probe::Tcp { port, timeout_ms } => {
            let timeout = human::setting_ms(*timeout_ms);
            format!("when port {port} takes connections, within {timeout}")
        }
        Probe::Http {
            port,
            path,
            timeout_ms,
        } => {
            let timeout = human::setting_ms(*timeout_ms);
            format!("when GET {path} at port {port} answers 2xx, within {timeout}")
        }
        Probe::Exec {
            command,
            timeout_ms,
        } => {
            let timeout = human::setting_ms(*timeout_ms);
            format!(
                "when `{}` exits with 0, within {timeout}",
                command.join(" ")
            )
        }
    }
}

fn routes_and_volumes(app: &App) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    for route in &app.routes {
        let mut line = format!("{} -> port {}", route.key, route.port);
        if route.on_move == OnMove::Wait {
            line.push_str(", a move waits for its sessions");
        }
        lines.push(("route", line));
    }
    for (index, mount) in app.container.volumes.iter().enumerate() {
        let mut line = format!("{} at {}", mount.name, mount.mountpoint.display());
        if let Some(Some(size)) = app.volume_sizes.get(index) {
            line.push_str(&format!(", up to {}", human::bytes(*size)));
        }
        line.push_str(&format!(" ({})", mount.volume));
        lines.push(("volume", line));
    }
    lines
}

fn move_policy(app: &App) -> String {
    let policy = &app.move_policy;
    let busy = match policy.on_busy {
        OnBusy::Abort => "undone if busy after that",
        OnBusy::Proceed => "goes on if busy after that",
    };
    format!(
        "up to {}, until a last delta of {}; hold {}; quiesce {}, {busy}",
        human::plural(policy.rounds_max as usize, "round"),
        human::setting_ms(policy.final_delta_ms),
        human::setting_ms(policy.hold_ms),
        human::setting_ms(policy.quiesce_ms),
    )
}

fn copies(policy: &ReplicationPolicy) -> String {
    let nodes = joined(policy.nodes.iter().map(ToString::to_string));
    let interval = human::setting_ms(policy.interval_ms);
    let mut line = format!(
        "on {nodes}, every {interval}, the last {}",
        policy.keep.last
    );
    for period in &policy.keep.grid {
        let every = human::setting_ms(period.every_ms);
        line.push_str(&format!(", one per {every} for {}", period.count));
    }
    line
}

fn joined(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(", ")
    }
}
