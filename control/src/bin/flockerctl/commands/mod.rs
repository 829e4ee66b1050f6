//! What each verb asks, and how its answer is shown.

pub(crate) mod app;
pub(crate) mod aside;
pub(crate) mod ca;
pub(crate) mod certificate;
pub(crate) mod deploy;
pub(crate) mod doctor;
pub(crate) mod drain;
pub(crate) mod edge;
pub(crate) mod explain;
pub(crate) mod inside;
mod jobs;
pub(crate) mod live;
pub(crate) mod moves;
pub(crate) mod node;
pub(crate) mod quiesce;
pub(crate) mod route;
mod route_show;
pub(crate) mod status;
pub(crate) mod switch;
pub(crate) mod transfer;
pub(crate) mod volume;
mod volume_archive;
mod volume_show;
mod volume_work;
pub(crate) mod watch;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::CommandFactory;
use flocker_api::{
    client::{Client, Endpoint},
    error::chain,
    tls::{Credentials, Expected, Files, Role},
};

use crate::{
    args::{Args, Global},
    edges::Edges,
    failure::{Failure, Verdict},
    output::Output,
};

/// Longest wait for an answer that should come at once.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);

/// Where an edge listens unless its configuration says otherwise.
const LOCAL_EDGE: &str = "/run/flocker/edge.sock";

/// Whom to ask and how to show the answer.
pub(crate) struct Cli<'o> {
    pub(crate) control: Client,
    pub(crate) edge: Option<Endpoint>,
    pub(crate) out: &'o Output,
    /// By which TCP endpoints are spoken to.
    tls: Option<Credentials>,
}

impl<'o> Cli<'o> {
    /// Clients of what the arguments name.
    ///
    /// # Errors
    /// When the files of `--tls` cannot be used.
    pub(crate) fn new(global: &Global, out: &'o Output) -> Result<Self, Failure> {
        let files = global.tls.as_deref().map(Files::in_folder);
        let tls = files.map(Credentials::load).transpose();
        let tls = tls.map_err(|error| Failure::Usage(format!("--tls: {}", chain(&error))))?;
        let control = Client::new(global.control.clone(), "control");
        Ok(Self {
            control: secure(control, tls.as_ref(), Role::Control),
            edge: global.edge.clone(),
            out,
            tls,
        })
    }

    /// `--edge ENDPOINT ` for a command that shall reach the same edge.
    pub(crate) fn edge_argument(&self) -> String {
        let argument = self.edge.as_ref();
        argument.map_or_else(String::new, |endpoint| format!("--edge {endpoint} "))
    }

    /// The one edge that verbs about a process are for.
    pub(crate) fn one_edge(&self) -> Client {
        let local = || Endpoint::Unix(LOCAL_EDGE.into());
        let client = Client::new(self.edge.clone().unwrap_or_else(local), "edge");
        secure(client, self.tls.as_ref(), Role::Edge)
    }

    /// An edge at this endpoint.
    pub(crate) fn edge_at(&self, endpoint: Endpoint) -> Client {
        secure(Client::new(endpoint, "edge"), self.tls.as_ref(), Role::Edge)
    }

    /// The edges that route verbs are for.
    pub(crate) async fn edges(&self) -> Edges {
        match &self.edge {
            Some(endpoint) => {
                let client = Client::new(endpoint.clone(), "edge");
                Edges::one(secure(client, self.tls.as_ref(), Role::Edge)).await
            }
            None => Edges::All(self.control.clone()),
        }
    }
}

/// The client, speaking TLS if there are credentials and its endpoint is TCP.
fn secure(client: Client, tls: Option<&Credentials>, role: Role) -> Client {
    match (tls, client.endpoint().clone()) {
        (Some(tls), Endpoint::Tcp(address)) => {
            client.with_tls(tls.clone(), Expected::At(role, address.ip()))
        }
        _ => client,
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
