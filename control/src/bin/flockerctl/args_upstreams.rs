//! What can be typed about a route's upstreams. Help texts are in here.

use std::time::Duration;

use flocker_api::{
    health::Health,
    network::Network,
    route::{Route, RouteKey, UpstreamProtocol},
    upstream::{Balance, SendProxy, UpstreamAddress},
};

/// How a route uses its upstreams; what is not given stays as it is.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Upstreams")]
pub(crate) struct Upstreams {
    /// Which of several is next: round_robin (default), least_connections, source (the same
    /// client address, the same upstream) or in_order (the first that can be connected)
    #[arg(long, value_parser = balance, value_name = "HOW")]
    balance: Option<Balance>,
    #[arg(
        long,
        value_parser = health,
        value_name = "CHECK",
        help = "How each is asked whether it is well: tcp, \
                http[,path=/][,host=NAME][,status=200-399] \
                [,interval_ms=2000][,timeout_ms=1000][,rise=2][,fall=3], or none"
    )]
    health: Option<Check>,
    /// How long one that comes back takes to get its whole share
    #[arg(long, value_parser = super::args::duration, value_name = "DURATION")]
    slow_start: Option<Duration>,
    /// Most requests and sessions that one has at once from an edge, 0 for any number; the others
    /// wait in a line
    #[arg(long, value_name = "N")]
    connections_max: Option<u32>,
    /// Most that wait in that line
    #[arg(long, value_name = "N")]
    pending_max: Option<u32>,
    /// The PROXY header that tells them of the client: v1, v2 or none
    #[arg(long, value_parser = send_proxy, value_name = "VERSION")]
    send_proxy: Option<Header>,
    /// The only networks whose clients are served, or all
    #[arg(long, num_args = 1.., value_parser = networks, value_name = "NETWORK")]
    allow: Vec<Networks>,
    /// Networks whose clients are not served, or none
    #[arg(long, num_args = 1.., value_parser = networks, value_name = "NETWORK")]
    deny: Vec<Networks>,
    /// What is spoken with them: http1 (default) or h2, where requests share a connection (in
    /// clear by prior knowledge, over TLS by ALPN)
    #[arg(long, value_parser = protocol, value_name = "http1|h2")]
    upstream_protocol: Option<UpstreamProtocol>,
}

/// A PROXY header, or none.
#[derive(Debug, Clone)]
struct Header(Option<SendProxy>);

/// A network, or a word that clears the list.
#[derive(Debug, Clone)]
struct Networks(Option<Network>);

/// A health check, or none.
#[derive(Debug, Clone)]
struct Check(Option<Health>);

impl Upstreams {
    /// Changes a route to what was typed.
    pub(crate) fn apply(self, route: &mut Route) {
        if let Some(balance) = self.balance {
            route.balance = balance;
        }
        if let Some(Check(health)) = self.health {
            route.health = health;
        }
        if let Some(protocol) = self.upstream_protocol {
            route.upstream_protocol = protocol;
        }
        if let Some(slow_start) = self.slow_start {
            route.slow_start_ms = u64::try_from(slow_start.as_millis()).unwrap_or(u64::MAX);
        }
        route.connections_max = self.connections_max.unwrap_or(route.connections_max);
        route.pending_max = self.pending_max.unwrap_or(route.pending_max);
        if let Some(Header(version)) = self.send_proxy {
            route.send_proxy = version;
        }
        for (list, typed) in [(&mut route.allow, self.allow), (&mut route.deny, self.deny)] {
            if !typed.is_empty() {
                *list = typed.into_iter().filter_map(|network| network.0).collect();
            }
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Drained {
    /// The route: tcp:PORT, http:HOST or https:HOST
    #[arg(value_parser = super::args::route_key)]
    pub(crate) key: RouteKey,
    /// The upstreams, as the route names them: ADDRESS:PORT or NAME:PORT
    #[arg(required = true, value_parser = address, value_name = "UPSTREAM")]
    pub(crate) upstreams: Vec<UpstreamAddress>,
}

fn balance(text: &str) -> Result<Balance, String> {
    let balance: Result<Balance, _> = text.parse();
    balance.map_err(|error| error.to_string())
}

fn protocol(text: &str) -> Result<UpstreamProtocol, &'static str> {
    match text {
        "http1" => Ok(UpstreamProtocol::Http1),
        "h2" => Ok(UpstreamProtocol::H2),
        _ => Err("write http1 or h2"),
    }
}

fn health(text: &str) -> Result<Check, String> {
    if text == "none" {
        return Ok(Check(None));
    }
    let health: Result<Health, _> = text.parse();
    health
        .map(|health| Check(Some(health)))
        .map_err(|error| error.to_string())
}

fn send_proxy(text: &str) -> Result<Header, String> {
    if text == "none" {
        return Ok(Header(None));
    }
    let version: Result<SendProxy, _> = text.parse();
    version
        .map(|version| Header(Some(version)))
        .map_err(|error| error.to_string())
}

fn networks(text: &str) -> Result<Networks, String> {
    if matches!(text, "all" | "none") {
        return Ok(Networks(None));
    }
    let network: Result<Network, _> = text.parse();
    network
        .map(|network| Networks(Some(network)))
        .map_err(|error| error.to_string())
}

fn address(text: &str) -> Result<UpstreamAddress, String> {
    let address: Result<UpstreamAddress, _> = text.parse();
    address.map_err(|error| error.to_string())
}
