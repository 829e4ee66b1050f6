//! What happens to a Compose file's tree before its keys are read: `<<` is merged, variables
//! get their values.

use std::collections::BTreeSet;

use super::super::{
    error::{FormatError, Problem},
    interpolate::{Template, Variables},
    yaml::{Entry, Node, Value},
};

/// Most entries that `<<` may add to a file.
const MERGED_MAX: usize = 10_000;

/// The tree with each `<<` replaced by the entries of what it names. Keys that stand beside it
/// win, and the first of several that are merged.
pub(in super::super) fn merged(file: &str, mut root: Node, errors: &mut Vec<FormatError>) -> Node {
    let mut left = MERGED_MAX;
    merge(file, &mut root, &mut left, errors);
    root
}

fn merge(file: &str, node: &mut Node, left: &mut usize, errors: &mut Vec<FormatError>) {
    match &mut node.value {
        Value::Scalar(_) => {}
        Value::List(items) => {
            for item in items {
                merge(file, item, left, errors);
            }
        }
        Value::Map(entries) => {
            for entry in entries.iter_mut() {
                merge(file, &mut entry.value, left, errors);
            }
            let Some(at) = entries.iter().position(|entry| entry.key.text == "<<") else {
                return;
            };
            let bases = entries.remove(at).value;
            let bases = match bases.value {
                Value::List(items) => items,
                Value::Map(_) | Value::Scalar(_) => vec![bases],
            };
            for base in bases {
                let Value::Map(more) = base.value else {
                    let problem = Problem::WrongType {
                        path: "<<".to_owned(),
                        expected: "a mapping, or a list of mappings".to_owned(),
                        found: base.kind().name().to_owned(),
                    };
                    errors.push(FormatError::new(base.at.in_file(file), problem));
                    continue;
                };
                add(entries, more, left);
            }
        }
    }
}

fn add(entries: &mut Vec<Entry>, more: Vec<Entry>, left: &mut usize) {
    for entry in more {
        let known = entries.iter().any(|known| known.key.text == entry.key.text);
        if !known && *left > 0 {
            *left -= 1;
            entries.push(entry);
        }
    }
}

/// Gives variables their values. What has none keeps its text: the error stands at its place.
pub(in super::super) fn settled(
    file: &str,
    mut root: Node,
    variables: &Variables,
    errors: &mut Vec<FormatError>,
) -> Node {
    each_text(&mut root, &mut |node_at, text| {
        let value = Template::parse(text).and_then(|template| template.value(variables));
        match value {
            Ok(value) => *text = value,
            Err(why) => {
                let problem = Problem::Refused {
                    path: text.clone(),
                    reason: why.to_string(),
                };
                errors.push(FormatError::new(node_at.in_file(file), problem));
            }
        }
    });
    root
}

/// The variables that stand in its values.
pub(in super::super) fn names(root: &Node, into: &mut BTreeSet<String>) {
    each_text(&mut root.clone(), &mut |_, text| {
        if let Ok(template) = Template::parse(text) {
            template.names(into);
        }
    });
}

fn each_text(node: &mut Node, visit: &mut impl FnMut(super::super::yaml::Mark, &mut String)) {
    let at = node.at;
    match &mut node.value {
        Value::Scalar(scalar) if scalar.text.contains('$') => visit(at, &mut scalar.text),
        Value::Scalar(_) => {}
        Value::List(items) => {
            for item in items {
                each_text(item, visit);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                each_text(&mut entry.value, visit);
            }
        }
    }
}
