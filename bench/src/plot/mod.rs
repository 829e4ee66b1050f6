//! `move.svg`: every request of every move as a dot, and where the time of the pause went.
//!
//! Hand-written SVG without scripts; pure, numbers in and text out. Dots that fall into the
//! same cell become one that is more opaque, so that a file stays small however long the run.
//! Colours follow the reader's light or dark mode; the background is drawn, so that either is
//! legible anywhere.

mod panel;
mod scale;
pub(crate) mod svg;

use crate::{report::Report, scenario::Run};

use panel::Panel;
use scale::Latency;
use svg::Canvas;

/// Width of the drawing.
const WIDTH: f64 = 960.0;
/// Height of title and legend.
const HEAD: f64 = 84.0;
/// Space at the bottom.
const FOOT: f64 = 14.0;

/// Draws all moves of some runs, one below the other.
#[must_use]
pub fn render(runs: &[Run], report: &Report) -> String {
    let panels: Vec<Panel<'_>> = runs
        .iter()
        .flat_map(|run| run.moves.iter().map(move |moved| (run, moved)))
        .zip(&report.moves)
        .map(|((run, moved), numbers)| Panel::new(run, moved, numbers))
        .collect();
    let latencies = panels.iter().flat_map(Panel::latencies_us);
    let latency = Latency::covering(latencies);
    #[expect(clippy::cast_precision_loss, reason = "a handful of panels")]
    let height = HEAD + panels.len() as f64 * panel::HEIGHT + FOOT;
    let mut canvas = Canvas::new(WIDTH, height, &title(report));
    head(&mut canvas, report);
    let mut top = HEAD;
    for panel in &panels {
        panel.draw(&mut canvas, top, &latency);
        top += panel::HEIGHT;
    }
    canvas.finish()
}

/// The outcome in one sentence, true also where it is not good.
fn title(report: &Report) -> String {
    let sum = |of: fn(&crate::report::LoadReport) -> u64| report.loads.iter().map(of).sum::<u64>();
    let requests = sum(|load| load.requests);
    let failed = sum(|load| load.failed + load.unanswered);
    let (writes, lost) = (
        sum(|load| load.acknowledged_writes),
        sum(|load| load.lost_writes),
    );
    format!(
        "{} moves under load: {} of {} requests failed, {} of {} acknowledged writes lost",
        report.moves.len(),
        thousands(failed),
        thousands(requests),
        thousands(lost),
        thousands(writes),
    )
}

fn head(canvas: &mut Canvas, report: &Report) {
    canvas.text("title", 24.0, 30.0, &title(report));
    let machine = &report.machine;
    let subtitle = format!(
        "Each dot is a request at the moment it was meant to be sent, as high as its answer took. \
         Storage {}, runtime {}, {} CPUs.",
        report.storage, report.runtime, machine.cpus
    );
    canvas.text("note", 24.0, 50.0, &subtitle);
    let mut x = 24.0;
    for (class, label) in [
        ("rk", "read, kept connection"),
        ("rn", "read, new connection"),
        ("wk", "write, kept connection"),
        ("wn", "write, new connection"),
        ("bad", "failed"),
    ] {
        canvas.dot(class, x + 4.0, 68.0, 3.5);
        canvas.text("note", x + 13.0, 72.0, label);
        x += 13.0 + svg::text_width(label, 11.0) + 22.0;
    }
}

/// A number with its thousands apart.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests;
