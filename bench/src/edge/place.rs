//! Where it is measured: which cores, which programs, which certificate.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::trial::identity::Identity;

/// What all runs share.
pub(super) struct Bench {
    /// The edge's program.
    pub(super) proxy: PathBuf,
    /// The subject's core, and that of load and origin.
    pub(super) proxy_core: usize,
    pub(super) load_core: usize,
    pub(super) identity: Identity,
    /// Connections that a subject must be able to hold.
    pub(super) connections: usize,
}

impl Bench {
    /// On the first two cores that this process may use; this thread and those that it starts go
    /// to the load's.
    pub(super) fn new(proxy: PathBuf, host: &str) -> Result<Self> {
        if !proxy.exists() {
            bail!(
                "{} is not there: build it with `cargo build --release -p flocker-proxy`, or say \
                 where it is with --proxy",
                proxy.display()
            );
        }
        let allowed = sched_getaffinity(None).context("cannot ask for cores")?;
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|core| allowed.is_set(*core))
            .collect();
        let [load_core, proxy_core, ..] = cores[..] else {
            bail!("one core only: the proxy needs one of its own, and load and origin another");
        };
        pin(load_core)?;
        let identity = Identity::of(host)?;
        Ok(Self {
            proxy,
            proxy_core,
            load_core,
            identity,
            connections: super::CONNECTIONS,
        })
    }

    pub(super) fn cores(&self) -> [usize; 2] {
        [self.load_core, self.proxy_core]
    }
}

/// Binds this thread, and what it starts, to a core.
pub(super) fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("cannot go to core {core}"))
}
