//! `${VARIABLE}` in the values of Compose files and of environment files.
//!
//! ```text
//! $NAME  ${NAME}      its value; an error when it is not set
//! ${NAME:-default}    the default when it is not set or empty    ${NAME-default}   when not set
//! ${NAME:?message}    an error when it is not set or empty       ${NAME?message}   when not set
//! ${NAME:+other}      the other when it is set and not empty     ${NAME+other}     when set
//! $$                  a dollar sign
//! ```
//!
//! Defaults may hold variables themselves. Compose takes a variable that is not set for an
//! empty text, with a warning; here it is an error, because an empty password is no default.

use std::collections::{BTreeMap, BTreeSet};

/// Deepest nesting of defaults.
const DEPTH_MAX: usize = 8;

/// Variables by name.
pub(super) type Variables = BTreeMap<String, String>;

/// A text taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable { name: String, rule: Rule },
}

/// What holds when a variable is not set; `bool`: an empty one counts as not set.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Needed,
    Default(bool, Template),
    Error(bool, Template),
    Other(bool, Template),
}

/// Why a text has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoValue {
    /// A variable that is not set and has no default.
    #[error(
        "the variable {0} is not set; set it in the environment or in a file .env beside the \
         Compose file, or give it a default: ${{{0}:-default}} (${{{0}-}} for an empty one)"
    )]
    NotSet(String),
    /// The file itself says that it must be set.
    #[error("the variable {name} must be set: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The file's own words.
        message: String,
    },
    /// No variable, though it begins like one.
    #[error(
        "'{0}' is no variable: what is allowed is $NAME, ${{NAME}}, ${{NAME:-default}}, \
         ${{NAME:?message}}, ${{NAME:+other}} and $$ for a dollar sign"
    )]
    Malformed(String),
}

impl Template {
    /// Takes a text apart.
    ///
    /// # Errors
    /// When a `$` begins no variable.
    pub(super) fn parse(text: &str) -> Result<Self, NoValue> {
        let (template, rest) = parse(text, 0)?;
        debug_assert!(
            rest.is_empty(),
            "only a nested template ends before its text"
        );
        Ok(template)
    }

    /// Its variables, those of defaults as well.
    pub(super) fn names(&self, into: &mut BTreeSet<String>) {
        for part in &self.0 {
            if let Part::Variable { name, rule } = part {
                into.insert(name.clone());
                match rule {
                    Rule::Needed => {}
                    Rule::Default(_, inner) | Rule::Error(_, inner) | Rule::Other(_, inner) => {
                        inner.names(into);
                    }
                }
            }
        }
    }

    /// Its value.
    ///
    /// # Errors
    /// When a variable is not set that must be.
    pub(super) fn value(&self, variables: &Variables) -> Result<String, NoValue> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Variable { name, rule } => text.push_str(&value(name, rule, variables)?),
            }
        }
        Ok(text)
    }
}

fn value(name: &str, rule: &Rule, variables: &Variables) -> Result<String, NoValue> {
    let found = |empty_counts: bool| {
        let found = variables.get(name);
        found.filter(|value| !(empty_counts && value.is_empty()))
    };
    match rule {
        Rule::Needed => {
            let found = found(false).cloned();
            found.ok_or_else(|| NoValue::NotSet(name.to_owned()))
        }
        Rule::Default(empty, default) => match found(*empty) {
            Some(value) => Ok(value.clone()),
            None => default.value(variables),
        },
        Rule::Other(empty, other) => match found(*empty) {
            Some(_) => other.value(variables),
            None => Ok(String::new()),
        },
        Rule::Error(empty, message) => match found(*empty) {
            Some(value) => Ok(value.clone()),
            None => Err(NoValue::Required {
                name: name.to_owned(),
                message: message.value(variables)?,
            }),
        },
    }
}

