//! What a move would do and take, by what past moves took and by how far the copies are. Pure.

use flocker_api::{
    agent::NodeStatus,
    app::App,
    container::Mount,
    control::{MoveState, MoveStatus, MoveStep},
    explain::{ExpectedStep, MoveExplanation},
    name::NodeName,
};

use super::migration::line_of;

/// What an explanation is made of.
#[derive(Debug)]
pub struct Known<'a> {
    /// The app.
    pub app: &'a App,
    /// Where it is.
    pub from: &'a NodeName,
    /// Where it would be.
    pub to: &'a NodeName,
    /// The source, if it answers.
    pub source: Option<&'a NodeStatus>,
    /// All moves that are remembered, newest first.
    pub moves: &'a [MoveStatus],
    /// How many edges there are.
    pub edges: usize,
    /// What stands against the move.
    pub problems: Vec<String>,
}

/// Explains a move.
#[must_use]
pub fn explain(known: Known<'_>) -> MoveExplanation {
    let done = |status: &&MoveStatus| status.state == MoveState::Done;
    let of_app = |status: &&MoveStatus| status.app == *known.app.name();
    let ours: Vec<&MoveStatus> = known.moves.iter().filter(done).filter(of_app).collect();
    let past_moves = ours.len();
    let past = match past_moves {
        0 => known.moves.iter().filter(done).collect(),
        _ => ours,
    };
    let steps = MoveStep::ALL.iter().map(|step| ExpectedStep {
        step: *step,
        expected_ms: expected(&known, &past, *step),
        paused: line_of(*step).paused,
        what: what(&known, *step),
    });
    let steps: Vec<ExpectedStep> = steps.collect();
    let paused = steps.iter().filter(|step| step.paused);
    MoveExplanation {
        app: known.app.name().clone(),
        from: known.from.clone(),
        to: known.to.clone(),
        pause_ms: paused.map(|step| step.expected_ms).sum(),
        past_moves,
        problems: known.problems,
        steps,
    }
}

/// The median of what a step took; sending ahead is reckoned from what is behind.
fn expected(known: &Known<'_>, past: &[&MoveStatus], step: MoveStep) -> Option<f64> {
    let took = past.iter().filter_map(|status| {
        let found = status.steps.iter().find(|found| found.step == step)?;
        found.elapsed_ms
    });
    let usual = median(took.collect());
    match step {
        MoveStep::Precopy => {
            if known.app.container.volumes.is_empty() {
                return Some(0.0);
            }
            let behind = behind_bytes(known)?;
            let rate = bytes_per_ms(past)?;
            Some(behind as f64 / rate)
        }
        _ => usual,
    }
}

/// Bytes per ms of past transfers.
fn bytes_per_ms(past: &[&MoveStatus]) -> Option<f64> {
    let rounds = past.iter().flat_map(|status| &status.rounds);
    let (bytes, ms) = rounds.fold((0_u64, 0.0), |(bytes, ms), round| {
        (bytes + round.bytes, ms + round.transfer_ms)
    });
    (bytes > 0 && ms > 0.0).then(|| bytes as f64 / ms)
}

/// How much of the volumes the target lacks; all that they occupy where it has no copy.
fn behind_bytes(known: &Known<'_>) -> Option<u64> {
    let mounts = known.app.container.volumes.iter();
    let behind = mounts.map(|mount| behind_of(known, mount).map(|(bytes, _)| bytes));
    behind.sum()
}

/// Bytes that the target lacks of a volume, and how old what it has is.
fn behind_of(known: &Known<'_>, mount: &Mount) -> Option<(u64, Option<u64>)> {
    let mut volumes = known.source?.volumes.iter();
    let volume = volumes.find(|volume| volume.id == mount.volume)?;
    let copies = volume.replication.iter().flat_map(|one| &one.targets);
    let mut copies = copies.filter(|copy| copy.peer == *known.to && copy.acknowledged.is_some());
    Some(match copies.next() {
        Some(copy) => (copy.lag_bytes.unwrap_or(0), copy.lag_ms),
        None => (volume.used_bytes, None),
    })
}

fn what(known: &Known<'_>, step: MoveStep) -> String {
    let app = known.app;
    let routes = app.routes.len();
    match step {
        MoveStep::Preflight => format!("{} and {} edges are asked", known.to, known.edges),
        MoveStep::Precopy => {
            let lines = app
                .container
                .volumes
                .iter()
                .map(|mount| match behind_of(known, mount) {
                    Some((bytes, Some(lag_ms))) => format!(
                        "{}: the copy there is {:.1} s old, {:.1} MiB behind",
                        mount.name,
                        lag_ms as f64 / 1e3,
                        mebibytes(bytes)
                    ),
                    Some((bytes, None)) => {
                        format!("{}: {:.1} MiB are sent", mount.name, mebibytes(bytes))
                    }
                    None => format!("{}: its size is not known", mount.name),
                });
            let lines: Vec<String> = lines.collect();
            match lines.is_empty() {
                true => "no volumes".to_owned(),
                false => lines.join("; "),
            }
        }
        MoveStep::Prepare => match &app.container.pre_stop {
            Some(hook) => format!("container made, `{}` run at the source", hook.join(" ")),
            None => "container made".to_owned(),
        },
        MoveStep::Pause => format!("{routes} routes paused on {} edges", known.edges),
        MoveStep::Stop => {
            let stop = &app.container.stop;
            format!("{}, killed after {} ms", stop.signal, stop.grace_ms)
        }
        MoveStep::FinalDelta => "what was written since the last round".to_owned(),
        MoveStep::Pivot => "from here on only forward".to_owned(),
        MoveStep::Promote => "the copy there becomes the writable one".to_owned(),
        MoveStep::Start => match app.container.ready {
            Some(_) => "until its probe answers".to_owned(),
            None => "until it runs".to_owned(),
        },
        MoveStep::Switch => format!("{routes} routes lead to {}", known.to),
        MoveStep::Cleanup => format!("the copy on {} becomes a replica", known.from),
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use flocker_api::container::ContainerSpec;

    use super::*;

    #[test]
    fn without_a_past_nothing_is_made_up() {
        let app = App::new(ContainerSpec::new("web".parse().unwrap(), "web"));
        let (from, to) = ("n1".parse().unwrap(), "n2".parse().unwrap());
        let explanation = explain(Known {
            app: &app,
            from: &from,
            to: &to,
            source: None,
            moves: &[],
            edges: 2,
            problems: Vec::new(),
        });
        assert_eq!(explanation.pause_ms, None);
        assert_eq!(explanation.past_moves, 0);
        assert_eq!(explanation.steps.len(), MoveStep::ALL.len());
        assert_eq!(explanation.steps[1].expected_ms, Some(0.0), "no volumes");
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![9.0, 1.0, 5.0]), Some(5.0));
    }
}
