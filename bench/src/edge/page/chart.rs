//! The drawings of the page: ratios of all workloads at a glance, and the costs of one workload.

use super::{Line, number};
use crate::{
    edge::figures::{Spread, WorkloadFigures},
    plot::svg::{Canvas, text_width},
};

const WIDTH: f64 = 960.0;
/// Where names end and the field begins, and where it ends.
const LEFT: f64 = 150.0;
const RIGHT: f64 = WIDTH - 40.0;
/// Height of title and legend of the overview, and of each of its rows.
const HEAD: f64 = 78.0;
const ROW: f64 = 34.0;
const FOOT: f64 = 30.0;
/// The ratios that the field shows; what is beyond stands at its edge.
const RATIO_MIN: f64 = 0.25;
const RATIO_MAX: f64 = 4.0;
const TICKS: [f64; 9] = [0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0];
/// Height of a bar with its gap.
const BAR: f64 = 22.0;

/// The peers, with the class by which each is coloured.
const PEERS: [(&str, &str); 5] = [
    ("haproxy", "p0"),
    ("haproxy-tuned", "p1"),
    ("nginx", "p2"),
    ("nginx-tuned", "p3"),
    ("flocker-io_uring", "p4"),
];

/// Where a ratio stands: factors are of equal width.
fn x(ratio: f64) -> f64 {
    let ratio = ratio.clamp(RATIO_MIN, RATIO_MAX);
    let part = (ratio / RATIO_MIN).ln() / (RATIO_MAX / RATIO_MIN).ln();
    LEFT + part * (RIGHT - LEFT)
}

#[expect(clippy::cast_precision_loss, reason = "a few dozen rows")]
fn float(count: usize) -> f64 {
    count as f64
}

/// A row for each workload: flocker's cost divided by each peer's.
pub(super) fn overview(lines: &[Line]) -> String {
    let lines: Vec<&Line> = lines
        .iter()
        .filter(|line| !line.ratios.is_empty())
        .collect();
    let bottom = HEAD + float(lines.len()) * ROW;
    let title = "Flocker's cost divided by that of its peers";
    let mut canvas = Canvas::new(WIDTH, bottom + FOOT, title);
    canvas.text("title", 24.0, 30.0, title);
    canvas.rect("good", LEFT, HEAD - 8.0, x(1.0) - LEFT, bottom - HEAD + 8.0);
    let mut at = 24.0;
    for (name, class) in PEERS {
        if lines
            .iter()
            .any(|line| line.ratios.iter().any(|(of, _)| of == name))
        {
            canvas.dot(class, at + 5.0, 51.0, 4.5);
            canvas.text("note", at + 15.0, 55.0, name);
            at += 15.0 + text_width(name, 11.0) + 24.0;
        }
    }
    canvas.text(
        "note end",
        RIGHT,
        30.0,
        "left of 1 flocker is cheaper; bars reach from least to most",
    );
    for tick in TICKS {
        let class = if (tick - 1.0).abs() < 1e-9 {
            "one"
        } else {
            "grid"
        };
        canvas.line(class, (x(tick), HEAD - 8.0), (x(tick), bottom));
        canvas.text("axis mid", x(tick), bottom + 18.0, &format!("{tick}"));
    }
    for (number, line) in lines.iter().enumerate() {
        row(&mut canvas, HEAD + float(number) * ROW, line);
    }
    canvas.finish()
}

fn row(canvas: &mut Canvas, top: f64, line: &Line) {
    let middle = top + ROW / 2.0;
    canvas.text("name end", LEFT - 14.0, middle + 4.0, &line.last.workload);
    canvas.line("grid", (LEFT, top + ROW), (RIGHT, top + ROW));
    let shown = PEERS.iter().filter_map(|(name, class)| {
        let (_, ratios) = line.ratios.iter().find(|(of, _)| of == name)?;
        Some((*name, *class, ratios))
    });
    let shown: Vec<_> = shown.collect();
    let step = (ROW - 10.0) / float(shown.len().max(1));
    for (at, (name, class, ratios)) in shown.into_iter().enumerate() {
        let y = top + 5.0 + step * (float(at) + 0.5);
        for spread in ratios {
            let (from, to) = (x(spread.min), x(spread.max));
            let told = format!(
                "{name}: {:.2} ({:.2} to {:.2})",
                spread.median, spread.min, spread.max
            );
            canvas.told_rect(
                &format!("{class} range"),
                [from, y - 1.5, to - from, 3.0],
                &told,
            );
        }
        for Spread { median, .. } in ratios {
            canvas.dot(class, x(*median), y, 4.0);
        }
    }
}

/// The cost of each subject as a bar: user space and kernel, or bytes; none if there is none.
pub(super) fn bars(workload: &WorkloadFigures) -> Option<String> {
    let rows: Vec<(&str, f64, f64)> = workload
        .subjects
        .iter()
        .filter_map(|one| {
            let memory = one.bytes_per_session.map(|bytes| (bytes.median, 0.0));
            let user = one.user_per_unit.map_or(0.0, |user| user.median);
            let cpu = one.cpu_per_unit.map(|cpu| (user, cpu.median - user));
            let (first, second) = memory.or(cpu)?;
            Some((one.name.as_str(), first, second))
        })
        .collect();
    let most = rows
        .iter()
        .map(|(_, first, second)| first + second)
        .fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let is_memory = workload.sessions.is_some();
    let height = 40.0 + float(rows.len()) * BAR + 10.0;
    let mut canvas = Canvas::new(WIDTH, height, &workload.workload);
    let legend = match is_memory {
        true => [("u0", "bytes of a session"), ("", "")],
        false => [("u0", "user space"), ("u1", "kernel")],
    };
    let mut at = LEFT;
    for (class, label) in legend.iter().filter(|(class, _)| !class.is_empty()) {
        canvas.rect(class, at, 14.0, 10.0, 10.0);
        canvas.text("note", at + 16.0, 23.0, label);
        at += 16.0 + text_width(label, 11.0) + 20.0;
    }
    let unit = match is_memory {
        true => "bytes".to_owned(),
        false => format!("{} per {}", workload.cpu_unit, workload.unit),
    };
    canvas.text("note end", RIGHT, 23.0, &unit);
    let width = RIGHT - 70.0 - LEFT;
    for (number_of, (name, first, second)) in rows.iter().enumerate() {
        let y = 36.0 + float(number_of) * BAR;
        let ours = if name.starts_with("flocker") {
            ""
        } else {
            " theirs"
        };
        let (one, two) = (first / most * width, second / most * width);
        canvas.text("axis end", LEFT - 14.0, y + 12.0, name);
        canvas.rect(&format!("u0{ours}"), LEFT, y, one, BAR - 6.0);
        canvas.rect(&format!("u1{ours}"), LEFT + one, y, two, BAR - 6.0);
        canvas.text(
            "note",
            LEFT + one + two + 8.0,
            y + 12.0,
            &number(first + second),
        );
    }
    Some(canvas.finish())
}
