//! `move --explain`: what a move would do, and how long it would take.

use flocker_api::{
    control::MoveRequest,
    explain::{ExpectedStep, MoveExplanation},
};

use super::Cli;
use crate::{
    failure::{Failure, Verdict},
    human,
    output::{Output, Paint},
};

/// Longest wait: the target is asked what stands against it.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

/// `flockerctl move --explain`
pub(crate) async fn run(cli: &Cli<'_>, request: &MoveRequest) -> Result<Verdict, Failure> {
    let path = "/v2/moves/explain";
    let found: MoveExplanation = cli.control.post(path, request, DEADLINE).await?;
    if cli.out.json {
        cli.out.json(&found)?;
    } else {
        cli.out.text(&text(cli.out, &found))?;
    }
    Ok(match found.problems.is_empty() {
        true => Verdict::Done,
        false => Verdict::Failed,
    })
}

fn text(out: &Output, found: &MoveExplanation) -> String {
    let app = out.paint(Paint::Strong, found.app.as_str());
    let mut text = format!(
        "a move of {app} from {} to {} would do:\n",
        found.from, found.to
    );
    for step in &found.steps {
        text.push_str(&line(step));
    }
    let pause = match found.pause_ms {
        Some(pause) => format!("requests would wait about {}", human::ms(pause)),
        None => "how long requests would wait is not known: nothing was moved yet".to_owned(),
    };
    let ground = match (found.past_moves, found.pause_ms) {
        (0, Some(_)) => " (by moves of other apps)".to_owned(),
        (0, None) => String::new(),
        (count, _) => format!(" (by {})", human::plural(count, "past move")),
    };
    text.push_str(&format!("  {pause}{ground}\n"));
    for problem in &found.problems {
        let bad = out.paint(Paint::Bad, "in the way:");
        text.push_str(&format!("  {bad} {problem}\n"));
    }
    text
}

fn line(step: &ExpectedStep) -> String {
    let held = if step.paused { "held" } else { "" };
    let time = step.expected_ms.map_or_else(|| "?".to_owned(), human::ms);
    format!(
        "  {:<12} {time:>8}  {held:<4}  {}\n",
        step.step.name(),
        step.what
    )
}
