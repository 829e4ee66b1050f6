//! `status`: the cluster on one screen.

use flocker_api::control::{AppStatus, ClusterStatus, EdgeSummary, Problem};

use super::{Cli, DEADLINE, app, node, now_ms};
use crate::{
    args,
    failure::{Failure, Verdict},
    human,
    output::{Output, Paint},
};

/// `flockerctl status`
pub(crate) async fn run(cli: &Cli<'_>, args: &args::Status) -> Result<Verdict, Failure> {
    let status: ClusterStatus = cli.control.get("/v2/status", DEADLINE).await?;
    if cli.out.json {
        cli.out.json(&status)?;
    } else {
        cli.out.text(&screen(cli.out, &status, now_ms()))?;
    }
    let failed = args.check && !status.problems.is_empty();
    Ok(if failed {
        Verdict::Failed
    } else {
        Verdict::Done
    })
}

fn screen(out: &Output, status: &ClusterStatus, now_ms: u64) -> String {
    let mut text = headline(out, status);
    for problem in &status.problems {
        text.push_str(&describe(out, problem, now_ms));
    }
    text.push('\n');
    text.push_str(&node::table(out, status, now_ms));
    text.push('\n');
    text.push_str(&edges(out, &status.edges, now_ms));
    text.push('\n');
    if status.apps.is_empty() {
        text.push_str("no apps yet: flockerctl deploy application.yml deployment.yml\n");
    } else {
        text.push_str(&app::table(out, &status.apps));
    }
    text
}

fn headline(out: &Output, status: &ClusterStatus) -> String {
    let parts = format!(
        "{}, {}, {}; control {}",
        human::plural(status.nodes.len(), "node"),
        human::plural(status.edges.len(), "edge"),
        apps(&status.apps),
        status.version
    );
    if status.problems.is_empty() {
        let well = out.paint(Paint::Good, "all is well");
        return format!("{well}: {parts}\n");
    }
    let count = human::plural(status.problems.len(), "problem");
    format!("{}: {parts}\n", out.paint(Paint::Bad, &count))
}

fn apps(apps: &[AppStatus]) -> String {
    human::plural(apps.len(), "app")
}

fn describe(out: &Output, problem: &Problem, now_ms: u64) -> String {
    let subject = out.paint(Paint::Strong, &problem.subject);
    let age = human::age(now_ms, problem.since_ms);
    let message = problem.message.replace('\n', "\n    ");
    let next = problem.next.replace('\n', "\n    ");
    format!("\n  {subject}, for {age}\n    {message}\n    next: {next}\n")
}

fn edges(out: &Output, edges: &[EdgeSummary], now_ms: u64) -> String {
    let rows = edges.iter().map(|edge| {
        let generation = match &edge.generation {
            Ok(generation) => generation.to_string(),
            Err(error) => format!("unreachable ({})", error.code),
        };
        vec![
            edge.name.to_string(),
            edge.admin.clone(),
            generation,
            human::age(now_ms, edge.observed_ms),
        ]
    });
    out.table(&["EDGE", "ADMIN", "GENERATION", "SEEN"], rows.collect())
}