/// Reads up to the end, or, inside of a variable, up to its `}`; answers what is left.
fn parse(text: &str, depth: usize) -> Result<(Template, &str), NoValue> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if next == '}' && depth > 0 {
            break;
        }
        let Some(after) = rest.strip_prefix('$') else {
            plain.push(next);
            rest = &rest[next.len_utf8()..];
            continue;
        };
        if let Some(after) = after.strip_prefix('$') {
            plain.push('$');
            rest = after;
            continue;
        }
        let malformed = || NoValue::Malformed(rest.to_owned());
        let (part, after) = match after.strip_prefix('{') {
            Some(inside) => braced(inside, depth).and_then(|found| found.ok_or_else(malformed))?,
            None => {
                let (name, after) = name(after).ok_or_else(malformed)?;
                let rule = Rule::Needed;
                (Part::Variable { name, rule }, after)
            }
        };
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain)));
        }
        parts.push(part);
        rest = after;
    }
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok((Template(parts), rest))
}

/// What stands after `${`; `None` when it is no variable.
fn braced(inside: &str, depth: usize) -> Result<Option<(Part, &str)>, NoValue> {
    let Some((name, rest)) = name(inside).filter(|_| depth < DEPTH_MAX) else {
        return Ok(None);
    };
    if let Some(rest) = rest.strip_prefix('}') {
        let rule = Rule::Needed;
        return Ok(Some((Part::Variable { name, rule }, rest)));
    }
    let (empty, rest) = rest
        .strip_prefix(':')
        .map_or((false, rest), |rest| (true, rest));
    let Some(operator @ ('-' | '?' | '+')) = rest.chars().next() else {
        return Ok(None);
    };
    let (inner, rest) = parse(&rest[1..], depth + 1)?;
    let Some(rest) = rest.strip_prefix('}') else {
        return Ok(None);
    };
    let rule = match operator {
        '-' => Rule::Default(empty, inner),
        '?' => Rule::Error(empty, inner),
        _ => Rule::Other(empty, inner),
    };
    Ok(Some((Part::Variable { name, rule }, rest)))
}

/// The name at the beginning, and what comes after it.
fn name(text: &str) -> Option<(String, &str)> {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    begins_well.then(|| (name.to_owned(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_of(text: &str) -> Result<String, String> {
        let variables = [("A", "a"), ("EMPTY", "")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let template = Template::parse(text).map_err(|error| error.to_string())?;
        template
            .value(&variables.into())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn variables_have_values() {
        for (text, expected) in [
            ("", ""),
            ("plain } text", "plain } text"),
            ("$A", "a"),
            ("x${A}y$A.z", "xaya.z"),
            ("$$A $${A}", "$A ${A}"),
            ("${EMPTY}", ""),
            ("${NO:-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${NO-}", ""),
            ("${A:-d}", "a"),
            ("${NO:-${NEITHER:-${A}!}}", "a!"),
            ("${NO:-http://x:80/}", "http://x:80/"),
            ("${A:?must}", "a"),
            ("${EMPTY?must}", ""),
            ("${A:+yes}", "yes"),
            ("${EMPTY:+yes}", ""),
            ("${EMPTY+yes}", "yes"),
            ("${NO+yes}", ""),
            ("${NO:-\u{e4}}", "\u{e4}"),
        ] {
            assert_eq!(value_of(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_has_no_value_says_why() {
        for (text, expected) in [
            ("$NO", "the variable NO is not set"),
            ("${NO}", "${NO:-default}"),
            ("${NO:?say $A}", "NO must be set: say a"),
            ("${EMPTY:?x}", "EMPTY must be set"),
            ("$", "'$' is no variable"),
            ("a$1", "'$1' is no variable"),
            ("${A", "'${A' is no variable"),
            ("${}", "is no variable"),
            ("${A:x}", "is no variable"),
            ("${A:-${B}", "is no variable"),
            ("${A!}", "is no variable"),
        ] {
            let error = value_of(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let deep = "${A:-".repeat(20);
        assert!(value_of(&deep).unwrap_err().contains("is no variable"));
    }

    #[test]
    fn all_names_are_found() {
        let mut names = BTreeSet::new();
        let template = Template::parse("$A ${B:-${C}} ${D:+$E} $$F").unwrap();
        template.names(&mut names);
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert_eq!(names, ["A", "B", "C", "D", "E"]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[$A{}:?+ -]{0,40}") {
            drop(value_of(&text));
        }
    }
}
