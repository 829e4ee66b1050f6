//! What the agents add to a bare `zfs send | zfs receive`, in the same run.
//!
//! Both do the same in turns: a whole volume of 512 MiB, rounds without a change, rounds of
//! 2 MiB, each with its snapshot. Of each pair the ratio, or the difference, is one sample;
//! the report has the median and the range.

#![expect(
    clippy::disallowed_methods,
    reason = "measures how long programs and verbs take"
)]

mod keep_up;
mod place;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;
use flocker_api::name::VolumeId;
use serde::Serialize;

use self::place::{Agent, Place, run};
use crate::{report::Machine, spread::Spread, testbed::stage};

const MIB: u64 = 1 << 20;

/// What to measure, and where to write it.
#[derive(Debug, Clone, Args)]
pub struct ReplicateArgs {
    /// Write the figures for programs here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Transfers of the whole volume, each way of doing it
    #[arg(long, default_value_t = 5, value_name = "N")]
    transfers: u32,
    /// Rounds of each size, each way of doing it
    #[arg(long, default_value_t = 25, value_name = "N")]
    rounds: u32,
    /// Size of the whole volume
    #[arg(long, default_value_t = 512, value_name = "MIB")]
    size: u64,
    /// Also keep so many volumes current for a while, and see whether that keeps up
    #[arg(long, default_value_t = 0, value_name = "N")]
    volumes: u32,
    /// Folder of the programs [default: that of this one]
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
}

/// The figures.
#[derive(Debug, Serialize)]
struct Figures {
    machine: Machine,
    /// MiB/s of the agents as a share of the pipe's.
    throughput_ratio: Option<Spread>,
    throughput_ratio_tls: Option<Spread>,
    /// What a round without a change takes longer than the pipe's, in ms.
    overhead_ms_empty: Option<Spread>,
    overhead_ms_empty_tls: Option<Spread>,
    /// What a round of 2 MiB takes longer than the pipe's, in ms.
    overhead_ms_2mib: Option<Spread>,
    overhead_ms_2mib_tls: Option<Spread>,
    /// Processor time of both agents and the programs that they run.
    cpu_s_per_gib: Option<Spread>,
    cpu_s_per_gib_tls: Option<Spread>,
    pipe_mib_per_s: Option<Spread>,
    pipe_ms_empty: Option<Spread>,
    pipe_ms_2mib: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_up: Option<keep_up::Outcome>,
}

