//! What a run of the instrument leaves: figures for programs, each with its spread.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

pub use crate::spread::Spread;

/// A whole file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Where, when, what and how.
    pub head: Head,
    /// Of each workload.
    pub workloads: Vec<WorkloadFigures>,
}

/// Where, when, what and how: numbers mean nothing without it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Facts of the machine.
    pub machine: BTreeMap<String, String>,
    /// What each program calls itself.
    pub versions: BTreeMap<String, String>,
    /// The command line.
    pub command: String,
    /// When it began, in UTC.
    pub date: String,
    /// The commit of the work tree, with `+` if it had changes; empty if it is none.
    pub commit: String,
    /// Rounds, and seconds of each timed run.
    pub runs: u32,
    /// See `runs`.
    pub seconds: f64,
    /// Whether runs on a disturbed machine count.
    pub allow_disturbed: bool,
    /// What was not measured, and why.
    pub notes: Vec<String>,
}

/// Figures of one workload.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkloadFigures {
    /// Its name.
    pub workload: String,
    /// What it is.
    #[serde(default)]
    pub about: String,
    /// What is counted: `request`, `connection`, `GiB`, `session`, ...
    pub unit: String,
    /// In which `cpu_per_unit` is told: `us`, or `s`.
    #[serde(default)]
    pub cpu_unit: String,
    /// `closed`: processor time was measured in a closed loop, the proxy's core full; `rate`: at
    /// the rate below, since in a closed loop load and origin were the limit for somebody.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cpu_measured: String,
    /// The rate of latencies, in exchanges per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Sessions that were held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    /// Who was compared.
    pub subjects: Vec<SubjectFigures>,
}

/// Figures of one subject in one workload.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SubjectFigures {
    /// Its name.
    pub name: String,
    /// Processor time of the proxy's processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_per_unit: Option<Spread>,
    /// Of it in user space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_per_unit: Option<Spread>,
    /// Of it in the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_per_unit: Option<Spread>,
    /// Processor time of proxy, load and origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub both_cores_cpu_per_unit: Option<Spread>,
    /// `cpu_per_unit`, at the rate of latencies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_per_unit_at_rate: Option<Spread>,
    /// System calls of the proxy, counted by strace in a run of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syscalls_per_unit: Option<Spread>,
    /// The same, each kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub syscalls: BTreeMap<String, f64>,
    /// Context switches of the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_switches_per_unit: Option<Spread>,
    /// Instructions in user space, counted by callgrind in runs of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions_per_unit: Option<Spread>,
    /// What it adds to the latency of `direct` in the same round, in us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_added_us: Option<Spread>,
    /// See `p50_added_us`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_added_us: Option<Spread>,
    /// See `p50_added_us`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p999_added_us: Option<Spread>,
    /// The latency itself, in us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<Spread>,
    /// Memory that each held session takes in user space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_session: Option<Spread>,
    /// Other figures of its workload, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub more: BTreeMap<String, Spread>,
    /// `cpu_per_unit` (or `bytes_per_session`) of flocker divided by this one's, in the same round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Spread>,
    /// The same of `both_cores_cpu_per_unit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub both_cores_ratio: Option<Spread>,
    /// Runs that count.
    pub runs: u32,
    /// Why others do not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

impl Figures {
    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, format!("{text}\n"))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it is not one of ours.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is no file of `flocker-bench edge`", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_median_and_the_range() {
        let spread = Spread::of(&[3.0, 1.0, 2.0, f64::NAN]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (2.0, 1.0, 3.0));
        let even = Spread::of(&[4.0, 1.0, 2.0, 3.0]).unwrap();
        assert!((even.median - 2.5).abs() < 1e-9);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let figures = Figures {
            workloads: vec![WorkloadFigures {
                workload: "connect".to_owned(),
                subjects: vec![SubjectFigures {
                    name: "haproxy".to_owned(),
                    ratio: Some(Spread::exactly(0.9)),
                    ..SubjectFigures::default()
                }],
                ..WorkloadFigures::default()
            }],
            ..Figures::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.json");
        figures.write(&path).unwrap();
        assert_eq!(Figures::read(&path).unwrap(), figures);
        fs::write(&path, "{}").unwrap();
        assert!(Figures::read(&path).is_err());
    }
}
