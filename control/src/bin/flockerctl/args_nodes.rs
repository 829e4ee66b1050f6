//! What can be typed about certificates and the health of nodes. Help texts are in here.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::Subcommand;
use flocker_api::name::{AppName, NodeName};

use crate::args::{Wait, duration};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flockerctl ca init
  flockerctl ca node n1 --address 10.77.1.1
  flockerctl ca control --address 10.77.0.1
  flockerctl ca operator ann
  flockerctl ca node n1 --address 10.77.1.1 --renew
  flockerctl ca ls

Each certificate gets a folder with ca.pem, certificate.pem and key.pem, which is what its program's
[tls] table names, and --tls for flockerctl. Programs take renewed files without a restart.
Whoever has ca-key.pem can be anybody: keep it off the nodes.")]
pub(crate) struct Ca {
    /// The authority's folder
    #[arg(
        long,
        global = true,
        env = "FLOCKER_CA",
        default_value = "flocker-ca",
        value_name = "FOLDER",
        hide_env_values = true
    )]
    pub(crate) dir: PathBuf,
    #[command(subcommand)]
    pub(crate) verb: CaVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaVerb {
    /// Make the authority
    Init {
        /// For how many days it holds
        #[arg(long, default_value_t = 3650, value_name = "N",
            value_parser = clap::value_parser!(u32).range(1..=36500))]
        days: u32,
    },
    /// A certificate for the storage agent of a node
    Node(Issue),
    /// A certificate for an edge
    Edge(Issue),
    /// A certificate for the control service
    Control {
        /// What it is called
        #[arg(default_value = "control", value_name = "NAME")]
        name: String,
        #[command(flatten)]
        issue: Terms,
    },
    /// A certificate for a person or a tool: flockerctl, a scraper of metrics
    Operator {
        /// What it is called
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        issue: Terms,
    },
    /// The certificates in the authority's folder, and until when they hold
    Ls,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Issue {
    /// What it is called in the configuration
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) terms: Terms,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Terms {
    /// Addresses at which it is reached
    #[arg(long, num_args = 1.., value_name = "IP")]
    pub(crate) address: Vec<IpAddr>,
    /// For how many days it holds
    #[arg(long, default_value_t = 90, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,
    /// Where its files go; the authority's folder, and in it ROLE-NAME, if not given
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,
    /// Put a new certificate and key in the place of those that are there
    #[arg(long)]
    pub(crate) renew: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flockerctl doctor
  flockerctl doctor n1
  flockerctl doctor --json

Exit status: 0 nothing is broken, 1 something is. What only deserves a look counts as not broken.")]
pub(crate) struct Doctor {
    /// The nodes; all of them if none is given
    #[arg(value_name = "NODE")]
    pub(crate) nodes: Vec<NodeName>,
    /// Show only what is not as it should be
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flockerctl app logs notes
  flockerctl app logs notes -f --tail 20
  flockerctl app logs notes --since 10m

Following goes on where the app goes: a move does not end it.")]
pub(crate) struct Logs {
    /// The app
    pub(crate) app: AppName,
    /// Go on with what is written from now on, until interrupted
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only so many lines, the newest
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) tail: Option<usize>,
    /// Only what was written within this time
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub(crate) since: Option<Duration>,
    /// The time before each line, where the runtime knows it
    #[arg(long, short)]
    pub(crate) timestamps: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flockerctl app exec db -- psql -c 'select 1'
  flockerctl app exec web --timeout 5m -- /app/migrate

The command has no input and no terminal. Exit status: the command's own; 1 if it could not be run.")]
pub(crate) struct Exec {
    /// The app
    pub(crate) app: AppName,
    /// How long it may take
    #[arg(long, value_parser = duration, default_value = "1m", value_name = "DURATION")]
    pub(crate) timeout: Duration,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flockerctl node drain n1
  flockerctl node drain n1 --concurrency 4 --to n2 n3
  flockerctl node drain n1 --abort
  flockerctl node uncordon n1

Apps go in the order of their links and dependencies: what others need goes first. Ctrl-C aborts:
moves before their pivot are undone, the others end, and no app is left between two nodes.
Exit status 0: no app is left on the node. 1: some are, and the reasons are shown.")]
pub(crate) struct Drain {
    /// The node
    pub(crate) node: NodeName,
    /// How many apps move at once
    #[arg(long, value_name = "N", default_value_t = 2,
        value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) concurrency: u32,
    /// The only nodes that they may go to
    #[arg(long, num_args = 1.., value_name = "NODE")]
    pub(crate) to: Vec<NodeName>,
    /// Give up a drain that runs
    #[arg(long, conflicts_with_all = ["to", "concurrency"])]
    pub(crate) abort: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
}
