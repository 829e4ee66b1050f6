//! Trials of one edge on loopback: what it promises, tried under load, with an origin and clients
//! of its own. Each trial says what was seen and whether it is what was promised.
//!
//! | trial | promise |
//! | --- | --- |
//! | [`switch`] | a route is switched to an upstream that is not up yet: nobody fails, and nobody waits longer than it takes to come up |
//! | [`churn`] | one route is switched many times a second: nobody fails, and other routes do not notice |
//! | [`park`] | thousands wait at a paused route, half of them leave: their memory comes back, the others are served in order |
//!
//! ```text
//!   clients (thread, open loop) ──► edge (the program) ──► origins (thread)
//!                                     ▲
//!                      verbs ─────────┘
//! ```

pub mod churn;
mod client;
mod edge;
pub(crate) mod identity;
mod load;
mod origin;
pub mod park;
pub mod switch;
mod verdict;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};

use self::verdict::Verdict;
use crate::testbed::stage;

/// Which trial.
#[derive(Debug, Clone, Subcommand)]
pub enum Trial {
    /// Switches a route under load to an upstream that comes up half a second later
    Switch(switch::Options),
    /// Switches one route many times a second while others are loaded
    Churn(churn::Options),
    /// Parks thousands of clients at a paused route; half of them leave
    Park(park::Options),
}

/// A trial, and where its figures go.
#[derive(Debug, Clone, Args)]
pub struct TrialArgs {
    /// Write the figures for programs here
    #[arg(long, value_name = "FILE", global = true)]
    pub json: Option<PathBuf>,
    /// The edge's program [default: flocker-proxy beside this program]
    #[arg(long, value_name = "FILE", global = true)]
    pub proxy: Option<PathBuf>,
    /// What is tried
    #[command(subcommand)]
    pub trial: Trial,
}

impl TrialArgs {
    /// Runs the trial and reports; true if the promise was kept.
    ///
    /// # Errors
    /// When the edge, the origin or the load cannot be started.
    pub fn run(&self) -> Result<bool> {
        let program = match &self.proxy {
            Some(program) => program.clone(),
            None => std::env::current_exe()
                .context("cannot tell where this program is")?
                .with_file_name("flocker-proxy"),
        };
        let runtime = stage::runtime()?;
        let verdict: Verdict = runtime.block_on(async {
            match &self.trial {
                Trial::Switch(options) => switch::run(options, &program).await,
                Trial::Churn(options) => churn::run(options, &program).await,
                Trial::Park(options) => park::run(options, &program).await,
            }
        })?;
        verdict.show();
        if let Some(path) = &self.json {
            verdict.write(path)?;
        }
        Ok(verdict.kept())
    }
}
