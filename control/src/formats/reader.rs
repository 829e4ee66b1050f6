//! Takes values out of a YAML tree and notes down whatever is wrong with them.
//!
//! Each function answers `None` after it has noted an error, so that reading goes on and
//! finds the next one too.

use std::str::FromStr;

use super::{
    error::{FormatError, Place, Problem, nearest},
    keys::Keys,
    quantity,
    yaml::{Entry, Kind, Mark, Node, Value},
};

/// Reads one file.
pub(super) struct Reader<'f> {
    pub(super) file: &'f str,
    pub(super) errors: &'f mut Vec<FormatError>,
}

/// A mapping whose keys have been checked.
pub(super) struct Fields<'n> {
    at: Mark,
    entries: &'n [Entry],
    /// Keys that unknown ones were probably meant to be: noted once is enough.
    meant: Vec<String>,
}

impl<'n> Fields<'n> {
    /// The value of a key, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<&'n Node> {
        let entry = self.entries.iter().find(|entry| entry.key.text == key)?;
        Some(&entry.value)
    }

    /// Where a key stands, or else the mapping.
    pub(super) fn at(&self, key: &str) -> Mark {
        let entry = self.entries.iter().find(|entry| entry.key.text == key);
        entry.map_or(self.at, |entry| entry.at)
    }

    /// Its keys as they were written.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'n str> {
        self.entries.iter().map(|entry| entry.key.text.as_str())
    }
}

