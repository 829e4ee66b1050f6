//! What a trial has seen: a table for people, a file for programs.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::report::Machine;

/// One figure and what it must be.
#[derive(Debug, Clone, Serialize)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    /// The largest value that keeps the promise; none if the figure only informs.
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most: Option<f64>,
}

impl Figure {
    fn kept(&self) -> bool {
        self.at_most.is_none_or(|most| self.value <= most)
    }
}

/// All figures of a trial.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Verdict {
    trial: &'static str,
    machine: Machine,
    figures: Vec<Figure>,
}

impl Verdict {
    pub(super) fn new(trial: &'static str) -> Self {
        Self {
            trial,
            machine: Machine::this(),
            figures: Vec::new(),
        }
    }

    /// A figure that informs.
    pub(super) fn note(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure {
            name: name.into(),
            value,
            unit,
            at_most: None,
        });
    }

    /// A figure with the largest value that keeps the promise.
    pub(super) fn promise(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        at_most: f64,
    ) {
        self.figures.push(Figure {
            name: name.into(),
            value,
            unit,
            at_most: Some(at_most),
        });
    }

    /// Whether every promise was kept.
    pub(super) fn kept(&self) -> bool {
        self.figures.iter().all(Figure::kept)
    }

    /// Prints the table.
    pub(super) fn show(&self) {
        say!("trial {}", self.trial);
        for figure in &self.figures {
            let promise = match figure.at_most {
                None => String::new(),
                Some(most) if figure.kept() => format!("  (at most {most})"),
                Some(most) => format!("  BROKEN: at most {most}"),
            };
            let value = figure.value;
            say!(
                "  {:<44} {value:>12.1} {:<4}{promise}",
                figure.name,
                figure.unit
            );
        }
    }

    /// Writes the file for programs.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context("figures are JSON")?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_kept_up_to_its_bound_and_no_further() {
        let mut verdict = Verdict::new("test");
        verdict.note("only said", 1e9, "ms");
        verdict.promise("at its bound", 550.0, "ms", 550.0);
        assert!(verdict.kept());
        verdict.promise("beyond", 550.1, "ms", 550.0);
        assert!(!verdict.kept());
    }
}
