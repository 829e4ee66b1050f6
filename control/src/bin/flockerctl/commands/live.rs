//! A move as it happens: spinners on terminals, a line per finished step elsewhere.

use std::{collections::BTreeMap, io, time::Duration};

use flocker_api::control::{MoveState, MoveStatus, MoveStep, RoundStatus, StepState, StepStatus};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    human,
    output::{Output, Paint},
};

/// Shows a move.
pub(crate) enum Show<'o> {
    /// Not before its end (JSON).
    Quiet,
    /// A line when something has ended.
    Lines(Lines<'o>),
    /// A line per step that is redrawn.
    Bars(Bars<'o>),
}

impl<'o> Show<'o> {
    pub(crate) fn new(out: &'o Output) -> Self {
        if out.json {
            Self::Quiet
        } else if out.live {
            Self::Bars(Bars::new(out))
        } else {
            Self::Lines(Lines {
                out,
                states: BTreeMap::new(),
                rounds: 0,
                reason: None,
                begun: false,
            })
        }
    }

    /// Shows what is new.
    pub(crate) fn update(&mut self, status: &MoveStatus) -> io::Result<()> {
        match self {
            Self::Quiet => Ok(()),
            Self::Lines(lines) => lines.update(status),
            Self::Bars(bars) => bars.update(status),
        }
    }

    /// Time goes by and nothing is new.
    pub(crate) fn tick(&mut self, status: &MoveStatus, since_update: Duration) {
        if let Self::Bars(bars) = self {
            bars.tick(status, since_update);
        }
    }

    /// Control cannot be asked just now.
    pub(crate) fn trouble(&mut self, message: &str) -> io::Result<()> {
        match self {
            Self::Quiet => Ok(()),
            Self::Lines(lines) => lines.out.line(&format!("  ... {message}")),
            Self::Bars(bars) => bars.multi.println(format!("  ... {message}")),
        }
    }
}

/// `move of notes from n1 to n2 (6f1c...)`
pub(crate) fn title(out: &Output, status: &MoveStatus) -> String {
    let app = out.paint(Paint::Strong, status.app.as_str());
    format!(
        "move of {app} from {} to {} ({})",
        status.from, status.to, status.id
    )
}

/// The word for a step's state.
pub(crate) fn step_word(state: StepState) -> &'static str {
    match state {
        StepState::Waiting => "waiting",
        StepState::Running => "running",
        StepState::Done => "done",
        StepState::Failed => "failed",
        StepState::Undone => "undone",
    }
}

/// A step with its state, time and what it has done.
pub(crate) fn step_line(out: &Output, step: &StepStatus, elapsed_ms: Option<f64>) -> String {
    let (mark, paint) = match step.state {
        StepState::Waiting => ("\u{b7}", Paint::Faint),
        StepState::Running => (" ", Paint::Notice),
        StepState::Done => ("\u{2713}", Paint::Good),
        StepState::Failed => ("\u{2717}", Paint::Bad),
        StepState::Undone => ("\u{21b6}", Paint::Notice),
    };
    let elapsed = elapsed_ms.map_or_else(String::new, human::ms);
    let word = match step.state {
        // What is usual needs no word.
        StepState::Done | StepState::Running | StepState::Waiting => String::new(),
        StepState::Failed | StepState::Undone => format!("{}  ", step_word(step.state)),
    };
    let line = format!(
        "  {} {:<12} {elapsed:>8}  {word}{}",
        out.paint(paint, mark),
        step.step.name(),
        step.detail
    );
    line.trim_end().to_owned()
}

/// A round with its bytes and, where it says something, its rate.
pub(crate) fn round_line(number: usize, round: &RoundStatus) -> String {
    // Below that it is the cost of a round that is measured, not the way.
    const RATE_BYTES_MIN: u64 = 1 << 20;
    let mut line = format!(
        "      round {number}: {} in {}",
        human::bytes(round.bytes),
        human::ms(round.snapshot_ms + round.transfer_ms)
    );
    if round.bytes >= RATE_BYTES_MIN {
        let rate = human::rate(round.bytes, round.transfer_ms);
        line.push_str(&format!(" ({rate})"));
    }
    if round.full {
        line.push_str(", everything");
    }
    line
}

