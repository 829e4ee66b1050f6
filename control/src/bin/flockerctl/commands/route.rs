//! `route`: routes and gates, of one edge or of all.

use std::collections::BTreeMap;

use flocker_api::{
    ErrorBody, ErrorCode,
    edge::{RouteStatus, RouteTable},
    gate::{GateState, HoldLimits, HoldReport, PauseRequest, ResumeReply, ResumeRequest, Token},
    route::{OnMove, Operation, Route, RouteKey, Transaction, UpstreamProtocol},
    upstream::{Balance, Upstream},
};
use serde::Serialize;
use serde_json::json;

use super::{Cli, quiesce, route_show, switch, transfer, watch};
use crate::{
    args::{self, RouteTo, RouteVerb},
    args_upstreams::Drained,
    edges::{Answer, Edges},
    failure::{Failure, Verdict},
    human,
    output::Output,
};

/// `flockerctl route`
pub(crate) async fn run(cli: &Cli<'_>, args: args::Route) -> Result<Verdict, Failure> {
    let cli = &RouteCli {
        out: cli.out,
        edges: cli.edges().await,
        edge_argument: cli.edge_argument(),
    };
    match args.verb {
        RouteVerb::Ls => list(cli).await,
        RouteVerb::Show { key } => route_show::run(cli, &key).await,
        RouteVerb::Add(to) => {
            let done = format!("{} added", to.key);
            if to.to.is_empty() {
                let message = "say where it leads: --to ADDRESS:PORT";
                return Err(Failure::Usage(message.to_owned()));
            }
            let route = route(None, to);
            change(cli, vec![Operation::Add { route }], &done).await
        }
        RouteVerb::Set(to) => {
            let done = format!("{} changed", to.key);
            let present = present(cli, &to.key).await?;
            let route = route(present, to);
            change(cli, vec![Operation::Set { route }], &done).await
        }
        RouteVerb::Rm { keys } => {
            let names: Vec<String> = keys.iter().map(ToString::to_string).collect();
            let done = format!("{} removed", names.join(", "));
            let operations = keys.into_iter().map(|key| Operation::Remove { key });
            change(cli, operations.collect(), &done).await
        }
        RouteVerb::Drain(args) => drain(cli, args, true).await,
        RouteVerb::Undrain(args) => drain(cli, args, false).await,
        RouteVerb::Pause(args) => pause(cli, args).await,
        RouteVerb::Resume(args) => resume(cli, args).await,
        RouteVerb::Quiesce(args) => quiesce::run(cli, args).await,
        RouteVerb::Switch(args) => switch::run(cli, args).await,
        RouteVerb::Watch(args) => watch::run(cli, args).await,
        RouteVerb::Export(args) => transfer::export(cli, args).await,
        RouteVerb::Import(args) => transfer::import(cli, args).await,
    }
}

/// What all route verbs need.
pub(crate) struct RouteCli<'c> {
    pub(crate) out: &'c Output,
    pub(crate) edges: Edges,
    /// What a later command must be given to reach the same edges.
    edge_argument: String,
}

/// A route as it was typed; what was not typed is as it is, or by default.
fn route(present: Option<Route>, to: RouteTo) -> Route {
    let mut route = present.unwrap_or_else(|| Route::new(to.key, Vec::<Upstream>::new()));
    if !to.to.is_empty() {
        route.upstreams = to.to;
    }
    route.on_move = to.on_move.unwrap_or(route.on_move);
    to.upstreams.apply(&mut route);
    to.http.apply(&mut route);
    to.tls.apply(&mut route);
    route
}

async fn drain(cli: &RouteCli<'_>, args: Drained, drain: bool) -> Result<Verdict, Failure> {
    let names: Vec<String> = args.upstreams.iter().map(ToString::to_string).collect();
    let verb = if drain { "drains" } else { "serves again" };
    let done = format!("{} of {} {verb}", names.join(", "), args.key);
    let operations = args.upstreams.into_iter().map(|upstream| Operation::Drain {
        key: args.key.clone(),
        upstream,
        drain,
    });
    change(cli, operations.collect(), &done).await
}

/// A route as the first edge that answers has it.
async fn present(cli: &RouteCli<'_>, key: &RouteKey) -> Result<Option<Route>, Failure> {
    let tables = cli.edges.tables().await?;
    let found = tables
        .iter()
        .filter_map(Answer::ok)
        .find_map(|table| find(table, key));
    Ok(found.map(|status| status.route.clone()))
}

