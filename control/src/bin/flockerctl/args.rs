//! What can be typed. Help texts are in here and nowhere else.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use flocker_api::{
    client::Endpoint,
    name::{AppName, NodeName},
    route::{OnMove, RouteKey},
    upstream::Upstream,
};

use crate::{
    args_http::Http,
    args_upstreams::{Drained, Upstreams},
};

const EXAMPLES: &str = "\
Examples:
  flockerctl status
  flockerctl deploy application.yml deployment.yml
  flockerctl move notes --to n2
  flockerctl route ls
  flockerctl --edge unix:/run/flocker/edge.sock route switch tcp:5432 --to 10.0.0.2:5432

Exit status: 0 done, 1 failed, 2 wrong arguments or files.";

/// Heading of the arguments that all commands take.
const GLOBAL: &str = "Options of all commands";

/// Moves stateful containers between hosts, and says how they are.
#[derive(Debug, Parser)]
#[command(name = "flockerctl", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Arguments of all commands.
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// The control service: IP:PORT or unix:/PATH
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        env = "FLOCKER_CONTROL",
        default_value = "unix:/run/flocker/control.sock",
        value_name = "ENDPOINT",
        hide_env_values = true
    )]
    pub(crate) control: Endpoint,
    /// For `route` and `edge`: this one edge, asked directly, without any control service
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        env = "FLOCKER_EDGE",
        value_name = "ENDPOINT",
        hide_env_values = true
    )]
    pub(crate) edge: Option<Endpoint>,
    /// Folder with ca.pem, certificate.pem and key.pem: TCP endpoints are spoken to by mutual TLS
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        env = "FLOCKER_TLS",
        value_name = "FOLDER",
        hide_env_values = true
    )]
    pub(crate) tls: Option<PathBuf>,
    /// JSON for programs in place of text for people
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) json: bool,
    /// Whether to colour; NO_COLOR is respected
    #[arg(long, global = true,
        help_heading = GLOBAL, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: Colour,
}

/// When to colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On terminals, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The cluster on one screen: is all well, and if not: what, since when, why, what next
    Status(Status),
    /// Carry out application and deployment files
    Deploy(Deploy),
    /// Move an app to another node, without a failed request
    Move(Move),
    /// Moves that run or have run
    Moves(Moves),
    /// Apps
    App(App),
    /// Nodes
    Node(Node),
    /// Routes and gates of all edges, or with --edge of one
    Route(Box<Route>),
    /// Edges as processes: upgrade, drain, reload, log
    Edge(crate::args_edge::Edge),
    /// Volumes: copies, snapshots, clones, comparison, trash, jobs
    Volume(Box<crate::args_volume::Volume>),
    /// Examine nodes: what is wrong, and what to do
    Doctor(crate::args_nodes::Doctor),
    /// Certificates for mutual TLS: an authority of your own, and one for each program
    Ca(crate::args_nodes::Ca),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  flockerctl completions bash > \
                            /etc/bash_completion.d/flockerctl")]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// Exit with 1 unless all is well
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flockerctl deploy application.yml deployment.yml
  flockerctl deploy *.yml --dry-run

