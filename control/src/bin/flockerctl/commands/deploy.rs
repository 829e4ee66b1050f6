//! `deploy`: the plan as a list of changes, then progress until every app serves.
#![expect(clippy::disallowed_methods, reason = "waits have a limit")]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use flocker_api::{
    ErrorBody, ErrorCode,
    app::{Deployment, Placement},
    control::{
        AppPhase, AppStatus, ClusterStatus, DeployChange, DeployReply, DeployRequest, SourceFile,
    },
    name::AppName,
};
use flocker_control::formats;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use serde_json::json;

use super::{Cli, DEADLINE, app::phase, live};
use crate::{
    args,
    failure::{Failure, Verdict},
    human,
    output::{Output, Paint},
};

/// How often the apps are looked at.
const POLL: Duration = Duration::from_millis(200);
/// How long an app may be failed before it is said to be: control tries again by itself, and
/// what is seen first may be from before the files were given to it.
const FAILED_MAX: Duration = Duration::from_secs(10);

/// `flockerctl deploy`
pub(crate) async fn run(cli: &Cli<'_>, args: &args::Deploy) -> Result<Verdict, Failure> {
    let files = read(&args.files)?;
    let deployment = formats::parse(&files)
        .map_err(|errors| Failure::Files(errors.iter().map(ToString::to_string).collect()))?;
    let request = DeployRequest {
        files,
        dry_run: args.dry_run,
    };
    let reply: Result<DeployReply, ErrorBody> =
        cli.control.post("/v2/deploy", &request, DEADLINE).await;
    let reply = reply.map_err(|error| match error.code {
        // What only control can know of the files, such as which nodes there are.
        ErrorCode::InvalidRequest => {
            Failure::Files(error.message.lines().map(str::to_owned).collect())
        }
        _ => error.into(),
    })?;
    let wait = !(args.dry_run || args.wait.no_wait);
    if !cli.out.json {
        cli.out.text(&plan(cli.out, &reply, args.dry_run))?;
    } else if !wait {
        cli.out.json(&reply)?;
    }
    if !wait {
        return Ok(Verdict::Done);
    }
    until_serving(cli, &deployment, &reply, args.wait.timeout).await
}

fn read(paths: &[PathBuf]) -> Result<Vec<SourceFile>, Failure> {
    let (mut files, mut errors) = (Vec::new(), Vec::new());
    for path in paths {
        match std::fs::read_to_string(path) {
            Ok(text) => files.push(SourceFile {
                name: path.display().to_string(),
                text,
            }),
            Err(error) => errors.push(format!("cannot read {}: {error}", path.display())),
        }
    }
    if errors.is_empty() {
        Ok(files)
    } else {
        Err(Failure::Files(errors))
    }
}

/// The changes, like a diff.
fn plan(out: &Output, reply: &DeployReply, dry_run: bool) -> String {
    let mut text = String::new();
    for change in &reply.changes {
        let line = match change {
            DeployChange::Create { app, node } => {
                out.paint(Paint::Good, &format!("+ {app}: new, on {node}"))
            }
            DeployChange::Change { app } => {
                let line = format!("~ {app}: changed, its container is made anew");
                out.paint(Paint::Notice, &line)
            }
            DeployChange::Move { app, from, to } => out.paint(
                Paint::Notice,
                &format!("> {app}: moves from {from} to {to}"),
            ),
        };
        text.push_str(&line);
        text.push('\n');
    }
    let count = reply.changes.len();
    match (count, dry_run) {
        (0, _) => text.push_str("nothing changes: everything is declared so already\n"),
        (_, true) => {
            let count = human::plural(count, "change");
            text.push_str(&format!("{count}; nothing is done, because of --dry-run\n"));
        }
        (_, false) => {}
    }
    text
}

/// Waits until every app of the files serves where it shall.
async fn until_serving(
    cli: &Cli<'_>,
    deployment: &Deployment,
    reply: &DeployReply,
    timeout: Duration,
) -> Result<Verdict, Failure> {
    let mut wait = Waiting::new(cli.out, timeout);
    let end = tokio::select! {
        end = wait.run(cli, &deployment.apps) => end?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            End::Late(Vec::new())
        }
    };
    let (verdict, apps) = match end {
        End::Serving(apps) => (Verdict::Done, apps),
        End::Failed(apps) | End::Late(apps) => (Verdict::Failed, apps),
    };
    if cli.out.json {
        let result = json!({ "changes": reply.changes, "apps": apps });
        cli.out.json(&result)?;
    } else if verdict == Verdict::Failed {
        let hint = "not all apps serve; control goes on trying: flockerctl status";
        cli.out.remark(hint);
    }
    Ok(verdict)
}