fn find<'t>(table: &'t RouteTable, key: &RouteKey) -> Option<&'t RouteStatus> {
    table.routes.iter().find(|status| status.route.key == *key)
}

async fn change(
    cli: &RouteCli<'_>,
    operations: Vec<Operation>,
    done: &str,
) -> Result<Verdict, Failure> {
    let transaction = Transaction {
        against: None,
        operations,
    };
    let answers = cli.edges.transact(&transaction).await?;
    if cli.out.json {
        cli.out.json(&answers)?;
    } else {
        let ok: Vec<String> = answers
            .iter()
            .filter_map(|answer| {
                let generation = answer.ok()?.generation;
                Some(format!("{} (generation {generation})", answer.edge))
            })
            .collect();
        if !ok.is_empty() {
            cli.out.line(&format!("{done} on {}", ok.join(", ")))?;
        }
    }
    Ok(report(cli.out, &answers))
}

/// Reports the edges that failed, edge by edge.
pub(super) fn report<T>(out: &Output, answers: &[Answer<T>]) -> Verdict {
    let mut verdict = Verdict::Done;
    for answer in answers {
        if let Some(error) = answer.error() {
            verdict = Verdict::Failed;
            if !out.json {
                out.complain(&format!("edge {}: {}", answer.edge, error.message));
            }
        }
    }
    if answers.is_empty() {
        verdict = Verdict::Failed;
        out.complain("there are no edges");
    }
    verdict
}

async fn list(cli: &RouteCli<'_>) -> Result<Verdict, Failure> {
    let answers = cli.edges.tables().await?;
    if cli.out.json {
        cli.out.json(&answers)?;
    } else {
        cli.out.text(&table(cli.out, &answers))?;
    }
    Ok(report(cli.out, &answers))
}

/// What is the same on several edges is one line.
#[derive(Default)]
struct Merged<'a> {
    edges: Vec<&'a str>,
    in_flight: u64,
    parked: u64,
    requests: u64,
    failed: u64,
}

fn table(out: &Output, answers: &[Answer<RouteTable>]) -> String {
    let mut merged: BTreeMap<(&RouteKey, String, &str), Merged<'_>> = BTreeMap::new();
    let mut edges = 0;
    for answer in answers {
        let Some(table) = answer.ok() else { continue };
        edges += 1;
        for status in &table.routes {
            let line = (
                &status.route.key,
                leads_to(&status.route),
                gate_word(status.gate.state),
            );
            let line = merged.entry(line).or_default();
            line.edges.push(&answer.edge);
            line.in_flight += status.gate.in_flight;
            line.parked += status.gate.parked;
            line.requests += status.requests;
            line.failed += status.failed;
        }
    }
    if merged.is_empty() {
        return match edges {
            0 => String::new(),
            _ => "no routes\n".to_owned(),
        };
    }
    let rows = merged.into_iter().map(|((key, to, gate), line)| {
        let on = match (line.edges.len(), edges) {
            (1, 1) => line.edges[0].to_owned(),
            (all, edges) if all == edges => format!("all {edges}"),
            _ => line.edges.join(", "),
        };
        vec![
            key.to_string(),
            to,
            gate.to_owned(),
            human::count(line.in_flight),
            human::count(line.parked),
            human::count(line.requests),
            human::count(line.failed),
            on,
        ]
    });
    let header = [
        "ROUTE",
        "LEADS TO",
        "GATE",
        "IN FLIGHT",
        "PARKED",
        "REQUESTS",
        "FAILED",
        "EDGES",
    ];
    out.table(&header, rows.collect())
}

pub(super) fn leads_to(route: &Route) -> String {
    let upstreams: Vec<String> = route.upstreams.iter().map(ToString::to_string).collect();
    let mut text = upstreams.join(", ");
    if route.balance != Balance::default() {
        text.push_str(&format!(" ({})", route.balance));
    }
    if route.upstream_protocol == UpstreamProtocol::H2 {
        text.push_str(" (h2)");
    }
    if route.on_move == OnMove::Wait {
        text.push_str(" (on move: wait)");
    }
    text
}

pub(super) fn gate_word(state: GateState) -> &'static str {
    match state {
        GateState::Open => "open",
        GateState::Paused => "paused",
        GateState::Draining => "draining",
    }
}

/// The request for a pause.
pub(super) fn pause_request(keys: Vec<RouteKey>, hold: std::time::Duration) -> PauseRequest {
    PauseRequest {
        token: None,
        keys,
        limits: HoldLimits {
            hold_ms: u64::try_from(hold.as_millis()).unwrap_or(u64::MAX),
            ..HoldLimits::default()
        },
    }
}

