//! What differs between two declarations of an app, field by field, for people.

use std::collections::BTreeMap;

use flocker_api::{
    app::{App, DependencyCondition, MovePolicy, OnBusy},
    container::{Probe, RestartPolicy, StopPolicy},
    control::FieldChange,
    route::OnMove,
};

/// Words in names of variables whose values are nobody's business.
const SECRET: [&str; 6] = [
    "PASSWORD",
    "PASSWD",
    "SECRET",
    "TOKEN",
    "CREDENTIAL",
    "PRIVATE",
];
/// Longest text of a value that is shown, in characters.
const SHOWN_MAX: usize = 60;

/// Fields that differ, by name. `None`: there was no app.
pub(super) fn fields(old: Option<&App>, new: &App) -> Vec<FieldChange> {
    let before = old.map(shown).unwrap_or_default();
    let after = shown(new);
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let mut changes = Vec::new();
    for field in names {
        let (from, to) = (before.get(field), after.get(field));
        if from.map(|value| &value.exact) == to.map(|value| &value.exact) {
            continue;
        }
        let text = |value: Option<&Value>| value.map(|value| value.text.clone());
        changes.push(FieldChange {
            field: field.clone(),
            from: text(from),
            to: text(to),
        });
    }
    changes
}

/// A value: what is compared and what is shown.
struct Value {
    exact: String,
    text: String,
}

fn value(exact: String) -> Value {
    let text = if exact.chars().count() > SHOWN_MAX {
        let begin: String = exact.chars().take(SHOWN_MAX).collect();
        format!("{begin}...")
    } else {
        exact.clone()
    };
    Value { exact, text }
}

fn shown(app: &App) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    let mut put = |field: &str, text: Option<String>| {
        if let Some(text) = text {
            all.insert(field.to_owned(), value(text));
        }
    };
    of_container(app, &mut put);
    of_app(app, &mut put);
    for (name, text) in &app.container.environment {
        all.insert(format!("environment.{name}"), variable(name, text));
    }
    all
}

fn of_container(app: &App, put: &mut impl FnMut(&str, Option<String>)) {
    let container = &app.container;
    put("image", Some(container.image.clone()));
    put("entrypoint", container.entrypoint.as_deref().map(words));
    put("command", container.command.as_deref().map(words));
    put("pre_stop", container.pre_stop.as_deref().map(words));
    put("ports", some_list(container.ports.iter()));
    put("memory", container.memory_bytes.map(size));
    put("cpu_shares", container.cpu_shares.map(|n| n.to_string()));
    put("cpus", container.cpu_millis.map(thousandths));
    put("pids", container.pids_max.map(|n| n.to_string()));
    put("restart", restart(container.restart));
    let stop = &container.stop;
    let text = || format!("{} within {}", stop.signal, duration(stop.grace_ms));
    put("stop", (*stop != StopPolicy::default()).then(text));
    put("ready", container.ready.as_ref().map(probe));
    for (index, mount) in container.volumes.iter().enumerate() {
        let limit = app.volume_sizes.get(index).copied().flatten();
        let limit = limit.map_or_else(String::new, |bytes| format!(", {}", size(bytes)));
        let text = format!("{}{limit}", mount.mountpoint.display());
        put(&format!("volumes.{}", mount.name), Some(text));
    }
    for link in &container.links {
        let to = link.to.as_ref().map_or_else(
            || format!("tcp:{}", link.remote_port),
            |to| format!("{}:{}", to.app, to.port),
        );
        let field = format!("links.{}:{}", link.alias, link.local_port);
        put(&field, Some(format!("{to} at port {}", link.remote_port)));
    }
    for (name, label) in &container.labels {
        put(&format!("labels.{name}"), Some(label.clone()));
    }
}

fn of_app(app: &App, put: &mut impl FnMut(&str, Option<String>)) {
    for dependency in &app.depends_on {
        let text = match dependency.condition {
            DependencyCondition::Started => "started",
            DependencyCondition::Ready => "ready",
        };
        let field = format!("depends_on.{}", dependency.app);
        put(&field, Some(text.to_owned()));
    }
    for route in &app.routes {
        let mut text = format!("port {}", route.port);
        if route.on_move == OnMove::Wait {
            text.push_str(", sessions wait");
        }
        if !route.options.is_empty() {
            let options = serde_json::to_string(&route.options).unwrap_or_default();
            text.push_str(&format!(", {options}"));
        }
        put(&format!("routes.{}", route.key), Some(text));
    }
    put("move", move_policy(app));
    let replication = app.replication.as_ref().map(|policy| {
        let nodes = some_list(policy.nodes.iter()).unwrap_or_default();
        let keep = serde_json::to_string(&policy.keep).unwrap_or_default();
        format!(
            "{nodes} every {}, keep {keep}",
            duration(policy.interval_ms)
        )
    });
    put("replication", replication);
}

/// A variable; one that seems to be a secret is compared and not shown.
fn variable(name: &str, text: &str) -> Value {
    let upper = name.to_ascii_uppercase();
    let mut shown = value(text.to_owned());
    if SECRET.iter().any(|word| upper.contains(word)) {
        shown.text = "(not shown)".to_owned();
    } else if text.is_empty() {
        shown.text = "\"\"".to_owned();
    }
    shown
}

fn words(words: &[String]) -> String {
    serde_json::to_string(words).unwrap_or_default()
}

fn some_list<T: ToString>(items: impl Iterator<Item = T>) -> Option<String> {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    (!items.is_empty()).then(|| items.join(", "))
}

fn size(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} B")
}

fn thousandths(millis: u64) -> String {
    let text = format!("{}.{:03}", millis / 1000, millis % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn duration(ms: u64) -> String {
    match ms {
        _ if ms.is_multiple_of(60_000) && ms > 0 => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

/// What is usual is not shown.
fn restart(policy: RestartPolicy) -> Option<String> {
    match policy {
        RestartPolicy::Always => None,
        RestartPolicy::Never => Some("never".to_owned()),
        RestartPolicy::OnFailure { retries_max: None } => Some("on-failure".to_owned()),
        RestartPolicy::OnFailure {
            retries_max: Some(retries),
        } => Some(format!("on-failure, {retries} times")),
    }
}

fn probe(probe: &Probe) -> String {
    match probe {
        Probe::Tcp { port, timeout_ms } => format!("tcp {port} within {}", duration(*timeout_ms)),
        Probe::Http {
            port,
            path,
            timeout_ms,
        } => format!("http {port}{path} within {}", duration(*timeout_ms)),
        Probe::Exec {
            command,
            timeout_ms,
        } => format!("{} within {}", words(command), duration(*timeout_ms)),
    }
}

/// What is usual is not shown.
fn move_policy(app: &App) -> Option<String> {
    let policy = &app.move_policy;
    let text = format!(
        "{} rounds, delta {} to {}, hold {}, quiesce {}, {}",
        policy.rounds_max,
        duration(policy.final_delta_ms),
        duration(policy.final_delta_ms_max),
        duration(policy.hold_ms),
        duration(policy.quiesce_ms),
        match policy.on_busy {
            OnBusy::Abort => "abort if busy",
            OnBusy::Proceed => "proceed if busy",
        }
    );
    (*policy != MovePolicy::default()).then_some(text)
}
