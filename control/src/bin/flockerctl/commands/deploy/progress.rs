//! What is seen of a deployment while it is carried out: a line for each app, until each one
//! serves where it shall and what is removed is gone.
#![expect(clippy::disallowed_methods, reason = "waits have a limit")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use flocker_api::{
    control::{
        AppPhase, AppStatus, ClusterStatus, DeployChange, DeployReply, MoveStatus, StepState,
    },
    name::{AppName, NodeName},
};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use serde_json::json;

use super::super::{Cli, DEADLINE, app::phase, live};
use crate::{
    failure::{Failure, Verdict},
    output::{Output, Paint},
};

/// How often the apps are looked at.
const POLL: Duration = Duration::from_millis(200);
/// How long an app may be failed before it is said to be: control tries again by itself, and
/// what is seen first may be from before the files were given to it.
const FAILED_MAX: Duration = Duration::from_secs(10);

/// What is awaited.
struct Wanted {
    app: AppName,
    /// Where it shall serve; `None`: it shall be gone.
    node: Option<NodeName>,
}

/// Waits until every app of the plan is as it shall be.
pub(super) async fn until_serving(
    cli: &Cli<'_>,
    reply: &DeployReply,
    timeout: Duration,
) -> Result<Verdict, Failure> {
    let serve = reply.apps.iter().map(|to| Wanted {
        app: to.app.clone(),
        node: Some(to.node.clone()),
    });
    let gone = reply.changes.iter().filter_map(|change| match change {
        DeployChange::Remove { app, .. } => Some(Wanted {
            app: app.clone(),
            node: None,
        }),
        _ => None,
    });
    let wanted: Vec<Wanted> = serve.chain(gone).collect();
    let mut wait = Waiting::new(cli.out, timeout);
    let end = tokio::select! {
        end = wait.run(cli, &wanted) => end?,
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
        let result = json!({ "version": reply.version, "changes": reply.changes, "apps": apps });
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

    async fn run(&mut self, cli: &Cli<'_>, wanted: &[Wanted]) -> Result<End, Failure> {
        let mut trouble = None;
        let mut apps = Vec::new();
        while Instant::now() < self.deadline {
            let answer: Result<ClusterStatus, _> = cli.control.get("/v2/status", DEADLINE).await;
            match answer {
                Ok(status) => {
                    trouble = None;
                    let all = self.look(cli, wanted, &status).await?;
                    let ours = |app: &AppStatus| wanted.iter().any(|w| w.app == *app.app.name());
                    apps = status.apps.into_iter().filter(ours).collect();
                    if all {
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

    /// Shows what is new; answers whether all is as it shall be.
    async fn look(
        &mut self,
        cli: &Cli<'_>,
        wanted: &[Wanted],
        cluster: &ClusterStatus,
    ) -> Result<bool, Failure> {
        let mut all = true;
        for wish in wanted {
            let status = cluster.apps.iter().find(|app| *app.app.name() == wish.app);
            let (good, failed, mut text) = describe(wish, status);
            if let Some(status) = status.filter(|_| !good) {
                text.push_str(&moving(cli, status).await);
            }
            if failed {
                text.push_str(&advice(cluster, &wish.app));
            }
            all &= good;
            self.line(&wish.app, good, failed, text)?;
        }
        Ok(all)
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

/// Whether an app is as it shall be, whether it has failed, and what to say of it.
fn describe(wish: &Wanted, status: Option<&AppStatus>) -> (bool, bool, String) {
    let name = &wish.app;
    let (status, node) = match (status, &wish.node) {
        (None, None) => return (true, false, format!("{name} is removed")),
        (None, Some(_)) => return (false, false, format!("{name} is not known to control yet")),
        (Some(status), None) => {
            let reason = status.reason.as_deref().unwrap_or_default();
            let text = format!("{name} is being removed from {} {reason}", status.node);
            return (false, false, text.trim_end().to_owned());
        }
        (Some(status), Some(node)) => (status, node),
    };
    let serves = status.phase == AppPhase::Serving && status.node == *node;
    let failed = matches!(status.phase, AppPhase::Failed | AppPhase::Unknown);
    let mut text = format!("{name} {} on {}", phase(status.phase), status.node);
    if let Some(reason) = &status.reason {
        text.push_str(": ");
        text.push_str(reason);
    }
    (serves, failed, text)
}

/// The step that the app's move is at.
async fn moving(cli: &Cli<'_>, status: &AppStatus) -> String {
    let Some(id) = status
        .last_move
        .filter(|_| status.phase == AppPhase::Moving)
    else {
        return String::new();
    };
    let path = format!("/v2/moves/{id}");
    let Ok(the_move) = cli.control.get::<MoveStatus>(&path, DEADLINE).await else {
        // It is only said less.
        return String::new();
    };
    let steps = the_move.steps.iter().zip(1..);
    let running = steps
        .filter(|(step, _)| step.state == StepState::Running)
        .map(|(step, number)| {
            let count = the_move.steps.len();
            let detail = match step.detail.as_str() {
                "" => String::new(),
                detail => format!(": {detail}"),
            };
            format!(
                " to {}, step {number} of {count}, {}{detail}",
                the_move.to,
                step.step.name()
            )
        });
    running.last().unwrap_or_default()
}

/// What control says to do about an app.
fn advice(cluster: &ClusterStatus, app: &AppName) -> String {
    let subject = format!("app {app}");
    let problem = cluster
        .problems
        .iter()
        .find(|problem| problem.subject == subject);
    problem.map_or_else(String::new, |problem| format!("; {}", problem.next))
}