async fn pause(cli: &RouteCli<'_>, args: args::Pause) -> Result<Verdict, Failure> {
    let names: Vec<String> = args.keys.iter().map(ToString::to_string).collect();
    let request = pause_request(args.keys, args.hold);
    let hold = human::setting_ms(request.limits.hold_ms);
    let (token, answers) = cli.edges.pause(&request).await?;
    if cli.out.json {
        cli.out.json(&json!({ "token": token, "edges": answers }))?;
    } else if let Some(token) = token
        && answers.iter().any(|answer| answer.ok().is_some())
    {
        let paused = answers.iter().filter(|answer| answer.ok().is_some());
        let edges: Vec<&str> = paused.map(|answer| answer.edge.as_str()).collect();
        let names_text = names.join(" ");
        cli.out.text(&format!(
            "{names_text} paused under token {token} on {}; lapses in {hold}\n  \
             resume with: flockerctl {}route resume {names_text} --token {token}\n",
            edges.join(", "),
            cli.edge_argument
        ))?;
    }
    Ok(report(cli.out, &answers))
}

async fn resume(cli: &RouteCli<'_>, args: args::Resume) -> Result<Verdict, Failure> {
    let requests = match args.token {
        Some(token) => vec![ResumeRequest {
            token: Token(token),
            keys: args.keys,
        }],
        None => holding(cli, &args.keys).await?,
    };
    let mut all = Vec::new();
    for request in &requests {
        all.extend(cli.edges.resume(request).await?);
    }
    if cli.out.json {
        cli.out.json(&all)?;
    } else {
        cli.out.text(&holds(cli.out, &all))?;
    }
    Ok(report(cli.out, &all))
}

/// A request for each token that holds some of the routes now.
pub(super) async fn holding(
    cli: &RouteCli<'_>,
    keys: &[RouteKey],
) -> Result<Vec<ResumeRequest>, Failure> {
    let tables = cli.edges.tables().await?;
    let mut by_token: BTreeMap<Token, Vec<RouteKey>> = BTreeMap::new();
    for key in keys {
        let statuses = tables.iter().filter_map(Answer::ok);
        let gates = statuses
            .filter_map(|table| find(table, key))
            .map(|status| &status.gate);
        let paused = gates.filter(|gate| gate.state == GateState::Paused);
        if let Some(token) = paused.map(|gate| gate.token).max() {
            by_token.entry(token).or_default().push(key.clone());
        }
    }
    if by_token.is_empty() {
        let unreachable = report(cli.out, &tables) == Verdict::Failed;
        let names: Vec<String> = keys.iter().map(ToString::to_string).collect();
        let place = if unreachable {
            "on the edges that answer"
        } else {
            "now"
        };
        let message = format!("{} is not paused {place}", names.join(", "));
        return Err(ErrorBody::new(ErrorCode::NotPaused, message).into());
    }
    let requests = by_token
        .into_iter()
        .map(|(token, keys)| ResumeRequest { token, keys });
    Ok(requests.collect())
}

/// What pauses were like, edge by edge.
pub(super) fn holds(out: &Output, answers: &[Answer<ResumeReply>]) -> String {
    let rows: Vec<Vec<String>> = answers
        .iter()
        .filter_map(|answer| answer.ok().map(|reply| (&answer.edge, reply)))
        .flat_map(|(edge, reply)| reply.holds.iter().map(move |hold| hold_row(edge, hold)))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let header = [
        "ROUTE",
        "EDGE",
        "PAUSED",
        "LET GO",
        "LONGEST WAIT",
        "REFUSED",
        "GONE",
    ];
    out.table(&header, rows)
}

fn hold_row(edge: &str, hold: &HoldReport) -> Vec<String> {
    let lapsed = if hold.lapsed { " (lapsed)" } else { "" };
    vec![
        hold.key.to_string(),
        edge.to_owned(),
        format!("{}{lapsed}", micros(hold.paused_us)),
        human::count(hold.released),
        micros(hold.longest_wait_us),
        human::count(hold.refused),
        human::count(hold.client_gone),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn micros(us: u64) -> String {
    human::ms(us as f64 / 1e3)
}

/// What a switch has done, for `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Switched<'a> {
    pub(super) token: Token,
    pub(super) pause_ms: f64,
    pub(super) quiesce_ms: f64,
    pub(super) switch_ms: f64,
    pub(super) edges: &'a [Answer<ResumeReply>],
}