enum End {
    Serving(Vec<AppStatus>),
    Failed(Vec<AppStatus>),
    Late(Vec<AppStatus>),
}

struct Waiting<'o> {
    out: &'o Output,
    deadline: Instant,
    bars: Option<MultiProgress>,
    lines: BTreeMap<AppName, Line>,
}

struct Line {
    said: String,
    bar: Option<ProgressBar>,
    failed_since: Option<Instant>,
}

impl<'o> Waiting<'o> {
    fn new(out: &'o Output, timeout: Duration) -> Self {
        let target = || MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(20));
        Self {
            out,
            deadline: Instant::now() + timeout,
            bars: out.live.then(target),
            lines: BTreeMap::new(),
        }
    }

    async fn run(&mut self, cli: &Cli<'_>, wanted: &[Placement]) -> Result<End, Failure> {
        let mut trouble = None;
        let mut apps = Vec::new();
        while Instant::now() < self.deadline {
            let answer: Result<ClusterStatus, _> = cli.control.get("/v2/status", DEADLINE).await;
            match answer {
                Ok(status) => {
                    let ours =
                        |app: &AppStatus| wanted.iter().any(|w| w.app.name() == app.app.name());
                    apps = status.apps.into_iter().filter(ours).collect();
                    trouble = None;
                    if self.look(wanted, &apps)? {
                        return Ok(End::Serving(apps));
                    }
                    if self.has_failed() {
                        return Ok(End::Failed(apps));
                    }
                }
                Err(error) if error.code.is_transient() => {
                    if trouble.as_ref() != Some(&error.message) {
                        self.say(&format!("  ... {}; asking again", error.message))?;
                        trouble = Some(error.message);
                    }
                }
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(End::Late(apps))
    }

    /// Shows what is new; answers whether all serve.
    fn look(&mut self, wanted: &[Placement], apps: &[AppStatus]) -> Result<bool, Failure> {
        let mut all_serve = true;
        for placement in wanted {
            let name = placement.app.name();
            let status = apps.iter().find(|status| status.app.name() == name);
            let (serves, failed, text) = describe(placement, status);
            all_serve &= serves;
            self.line(name, serves, failed, text)?;
        }
        Ok(all_serve)
    }

    fn line(
        &mut self,
        name: &AppName,
        serves: bool,
        failed: bool,
        text: String,
    ) -> Result<(), Failure> {
        let bars = &self.bars;
        let line = self.lines.entry(name.clone()).or_insert_with(|| Line {
            said: String::new(),
            bar: bars.as_ref().map(|bars| {
                let bar = bars.add(live::spinner());
                bar.enable_steady_tick(Duration::from_millis(100));
                bar
            }),
            failed_since: None,
        });
        line.failed_since = failed.then(|| line.failed_since.unwrap_or_else(Instant::now));
        if line.said == text {
            return Ok(());
        }
        let (mark, paint) = match (serves, failed) {
            (true, _) => ("\u{2713}", Paint::Good),
            (false, true) => ("\u{2717}", Paint::Bad),
            (false, false) => ("\u{b7}", Paint::Notice),
        };
        let marked = format!("  {} {text}", self.out.paint(paint, mark));
        match &line.bar {
            Some(bar) if serves => {
                bar.set_style(live::plain());
                bar.finish_with_message(marked);
            }
            Some(bar) => bar.set_message(text.clone()),
            None if self.out.json => {}
            None => self.out.line(&marked)?,
        }
        line.said = text;
        Ok(())
    }

    fn has_failed(&self) -> bool {
        self.lines
            .values()
            .filter_map(|line| line.failed_since)
            .any(|since| since.elapsed() > FAILED_MAX)
    }

    fn say(&self, text: &str) -> std::io::Result<()> {
        match &self.bars {
            Some(bars) => bars.println(text),
            None if self.out.json => Ok(()),
            None => self.out.line(text),
        }
    }
}

/// Whether an app serves as declared, whether it has failed, and what to say of it.
fn describe(placement: &Placement, status: Option<&AppStatus>) -> (bool, bool, String) {
    let name = placement.app.name();
    let Some(status) = status else {
        return (false, false, format!("{name} is not known to control yet"));
    };
    let serves = status.phase == AppPhase::Serving && status.node == placement.node;
    let failed = matches!(status.phase, AppPhase::Failed | AppPhase::Unknown);
    let mut text = format!("{name} {} on {}", phase(status.phase), status.node);
    if let Some(reason) = &status.reason {
        text.push_str(": ");
        text.push_str(reason);
    }
    (serves, failed, text)
}