/// What came of it.
pub(crate) fn summary(out: &Output, status: &MoveStatus) -> String {
    let reason = status.reason.as_deref().unwrap_or("no reason is known");
    let (app, from, to) = (&status.app, &status.from, &status.to);
    let mut text = match status.state {
        MoveState::Done => out.paint(Paint::Good, &format!("{app} serves on {to}")),
        MoveState::Undone => {
            let stays = format!("{app} stays on {from}, the move was undone");
            format!("{}: {reason}", out.paint(Paint::Bad, &stays))
        }
        MoveState::Stuck => {
            let stuck = format!("the move of {app} is stuck, it is tried again");
            format!("{}: {reason}", out.paint(Paint::Bad, &stuck))
        }
        MoveState::Undoing => format!("the move of {app} is being undone: {reason}"),
        MoveState::Running => format!("{app} is on its way to {to}"),
    };
    text.push('\n');
    for line in figures(status) {
        text.push_str("  ");
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn figures(status: &MoveStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(pause) = status.pause_ms {
        let mut line = format!("paused for {} as the edges saw it", human::ms(pause));
        if let Some(wait) = status.longest_wait_ms {
            line.push_str(&format!(", longest wait {}", human::ms(wait)));
        }
        let (held, refused) = (human::count(status.held), human::count(status.refused));
        line.push_str(&format!("; {held} held, {refused} refused"));
        lines.push(line);
    }
    let own = [("stop", status.app_stop_ms), ("start", status.app_start_ms)];
    let own: Vec<String> = own
        .iter()
        .filter_map(|(verb, ms)| ms.map(|ms| format!("{verb} {}", human::ms(ms))))
        .collect();
    if !own.is_empty() {
        lines.push(format!("of that the app's own {}", own.join(" and ")));
    }
    if !status.rounds.is_empty() {
        let before: u64 = status.rounds.iter().map(|round| round.bytes).sum();
        let rounds = human::plural(status.rounds.len(), "round");
        let mut line = format!("sent {} in {rounds} before the pause", human::bytes(before));
        if let Some(last) = &status.final_delta {
            line.push_str(&format!(", {} in it", human::bytes(last.bytes)));
        }
        lines.push(line);
    }
    if let Some(ended) = status.ended_ms {
        let took = human::whole_ms(ended.saturating_sub(status.started_ms));
        lines.push(format!("{took} from beginning to end"));
    }
    lines
}

/// Lines that are written once, in the order in which things end.
pub(crate) struct Lines<'o> {
    out: &'o Output,
    states: BTreeMap<MoveStep, &'static str>,
    rounds: usize,
    reason: Option<String>,
    begun: bool,
}

impl Lines<'_> {
    fn update(&mut self, status: &MoveStatus) -> io::Result<()> {
        let mut text = String::new();
        if !self.begun {
            self.begun = true;
            text.push_str(&title(self.out, status));
            text.push('\n');
        }
        for (index, round) in status.rounds.iter().enumerate().skip(self.rounds) {
            text.push_str(&round_line(index + 1, round));
            text.push('\n');
        }
        self.rounds = self.rounds.max(status.rounds.len());
        for step in status.steps.iter() {
            let ended = !matches!(step.state, StepState::Waiting | StepState::Running);
            let word = step_word(step.state);
            if ended && self.states.insert(step.step, word) != Some(word) {
                text.push_str(&step_line(self.out, step, step.elapsed_ms));
                text.push('\n');
            }
        }
        let running = matches!(status.state, MoveState::Running | MoveState::Undoing);
        if running && status.reason.is_some() && status.reason != self.reason {
            self.reason.clone_from(&status.reason);
            let reason = self.reason.as_deref().unwrap_or_default();
            text.push_str(&format!("  ... {reason}\n"));
        }
        self.out.text(&text)
    }
}

/// Lines that are redrawn, one per step and round, in the order in which they began.
pub(crate) struct Bars<'o> {
    out: &'o Output,
    multi: MultiProgress,
    steps: BTreeMap<MoveStep, ProgressBar>,
    rounds: Vec<ProgressBar>,
    begun: bool,
}

impl<'o> Bars<'o> {
    fn new(out: &'o Output) -> Self {
        Self {
            out,
            multi: MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(20)),
            steps: BTreeMap::new(),
            rounds: Vec::new(),
            begun: false,
        }
    }

    fn update(&mut self, status: &MoveStatus) -> io::Result<()> {
        if !self.begun {
            self.begun = true;
            self.multi.println(title(self.out, status))?;
        }
        for step in &status.steps {
            if step.state == StepState::Waiting {
                continue;
            }
            let bar = self
                .steps
                .entry(step.step)
                .or_insert_with(|| self.multi.add(spinner()));
            if step.state == StepState::Running {
                bar.set_message(running_line(step, Duration::ZERO));
            } else if !bar.is_finished() || step.state == StepState::Undone {
                bar.set_style(plain());
                bar.finish_with_message(step_line(self.out, step, step.elapsed_ms));
            }
            // A round belongs under the step that made it: the newest that has begun.
            if matches!(step.step, MoveStep::Precopy | MoveStep::Prepare) {
                let after = bar.clone();
                self.add_rounds(status, step, &after);
            }
        }
        Ok(())
    }

    fn add_rounds(&mut self, status: &MoveStatus, step: &StepStatus, bar: &ProgressBar) {
        let prepare_has_begun = self.steps.contains_key(&MoveStep::Prepare);
        if step.step == MoveStep::Precopy && prepare_has_begun && !self.rounds.is_empty() {
            return;
        }
        while let Some(round) = status.rounds.get(self.rounds.len()) {
            let after = match self.rounds.last() {
                Some(last) if step.step == MoveStep::Precopy => last.clone(),
                _ => bar.clone(),
            };
            let line = self.multi.insert_after(&after, ProgressBar::new_spinner());
            line.set_style(plain());
            line.finish_with_message(round_line(self.rounds.len() + 1, round));
            self.rounds.push(line);
        }
    }

    fn tick(&mut self, status: &MoveStatus, since_update: Duration) {
        for step in &status.steps {
            if step.state == StepState::Running
                && let Some(bar) = self.steps.get(&step.step)
            {
                bar.set_message(running_line(step, since_update));
                bar.tick();
            }
        }
    }
}

fn running_line(step: &StepStatus, since_update: Duration) -> String {
    let elapsed = step.elapsed_ms.unwrap_or(0.0) + since_update.as_secs_f64() * 1e3;
    let (name, elapsed) = (step.step.name(), human::ms(elapsed));
    format!("{name:<12} {elapsed:>8}  {}", step.detail)
}

/// A line that turns.
pub(crate) fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}") {
        bar.set_style(style);
    }
    bar
}

/// A line that stands.
pub(crate) fn plain() -> ProgressStyle {
    ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}
