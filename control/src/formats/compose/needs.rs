//! `links` and `depends_on`: the apps that a service needs.
//!
//! Services of a Compose file find each other by their names. Here that is so for those that a
//! service links to or depends on: each is a link at the ports that the other declares.

use flocker_api::{app::DependencyCondition, name::AppName};

use super::{
    super::{
        declared::{Need, Wish},
        keys,
        reader::{Fields, Reader},
        yaml::{Mark, Node, Value},
    },
    Dialect,
};

const LINK: &str = "\"SERVICE\" or \"SERVICE:ALIAS\"";

impl Reader<'_> {
    /// All that a service needs.
    pub(super) fn service_needs(
        &mut self,
        fields: &Fields<'_>,
        path: &str,
        dialect: Dialect,
    ) -> Vec<Need> {
        let mut needs = Vec::new();
        if let Some(node) = fields.get("links") {
            self.service_links(node, &format!("{path}.links"), dialect, &mut needs);
        }
        if let Some(node) = fields.get("depends_on") {
            self.depends_on(node, &format!("{path}.depends_on"), &mut needs);
        }
        needs
    }

    fn service_links(&mut self, node: &Node, path: &str, dialect: Dialect, needs: &mut Vec<Need>) {
        let items = self.list(node, path, LINK).unwrap_or_default();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let Some(text) = self.text(item, &path, LINK) else {
                continue;
            };
            let (service, alias) = text.split_once(':').unwrap_or((text, text));
            let app = match service.parse::<AppName>() {
                Ok(app) => app,
                Err(error) => {
                    self.refused(item.at, &path, &error);
                    continue;
                }
            };
            if !is_host_name(alias) {
                let expected = "SERVICE:ALIAS, the alias being letters, digits, '-', '_' and '.'";
                self.bad(item, &path, expected);
                continue;
            }
            let alias = alias.to_owned();
            needs.push(Need {
                app,
                at: self.place(item.at),
                path,
                wish: match dialect {
                    Dialect::Compose => Wish::Named { alias },
                    Dialect::Fig => Wish::Published { alias },
                },
            });
        }
    }

    fn depends_on(&mut self, node: &Node, path: &str, needs: &mut Vec<Need>) {
        const EXPECTED: &str = "a list of services, or a mapping {SERVICE: {condition: ...}}";
        match &node.value {
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    if let Some(app) = self.parsed::<AppName>(item, &path, "a service's name") {
                        self.depend(&app, item.at, &path, DependencyCondition::Started, needs);
                    }
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    let path = format!("{path}.{}", entry.key.text);
                    let condition = self.condition(&entry.value, entry.at, &path);
                    match entry.key.text.parse::<AppName>() {
                        Ok(app) => {
                            if let Some(condition) = condition {
                                self.depend(&app, entry.at, &path, condition, needs);
                            }
                        }
                        Err(error) => self.refused(entry.at, &path, &error),
                    }
                }
            }
            Value::Scalar(_) => self.wrong_type(node, path, EXPECTED),
        }
    }

    fn depend(
        &mut self,
        app: &AppName,
        at: Mark,
        path: &str,
        condition: DependencyCondition,
        needs: &mut Vec<Need>,
    ) {
        let place = self.place(at);
        let mut need = |wish| {
            needs.push(Need {
                app: app.clone(),
                at: place.clone(),
                path: path.to_owned(),
                wish,
            });
        };
        need(Wish::First(condition));
        let alias = app.to_string();
        need(Wish::Found { alias });
    }

    fn condition(&mut self, node: &Node, at: Mark, path: &str) -> Option<DependencyCondition> {
        const EXPECTED: &str = "one of service_started, service_healthy";
        let fields = self.fields(node, at, path, keys::DEPENDS_ON)?;
        let node = self.required(&fields, path, "condition", EXPECTED)?;
        let words = [
            ("service_started", DependencyCondition::Started),
            ("service_healthy", DependencyCondition::Ready),
        ];
        self.word(node, &format!("{path}.condition"), &words)
    }
}

/// Whether a text can stand in a hosts file, and begin a variable's name.
fn is_host_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= 63
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}
