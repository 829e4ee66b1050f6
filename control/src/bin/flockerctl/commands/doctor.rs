//! `doctor`: what is wrong with nodes, and what to do.

use flocker_api::{
    control::ClusterStatus,
    doctor::{Diagnosis, Finding, Level},
};
use futures_util::future::try_join_all;

use super::{Cli, DEADLINE};
use crate::{
    args_nodes::Doctor,
    failure::{Failure, Verdict},
    human,
    output::{Output, Paint},
};

/// `flockerctl doctor`
pub(crate) async fn run(cli: &Cli<'_>, args: &Doctor) -> Result<Verdict, Failure> {
    let nodes = if args.nodes.is_empty() {
        let status: ClusterStatus = cli.control.get("/v2/status", DEADLINE).await?;
        status.nodes.into_iter().map(|node| node.name).collect()
    } else {
        args.nodes.clone()
    };
    let ask = nodes.iter().map(|node| async move {
        let path = format!("/v2/nodes/{node}/doctor");
        cli.control.get::<Diagnosis>(&path, DEADLINE * 4).await
    });
    let diagnoses = try_join_all(ask).await?;
    if cli.out.json {
        cli.out.json(&diagnoses)?;
    } else {
        for diagnosis in &diagnoses {
            cli.out.text(&text(cli.out, diagnosis, args.quiet))?;
        }
    }
    let broken = diagnoses.iter().any(|one| one.level() == Level::Fail);
    Ok(if broken {
        Verdict::Failed
    } else {
        Verdict::Done
    })
}

fn text(out: &Output, diagnosis: &Diagnosis, quiet: bool) -> String {
    let bad = |finding: &&Finding| finding.level != Level::Ok;
    let count = diagnosis.findings.iter().filter(bad).count();
    let summary = match count {
        0 => "all is well".to_owned(),
        _ => human::plural(count, "finding"),
    };
    let node = out.paint(Paint::Strong, diagnosis.node.as_str());
    let mut text = format!("{node}: {summary}\n");
    for finding in diagnosis.findings.iter().filter(|one| !quiet || bad(one)) {
        let paint = match finding.level {
            Level::Ok => Paint::Good,
            Level::Warn => Paint::Notice,
            Level::Fail => Paint::Bad,
        };
        let level = out.paint(paint, &format!("{:<4}", finding.level));
        text.push_str(&format!(
            "  {level}  {:<13} {}\n",
            finding.check, finding.found
        ));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!("{:22}-> {remedy}\n", ""));
        }
    }
    text
}
