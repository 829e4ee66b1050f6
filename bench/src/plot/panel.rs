//! One move: its requests over time, its steps above them, its pause spread out below.

use std::collections::HashMap;

use flocker_api::control::{MoveStatus, MoveStep, StepStatus};

use super::{
    WIDTH,
    scale::{Latency, Time},
    svg::{self, Canvas},
    thousands,
};
use crate::{
    load::{Connection, Kind, Outcome, Sample},
    report::MoveReport,
    scenario::{Run, Workload},
};

/// Height of a panel with all that belongs to it.
pub(super) const HEIGHT: f64 = 270.0;
/// Left and right end of the field.
const LEFT: f64 = 66.0;
const RIGHT: f64 = WIDTH - 24.0;
/// Height of the field, of a ribbon of steps, and of the fan from the pause to its ribbon.
const FIELD: f64 = 168.0;
const RIBBON: f64 = 15.0;
const FAN: f64 = 22.0;
/// Dots in the same cell of so many units are one.
const CELL: f64 = 2.0;
/// How far the panel reaches beyond its move on either side, in s.
const MARGIN: f64 = 1.0;
/// So few cells are drawn larger.
const FEW: usize = 1000;
/// Opacity by the number of requests in a cell.
const DENSITY: [(u32, f64); 4] = [(1, 0.5), (2, 0.65), (4, 0.82), (9, 1.0)];

/// A move with its requests.
#[derive(Debug)]
pub(super) struct Panel<'r> {
    run: &'r Run,
    moved: &'r MoveStatus,
    numbers: &'r MoveReport,
    time: Time,
}

/// The class by which a request is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Class {
    ReadKept,
    ReadNew,
    WriteKept,
    WriteNew,
    Failed,
}

impl Class {
    /// All, in the order in which they are drawn.
    const ALL: [Self; 5] = [
        Self::ReadKept,
        Self::WriteKept,
        Self::ReadNew,
        Self::WriteNew,
        Self::Failed,
    ];

    fn of(sample: &Sample) -> Self {
        match (sample.outcome, sample.kind, sample.connection) {
            (Outcome::Answered, Kind::Read, Connection::Kept) => Self::ReadKept,
            (Outcome::Answered, Kind::Read, Connection::New) => Self::ReadNew,
            (Outcome::Answered, Kind::Write, Connection::Kept) => Self::WriteKept,
            (Outcome::Answered, Kind::Write, Connection::New) => Self::WriteNew,
            _ => Self::Failed,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::ReadKept => "rk",
            Self::ReadNew => "rn",
            Self::WriteKept => "wk",
            Self::WriteNew => "wn",
            Self::Failed => "bad",
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "moments of a drawing")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}

impl<'r> Panel<'r> {
    pub(super) fn new(run: &'r Run, moved: &'r MoveStatus, numbers: &'r MoveReport) -> Self {
        let took = moved.ended_ms.map_or(10.0, |ended| {
            seconds(ended.saturating_sub(moved.started_ms))
        });
        Self {
            run,
            moved,
            numbers,
            time: Time {
                from: -MARGIN,
                to: took + MARGIN,
            },
        }
    }

    /// A moment of Unix time in ms, in s since the move began.
    fn since_begin(&self, unix_ms: f64) -> f64 {
        unix_ms / 1e3 - seconds(self.moved.started_ms)
    }

    /// The requests of the panel, with their moments in s since the move began.
    fn samples(&self) -> impl Iterator<Item = (f64, &Sample)> {
        let offset = self.since_begin(self.run.trace.began_unix_ms);
        let time = self.time;
        self.run.trace.samples.iter().filter_map(move |sample| {
            let at = offset + seconds(sample.intended_us) / 1e3;
            (time.from..=time.to).contains(&at).then_some((at, sample))
        })
    }

    pub(super) fn latencies_us(&self) -> impl Iterator<Item = u64> {
        self.samples().map(|(_, sample)| sample.latency_us)
    }

    fn x(&self, at: f64) -> f64 {
        LEFT + self.time.place(at) * (RIGHT - LEFT)
    }

    /// When the routes were held, in s since the move began.
    fn pause(&self) -> Option<(f64, f64)> {
        let from = self.since_begin(self.moved.paused_at_ms?);
        Some((from, from + self.moved.pause_ms? / 1e3))
    }

    pub(super) fn draw(&self, canvas: &mut Canvas, top: f64, latency: &Latency) {
        canvas.text("name", 24.0, top + 14.0, &self.heading());
        canvas.text("note end", RIGHT, top + 14.0, &self.facts());
        let ribbon = top + 24.0;
        let field = ribbon + RIBBON + 3.0;
        self.axes(canvas, field, latency);
        self.steps(canvas, ribbon);
        if let Some((from, to)) = self.pause() {
            let (x1, x2) = (self.x(from), self.x(to));
            canvas.rect("held", x1, field, x2 - x1, FIELD);
            self.spread_out(canvas, field + FIELD, (x1, x2), (from, to));
        }
        self.dots(canvas, field, latency);
    }

    fn heading(&self) -> String {
        let moved = self.numbers;
        format!("{} moves from {} to {}", moved.app, moved.from, moved.to)
    }

    fn facts(&self) -> String {
        let moved = self.numbers;
        let time = |value: Option<f64>| value.map_or_else(|| "?".to_owned(), duration);
        let what = match self.run.workload {
            Workload::Notes => "requests",
            Workload::Postgres => "rows",
        };
        format!(
            "{} {what}, {} failed, longest wait {}; held for {}, of which the app's own stop {} and \
             start {}",
            thousands(moved.requests),
            moved.failed + moved.unanswered,
            duration(moved.longest_wait_ms),
            time(moved.pause_ms),
            time(moved.app_stop_ms),
            time(moved.app_start_ms),
        )
    }