Which file is which is seen from its keys. Apps that the files do not name are left alone.")]
pub(crate) struct Deploy {
    /// Compose files, Fig files, or application and deployment files of Flocker, mixed
    #[arg(required = true, value_name = "FILES")]
    pub(crate) files: Vec<PathBuf>,
    /// Only show what would change; exit with 1 if anything would, as diff does
    #[arg(long, conflicts_with_all = ["no_wait", "wait", "yes"])]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Remove apps that the files do not declare; their volumes are kept
    #[arg(long)]
    pub(crate) prune: bool,
    /// Where new services go that the files place nowhere
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<NodeName>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// Whether and how long to wait.
#[derive(Debug, clap::Args)]
pub(crate) struct Wait {
    /// Wait until it is done (the default)
    #[arg(long, overrides_with = "no_wait")]
    pub(crate) wait: bool,
    /// Return as soon as it is begun
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Longest wait; what was begun goes on afterwards
    #[arg(long, value_parser = duration, default_value = "10m", value_name = "DURATION")]
    pub(crate) timeout: Duration,
}

#[derive(Debug, clap::Args)]
#[command(override_usage = "flockerctl move [OPTIONS] <APP> --to <NODE>
       flockerctl move --abort <MOVE>")]
#[command(after_help = "Examples:
  flockerctl move notes --to n2
  flockerctl move notes --to n2 --no-wait
  flockerctl move notes --to n2 --explain
  flockerctl move --abort 6f1c1dbb

Exit status 0: the app serves on the node. 1: it serves where it was, and the reason is shown.")]
pub(crate) struct Move {
    /// The app
    #[arg(value_name = "APP", required_unless_present = "abort")]
    pub(crate) app: Option<AppName>,
    /// The node that it shall run on
    #[arg(long, value_name = "NODE", required_unless_present = "abort")]
    pub(crate) to: Option<NodeName>,
    /// Only say what it would do, how long each step would take and how long requests would wait
    #[arg(long, conflicts_with = "abort")]
    pub(crate) explain: bool,
    /// Give a move up that is not past its pivot: the app goes on where it was
    #[arg(long, value_name = "MOVE", conflicts_with_all = ["app", "to"])]
    pub(crate) abort: Option<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Moves {
    #[command(subcommand)]
    pub(crate) verb: Option<MovesVerb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MovesVerb {
    /// List them, newest first (the default)
    Ls,
    /// One of them: its steps, rounds, pause
    Show {
        /// Its id, or the beginning of it
        id: String,
        /// Follow it until it ends
        #[arg(long, short)]
        follow: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct App {
    #[command(subcommand)]
    pub(crate) verb: AppVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AppVerb {
    /// List them
    Ls,
    /// One of them: container, volumes, routes, policies
    Show {
        /// The app
        app: AppName,
    },
    /// What it writes to standard output and error, wherever it runs
    Logs(crate::args_nodes::Logs),
    /// Run a command in its container; exits with the command's own code
    Exec(crate::args_nodes::Exec),
    /// Stop its container and start it again; what arrives meanwhile waits
    Restart {
        /// The app
        app: AppName,
    },
    /// Remove its container and routes; its volumes are kept
    Rm {
        /// The app
        app: AppName,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Node {
    #[command(subcommand)]
    pub(crate) verb: NodeVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// List them
    Ls,
    /// Place no more apps on it; those that it has stay
    Cordon {
        /// The node
        node: NodeName,
    },
    /// Place apps on it again
    Uncordon {
        /// The node
        node: NodeName,
    },
    /// Have all its apps move away, without a failed request, and cordon it
    Drain(crate::args_nodes::Drain),
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Route keys: tcp:PORT, http:HOST, https:HOST; HOST may begin with '*.'.
Below a host, http:HOST/PATH takes what begins with PATH; the longest one wins.

Examples:
  flockerctl route ls
  flockerctl route add http:example.com --to 10.0.0.1:8080 10.0.0.2:8080,weight=2
  flockerctl route set http:example.com --balance least_connections --health http,path=/ready
  flockerctl route drain http:example.com 10.0.0.2:8080
  flockerctl --edge 10.0.0.9:7400 route show tcp:5432
  flockerctl route pause tcp:5432 --hold 10s
  flockerctl route switch tcp:5432 --to 10.0.0.2:5432 --hold 10s"
)]
pub(crate) struct Route {
    #[command(subcommand)]
    pub(crate) verb: RouteVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteVerb {
    /// List them
    Ls,
    /// One of them, edge by edge: where it leads, its gate, what is parked
    Show {
        /// The route: tcp:PORT, http:HOST or https:HOST
        #[arg(value_parser = route_key)]
        key: RouteKey,
    },
    /// Add one
    #[command(override_usage = "flockerctl route add [OPTIONS] <KEY> --to <ADDR>...")]
    Add(RouteTo),
    /// Change one: what is not given stays; requests and sessions in flight go on where they are
    Set(RouteTo),
    /// Give nothing new to some of one's upstreams; what they have goes on
    Drain(Drained),
    /// Put drained upstreams back
    Undrain(Drained),
    /// Remove some; what is parked there is refused
    Rm {
        /// The routes: tcp:PORT, http:HOST or https:HOST
        #[arg(required = true, value_parser = route_key, value_name = "KEY")]
        keys: Vec<RouteKey>,
    },
    /// Hold whatever arrives, until it is resumed or the hold is over
    Pause(Pause),
    /// Wait until nothing that was admitted before a pause is in flight
    Quiesce(crate::args_edge::Quiesce),
    /// Let go what is held
    Resume(Resume),
    /// Pause, wait for what is in flight, retarget and resume: without a failed request
    #[command(override_usage = "flockerctl route switch [OPTIONS] <KEY> --to <ADDR>...")]
    Switch(Switch),
    /// What goes through them, look by look
    Watch(crate::args_edge::Watch),
    /// Write them to a file
    Export(crate::args_edge::Export),
    /// Make them as a file says, in one transaction
    Import(crate::args_edge::Import),
}

#[derive(Debug, clap::Args)]
pub(crate) struct RouteTo {
    /// The route: tcp:PORT, http:HOST or https:HOST
    #[arg(value_parser = route_key)]
    pub(crate) key: RouteKey,
    /// Where it leads: ADDRESS:PORT or NAME:PORT, with ,weight=N or ,drain after it
    #[arg(long, visible_alias = "upstream", num_args = 1.., value_name = "ADDR")]
    pub(crate) to: Vec<Upstream>,
    /// What a switch does with established tcp and https sessions: close, or wait for their end
    #[arg(long, value_parser = on_move, value_name = "close|wait")]
    pub(crate) on_move: Option<OnMove>,
    #[command(flatten)]
    pub(crate) upstreams: Upstreams,
    #[command(flatten)]
    pub(crate) http: Http,
    #[command(flatten)]
    pub(crate) tls: crate::args_tls::RouteTls,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Pause {
    /// The routes: tcp:PORT, http:HOST or https:HOST
    #[arg(required = true, value_parser = route_key, value_name = "KEY")]
    pub(crate) keys: Vec<RouteKey>,
    /// Longest hold: without a resume the gate opens by itself, and what it held is refused
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    pub(crate) hold: Duration,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Resume {
    /// The routes: tcp:PORT, http:HOST or https:HOST
    #[arg(required = true, value_parser = route_key, value_name = "KEY")]
    pub(crate) keys: Vec<RouteKey>,
    /// Only the pause with this token; without it, whichever holds now
    #[arg(long, value_name = "N")]
    pub(crate) token: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Switch {
    /// The route: tcp:PORT, http:HOST or https:HOST
    #[arg(value_parser = route_key)]
    pub(crate) key: RouteKey,
    /// Where it leads from now on
    #[arg(long, required = true, num_args = 1.., value_name = "ADDR")]
    pub(crate) to: Vec<Upstream>,
    /// Longest hold of anyone
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "DURATION")]
    pub(crate) hold: Duration,
    /// How long what is in flight may take to end
    #[arg(long, value_parser = duration, default_value = "5s", value_name = "DURATION")]
    pub(crate) quiesce: Duration,
    /// Switch even if something is still in flight
    #[arg(long)]
    pub(crate) force: bool,
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    flocker_control::formats::duration(text).map_err(str::to_owned)
}

pub(crate) fn route_key(text: &str) -> Result<RouteKey, String> {
    let key: Result<RouteKey, _> = text.parse();
    key.map_err(|error| flocker_api::error::chain(&error))
}

fn on_move(text: &str) -> Result<OnMove, &'static str> {
    match text {
        "close" => Ok(OnMove::Close),
        "wait" => Ok(OnMove::Wait),
        _ => Err("it is close or wait"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_guides_can_be_typed() {
        let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let mut count = 0;
        for name in ["edge.md", "tls.md"] {
            let text = std::fs::read_to_string(docs.join(name)).unwrap();
            let commands = text.lines().filter(|line| line.starts_with("flockerctl "));
            for line in commands {
                let parsed = Args::try_parse_from(line.split_whitespace());
                assert!(parsed.is_ok(), "{name}: {line}: {}", parsed.unwrap_err());
                count += 1;
            }
        }
        assert!(count > 20, "{count}");
    }
}