impl Reader<'_> {
    /// Notes down an error.
    pub(super) fn note(&mut self, at: Mark, problem: Problem) {
        let place = self.place(at);
        self.errors.push(FormatError::new(place, problem));
    }

    /// A place in this file.
    pub(super) fn place(&self, at: Mark) -> Place {
        at.in_file(self.file)
    }

    /// A mapping that may have no other than these keys; `at` is where its name stands.
    pub(super) fn fields<'n>(
        &mut self,
        node: &'n Node,
        at: Mark,
        path: &str,
        keys: &Keys,
    ) -> Option<Fields<'n>> {
        let entries = self.map(node, path)?;
        let mut meant = Vec::new();
        for entry in entries {
            let key = entry.key.text.as_str();
            if keys.allowed.contains(&key) {
                continue;
            }
            if let Some((_, instead)) = keys.refused.iter().find(|(refused, _)| *refused == key) {
                let problem = Problem::NotSupported {
                    path: path.to_owned(),
                    key: key.to_owned(),
                    instead,
                };
                self.note(entry.at, problem);
                continue;
            }
            let suggestion = nearest(key, keys.allowed.iter().copied());
            meant.extend(suggestion.clone());
            let problem = Problem::UnknownKey {
                path: path.to_owned(),
                key: key.to_owned(),
                allowed: keys.allowed.to_vec(),
                suggestion,
            };
            self.note(entry.at, problem);
        }
        Some(Fields { at, entries, meant })
    }

    /// A mapping with keys of the user's own.
    pub(super) fn map<'n>(&mut self, node: &'n Node, path: &str) -> Option<&'n [Entry]> {
        if let Value::Map(entries) = &node.value {
            return Some(entries);
        }
        self.wrong_type(node, path, "a mapping");
        None
    }

    /// A list.
    pub(super) fn list<'n>(&mut self, node: &'n Node, path: &str, of: &str) -> Option<&'n [Node]> {
        if let Value::List(items) = &node.value {
            return Some(items);
        }
        self.wrong_type(node, path, &format!("a list of {of}"));
        None
    }

    /// A key that must be there.
    pub(super) fn required<'n>(
        &mut self,
        fields: &Fields<'n>,
        path: &str,
        key: &'static str,
        expected: &str,
    ) -> Option<&'n Node> {
        let found = fields.get(key);
        if found.is_none() && !fields.meant.iter().any(|meant| meant == key) {
            let problem = Problem::MissingKey {
                path: path.to_owned(),
                key,
                expected: expected.to_owned(),
            };
            self.note(fields.at, problem);
        }
        found
    }

    /// A text that is not empty.
    pub(super) fn text<'n>(&mut self, node: &'n Node, path: &str, what: &str) -> Option<&'n str> {
        match (&node.value, node.kind()) {
            (Value::Scalar(scalar), Kind::Text) if scalar.text.is_empty() => {
                self.bad(node, path, what);
                None
            }
            (Value::Scalar(scalar), Kind::Text) => Some(&scalar.text),
            (Value::Scalar(scalar), Kind::Integer | Kind::Number | Kind::Boolean) => {
                let expected = format!("{what} (in quotes: \"{}\")", scalar.text);
                self.wrong_type(node, path, &expected);
                None
            }
            _ => {
                self.wrong_type(node, path, what);
                None
            }
        }
    }

    /// A text that its type can read; the type's own words say why it cannot.
    pub(super) fn parsed<T>(&mut self, node: &Node, path: &str, what: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: std::error::Error,
    {
        let text = self.text(node, path, what)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.refused(node.at, path, &error);
                None
            }
        }
    }

    /// Notes what a type has against a text.
    pub(super) fn refused(&mut self, at: Mark, path: &str, error: &dyn std::error::Error) {
        let problem = Problem::Refused {
            path: path.to_owned(),
            reason: flocker_api::error::chain(error),
        };
        self.note(at, problem);
    }

    /// An integer between two bounds, both included.
    pub(super) fn integer(
        &mut self,
        node: &Node,
        path: &str,
        bounds: std::ops::RangeInclusive<u64>,
        what: &str,
    ) -> Option<u64> {
        let Value::Scalar(scalar) = &node.value else {
            self.wrong_type(node, path, what);
            return None;
        };
        if node.kind() != Kind::Integer {
            self.wrong_type(node, path, what);
            return None;
        }
        let text = scalar.text.as_str();
        let value = match (text.strip_prefix("0x"), text.strip_prefix("0o")) {
            (Some(digits), _) => u64::from_str_radix(digits, 16),
            (_, Some(digits)) => u64::from_str_radix(digits, 8),
            _ => text.parse(),
        };
        let value = value.ok().filter(|value| bounds.contains(value));
        if value.is_none() {
            self.bad(node, path, what);
        }
        value
    }

    /// A port.
    pub(super) fn port(&mut self, node: &Node, path: &str) -> Option<u16> {
        let port = self.integer(node, path, 1..=65_535, "a port: an integer from 1 to 65535")?;
        u16::try_from(port).ok()
    }

    /// A duration, in ms, not below `min_ms`.
    pub(super) fn duration_ms(&mut self, node: &Node, path: &str, min_ms: u64) -> Option<u64> {
        // A bare number reads as one who forgot the unit, not as one who forgot the quotes.
        if let Value::Scalar(scalar) = &node.value
            && let Some(ms) = quantity::duration_ms(&scalar.text).filter(|ms| *ms >= min_ms)
        {
            return Some(ms);
        }
        let above = match min_ms {
            0 => String::new(),
            1 => " above zero".to_owned(),
            _ => format!(" of {min_ms}ms or more"),
        };
        let expected = format!(
            "a duration{above} up to 24h: {}",
            quantity::DURATION_EXPECTED
        );
        match node.kind() {
            Kind::Text | Kind::Integer | Kind::Number => self.bad(node, path, &expected),
            Kind::Null | Kind::Boolean | Kind::List | Kind::Map => {
                self.wrong_type(node, path, &expected);
            }
        }
        None
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(
        &mut self,
        node: &Node,
        path: &str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let mut expected = format!("one of {}", names.join(", "));
        let text = self.text(node, path, &expected)?;
        if let Some((_, value)) = words.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        if let Some(near) = nearest(text, names.iter().copied()) {
            expected.push_str(&format!(" (did you mean '{near}'?)"));
        }
        self.bad(node, path, &expected);
        None
    }

    /// A command: a list of texts that is not empty.
    pub(super) fn command(&mut self, node: &Node, path: &str) -> Option<Vec<String>> {
        let items = self.list(node, path, "texts: a program and its arguments")?;
        if items.is_empty() {
            self.note(
                node.at,
                Problem::WrongType {
                    path: path.to_owned(),
                    expected: "a list of texts: a program and its arguments".to_owned(),
                    found: "an empty list".to_owned(),
                },
            );
            return None;
        }
        let mut command = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            command.push(self.argument(item, &path)?);
        }
        Some(command)
    }

    /// A text that may be empty: an argument of a command, the value of a variable.
    pub(super) fn argument(&mut self, node: &Node, path: &str) -> Option<String> {
        match &node.value {
            Value::Scalar(scalar) if node.kind() == Kind::Text => Some(scalar.text.clone()),
            _ => self.text(node, path, "a text").map(str::to_owned),
        }
    }

    /// Notes a value of the wrong type.
    pub(super) fn wrong_type(&mut self, node: &Node, path: &str, expected: &str) {
        let problem = Problem::WrongType {
            path: path.to_owned(),
            expected: expected.to_owned(),
            found: node.kind().name().to_owned(),
        };
        self.note(node.at, problem);
    }

    /// Notes a value that is not allowed.
    pub(super) fn bad(&mut self, node: &Node, path: &str, expected: &str) {
        let value = match &node.value {
            Value::Scalar(scalar) => scalar.text.clone(),
            Value::List(_) | Value::Map(_) => node.kind().name().to_owned(),
        };
        let problem = Problem::BadValue {
            path: path.to_owned(),
            value,
            expected: expected.to_owned(),
        };
        self.note(node.at, problem);
    }
}
