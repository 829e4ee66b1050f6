//! Churn: one route is switched many times a second while others are loaded; runs with and without
//! the switches take turns.
//!
//! What is compared is the time from when a request was sent: by how much the load itself was late
//! is told beside it. On a machine whose cores the load, the origins and the edge share, a trial
//! says something of the edge only while the load is well below what they can do.

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
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// Requests a second to the route that is switched
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=20_000))]
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
    let (mut calm_cpu, mut busy_cpu) = (Duration::ZERO, Duration::ZERO);
    let mut switched: Option<Tally> = None;
    let mut switches = 0;
    for _ in 0..options.runs {
        let cpu = edge.cpu()?;
        let (others, _) = one_run(options, &edge, async {
            sleep(run).await;
            Ok(())
        })
        .await?;
        calm.push(others);
        calm_cpu += edge.cpu()?.saturating_sub(cpu);
        let cpu = edge.cpu()?;
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
        busy_cpu += edge.cpu()?.saturating_sub(cpu);
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
    compare(&mut verdict, &calm, &busy);
    // Of both kinds the edge has served as much: what is more was for the switches.
    let more = busy_cpu.as_secs_f64() - calm_cpu.as_secs_f64();
    let each = 1e6 * more / (switches as f64).max(1.0);
    verdict.note("edge: CPU of a switch", each, "us");
    Ok(verdict)
}

/// What the others' requests took without switches and with them.
fn compare(verdict: &mut Verdict, calm: &[Tally], busy: &[Tally]) {
    let served = |tally: &Tally| tally.served_ms(0.99);
    let (calm_p99, busy_p99) = (median(calm, served), median(busy, served));
    verdict.note("others: p99 without switches, median", calm_p99, "ms");
    verdict.note("others: p99 with switches, median", busy_p99, "ms");
    verdict.promise("others: ratio", busy_p99 / calm_p99, "", RATIO_MAX);
    for (name, runs) in [("without", calm), ("with", busy)] {
        let p50 = median(runs, |tally| tally.served_ms(0.5));
        verdict.note(format!("others: p50 {name} switches, median"), p50, "ms");
        let late = median(runs, |tally| tally.late_ms(0.99));
        verdict.note(format!("load: p99 of lateness {name} switches"), late, "ms");
    }
}

/// Load on all routes while `during` runs: what became of the others and of the switched one.
async fn one_run(
    options: &Options,
    edge: &Edge,
    during: impl Future<Output = Result<()>>,
) -> Result<(Tally, Tally)> {
    // Each route has clients of its own, which keep their connections.
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
    let each = options.rate.div_ceil(options.routes);
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

fn median(tallies: &[Tally], figure: impl Fn(&Tally) -> f64) -> f64 {
    let mut values: Vec<f64> = tallies.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}
