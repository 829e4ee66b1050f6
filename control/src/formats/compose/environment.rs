//! `environment`, `env_file` and `labels`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        dotenv,
        error::Problem,
        keys,
        reader::{Fields, Reader},
        yaml::{Entry, Kind, Mark, Node, Value},
    },
    Outside, env_file_name,
};

/// One `NAME=value` of a list or one entry of a mapping.
struct Pair<'n> {
    at: Mark,
    path: String,
    name: &'n str,
    kind: Kind,
    /// `None`: only named.
    value: Option<&'n str>,
}

impl Reader<'_> {
    /// The files of `env_file` in their order, then `environment` above them.
    pub(super) fn service_environment(
        &mut self,
        fields: &Fields<'_>,
        path: &str,
        outside: &Outside<'_>,
    ) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::new();
        if let Some(node) = fields.get("env_file") {
            for (file, required, at) in self.env_files(node, &format!("{path}.env_file")) {
                let name = env_file_name(self.file, &file);
                match outside.env_files.get(name.as_str()) {
                    Some(text) => environment.extend(dotenv::variables(
                        &name,
                        text,
                        &outside.variables,
                        self.errors,
                    )),
                    None if required => {
                        let problem = Problem::Refused {
                            path: format!("{path}.env_file"),
                            reason: format!("there is no file '{name}'"),
                        };
                        self.note(at, problem);
                    }
                    None => {}
                }
            }
        }
        let Some(node) = fields.get("environment") else {
            return environment;
        };
        for pair in self.pairs(node, &format!("{path}.environment"), "NAME=value") {
            if !self.variable_name(pair.at, &pair.path, pair.name, pair.kind) {
                continue;
            }
            let value = pair.value.map(str::to_owned);
            // Only named: as it is where the deployment is made, or not at all.
            let value = value.or_else(|| outside.variables.get(pair.name).cloned());
            match value {
                Some(value) => environment.insert(pair.name.to_owned(), value),
                None => environment.remove(pair.name),
            };
        }
        environment
    }

    /// Paths of environment files, and whether they must be there.
    fn env_files(&mut self, node: &Node, path: &str) -> Vec<(String, bool, Mark)> {
        const EXPECTED: &str = "a path, or a list of paths";
        let items = match &node.value {
            Value::List(items) => items.iter().collect(),
            Value::Scalar(_) | Value::Map(_) => vec![node],
        };
        let mut files = Vec::new();
        for item in items {
            let (node, required) = match &item.value {
                Value::Map(_) => {
                    let Some(fields) = self.fields(item, item.at, path, keys::ENV_FILE) else {
                        continue;
                    };
                    let words = [("true", true), ("false", false)];
                    let required = fields.get("required").map(|node| {
                        let path = format!("{path}.required");
                        self.flag(node, &path, &words)
                    });
                    let node = self.required(&fields, path, "path", "the path of a file");
                    (node, required.unwrap_or(Some(true)))
                }
                Value::Scalar(_) | Value::List(_) => (Some(item), Some(true)),
            };
            let file = node.and_then(|node| Some((self.text(node, path, EXPECTED)?, node.at)));
            if let (Some((file, at)), Some(required)) = (file, required) {
                files.push((file.to_owned(), required, at));
            }
        }
        files
    }

    /// `true` or `false`.
    pub(super) fn flag(
        &mut self,
        node: &Node,
        path: &str,
        words: &[(&str, bool); 2],
    ) -> Option<bool> {
        const EXPECTED: &str = "true or false";
        let Value::Scalar(scalar) = &node.value else {
            self.wrong_type(node, path, EXPECTED);
            return None;
        };
        let found = words.iter().find(|(word, _)| *word == scalar.text);
        if found.is_none() {
            self.bad(node, path, EXPECTED);
        }
        found.map(|(_, value)| *value)
    }

    /// `labels`, as a mapping or a list.
    pub(super) fn labels(&mut self, fields: &Fields<'_>, path: &str) -> BTreeMap<String, String> {
        const EXPECTED: &str = "a label's name: a text that does not begin with 'flocker.'";
        let mut labels = BTreeMap::new();
        let Some(node) = fields.get("labels") else {
            return labels;
        };
        for pair in self.pairs(node, &format!("{path}.labels"), "NAME=value") {
            if pair.name.is_empty() || pair.name.starts_with("flocker.") {
                let problem = Problem::BadValue {
                    path: pair.path,
                    value: pair.name.to_owned(),
                    expected: EXPECTED.to_owned(),
                };
                self.note(pair.at, problem);
                continue;
            }
            labels.insert(
                pair.name.to_owned(),
                pair.value.unwrap_or_default().to_owned(),
            );
        }
        labels
    }

    /// The pairs of a mapping, or of a list of `NAME=value`.
    fn pairs<'n>(&mut self, node: &'n Node, path: &str, what: &str) -> Vec<Pair<'n>> {
        match &node.value {
            Value::Map(entries) => entries
                .iter()
                .filter_map(|entry| self.pair_of_entry(entry, path))
                .collect(),
            Value::List(items) => {
                let items = items.iter().enumerate();
                items
                    .filter_map(|(index, item)| {
                        let path = format!("{path}[{index}]");
                        let text = self.text(item, &path, what)?;
                        let (name, value) = match text.split_once('=') {
                            Some((name, value)) => (name, Some(value)),
                            None => (text, None),
                        };
                        Some(Pair {
                            at: item.at,
                            path,
                            name,
                            kind: Kind::Text,
                            value,
                        })
                    })
                    .collect()
            }
            Value::Scalar(_) => {
                self.wrong_type(node, path, &format!("a mapping, or a list of {what}"));
                Vec::new()
            }
        }
    }

    fn pair_of_entry<'n>(&mut self, entry: &'n Entry, path: &str) -> Option<Pair<'n>> {
        let name = entry.key.text.as_str();
        let value = match (&entry.value.value, entry.value.kind()) {
            (_, Kind::Null) => None,
            (Value::Scalar(scalar), Kind::Text | Kind::Integer | Kind::Number) => {
                Some(scalar.text.as_str())
            }
            _ => {
                let path = format!("{path}.{name}");
                self.text(&entry.value, &path, "a text or a number")?;
                None
            }
        };
        Some(Pair {
            at: entry.at,
            path: path.to_owned(),
            name,
            kind: entry.key.kind(),
            value,
        })
    }
}

/// The environment files that a file's services name, and the variables that they only name.
pub(in super::super) fn env_file_paths(
    file: &str,
    root: &Node,
    names: &mut BTreeSet<String>,
) -> Vec<String> {
    let mut errors = Vec::new();
    let mut reader = Reader {
        file,
        errors: &mut errors,
    };
    let mut found = Vec::new();
    let Value::Map(entries) = &root.value else {
        return found;
    };
    let services = entries.iter().find(|entry| entry.key.text == "services");
    let services = services.map_or(root, |entry| &entry.value);
    let Value::Map(services) = &services.value else {
        return found;
    };
    for service in services {
        let Value::Map(keys) = &service.value.value else {
            continue;
        };
        for entry in keys {
            match entry.key.text.as_str() {
                "env_file" => {
                    let files = reader.env_files(&entry.value, "");
                    found.extend(
                        files
                            .into_iter()
                            .map(|(path, ..)| env_file_name(file, &path)),
                    );
                }
                "environment" => {
                    let pairs = reader.pairs(&entry.value, "", "");
                    let named = pairs.into_iter().filter(|pair| pair.value.is_none());
                    names.extend(named.map(|pair| pair.name.to_owned()));
                }
                _ => {}
            }
        }
    }
    found
}
