//! `volume jobs`, and the progress of whatever became a job.

use std::time::Duration;

use flocker_api::{
    ErrorBody, ErrorCode,
    work::{JobProgress, JobState, JobStatus, NodeJob, OnNode},
};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Cli, DEADLINE, now_ms};
use crate::{
    args_volume::JobsVerb,
    failure::{Failure, Verdict},
    human,
    output::Output,
};

/// Between two looks at a job that runs, in ms.
const LOOK_MS: u64 = 500;

/// `flockerctl volume jobs`
pub(crate) async fn run(cli: &Cli<'_>, verb: Option<&JobsVerb>) -> Result<Verdict, Failure> {
    match verb {
        None | Some(JobsVerb::Ls) => list(cli).await,
        Some(JobsVerb::Show { id }) => {
            let job = find(cli, id).await?;
            let job = ended(cli, job).await?;
            show(cli.out, &job)?;
            Ok(verdict(&job.job))
        }
        Some(JobsVerb::Cancel { id }) => {
            let job = find(cli, id).await?;
            let path = format!("/v2/nodes/{}/jobs/{}", job.node, job.job.id);
            let job: NodeJob = cli.control.delete(&path, &(), DEADLINE).await?;
            show(cli.out, &job)?;
            Ok(Verdict::Done)
        }
    }
}

fn verdict(job: &JobStatus) -> Verdict {
    match job.state {
        JobState::Running | JobState::Done => Verdict::Done,
        JobState::Failed | JobState::Cancelled => Verdict::Failed,
    }
}

async fn all(cli: &Cli<'_>) -> Result<(Vec<NodeJob>, Vec<String>), Failure> {
    let nodes: Vec<OnNode<Vec<JobStatus>>> = cli.control.get("/v2/jobs", DEADLINE).await?;
    let (mut jobs, mut silent) = (Vec::new(), Vec::new());
    for OnNode { node, result } in nodes {
        match result {
            Ok(of_node) => jobs.extend(of_node.into_iter().map(|job| NodeJob {
                node: node.clone(),
                job,
            })),
            Err(error) => silent.push(format!("node {node}: {error}")),
        }
    }
    jobs.sort_by_key(|job| std::cmp::Reverse(job.job.started_ms));
    Ok((jobs, silent))
}

async fn list(cli: &Cli<'_>) -> Result<Verdict, Failure> {
    let (jobs, silent) = all(cli).await?;
    if cli.out.json {
        cli.out.json(&jobs)?;
    } else {
        cli.out.text(&table(cli.out, &jobs))?;
    }
    for line in &silent {
        cli.out.remark(line);
    }
    Ok(if silent.is_empty() {
        Verdict::Done
    } else {
        Verdict::Failed
    })
}

fn table(out: &Output, jobs: &[NodeJob]) -> String {
    let now_ms = now_ms();
    let rows = jobs.iter().map(|NodeJob { node, job }| {
        let id = job.id.to_string();
        vec![
            id.split('-').next().unwrap_or_default().to_owned(),
            node.to_string(),
            job.verb.clone(),
            job.name
                .as_ref()
                .map_or_else(|| job.volume.to_string(), ToString::to_string),
            word(job.state).to_owned(),
            human::age(now_ms, job.started_ms),
            human::whole_ms(job.elapsed_ms),
            job.by.clone(),
            how(job),
        ]
    });
    let header = [
        "JOB", "NODE", "VERB", "VOLUME", "STATE", "AGO", "TOOK", "BY", "",
    ];
    out.table(&header, rows.collect())
}

fn word(state: JobState) -> &'static str {
    match state {
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

fn how(job: &JobStatus) -> String {
    match (&job.error, &job.progress) {
        (Some(error), _) => error.message.clone(),
        (None, Some(progress)) => moved(progress),
        (None, None) => String::new(),
    }
}

/// `12.0 MiB of 64.0 MiB, 3.1 MiB/s, 17s left`
fn moved(progress: &JobProgress) -> String {
    let mut text = human::bytes(progress.bytes);
    if let Some(expected) = progress.bytes_expected {
        text.push_str(&format!(" of {}", human::bytes(expected)));
    }
    if progress.bytes_per_second > 0 {
        text.push_str(&format!(", {}/s", human::bytes(progress.bytes_per_second)));
    }
    if let Some(eta) = progress.eta_ms {
        text.push_str(&format!(", {} left", human::age(eta, 0)));
    }
    text
}

async fn find(cli: &Cli<'_>, id: &str) -> Result<NodeJob, Failure> {
    let (jobs, _) = all(cli).await?;
    let mut matching = jobs
        .into_iter()
        .filter(|job| job.job.id.to_string().starts_with(id));
    match (matching.next(), matching.next()) {
        (Some(job), None) => Ok(job),
        (None, _) => {
            let message = format!("there is no job '{id}'; see 'flockerctl volume jobs'");
            Err(ErrorBody::new(ErrorCode::NotFound, message).into())
        }
        (Some(_), Some(_)) => Err(Failure::Usage(format!("several jobs begin with '{id}'"))),
    }
}

fn show(out: &Output, job: &NodeJob) -> Result<(), Failure> {
    if out.json {
        out.json(job)?;
    } else {
        out.text(&table(out, std::slice::from_ref(job)))?;
    }
    Ok(())
}

/// Follows a job until it has ended; what fails is an error.
pub(crate) async fn finish(cli: &Cli<'_>, job: NodeJob) -> Result<NodeJob, Failure> {
    let job = ended(cli, job).await?;
    match &job.job.error {
        Some(error) => Err(error.clone().into()),
        None => Ok(job),
    }
}

async fn ended(cli: &Cli<'_>, mut job: NodeJob) -> Result<NodeJob, Failure> {
    let mut bar = None;
    while job.job.state == JobState::Running {
        if !cli.out.json {
            let bar = bar.get_or_insert_with(|| bar_of(&job.job));
            update(bar, &job.job);
        }
        let (node, id) = (&job.node, job.job.id);
        let path = format!("/v2/nodes/{node}/jobs/{id}?wait_ms={LOOK_MS}");
        let deadline = DEADLINE + Duration::from_millis(LOOK_MS);
        job = cli.control.get(&path, deadline).await?;
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(job)
}

/// A bar on stderr, where that is a terminal.
pub(crate) fn bar_of(job: &JobStatus) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{spinner} {prefix} {wide_bar} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(job.verb.clone());
    bar
}

pub(crate) fn update(bar: &ProgressBar, job: &JobStatus) {
    if let Some(progress) = &job.progress {
        bar.set_length(progress.bytes_expected.unwrap_or_default());
        bar.set_position(progress.bytes);
        bar.set_message(moved(progress));
    }
    bar.tick();
}
