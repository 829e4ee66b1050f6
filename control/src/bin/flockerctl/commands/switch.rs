//! `route switch`: pause, quiesce, retarget, resume, in one command that always resumes.
#![expect(clippy::disallowed_methods, reason = "shows how long each part took")]

use std::{collections::BTreeMap, time::Instant};

use flocker_api::{
    ErrorBody, ErrorCode,
    gate::{InFlight, QuiesceReply, QuiesceRequest, ResumeRequest, Retarget, SwitchRequest, Token},
    route::RouteKey,
};

use super::route::{RouteCli, Switched, holds, pause_request, report};
use crate::{
    args,
    edges::Answer,
    failure::{Failure, Verdict},
    human,
};

/// `flockerctl route switch`
pub(crate) async fn run(cli: &RouteCli<'_>, args: args::Switch) -> Result<Verdict, Failure> {
    if args.quiesce >= args.hold {
        let message = "--quiesce must be shorter than --hold, or the hold is over before the end";
        return Err(Failure::Usage(message.to_owned()));
    }
    let started = Instant::now();
    let request = pause_request(vec![args.key.clone()], args.hold);
    let (token, paused) = cli.edges.pause(&request).await?;
    let Some(token) = token else {
        return Ok(failed(cli, &paused));
    };
    let pause_ms = ms_since(started);
    if paused.iter().any(|answer| answer.error().is_some()) || paused.is_empty() {
        // Only the edges that paused have anything to resume.
        resume(cli, token, &args.key, &paused).await;
        return Ok(failed(cli, &paused));
    }
    // From here on nothing may end without a resume: neither an error nor an interrupt.
    let switched = tokio::select! {
        switched = quiesce_and_switch(cli, &args, token, pause_ms) => switched,
        _ = tokio::signal::ctrl_c() => {
            let message = "interrupted; the routes are resumed and lead where they did";
            Err(Failure::Service(ErrorBody::new(ErrorCode::Internal, message)))
        }
    };
    if switched.is_err() {
        resume(cli, token, &args.key, &paused).await;
    }
    switched
}

async fn quiesce_and_switch(
    cli: &RouteCli<'_>,
    args: &args::Switch,
    token: Token,
    pause_ms: f64,
) -> Result<Verdict, Failure> {
    let started = Instant::now();
    let request = QuiesceRequest {
        token,
        keys: vec![args.key.clone()],
        deadline_ms: u64::try_from(args.quiesce.as_millis()).unwrap_or(u64::MAX),
    };
    let answers = cli.edges.quiesce(&request).await?;
    let closed = check_quiesced(&answers, args)?;
    let quiesce_ms = ms_since(started);

    let started = Instant::now();
    let request = SwitchRequest {
        token,
        changes: vec![Retarget {
            key: args.key.clone(),
            upstreams: args.to.clone(),
        }],
        resume: true,
    };
    let edges = cli.edges.switch(&request).await?;
    let switch_ms = ms_since(started);
    if cli.out.json {
        cli.out.json(&Switched {
            token,
            pause_ms,
            quiesce_ms,
            switch_ms,
            edges: &edges,
        })?;
    } else {
        let to: Vec<String> = args.to.iter().map(ToString::to_string).collect();
        let mut text = format!("{} leads to {}\n", args.key, to.join(", "));
        text.push_str(&format!(
            "  pause {}, quiesce {}, switch {}",
            human::ms(pause_ms),
            human::ms(quiesce_ms),
            human::ms(switch_ms)
        ));
        if closed > 0 {
            text.push_str(&format!("; {} closed", human::plural(closed, "session")));
        }
        text.push('\n');
        text.push_str(&holds(cli.out, &edges));
        if edges.iter().any(|answer| answer.ok().is_some()) {
            cli.out.text(&text)?;
        }
    }
    Ok(report(cli.out, &edges))
}

/// Whether all edges are quiet; answers how many sessions were closed for it.
fn check_quiesced(answers: &[Answer<QuiesceReply>], args: &args::Switch) -> Result<usize, Failure> {
    let mut closed_sessions = 0;
    let mut busy = Vec::new();
    for answer in answers {
        match answer.ok() {
            Some(QuiesceReply::Quiesced { closed }) => {
                closed_sessions += usize::try_from(*closed).unwrap_or(usize::MAX);
            }
            Some(QuiesceReply::Busy { in_flight }) => {
                busy.push(format!("edge {}: {}", answer.edge, left(in_flight)));
            }
            Some(QuiesceReply::Ended) => {
                let message = format!("edge {}: the pause ended while waiting", answer.edge);
                return Err(ErrorBody::new(ErrorCode::NotPaused, message).into());
            }
            None => {}
        }
        if let Some(error) = answer.error() {
            let message = format!("edge {}: {}", answer.edge, error.message);
            return Err(ErrorBody::new(error.code, message).into());
        }
    }
    if busy.is_empty() || args.force {
        return Ok(closed_sessions);
    }
    let message = format!(
        "still in flight after {}: {}; the routes are resumed and lead where they did \
         (--quiesce waits longer, --force switches all the same)",
        human::whole_ms(u64::try_from(args.quiesce.as_millis()).unwrap_or(u64::MAX)),
        busy.join("; ")
    );
    Err(ErrorBody::new(ErrorCode::Busy, message).into())
}

fn left(in_flight: &[InFlight]) -> String {
    let mut by_key: BTreeMap<&RouteKey, u64> = BTreeMap::new();
    for line in in_flight {
        *by_key.entry(&line.key).or_default() += line.count;
    }
    let lines: Vec<String> = by_key
        .iter()
        .map(|(key, count)| format!("{} on {key}", human::count(*count)))
        .collect();
    lines.join(", ")
}

/// Resumes after something went wrong; what fails now lapses by itself at the hold's end.
async fn resume<T>(cli: &RouteCli<'_>, token: Token, key: &RouteKey, paused: &[Answer<T>]) {
    let request = ResumeRequest {
        token,
        keys: vec![key.clone()],
    };
    match cli.edges.resume(&request).await {
        Ok(answers) => {
            for answer in &answers {
                let was_paused = paused
                    .iter()
                    .any(|paused| paused.edge == answer.edge && paused.ok().is_some());
                if let (true, Some(error)) = (was_paused, answer.error()) {
                    let message = format!("edge {} was not resumed: {error}", answer.edge);
                    cli.out.remark(&message);
                }
            }
        }
        Err(error) => cli
            .out
            .remark(&format!("the edges were not resumed: {error}")),
    }
}

fn failed<T: serde::Serialize>(cli: &RouteCli<'_>, answers: &[Answer<T>]) -> Verdict {
    if cli.out.json {
        // A closed stdout changes nothing about the failure.
        drop(cli.out.json(&answers));
    }
    report(cli.out, answers);
    Verdict::Failed
}

fn ms_since(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}
