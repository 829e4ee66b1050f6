//! `route quiesce`: waits until nothing that was admitted before a pause is in flight.

use flocker_api::gate::{QuiesceReply, QuiesceRequest, Token};
use serde_json::json;

use super::route::{RouteCli, holding, report};
use crate::{
    args_edge::Quiesce,
    failure::{Failure, Verdict},
    human,
};

/// `flockerctl route quiesce`
pub(crate) async fn run(cli: &RouteCli<'_>, args: Quiesce) -> Result<Verdict, Failure> {
    let parts = match args.token {
        Some(token) => vec![(Token(token), args.keys)],
        None => {
            let holding = holding(cli, &args.keys).await?.into_iter();
            holding.map(|resume| (resume.token, resume.keys)).collect()
        }
    };
    let deadline_ms = u64::try_from(args.within.as_millis()).unwrap_or(u64::MAX);
    let mut all = Vec::new();
    for (token, keys) in parts {
        let request = QuiesceRequest {
            token,
            keys,
            deadline_ms,
        };
        all.extend(cli.edges.quiesce(&request).await?);
    }
    let mut verdict = report(cli.out, &all);
    if cli.out.json {
        cli.out.json(&json!({ "edges": all }))?;
    }
    for answer in &all {
        let Some(reply) = answer.ok() else { continue };
        if !matches!(reply, QuiesceReply::Quiesced { .. }) {
            verdict = Verdict::Failed;
        }
        if !cli.out.json {
            cli.out.line(&format!("{}: {}", answer.edge, line(reply)))?;
        }
    }
    Ok(verdict)
}

fn line(reply: &QuiesceReply) -> String {
    match reply {
        QuiesceReply::Quiesced { closed: 0 } => "nothing is in flight".to_owned(),
        QuiesceReply::Quiesced { closed } => format!(
            "nothing is in flight; {} established sessions were closed for it",
            human::count(*closed)
        ),
        QuiesceReply::Busy { in_flight } => {
            let routes = in_flight
                .iter()
                .map(|line| format!("{} at {}", human::count(line.count), line.key));
            format!("still in flight: {}", routes.collect::<Vec<_>>().join(", "))
        }
        QuiesceReply::Ended => "the pause is over: resumed, or lapsed".to_owned(),
    }
}
