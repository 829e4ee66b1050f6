//! `route watch`: what goes through routes, look by look.
#![expect(
    clippy::disallowed_methods,
    reason = "rates are reckoned over the time between two looks"
)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use flocker_api::{edge::RouteStatus, gate::GateState, route::RouteKey};
use serde::Serialize;
use serde_json::json;

use super::{
    now_ms,
    route::{RouteCli, gate_word, report},
};
use crate::{
    args_edge::Watch,
    edges::Answer,
    failure::{Failure, Verdict},
    human,
    output::Output,
};

/// A route over all edges at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    requests: u64,
    failed: u64,
    in_flight: u64,
    parked: u64,
    oldest_wait_ms: u64,
    gate: GateState,
}

/// What is shown of a route.
#[derive(Debug, Serialize)]
struct Line {
    route: String,
    gate: GateState,
    requests_per_s: f64,
    failed_per_s: f64,
    in_flight: u64,
    parked: u64,
    oldest_wait_ms: u64,
}

/// `flockerctl route watch`
pub(crate) async fn run(cli: &RouteCli<'_>, args: Watch) -> Result<Verdict, Failure> {
    if args.every < Duration::from_millis(100) {
        let message = "--every must be at least 100ms";
        return Err(Failure::Usage(message.to_owned()));
    }
    let (mut before, mut verdict) = look(cli, &args.keys).await?;
    let mut at = Instant::now();
    let mut looks = 0;
    while verdict == Verdict::Done {
        tokio::time::sleep(args.every).await;
        let (now, next) = look(cli, &args.keys).await?;
        verdict = next;
        let elapsed = at.elapsed();
        at = Instant::now();
        let lines = lines(&before, &now, elapsed, args.top);
        show(cli.out, &lines)?;
        before = now;
        looks += 1;
        if looks == args.count {
            break;
        }
    }
    Ok(verdict)
}

type Look = BTreeMap<RouteKey, Seen>;

async fn look(cli: &RouteCli<'_>, keys: &[RouteKey]) -> Result<(Look, Verdict), Failure> {
    let mut look = Look::new();
    // One route costs an edge of a million far less than all of them.
    if !keys.is_empty() {
        let mut verdict = Verdict::Done;
        for key in keys {
            let answers = cli.edges.route(key).await?;
            for status in answers.iter().filter_map(Answer::ok) {
                add(&mut look, status);
            }
            if !look.contains_key(key) {
                verdict = report(cli.out, &answers);
            }
        }
        return Ok((look, verdict));
    }
    let answers = cli.edges.tables().await?;
    for table in answers.iter().filter_map(Answer::ok) {
        for status in &table.routes {
            add(&mut look, status);
        }
    }
    let verdict = match answers.iter().any(|answer| answer.ok().is_some()) {
        true => Verdict::Done,
        false => report(cli.out, &answers),
    };
    Ok((look, verdict))
}

fn add(look: &mut Look, status: &RouteStatus) {
    let gate = &status.gate;
    let seen = look.entry(status.route.key.clone()).or_insert(Seen {
        requests: 0,
        failed: 0,
        in_flight: 0,
        parked: 0,
        oldest_wait_ms: 0,
        gate: gate.state,
    });
    seen.requests += status.requests;
    seen.failed += status.failed;
    seen.in_flight += gate.in_flight;
    seen.parked += gate.parked;
    seen.oldest_wait_ms = seen.oldest_wait_ms.max(gate.oldest_wait_ms);
    if seen.gate == GateState::Open {
        seen.gate = gate.state;
    }
}

/// The busiest first, and before them those that hold somebody.
fn lines(before: &Look, now: &Look, elapsed: Duration, top: usize) -> Vec<Line> {
    #[expect(clippy::cast_precision_loss, reason = "a rate shows few digits")]
    let rate = |now: u64, before: u64| {
        // An edge that was upgraded counts from nought.
        let count = now.checked_sub(before).unwrap_or(now);
        (count as f64 / elapsed.as_secs_f64().max(1e-3) * 10.0).round() / 10.0
    };
    let mut lines: Vec<Line> = now
        .iter()
        .map(|(key, seen)| {
            let was = before.get(key);
            Line {
                route: key.to_string(),
                gate: seen.gate,
                requests_per_s: rate(seen.requests, was.map_or(seen.requests, |was| was.requests)),
                failed_per_s: rate(seen.failed, was.map_or(seen.failed, |was| was.failed)),
                in_flight: seen.in_flight,
                parked: seen.parked,
                oldest_wait_ms: seen.oldest_wait_ms,
            }
        })
        .collect();
    lines.sort_by(|a, b| {
        let weight = |line: &Line| {
            (
                line.parked > 0 || line.gate != GateState::Open,
                line.requests_per_s,
            )
        };
        weight(b)
            .partial_cmp(&weight(a))
            .unwrap_or(std::cmp::Ordering::Equal)
            .then_with(|| a.route.cmp(&b.route))
    });
    lines.truncate(top);
    lines
}

fn show(out: &Output, lines: &[Line]) -> Result<(), Failure> {
    if out.json {
        let value = json!({ "time_ms": now_ms(), "routes": lines });
        out.line(&value.to_string())?;
        return Ok(());
    }
    let rows = lines.iter().map(|line| {
        vec![
            line.route.clone(),
            gate_word(line.gate).to_owned(),
            format!("{:.1}", line.requests_per_s),
            format!("{:.1}", line.failed_per_s),
            human::count(line.in_flight),
            human::count(line.parked),
            match line.parked {
                0 => "-".to_owned(),
                _ => human::whole_ms(line.oldest_wait_ms),
            },
        ]
    });
    let header = [
        "ROUTE",
        "GATE",
        "REQUESTS/S",
        "FAILED/S",
        "IN FLIGHT",
        "PARKED",
        "LONGEST WAIT",
    ];
    let table = out.table(&header, rows.collect());
    // To the top left, and away with what was there.
    let home = if out.live { "\u{1b}[H\u{1b}[2J" } else { "" };
    out.text(&format!("{home}{table}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(requests: u64, parked: u64) -> Seen {
        Seen {
            requests,
            failed: 0,
            in_flight: 0,
            parked,
            oldest_wait_ms: 7,
            gate: GateState::Open,
        }
    }

    fn look(of: &[(&str, Seen)]) -> Look {
        of.iter()
            .map(|(key, seen)| (key.parse().unwrap(), *seen))
            .collect()
    }

    #[test]
    fn rates_are_over_the_time_between_two_looks_and_holds_come_first() {
        let before = look(&[
            ("tcp:1", seen(100, 0)),
            ("tcp:2", seen(0, 0)),
            ("tcp:4", seen(50, 0)),
        ]);
        let now = look(&[
            ("tcp:1", seen(300, 0)),
            ("tcp:2", seen(2, 3)),
            ("tcp:3", seen(9, 0)),
            ("tcp:4", seen(10, 0)),
        ]);
        let lines = lines(&before, &now, Duration::from_secs(2), 10);
        let shown: Vec<(&str, f64)> = lines
            .iter()
            .map(|line| (line.route.as_str(), line.requests_per_s))
            .collect();
        // tcp:3 is new, so nothing is known of its rate; tcp:4 counts from nought again.
        let expected = [
            ("tcp:2", 1.0),
            ("tcp:1", 100.0),
            ("tcp:4", 5.0),
            ("tcp:3", 0.0),
        ];
        assert_eq!(shown, expected);
        assert_eq!(
            super::lines(&before, &now, Duration::from_secs(2), 1).len(),
            1
        );
    }
}
