//! What can be typed about a route's upstreams. Help texts are in here.

use std::time::Duration;

use flocker_api::{
    health::Health,
    route::{Route, RouteKey},
    upstream::{Balance, UpstreamAddress},
};

/// How a route uses its upstreams; what is not given stays as it is.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Upstreams")]
pub(crate) struct Upstreams {
    /// Which of several is next: round_robin (default), least_connections, source (the same
    /// client address, the same upstream) or in_order (the first that can be connected)
    #[arg(long, value_parser = balance, value_name = "HOW")]
    balance: Option<Balance>,
    /// How each is asked whether it is well: tcp, http[,path=/][,host=NAME][,status=200-399]
    /// [,interval_ms=2000][,timeout_ms=1000][,rise=2][,fall=3], or none
    #[arg(long, value_parser = health, value_name = "CHECK")]
    health: Option<Check>,
    /// How long one that comes back takes to get its whole share
    #[arg(long, value_parser = super::args::duration, value_name = "DURATION")]
    slow_start: Option<Duration>,
}

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
        if let Some(slow_start) = self.slow_start {
            route.slow_start_ms = u64::try_from(slow_start.as_millis()).unwrap_or(u64::MAX);
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

fn health(text: &str) -> Result<Check, String> {
    if text == "none" {
        return Ok(Check(None));
    }
    let health: Result<Health, _> = text.parse();
    health
        .map(|health| Check(Some(health)))
        .map_err(|error| error.to_string())
}

fn address(text: &str) -> Result<UpstreamAddress, String> {
    let address: Result<UpstreamAddress, _> = text.parse();
    address.map_err(|error| error.to_string())
}