impl ReplicateArgs {
    /// Measures; whether the budgets were kept.
    ///
    /// # Errors
    /// When it could not be measured.
    pub fn run(&self) -> Result<bool> {
        if let Some(good) = place::enter()? {
            return Ok(good);
        }
        let figures = stage::runtime()?.block_on(self.measure())?;
        let text = serde_json::to_string_pretty(&figures)?;
        if let Some(path) = &self.json {
            fs::write(path, format!("{text}\n"))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(figures.tell())
    }

    async fn measure(&self) -> Result<Figures> {
        let programs = match &self.programs {
            Some(folder) => folder.clone(),
            None => {
                let this = std::env::current_exe()?;
                this.parent()
                    .context("a program is in a folder")?
                    .to_owned()
            }
        };
        let place = Place::make(&programs)?;
        let plain = place.agents(false).await?;
        let tls = place.agents(true).await?;
        let whole = self.whole(&plain, &tls).await?;
        let empty = self.rounds(&plain, &tls, "empty", 0).await?;
        let small = self.rounds(&plain, &tls, "small", 2 * MIB).await?;
        drop(tls);
        let keep_up = match self.volumes {
            0 => None,
            count => Some(keep_up::measure(&plain, count).await?),
        };
        let rates = whole.iter().map(|sample| sample.rate(self.size));
        let rates: Vec<_> = rates.map(|(pipe, ..)| pipe).collect();
        let of = |pick: fn(&Sample) -> f64, samples: &[Sample]| {
            Spread::of(&samples.iter().map(pick).collect::<Vec<_>>())
        };
        let per_gib = 1024.0 / self.size as f64;
        let cpu = |pick: fn(&Sample) -> f64| {
            Spread::of(&whole.iter().map(|s| pick(s) * per_gib).collect::<Vec<_>>())
        };
        Ok(Figures {
            machine: Machine::this(),
            throughput_ratio: of(|s| s.pipe / s.plain, &whole),
            throughput_ratio_tls: of(|s| s.pipe / s.tls, &whole),
            overhead_ms_empty: of(|s| (s.plain - s.pipe) * 1e3, &empty),
            overhead_ms_empty_tls: of(|s| (s.tls - s.pipe) * 1e3, &empty),
            overhead_ms_2mib: of(|s| (s.plain - s.pipe) * 1e3, &small),
            overhead_ms_2mib_tls: of(|s| (s.tls - s.pipe) * 1e3, &small),
            cpu_s_per_gib: cpu(|s| s.plain_cpu),
            cpu_s_per_gib_tls: cpu(|s| s.tls_cpu),
            pipe_mib_per_s: Spread::of(&rates),
            pipe_ms_empty: of(|s| s.pipe * 1e3, &empty),
            pipe_ms_2mib: of(|s| s.pipe * 1e3, &small),
            keep_up,
        })
    }

    /// The whole volume, by the pipe, by the agents, by the agents with TLS, in turns.
    async fn whole(&self, plain: &[Agent; 2], tls: &[Agent; 2]) -> Result<Vec<Sample>> {
        let mut noise = Noise(1);
        let mut subjects = Vec::new();
        for (from, name) in [
            (&plain[0], "w-pipe"),
            (&plain[0], "w-plain"),
            (&tls[0], "w-tls"),
        ] {
            let (id, root) = from.create(name).await?;
            noise.fill(&root.join("data"), self.size * MIB)?;
            subjects.push(id);
        }
        let mut samples = Vec::new();
        for turn in 0..=self.transfers {
            let (from, to) = (
                format!("poola/flocker/{}@w{turn}", subjects[0]),
                "poolb/pipe",
            );
            let pipe = timed(|| {
                let line = format!("zfs snapshot {from} && zfs send {from} | zfs receive -u {to}");
                run("sh", &["-c", &line])
            })?;
            run("zfs", &["destroy", "-r", to])?;
            let (plain, plain_cpu) = whole_by(plain, subjects[1]).await?;
            let (tls, tls_cpu) = whole_by(tls, subjects[2]).await?;
            let sample = Sample {
                pipe,
                plain,
                tls,
                plain_cpu,
                tls_cpu,
            };
            // The first turn warms the caches.
            if turn > 0 {
                samples.push(sample);
            }
        }
        for (from, id) in [&plain[0], &plain[0], &tls[0]].into_iter().zip(&subjects) {
            from.destroy(*id).await?;
        }
        Ok(samples)
    }

    /// Rounds in which so much was written, in turns.
    async fn rounds(
        &self,
        plain: &[Agent; 2],
        tls: &[Agent; 2],
        name: &str,
        bytes: u64,
    ) -> Result<Vec<Sample>> {
        let mut noise = Noise(bytes + 3);
        let pipe = plain[0].create(&format!("{name}-pipe")).await?;
        let by_plain = plain[0].create(&format!("{name}-plain")).await?;
        let by_tls = tls[0].create(&format!("{name}-tls")).await?;
        let mut samples = Vec::new();
        for turn in 0..=self.rounds {
            for (_, root) in [&pipe, &by_plain, &by_tls] {
                noise.fill(&root.join("data"), if turn == 0 { 16 * MIB } else { bytes })?;
            }
            let from = format!("poola/flocker/{}", pipe.0);
            let base = match turn {
                0 => String::new(),
                _ => format!("-i @r{} ", turn - 1),
            };
            let line = format!(
                "zfs snapshot {from}@r{turn} && \
                 zfs send {base}{from}@r{turn} | zfs receive -u poolb/pipe-{name}"
            );
            let by_pipe = timed(|| run("sh", &["-c", &line]))?;
            let mut times = Vec::new();
            for ([from, to], (id, _)) in [(plain, &by_plain), (tls, &by_tls)] {
                let began = Instant::now();
                from.replicate(*id, to).await?;
                times.push(began.elapsed().as_secs_f64());
            }
            if turn > 0 {
                samples.push(Sample {
                    pipe: by_pipe,
                    plain: times[0],
                    tls: times[1],
                    plain_cpu: 0.0,
                    tls_cpu: 0.0,
                });
            }
        }
        Ok(samples)
    }
}

/// The same thing done in each way, in s.
#[derive(Debug)]
struct Sample {
    pipe: f64,
    plain: f64,
    tls: f64,
    plain_cpu: f64,
    tls_cpu: f64,
}

impl Sample {
    fn rate(&self, mib: u64) -> (f64, f64, f64) {
        let rate = |seconds: f64| mib as f64 / seconds;
        (rate(self.pipe), rate(self.plain), rate(self.tls))
    }
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<f64> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed().as_secs_f64())
}

