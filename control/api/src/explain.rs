//! What a move would do and take, told before it is begun.

use serde::{Deserialize, Serialize};

use crate::{
    control::MoveStep,
    name::{AppName, NodeName},
};

/// Answer to a question about a move. Nothing was changed for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MoveExplanation {
    /// The app.
    pub app: AppName,
    /// Where it is.
    pub from: NodeName,
    /// Where it would be.
    pub to: NodeName,
    /// The steps, in order.
    pub steps: Vec<ExpectedStep>,
    /// How long its requests would be held, in ms; `None` where nothing was ever measured.
    pub pause_ms: Option<f64>,
    /// How many past moves of this app the times are taken from; 0: from those of other apps, if
    /// there are times.
    pub past_moves: usize,
    /// What stands against it now.
    pub problems: Vec<String>,
}

/// A step that a move would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpectedStep {
    /// Which.
    pub step: MoveStep,
    /// How long it would take, in ms, where that can be said.
    pub expected_ms: Option<f64>,
    /// Whether requests are held meanwhile.
    pub paused: bool,
    /// What it would do, in a few words.
    pub what: String,
}
