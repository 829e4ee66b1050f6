//! What can be typed about the TLS of routes and edges. Help texts are in here.

use std::path::PathBuf;

use flocker_api::{
    name::{AuthorityName, CertificateName},
    route::Route,
    termination::{Tls, UpstreamTls},
};

/// The TLS of a route; what is not given stays as it is.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct RouteTls {
    #[arg(
        long,
        value_parser = tls,
        value_name = "HOW",
        help = "With clients of an https route: passthrough (default; the upstream has the \
                certificate) or terminate[,min_version=1.2|1.3]\
                [,client_certificate=none|request|require][,client_ca=NAME]"
    )]
    client_tls: Option<Tls>,
    #[arg(
        long,
        value_parser = upstream,
        value_name = "HOW",
        help = "With the upstreams: verify[,server_name=NAME][,ca=NAME], or none (default)"
    )]
    upstream_tls: Option<Upstream>,
}

/// TLS with upstreams, or none.
#[derive(Debug, Clone)]
struct Upstream(Option<UpstreamTls>);

impl RouteTls {
    /// Changes a route to what was typed.
    pub(crate) fn apply(self, route: &mut Route) {
        if let Some(tls) = self.client_tls {
            route.tls = tls;
        }
        if let Some(Upstream(tls)) = self.upstream_tls {
            route.upstream_tls = tls;
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Certificate {
    #[command(subcommand)]
    pub(crate) verb: CertificateVerb,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum CertificateVerb {
    /// List them: which hosts they name, when they expire, where they come from
    Ls,
    /// Set one: it serves the next handshakes, and connections that stand keep what they have
    Set {
        /// What it is called
        #[arg(value_parser = certificate)]
        name: CertificateName,
        /// The chain, leaf first, in PEM
        #[arg(long, value_name = "FILE")]
        certificate: PathBuf,
        /// Its private key, in PEM
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Remove one that was set
    Rm {
        /// What it is called
        #[arg(value_parser = certificate)]
        name: CertificateName,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Authority {
    #[command(subcommand)]
    pub(crate) verb: AuthorityVerb,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum AuthorityVerb {
    /// List them: who they are, what they have revoked, until when that is known
    Ls,
    /// Set one as a whole: it judges the next handshakes, and connections that stand stay
    Set {
        /// By which routes name it (client_ca, ca)
        #[arg(value_parser = authority)]
        name: AuthorityName,
        /// Its certificates, in PEM
        #[arg(long, value_name = "FILE")]
        certificates: PathBuf,
        /// Its lists of revoked certificates, in PEM; without them nothing is revoked
        #[arg(long, value_name = "FILE")]
        crls: Option<PathBuf>,
    },
    /// Remove one that was set and that no route names
    Rm {
        /// What it is called
        #[arg(value_parser = authority)]
        name: AuthorityName,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Tickets {
    #[command(subcommand)]
    pub(crate) verb: TicketsVerb,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum TicketsVerb {
    /// Give all edges a new key for session tickets; tickets of the one before stay good
    Rotate,
}

fn certificate(text: &str) -> Result<CertificateName, String> {
    let name: Result<CertificateName, _> = text.parse();
    name.map_err(|error| error.to_string())
}

fn authority(text: &str) -> Result<AuthorityName, String> {
    let name: Result<AuthorityName, _> = text.parse();
    name.map_err(|error| error.to_string())
}

fn tls(text: &str) -> Result<Tls, String> {
    let tls: Result<Tls, _> = text.parse();
    tls.map_err(|error| error.to_string())
}

fn upstream(text: &str) -> Result<Upstream, String> {
    if text == "none" {
        return Ok(Upstream(None));
    }
    let tls: Result<UpstreamTls, _> = text.parse();
    tls.map(|tls| Upstream(Some(tls)))
        .map_err(|error| error.to_string())
}