/// A whole volume by the agents; how long it took, and their processor time.
async fn whole_by([from, to]: &[Agent; 2], id: VolumeId) -> Result<(f64, f64)> {
    let cpu = || anyhow::Ok(from.cpu()? + to.cpu()?);
    let (before, began) = (cpu()?, Instant::now());
    let reply = from.replicate(id, to).await?;
    let took = began.elapsed().as_secs_f64();
    let spent = cpu()?.saturating_sub(before);
    anyhow::ensure!(reply.full, "the receiver had a copy already");
    to.destroy(id).await?;
    Ok((took, spent.as_secs_f64()))
}

/// Bytes that no file system can make smaller.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, path: &Path, bytes: u64) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let mut file = fs::File::create(path)?;
        let mut block = vec![0; 1 << 20];
        for _ in 0..bytes.div_ceil(MIB) {
            for word in block.chunks_exact_mut(8) {
                // The constants of Knuth's MMIX.
                self.0 = self
                    .0
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                word.copy_from_slice(&(self.0 ^ (self.0 >> 33)).to_le_bytes());
            }
            file.write_all(&block)?;
        }
        file.sync_all()?;
        Ok(())
    }
}

impl Figures {
    /// Prints them; whether the budgets were kept.
    fn tell(&self) -> bool {
        let line = |name: &str, spread: &Option<Spread>, unit: &str| {
            if let Some(s) = spread {
                say!(
                    "{name:<42} {:>8.2}   {:.2} to {:.2} {unit}",
                    s.median,
                    s.min,
                    s.max
                );
            }
        };
        say!("{:<42} {:>8}   range", "", "median");
        line("pipe, whole volume", &self.pipe_mib_per_s, "MiB/s");
        line("agents / pipe, throughput", &self.throughput_ratio, "");
        line(
            "agents / pipe, throughput with TLS",
            &self.throughput_ratio_tls,
            "",
        );
        line("pipe, empty round", &self.pipe_ms_empty, "ms");
        line("agents - pipe, empty round", &self.overhead_ms_empty, "ms");
        line(
            "agents - pipe, empty round with TLS",
            &self.overhead_ms_empty_tls,
            "ms",
        );
        line("pipe, round of 2 MiB", &self.pipe_ms_2mib, "ms");
        line(
            "agents - pipe, round of 2 MiB",
            &self.overhead_ms_2mib,
            "ms",
        );
        line(
            "agents - pipe, round of 2 MiB with TLS",
            &self.overhead_ms_2mib_tls,
            "ms",
        );
        line("agents, processor time per GiB", &self.cpu_s_per_gib, "s");
        line(
            "agents, processor time per GiB with TLS",
            &self.cpu_s_per_gib_tls,
            "s",
        );
        if let Some(outcome) = &self.keep_up {
            outcome.tell();
        }
        let median = |spread: &Option<Spread>| spread.map_or(f64::NAN, |s| s.median);
        median(&self.throughput_ratio) >= 0.9
            && median(&self.overhead_ms_empty) <= 15.0
            && median(&self.overhead_ms_2mib) <= 15.0
            && self.keep_up.as_ref().is_none_or(keep_up::Outcome::is_good)
    }
}

/// How long after the last write a copy may count as current, beyond its interval.
const SLACK: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_median_and_the_range() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of(&[]), None);
    }
}
