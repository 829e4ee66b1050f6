//! A plan like a diff: what is created, changed, moved and removed, and what of it.

use flocker_api::control::{DeployChange, DeployReply, FieldChange};

use crate::{
    human,
    output::{Output, Paint},
};

/// The whole plan.
pub(super) fn text(out: &Output, reply: &DeployReply) -> String {
    let mut text = String::new();
    for change in &reply.changes {
        let (paint, line, fields) = headline(change);
        text.push_str(&out.paint(paint, &line));
        text.push('\n');
        for field in fields {
            text.push_str(&one(out, field));
        }
    }
    text.push_str(&summary(&reply.changes));
    text.push('\n');
    text
}

fn headline(change: &DeployChange) -> (Paint, String, &[FieldChange]) {
    match change {
        DeployChange::Create { app, node, fields } => {
            (Paint::Good, format!("+ {app}: new, on {node}"), fields)
        }
        DeployChange::Change {
            app,
            fields,
            restarts,
        } => {
            let how = if *restarts {
                "changed; its requests wait while its container is made anew"
            } else {
                "changed, while it runs on"
            };
            (Paint::Notice, format!("~ {app}: {how}"), fields)
        }
        DeployChange::Move { app, from, to } => {
            let line = format!("> {app}: moves from {from} to {to}");
            (Paint::Notice, line, &[])
        }
        DeployChange::Remove { app, node, volumes } => {
            let mut line = format!("- {app}: removed from {node}, because no file declares it");
            if !volumes.is_empty() {
                let names: Vec<_> = volumes.iter().map(ToString::to_string).collect();
                let (noun, verb) = match names.len() {
                    1 => ("volume", "is"),
                    _ => ("volumes", "are"),
                };
                line.push_str(&format!("; its {noun} {} {verb} kept", names.join(", ")));
            }
            (Paint::Bad, line, &[])
        }
    }
}

/// A field: `+` where it is new, `-` where it is gone, `~` with both values.
fn one(out: &Output, change: &FieldChange) -> String {
    let field = &change.field;
    let (paint, line) = match (&change.from, &change.to) {
        (Some(from), Some(to)) => (Paint::Notice, format!("~ {field}: {from} -> {to}")),
        (Some(from), None) => (Paint::Bad, format!("- {field}: {from}")),
        (None, to) => {
            let to = to.as_deref().unwrap_or_default();
            (Paint::Good, format!("+ {field}: {to}"))
        }
    };
    format!("    {}\n", out.paint(paint, &line))
}

fn summary(changes: &[DeployChange]) -> String {
    if changes.is_empty() {
        return "nothing changes: everything is declared so already".to_owned();
    }
    let count = |of: fn(&DeployChange) -> bool| changes.iter().filter(|change| of(change)).count();
    let counts = [
        (
            count(|c| matches!(c, DeployChange::Create { .. })),
            "to create",
        ),
        (
            count(|c| matches!(c, DeployChange::Change { .. })),
            "to change",
        ),
        (count(|c| matches!(c, DeployChange::Move { .. })), "to move"),
        (
            count(|c| matches!(c, DeployChange::Remove { .. })),
            "to remove",
        ),
    ];
    let parts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    format!(
        "{}: {}",
        human::plural(changes.len(), "change"),
        parts.join(", ")
    )
}
