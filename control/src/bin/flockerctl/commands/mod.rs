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
use flocker_api::client::Client;

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
    pub(crate) edges: Edges,
    pub(crate) out: &'o Output,
}

impl<'o> Cli<'o> {
    /// Clients of what the arguments name.
    pub(crate) fn new(global: &Global, out: &'o Output) -> Self {
        let control = Client::new(global.control.clone(), "control");
        let edges = match &global.edge {
            Some(endpoint) => Edges::One(Client::new(endpoint.clone(), "edge")),
            None => Edges::All(control.clone()),
        };
        Self {
            control,
            edges,
            out,
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
