//! What each verb asks, and how its answer is shown.

pub(crate) mod app;
pub(crate) mod deploy;
pub(crate) mod live;
pub(crate) mod moves;
pub(crate) mod node;
pub(crate) mod route;
pub(crate) mod status;
pub(crate) mod switch;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::CommandFactory;
use flocker_api::client::{Client, Endpoint};

use crate::{
    args::{Args, Global},
    edges::Edges,
    failure::{Failure, Verdict},
    output::Output,
};

/// Longest wait for an answer that should come at once.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);

/// Whom to ask and how to show the answer.
pub(crate) struct Cli<'o> {
    pub(crate) control: Client,
    pub(crate) edge: Option<Endpoint>,
    pub(crate) out: &'o Output,
}

impl<'o> Cli<'o> {
    /// Clients of what the arguments name.
    pub(crate) fn new(global: &Global, out: &'o Output) -> Self {
        Self {
            control: Client::new(global.control.clone(), "control"),
            edge: global.edge.clone(),
            out,
        }
    }

    /// `--edge ENDPOINT ` for a command that shall reach the same edge.
    pub(crate) fn edge_argument(&self) -> String {
        let argument = self.edge.as_ref();
        argument.map_or_else(String::new, |endpoint| format!("--edge {endpoint} "))
    }

    /// The edges that route verbs are for.
    pub(crate) async fn edges(&self) -> Edges {
        match &self.edge {
            Some(endpoint) => Edges::one(Client::new(endpoint.clone(), "edge")).await,
            None => Edges::All(self.control.clone()),
        }
    }
}

/// Prints a completion script.
pub(crate) fn completions(cli: &Cli<'_>, shell: clap_complete::Shell) -> Result<Verdict, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "flockerctl", &mut script);
    cli.out.text(&String::from_utf8_lossy(&script))?;
    Ok(Verdict::Done)
}

/// Unix time in ms.
#[expect(clippy::disallowed_methods, reason = "ages are shown relative to now")]
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