    fn axes(&self, canvas: &mut Canvas, field: f64, latency: &Latency) {
        for (place, label) in latency.ticks() {
            let y = field + (1.0 - place) * FIELD;
            canvas.line("grid", (LEFT, y), (RIGHT, y));
            canvas.text("axis end", LEFT - 7.0, y + 4.0, &label);
        }
        // Labels of time stand inside, at the bottom: below, the pause is spread out, and what
        // waits is at the top.
        for (place, label) in self.time.ticks() {
            let x = LEFT + place * (RIGHT - LEFT);
            canvas.line("grid", (x, field), (x, field + FIELD));
            if x < RIGHT - 34.0 {
                canvas.text("axis", x + 3.0, field + FIELD - 5.0, &label);
            }
        }
    }

    /// The ribbon of all steps, labelled where there is room.
    fn steps(&self, canvas: &mut Canvas, top: f64) {
        for (number, step) in self.moved.steps.iter().enumerate() {
            let Some((from, to)) = self.span(step) else {
                continue;
            };
            let at = (self.x(from), self.x(to));
            segment(canvas, ["s0", "s1"][number % 2], top, at, step);
        }
    }

    fn span(&self, step: &StepStatus) -> Option<(f64, f64)> {
        let from = seconds(step.started_ms?) - seconds(self.moved.started_ms);
        Some((from, from + step.elapsed_ms? / 1e3))
    }

    /// The pause over the whole width, so that its steps can be told apart.
    fn spread_out(&self, canvas: &mut Canvas, top: f64, x: (f64, f64), pause: (f64, f64)) {
        let ribbon = top + FAN;
        canvas.polygon(
            "fan",
            &[(x.0, top), (x.1, top), (RIGHT, ribbon), (LEFT, ribbon)],
        );
        canvas.text("hold end", LEFT - 7.0, ribbon + 11.0, "held");
        let place = |at: f64| {
            let part = ((at - pause.0) / (pause.1 - pause.0)).clamp(0.0, 1.0);
            LEFT + part * (RIGHT - LEFT)
        };
        canvas.rect("fan", LEFT, ribbon, RIGHT - LEFT, RIBBON);
        let held = |step: &&StepStatus| (MoveStep::Pause..=MoveStep::Switch).contains(&step.step);
        for (number, step) in self.moved.steps.iter().filter(held).enumerate() {
            let Some((from, to)) = self.span(step) else {
                continue;
            };
            let at = (place(from), place(to));
            segment(canvas, ["z0", "z1"][number % 2], ribbon, at, step);
        }
    }

    fn dots(&self, canvas: &mut Canvas, field: f64, latency: &Latency) {
        let mut cells: HashMap<(Class, u16, u16), u32> = HashMap::new();
        for (at, sample) in self.samples() {
            let x = cell(self.x(at) - LEFT);
            let y = cell((1.0 - latency.place(sample.latency_us)) * FIELD);
            *cells.entry((Class::of(sample), x, y)).or_default() += 1;
        }
        let mut cells: Vec<((Class, u16, u16), u32)> = cells.into_iter().collect();
        cells.sort_unstable();
        // A few dots are drawn larger, else they are lost on the page.
        let few = if cells.len() < FEW { " few" } else { "" };
        for class in Class::ALL {
            let name = format!("{}{few}", class.name());
            for (number, (from, opacity)) in DENSITY.iter().enumerate() {
                let below = DENSITY.get(number + 1).map_or(u32::MAX, |next| next.0);
                let chosen = cells
                    .iter()
                    .filter(|((of, ..), count)| *of == class && (*from..below).contains(count));
                let at: Vec<(u16, u16)> = chosen.map(|((_, x, y), _)| (*x, *y)).collect();
                if class == Class::Failed {
                    for (x, y) in at {
                        canvas.dot("bad", LEFT + f64::from(x), field + f64::from(y), 3.5);
                    }
                } else {
                    canvas.dots(&name, *opacity, (LEFT, field), &at);
                }
            }
        }
    }
}

/// A step of a ribbon: its name and time if they fit, its name if that fits, else nothing but
/// what it says when pointed at.
fn segment(canvas: &mut Canvas, class: &str, top: f64, x: (f64, f64), step: &StepStatus) {
    let width = (x.1 - x.0).max(0.8);
    let name = step.step.name().replace('_', " ");
    let ms = step.elapsed_ms.unwrap_or(0.0);
    let full = format!("{name} {}", duration(ms));
    canvas.told_rect(class, [x.0, top, width, RIBBON], &full);
    let fits = |text: &&String| svg::text_width(text, 10.0) + 5.0 <= width;
    if let Some(text) = [&full, &name].into_iter().find(fits) {
        canvas.text("step mid", x.0 + width / 2.0, top + 11.0, text);
    }
}

/// A time with as many digits as matter.
fn duration(ms: f64) -> String {
    match ms {
        0.0..9.95 => format!("{ms:.1} ms"),
        9.95..999.5 => format!("{ms:.0} ms"),
        _ => format!("{:.2} s", ms / 1e3),
    }
}

/// The middle of the cell of a coordinate.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "coordinates are within the drawing"
)]
fn cell(coordinate: f64) -> u16 {
    ((coordinate.max(0.0) / CELL).floor() * CELL + CELL / 2.0) as u16
}
