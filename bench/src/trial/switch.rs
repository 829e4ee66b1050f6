//! Switch: a route of each protocol is paused, quiesced and switched under load, to upstreams that
//! come up half a second after the pause.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Result;
use clap::Args;
use flocker_api::{
    gate::{HoldLimits, Retarget},
    route::{Route, RouteKey},
    termination::{Terminate, Tls},
};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    client::{Protocol, Target},
    edge::Edge,
    identity::Identity,
    load::{Kind, Load},
    origin::{Origin, Speech},
    verdict::Verdict,
};

/// The host of the routes.
const HOST: &str = "one.test";
/// Bytes of an HTTP answer.
const ANSWER_BYTES: usize = 1024;
/// What a wait may be beyond the time in which the upstream came up, in ms.
const SLACK_MS: u64 = 50;

/// Options of the trial.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Requests a second, all protocols together
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(8..=20_000))]
    rate: u32,
    /// How often the routes are switched
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    switches: u32,
    /// When the new upstream comes up after the pause, in ms
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    late_ms: u64,
}

/// The two addresses between which a route is switched.
struct Ends {
    key: RouteKey,
    speech: Speech,
    addresses: [SocketAddr; 2],
    running: Option<Origin>,
}

pub(super) async fn run(options: &Options, program: &Path) -> Result<Verdict> {
    let identity = Identity::of(HOST)?;
    let edge = Edge::start(program, 0, &identity.config()).await?;
    let tcp = format!("tcp:{}", edge.tcp().port()).parse()?;
    let mut ends = vec![
        Ends::new(format!("http:{HOST}").parse()?, Speech::Http(ANSWER_BYTES))?,
        Ends::new(format!("https:{HOST}").parse()?, Speech::Http(ANSWER_BYTES))?,
        Ends::new(tcp, Speech::Echo)?,
    ];
    edge.put(ends.iter().map(Ends::route).collect()).await?;

    let http = target(edge.http());
    let https = Target {
        tls: Some(identity.trust()),
        ..target(edge.https())
    };
    let kinds = [
        ("http1", Protocol::Http1, http.clone(), 30),
        (
            "http1, new connections",
            Protocol::Http1New,
            http.clone(),
            10,
        ),
        ("http2", Protocol::Http2, http, 20),
        ("tls http1", Protocol::Tls, https.clone(), 15),
        ("tls http2", Protocol::TlsHttp2, https, 15),
        (
            "tcp, new connections",
            Protocol::Tcp,
            target(edge.tcp()),
            10,
        ),
    ];
    let shares: u32 = kinds.iter().map(|(.., share)| share).sum();
    let kinds = kinds.map(|(name, protocol, target, share)| Kind {
        name: name.to_owned(),
        protocol,
        target,
        rate: (options.rate * share / shares).max(1),
    });
    let load = Load::start(kinds.to_vec())?;
    sleep(Duration::from_secs(1)).await;
    let late = Duration::from_millis(options.late_ms);
    for _ in 0..options.switches {
        switch(&edge, &mut ends, late).await?;
        sleep(Duration::from_secs(1)).await;
    }
    let tallies = load.stop().await?;

    let mut verdict = Verdict::new("switch");
    let most = (options.late_ms + SLACK_MS) as f64;
    for tally in &tallies {
        let name = &tally.name;
        verdict.note(format!("{name}: answered"), tally.answered as f64, "");
        verdict.promise(format!("{name}: failed"), tally.failures() as f64, "", 0.0);
        verdict.promise(
            format!("{name}: longest wait"),
            tally.longest_ms(),
            "ms",
            most,
        );
        verdict.note(format!("{name}: p50"), tally.quantile_ms(0.5), "ms");
        for (reason, count) in &tally.failed {
            verdict.note(format!("{name}: {reason}"), *count as f64, "");
        }
    }
    Ok(verdict)
}

/// The verbs of `flockerctl route switch`, with the old upstream gone before the new one is up.
async fn switch(edge: &Edge, ends: &mut [Ends], late: Duration) -> Result<()> {
    let keys: Vec<RouteKey> = ends.iter().map(|ends| ends.key.clone()).collect();
    let up_at = Instant::now() + late;
    let token = edge.pause(&keys, HoldLimits::default()).await?;
    edge.quiesce(&keys, token).await?;
    let changes = ends.iter_mut().map(Ends::turn).collect();
    edge.switch(changes, token).await?;
    sleep_until(up_at).await;
    ends.iter_mut().try_for_each(Ends::rise)
}

fn target(address: SocketAddr) -> Target {
    Target {
        address,
        host: HOST.to_owned(),
        tls: None,
    }
}

impl Ends {
    fn new(key: RouteKey, speech: Speech) -> Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = Origin::start(any, speech)?;
        let second = Origin::start(any, speech)?;
        Ok(Self {
            key,
            speech,
            addresses: [first.address(), second.address()],
            running: Some(first),
        })
    }

    fn route(&self) -> Route {
        let route = Route::new(self.key.clone(), [self.addresses[0]]);
        match self.key {
            RouteKey::Https(..) => Route {
                tls: Tls::Terminate(Terminate::default()),
                ..route
            },
            _ => route,
        }
    }

    /// Stops the upstream that runs; answers with the change that leads to the other.
    fn turn(&mut self) -> Retarget {
        self.running = None;
        self.addresses.swap(0, 1);
        Retarget {
            key: self.key.clone(),
            upstreams: vec![self.addresses[0].into()],
        }
    }

    fn rise(&mut self) -> Result<()> {
        self.running = Some(Origin::start(self.addresses[0], self.speech)?);
        Ok(())
    }
}
