//! What can be typed about edges, and about many routes at once. Help texts are in here.

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;
use flocker_api::route::RouteKey;

use crate::args::{duration, route_key};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flockerctl edge ls
  flockerctl edge show
  flockerctl edge upgrade
  flockerctl edge upgrade --binary /usr/local/bin/flocker-proxy-new
  flockerctl edge drain --notice 5s --deadline 1m
  flockerctl edge reload
  flockerctl --edge 10.0.0.9:7400 edge log flocker_proxy=debug
  flockerctl edge certificate ls
  flockerctl edge authority ls
  flockerctl edge tickets rotate

All but `ls`, `certificate`, `authority` and `tickets` speak to one edge: --edge, or the one at unix:/run/flocker/edge.sock.")]
pub(crate) struct Edge {
    #[command(subcommand)]
    pub(crate) verb: EdgeVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EdgeVerb {
    /// List them, as control knows them; with --edge that one
    Ls,
    /// One of them: process, listeners, sessions, and what went before
    Show,
    /// Hand over to a new process: no connection is refused, none reset
    #[command(after_help = "Examples:
  flockerctl edge upgrade
  flockerctl edge upgrade --binary /usr/local/bin/flocker-proxy-new

The new process reads the configuration file again, takes over sockets, routes, pauses and tokens,
and answers from then on. The old one serves what it has. If the new one does not start, the old one
goes on as if nothing had been.")]
    Upgrade {
        /// The program; else the one that runs, as it is on disk now
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
    },
    /// Stop it once nothing is in flight
    #[command(after_help = "Examples:
  flockerctl edge drain
  flockerctl edge drain --notice 5s --deadline 1m

First /readyz says no, then listeners close and clients are told that their connection ends; what is
left at the deadline is cut.")]
    Drain {
        /// How long to go on accepting while /readyz already says no
        #[arg(long, value_parser = duration, default_value = "0s", value_name = "DURATION")]
        notice: Duration,
        /// When to cut what is left; else limits.drain_ms of its configuration
        #[arg(long, value_parser = duration, value_name = "DURATION")]
        deadline: Option<Duration>,
    },
    /// Read the configuration file again; one that is wrong changes nothing
    Reload,
    /// What it logs, or another filter from now on
    #[command(after_help = "Examples:
  flockerctl edge log
  flockerctl edge log debug
  flockerctl edge log info,flocker_proxy::driver::life=debug")]
    Log {
        /// A level, or targets with levels
        #[arg(value_name = "FILTER")]
        filter: Option<String>,
    },
    /// Certificates for https routes that end TLS there: of the one edge, or of all
    #[command(after_help = "Examples:
  flockerctl edge certificate ls
  flockerctl edge certificate set www --certificate www.pem --key www.key
  flockerctl --edge 10.0.0.9:7400 edge certificate rm www

Without --edge all edges that control knows are asked, each at its own admin API. What is set stays
over a restart if the edge's [tls] has a folder.")]
    Certificate(crate::args_tls::Certificate),
    /// Whose signatures are believed of clients and upstreams: of the one edge, or of all
    #[command(after_help = "Examples:
  flockerctl edge authority ls
  flockerctl edge authority set office --certificates office-ca.pem --crls office.crl.pem
  flockerctl --edge 10.0.0.9:7400 edge authority rm office

Without --edge all edges that control knows are asked, each at its own admin API. What is set stays
over a restart if the edge's [tls] has a folder. Who is revoked cannot resume a session, either.")]
    Authority(crate::args_tls::Authority),
    /// Keys of session tickets, which all edges share so that clients resume at any of them
    Tickets(crate::args_tls::Tickets),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flockerctl route watch
  flockerctl route watch http:example.com tcp:5432 --every 5s
  flockerctl route watch --json --count 10")]
pub(crate) struct Watch {
    /// Only these routes; else the busiest
    #[arg(value_parser = route_key, value_name = "KEY")]
    pub(crate) keys: Vec<RouteKey>,
    /// From one look to the next
    #[arg(long, value_parser = duration, default_value = "1s", value_name = "DURATION")]
    pub(crate) every: Duration,
    /// Stop after so many looks; 0 goes on
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) count: u64,
    /// Most routes that are shown
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) top: usize,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flockerctl route export routes.json
  flockerctl --edge 10.0.0.9:7400 route export - | grep tcp:

One route a line, sorted by key, so that two exports can be compared with diff.")]
pub(crate) struct Export {
    /// Where to; - is stdout
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flockerctl route import routes.json --dry-run
  flockerctl route import routes.json
  flockerctl route import routes.json --prune

The change is shown, and made in one transaction: all of it or nothing. Requests in flight and parked
go on as they are; routes that do not change are not touched.")]
pub(crate) struct Import {
    /// What an export has written; - is stdin
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Only show what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Remove the routes that are not in the file
    #[arg(long)]
    pub(crate) prune: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  flockerctl route quiesce tcp:5432 --within 10s

Exit status 0: nothing is in flight. 1: something is, and it is shown.")]
pub(crate) struct Quiesce {
    /// The routes, which are paused: tcp:PORT, http:HOST or https:HOST
    #[arg(required = true, value_parser = route_key, value_name = "KEY")]
    pub(crate) keys: Vec<RouteKey>,
    /// How long to wait
    #[arg(long, value_parser = duration, default_value = "5s", value_name = "DURATION")]
    pub(crate) within: Duration,
    /// The pause with this token; without it, whichever holds now
    #[arg(long, value_name = "N")]
    pub(crate) token: Option<u64>,
}
