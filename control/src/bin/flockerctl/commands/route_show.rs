//! `route show`: one route with its gate, its options and its upstreams, edge by edge.

use flocker_api::{
    ErrorBody, ErrorCode,
    edge::{RouteStatus, UpstreamState},
    gate::{GateState, HoldLimits},
    options::ROUTE_OPTIONS,
    route::{OnMove, Route, RouteKey},
};

use super::route::{RouteCli, gate_word, leads_to, report};
use crate::{
    failure::{Failure, Verdict},
    human,
    output::{Output, Paint},
};

/// `flockerctl route show`
pub(super) async fn run(cli: &RouteCli<'_>, key: &RouteKey) -> Result<Verdict, Failure> {
    let answers = cli.edges.route(key).await?;
    if answers.iter().all(|answer| {
        let error = answer.error();
        error.is_some_and(|error| error.code == ErrorCode::NotFound)
    }) {
        let message = format!("no edge has the route {key}; flockerctl route ls lists them");
        return Err(ErrorBody::new(ErrorCode::NotFound, message).into());
    }
    if cli.out.json {
        cli.out.json(&answers)?;
    } else {
        for answer in &answers {
            if let Some(status) = answer.ok() {
                cli.out.text(&details(cli.out, &answer.edge, status))?;
            }
        }
    }
    Ok(report(cli.out, &answers))
}

fn details(out: &Output, edge: &str, status: &RouteStatus) -> String {
    let gate = &status.gate;
    let mut lines = vec![("leads to", leads_to(&status.route))];
    let mut state = gate_word(gate.state).to_owned();
    if gate.state == GateState::Paused {
        state.push_str(&format!(" under token {}", gate.token));
        if let Some(left) = gate.lapses_in_ms {
            state.push_str(&format!(", lapses in {}", human::whole_ms(left)));
        }
    }
    lines.push(("gate", state));
    lines.push(("in flight", human::count(gate.in_flight)));
    let mut parked = human::count(gate.parked);
    if gate.parked > 0 {
        let bytes = human::bytes(gate.parked_bytes);
        let oldest = human::whole_ms(gate.oldest_wait_ms);
        parked.push_str(&format!(
            ", {bytes} sent ahead, the oldest waits for {oldest}"
        ));
    }
    lines.push(("parked", parked));
    if let Some(limits) = &gate.limits {
        lines.push(("limits", limits_line(limits)));
    }
    let (requests, failed) = (human::count(status.requests), human::count(status.failed));
    lines.push((
        "requests",
        format!("{requests}, {failed} failed at the edge"),
    ));
    let (key, edge) = (status.route.key.to_string(), edge.to_owned());
    let mut text = format!("{} on {edge}\n", out.paint(Paint::Strong, &key));
    for (name, value) in lines {
        let name = out.paint(Paint::Faint, &format!("{name:<9}"));
        text.push_str(&format!("  {name} {value}\n"));
    }
    let options = options(&status.route);
    let width = options.iter().map(|(name, _)| name.len()).max();
    for (name, value) in &options {
        let width = width.unwrap_or_default();
        let name = out.paint(Paint::Faint, &format!("{name:<width$}"));
        text.push_str(&format!("  {name} {value}\n"));
    }
    text.push_str(&upstreams(out, status));
    text
}

/// What the route has otherwise than by default, under the names that files have for it.
fn options(route: &Route) -> Vec<(&'static str, String)> {
    let Ok(serde_json::Value::Object(mut fields)) = serde_json::to_value(route) else {
        return Vec::new();
    };
    let named = ROUTE_OPTIONS.into_iter().filter_map(|name| {
        let value = fields.remove(name)?;
        let text = match name {
            "health" => route.health.as_ref()?.to_string(),
            "slow_start_ms" => human::setting_ms(route.slow_start_ms),
            "body_bytes_max" => human::bytes(route.body_bytes_max?),
            _ => plain(&value),
        };
        Some((name, text))
    });
    let mut named: Vec<_> = named.collect();
    if route.on_move != OnMove::default() {
        named.insert(0, ("on_move", "wait".to_owned()));
    }
    named
}

