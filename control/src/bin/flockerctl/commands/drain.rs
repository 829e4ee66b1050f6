//! `node drain`, `node cordon`, `node uncordon`.
#![expect(clippy::disallowed_methods, reason = "waits have a limit")]

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use flocker_api::{
    ErrorCode,
    drain::{Cordon, DrainNode, DrainState, DrainStatus, DrainedApp, DrainedState},
    name::{AppName, NodeName},
};
use serde_json::{Value, json};

use super::{Cli, DEADLINE};
use crate::{
    args_nodes::Drain,
    failure::{Failure, Verdict},
    human,
    output::{Output, Paint},
};

/// How long control may keep one question.
const LONG_POLL: Duration = Duration::from_secs(10);
/// Before another question while control does not answer.
const PAUSE: Duration = Duration::from_millis(300);

/// `flockerctl node cordon` and `uncordon`
pub(crate) async fn cordon(
    cli: &Cli<'_>,
    node: &NodeName,
    cordoned: bool,
) -> Result<Verdict, Failure> {
    let path = format!("/v2/nodes/{node}/cordon");
    let answer: Value = cli
        .control
        .put(&path, &Cordon { cordoned }, DEADLINE)
        .await?;
    if cli.out.json {
        cli.out.json(&answer)?;
    } else if cordoned {
        cli.out.line(&format!(
            "node {node} gets no more apps; those that it has stay"
        ))?;
    } else {
        cli.out.line(&format!("node {node} may get apps"))?;
    }
    Ok(Verdict::Done)
}

/// `flockerctl node drain`
pub(crate) async fn run(cli: &Cli<'_>, args: Drain) -> Result<Verdict, Failure> {
    let drain = Draining {
        cli,
        request: DrainNode {
            concurrency: usize::try_from(args.concurrency).unwrap_or(1),
            to: args.to,
        },
        node: args.node,
    };
    let status = match args.abort {
        true => drain.abort().await?,
        false => drain.begin().await?,
    };
    if args.wait.no_wait {
        return show_end(cli.out, &status, args.abort);
    }
    let deadline = Instant::now() + args.wait.timeout;
    let mut shown = Shown::new(cli.out);
    let followed = tokio::select! {
        followed = drain.follow(&mut shown, status, deadline) => followed?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            cli.out.remark("aborting: moves before their pivot are undone, the others end");
            let status = drain.abort().await?;
            drain.follow(&mut shown, status, deadline).await?
        }
    };
    match followed {
        Some(status) => show_end(cli.out, &status, args.abort),
        None => {
            cli.out.remark(&format!(
                "the drain goes on; follow it with: flockerctl node drain {0}, give it up with: \
                 flockerctl node drain {0} --abort",
                drain.node
            ));
            Ok(Verdict::Failed)
        }
    }
}

struct Draining<'c, 'o> {
    cli: &'c Cli<'o>,
    node: NodeName,
    request: DrainNode,
}

impl Draining<'_, '_> {
    async fn begin(&self) -> Result<DrainStatus, Failure> {
        let path = format!("/v2/nodes/{}/drain", self.node);
        Ok(self
            .cli
            .control
            .post(&path, &self.request, DEADLINE)
            .await?)
    }

    async fn abort(&self) -> Result<DrainStatus, Failure> {
        let path = format!("/v2/nodes/{}/drain/abort", self.node);
        Ok(self.cli.control.post(&path, &json!({}), DEADLINE).await?)
    }

    /// The drain as it ended; `None` when it has not in time.
    async fn follow(
        &self,
        shown: &mut Shown<'_>,
        mut status: DrainStatus,
        deadline: Instant,
    ) -> Result<Option<DrainStatus>, Failure> {
        loop {
            shown.update(&status)?;
            if status.ended_ms.is_some() {
                return Ok(Some(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let wait = left.min(LONG_POLL);
            let (after, wait_ms) = (status.revision, wait.as_millis());
            let path = format!(
                "/v2/nodes/{}/drain?after={after}&wait_ms={wait_ms}",
                self.node
            );
            match self.cli.control.get(&path, wait + DEADLINE).await {
                Ok(next) => status = next,
                // Control was restarted and has forgotten it: the moves went on, the rest follows.
                Err(error) if error.code == ErrorCode::NotFound => status = self.begin().await?,
                Err(error) if error.code.is_transient() => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What was said of each app so far.
struct Shown<'o> {
    out: &'o Output,
    said: BTreeMap<AppName, DrainedState>,
    begun: bool,
}

impl<'o> Shown<'o> {
    fn new(out: &'o Output) -> Self {
        Self {
            out,
            said: BTreeMap::new(),
            begun: false,
        }
    }

    /// A line for each app that has come further.
    fn update(&mut self, status: &DrainStatus) -> io::Result<()> {
        if self.out.json {
            return Ok(());
        }
        if !self.begun {
            self.begun = true;
            let count = human::plural(status.apps.len(), "app");
            let node = self.out.paint(Paint::Strong, status.node.as_str());
            self.out
                .line(&format!("node {node} is cordoned; {count} to move"))?;
        }
        for one in &status.apps {
            let news = self.said.insert(one.app.clone(), one.state) != Some(one.state);
            if news && one.state != DrainedState::Waiting {
                let ended = status.apps.iter().filter(|one| has_ended(one)).count();
                let count = format!("[{ended}/{}]", status.apps.len());
                self.out
                    .line(&format!("  {count:>9} {}", line(self.out, one)))?;
            }
        }
        Ok(())
    }
}

fn has_ended(one: &DrainedApp) -> bool {
    matches!(one.state, DrainedState::Moved | DrainedState::Stays)
}

fn line(out: &Output, one: &DrainedApp) -> String {
    let to = one.to.as_ref().map_or("another node", |to| to.as_str());
    match one.state {
        DrainedState::Waiting => format!("{} waits", one.app),
        DrainedState::Moving => format!("{} moves to {to}", one.app),
        DrainedState::Moved => {
            let took = one
                .took_ms
                .map(|took| format!(" in {}", human::whole_ms(took)));
            let pause = one
                .pause_ms
                .map(|pause| format!(", paused {}", human::ms(pause)));
            let good = out.paint(Paint::Good, "is on");
            let (took, pause) = (took.unwrap_or_default(), pause.unwrap_or_default());
            format!("{} {good} {to}{took}{pause}", one.app)
        }
        DrainedState::Stays => {
            let reason = one.reason.as_deref().unwrap_or("no reason was given");
            format!("{} {}: {reason}", one.app, out.paint(Paint::Bad, "stays"))
        }
    }
}

fn show_end(out: &Output, status: &DrainStatus, aborted: bool) -> Result<Verdict, Failure> {
    if out.json {
        out.json(status)?;
    } else if let Some(ended_ms) = status.ended_ms {
        let took = human::whole_ms(ended_ms.saturating_sub(status.started_ms));
        let left = status
            .apps
            .iter()
            .filter(|one| one.state != DrainedState::Moved);
        let text = match left.count() {
            0 => format!("no app is left on node {} (after {took})", status.node),
            left => format!(
                "{} left on node {}",
                human::plural(left, "app"),
                status.node
            ),
        };
        out.line(&text)?;
    }
    let running = status.ended_ms.is_none();
    Ok(
        match status.state == DrainState::Done || running || aborted {
            true => Verdict::Done,
            false => Verdict::Failed,
        },
    )
}
