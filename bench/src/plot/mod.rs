//! Placeholder.
use crate::{report::Report, scenario::Run};
/// Draws.
#[must_use]
pub fn render(_runs: &[Run], _report: &Report) -> String {
    String::new()
}