/// JSON as people write it: without the quotes and braces around everything.
fn plain(value: &serde_json::Value) -> String {
    use serde_json::Value as Json;
    match value {
        Json::String(text) => text.clone(),
        Json::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(", "),
        Json::Object(fields) => {
            let field = |(name, value): (&String, &Json)| match value {
                Json::Object(inner) if inner.is_empty() => name.clone(),
                Json::Object(_) => format!("{name}: {}", plain(value)),
                _ => format!("{name} = {}", plain(value)),
            };
            fields.iter().map(field).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// Address by address, when there is more to say than where it is.
fn upstreams(out: &Output, status: &RouteStatus) -> String {
    let mut text = String::new();
    if !status.upstreams.is_empty() {
        let rows = status.upstreams.iter().map(|line| {
            let mut state = match line.state {
                UpstreamState::Up => "up",
                UpstreamState::Starting => "starting",
                UpstreamState::Down => "down",
                UpstreamState::Ejected => "ejected",
                UpstreamState::Draining => "draining",
            }
            .to_owned();
            if let Some(left) = line.ejected_for_ms {
                state.push_str(&format!(" for {}", human::whole_ms(left)));
            }
            if let Some(reason) = &line.reason {
                state.push_str(&format!(": {reason}"));
            }
            let name = line.name.as_ref().map(|name| format!(" ({name})"));
            vec![
                format!("{}{}", line.address, name.unwrap_or_default()),
                line.weight.to_string(),
                human::count(line.in_flight),
                human::count(line.requests),
                human::count(line.failed),
                state,
            ]
        });
        let header = [
            "UPSTREAM",
            "WEIGHT",
            "IN FLIGHT",
            "REQUESTS",
            "FAILED",
            "STATE",
        ];
        text.push_str(&out.table(&header, rows.collect()));
    }
    for name in &status.unresolved {
        text.push_str(&format!("  {} has no answer: {}\n", name.name, name.error));
    }
    text
}

fn limits_line(limits: &HoldLimits) -> String {
    format!(
        "hold {}, {} parked, {} a client, {}",
        human::setting_ms(limits.hold_ms),
        human::count(limits.sessions as u64),
        human::count(limits.per_client as u64),
        human::bytes(limits.bytes as u64)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_option_appears_when_it_is_set() {
        let route: Route = serde_json::from_value(json!({
            "key": "https:a.demo", "upstreams": ["10.0.0.1:80"], "on_move": "wait",
            "tls": {"terminate": {"min_version": "1.3", "client_certificate": "require",
                "client_ca": "office"}},
            "upstream_tls": {"server_name": "up.demo", "ca": "inside"},
            "balance": "source", "health": {"kind": "http", "path": "/ready"},
            "slow_start_ms": 2000, "redirect_https": 301, "allow_connect": true,
            "body_bytes_max": 1_048_576, "error_pages": "plain", "connections_max": 3,
            "pending_max": 4, "send_proxy": "v2", "allow": ["10.0.0.0/8", "::1/128"],
            "deny": ["10.1.0.0/16"], "upstream_protocol": "h2"
        }))
        .unwrap();
        let shown = options(&route);
        let names: Vec<&str> = shown.iter().map(|(name, _)| *name).collect();
        let all: Vec<&str> = ["on_move"].into_iter().chain(ROUTE_OPTIONS).collect();
        assert_eq!(names, all);
        let value = |name: &str| &*shown.iter().find(|(found, _)| *found == name).unwrap().1;
        for (name, expected) in [
            (
                "tls",
                "terminate: client_ca = office, client_certificate = require, min_version = 1.3",
            ),
            ("upstream_tls", "ca = inside, server_name = up.demo"),
            ("health", "http,path=/ready"),
            ("slow_start_ms", "2s"),
            ("body_bytes_max", "1.0 MiB"),
            ("allow", "10.0.0.0/8, ::1"),
            ("upstream_protocol", "h2"),
        ] {
            assert_eq!(value(name), expected, "{name}");
        }
        // By default there is nothing to say.
        let plain = Route::new(route.key.clone(), route.upstreams.clone());
        assert_eq!(options(&plain), []);
        let mut bare = plain;
        bare.tls = flocker_api::termination::Tls::Terminate(Default::default());
        assert_eq!(options(&bare), [("tls", "terminate".to_owned())]);
    }
}
