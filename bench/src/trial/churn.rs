//! Churn: one route is switched many times a second while others are loaded; runs with and without
//! the switches take turns.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;
use flocker_api::{
    gate::{HoldLimits, Retarget},
    route::{Route, RouteKey},
};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::{
    client::{Protocol, Target},
    edge::Edge,
    load::{Kind, Load, Tally},
    origin::{Origin, Speech},
    verdict::Verdict,
};

/// Bytes of an answer.
const ANSWER_BYTES: usize = 1024;
/// The others' 99th percentile may be so many times that of the runs without switches.
const RATIO_MAX: f64 = 1.2;

/// Options of the trial.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Switches a second
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    switches: u32,
    /// Seconds of switches in all
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// Other routes
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    routes: u32,
    /// Requests a second to the others, together
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// Requests a second to the route that is switched
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    switched_rate: u32,
    /// Runs of each kind
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
}

pub(super) async fn run(options: &Options, program: &Path) -> Result<Verdict> {
    let edge = Edge::start(program, 0, "").await?;
    let any = ([127, 0, 0, 1], 0).into();
    let origins = [
        Origin::start(any, Speech::Http(ANSWER_BYTES))?,
        Origin::start(any, Speech::Http(ANSWER_BYTES))?,
    ];
    let key: RouteKey = "http:switched.test".parse()?;
    let mut routes = vec![Route::new(key.clone(), [origins[0].address()])];
    for number in 0..options.routes {
        let key = format!("http:r{number}.test").parse()?;
        routes.push(Route::new(key, [origins[0].address()]));
    }
    edge.put(routes).await?;

    let run = Duration::from_secs(1) * options.seconds / options.runs;
    let (mut calm, mut busy) = (Vec::new(), Vec::new());
    let mut switched: Option<Tally> = None;
    let mut switches = 0;
    for _ in 0..options.runs {
        let (others, _) = one_run(options, &edge, async {
            sleep(run).await;
            Ok(())
        })
        .await?;
        calm.push(others);
        let switching = async {
            let until = Instant::now() + run;
            let mut tick = interval(Duration::from_secs(1) / options.switches);
            tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
            while Instant::now() < until {
                tick.tick().await;
                switches += 1;
                let to = origins[switches % 2].address();
                switch(&edge, &key, to).await?;
            }
            Ok(())
        };
        let (others, own) = one_run(options, &edge, switching).await?;
        busy.push(others);
        match &mut switched {
            Some(all) => all.add(&own),
            None => switched = Some(own),
        }
    }

    let mut verdict = Verdict::new("churn");
    let per_second = switches as f64 / f64::from(options.seconds);
    verdict.note("switches a second", per_second, "");
    let failed: u64 = calm.iter().chain(&busy).map(Tally::failures).sum();
    verdict.promise("others: failed", failed as f64, "", 0.0);
    let switched = switched.context("there is at least one run")?;
    verdict.note("switched: answered", switched.answered as f64, "");
    verdict.promise("switched: failed", switched.failures() as f64, "", 0.0);
    verdict.note("switched: p99", switched.quantile_ms(0.99), "ms");
    for (reason, count) in &switched.failed {
        verdict.note(format!("switched: {reason}"), *count as f64, "");
    }
    let calm = median(&calm);
    let busy = median(&busy);
    verdict.note("others: p99 without switches, median", calm, "ms");
    verdict.note("others: p99 with switches, median", busy, "ms");
    verdict.promise("others: ratio", busy / calm, "", RATIO_MAX);
    Ok(verdict)
}

/// Load on all routes while `during` runs: what became of the others and of the switched one.
async fn one_run(
    options: &Options,
    edge: &Edge,
    during: impl Future<Output = Result<()>>,
) -> Result<(Tally, Tally)> {
    // Ten kinds share the routes: their clients keep connections of their own.
    let kind = |name: &str, host: String, rate| Kind {
        name: name.to_owned(),
        protocol: Protocol::Http1,
        target: Target {
            address: edge.http(),
            host,
            tls: None,
        },
        rate,
    };
    let mut kinds = vec![kind(
        "switched",
        "switched.test".to_owned(),
        options.switched_rate,
    )];
    let each = (options.rate / options.routes).max(1);
    for number in 0..options.routes {
        kinds.push(kind("others", format!("r{number}.test"), each));
    }
    let load = Load::start(kinds)?;
    during.await?;
    let mut tallies = load.stop().await?.into_iter();
    let switched = tallies.next().context("the switched route is loaded")?;
    let mut others = tallies.next().context("other routes are loaded")?;
    for tally in tallies {
        others.add(&tally);
    }
    Ok((others, switched))
}

async fn switch(edge: &Edge, key: &RouteKey, to: std::net::SocketAddr) -> Result<()> {
    let keys = [key.clone()];
    let token = edge.pause(&keys, HoldLimits::default()).await?;
    edge.quiesce(&keys, token).await?;
    let change = Retarget {
        key: key.clone(),
        upstreams: vec![to.into()],
    };
    edge.switch(vec![change], token).await?;
    Ok(())
}

fn median(tallies: &[Tally]) -> f64 {
    let mut values: Vec<f64> = tallies
        .iter()
        .map(|tally| tally.quantile_ms(0.99))
        .collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}
