//! Many volumes, each written to all the time and kept current on another node: does one node
//! keep up with them, and what does it cost?

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::Result;
use flocker_api::{
    replication::{Keep, SetReplication, Target, VolumePolicy},
    volume::{Epoch, VolumeStatus},
};
use serde::Serialize;

use super::{SLACK, place::Agent};

const INTERVAL: Duration = Duration::from_secs(10);
/// How long it is watched, once every volume has a copy.
const WATCHED: Duration = Duration::from_secs(60);
/// How long the first copies may take.
const SEED_MAX: Duration = Duration::from_secs(300);

/// What was seen.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    volumes: u32,
    interval_s: f64,
    watched_s: f64,
    /// The oldest copy that was seen, in s.
    worst_lag_s: f64,
    /// Rounds in that time.
    rounds: u64,
    /// Processor time of both agents and their programs, as a share of one processor.
    cpu_share: f64,
}

impl Outcome {
    pub(super) fn tell(&self) {
        say!(
            "{} volumes every {} s: worst lag {:.1} s, {} rounds in {:.0} s, agents and programs {:.2} processors",
            self.volumes,
            self.interval_s,
            self.worst_lag_s,
            self.rounds,
            self.watched_s,
            self.cpu_share
        );
    }

    /// No copy was older than two intervals.
    pub(super) fn is_good(&self) -> bool {
        self.worst_lag_s <= 2.0 * self.interval_s + SLACK.as_secs_f64()
    }
}

fn worst_lag(volumes: &[VolumeStatus]) -> (Option<u64>, u64) {
    let targets = volumes
        .iter()
        .filter_map(|v| v.replication.as_ref()?.targets.first());
    let (mut worst, mut rounds) = (Some(0), 0);
    for target in targets {
        rounds += target.rounds;
        worst = worst.zip(target.lag_ms).map(|(worst, lag)| worst.max(lag));
    }
    (worst, rounds)
}

pub(super) async fn measure([from, to]: &[Agent; 2], count: u32) -> Result<Outcome> {
    let mut roots = Vec::new();
    let epoch = Epoch(1);
    for number in 0..count {
        let (id, root) = from.create(&format!("many-{number}")).await?;
        fs::write(root.join("data"), format!("volume {number}"))?;
        let policy = Some(VolumePolicy {
            targets: vec![Target {
                peer: to.name.clone(),
                to: to.replication,
            }],
            interval_ms: u64::try_from(INTERVAL.as_millis())?,
            keep: Keep::default(),
        });
        from.keep(id, &SetReplication { epoch, policy }).await?;
        roots.push(root);
    }
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let end = Instant::now() + SEED_MAX;
    let mut round = 0_u64;
    let lag = async |round: &mut u64| {
        *round += 1;
        // A tenth of them each second, so that each changes in each interval.
        for root in roots
            .iter()
            .skip(usize::try_from(*round % 10).unwrap_or(0))
            .step_by(10)
        {
            fs::write(root.join("data"), format!("round {round}"))?;
        }
        anyhow::Ok(worst_lag(&from.status().await?.volumes))
    };
    while lag(&mut round).await?.0.is_none() {
        anyhow::ensure!(
            Instant::now() < end,
            "not all volumes have a copy after {SEED_MAX:?}"
        );
        tick.tick().await;
    }
    let (_, before) = lag(&mut round).await?;
    let cpu = || anyhow::Ok(from.cpu()? + to.cpu()?);
    let (began, cpu_before) = (Instant::now(), cpu()?);
    let (mut worst, mut rounds) = (0, before);
    while began.elapsed() < WATCHED {
        tick.tick().await;
        let (lag, so_far) = lag(&mut round).await?;
        worst = worst.max(lag.unwrap_or(u64::MAX));
        rounds = so_far;
    }
    let watched_s = began.elapsed().as_secs_f64();
    Ok(Outcome {
        volumes: count,
        interval_s: INTERVAL.as_secs_f64(),
        watched_s,
        worst_lag_s: Duration::from_millis(worst).as_secs_f64(),
        rounds: rounds - before,
        cpu_share: cpu()?.saturating_sub(cpu_before).as_secs_f64() / watched_s,
    })
}
