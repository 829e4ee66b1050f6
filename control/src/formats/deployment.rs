//! Deployment files: `version` and `nodes`, each with the list of apps that shall run there.

use flocker_api::name::{AppName, NodeName};

use super::{
    error::{Place, Problem, nearest},
    reader::Reader,
    yaml::Node,
};

/// Keys of a deployment file.
pub(super) const FILE_KEYS: [&str; 2] = ["version", "nodes"];

/// An app is named under a node.
pub(super) struct Placed {
    pub(super) app: AppName,
    pub(super) node: NodeName,
    pub(super) at: Place,
}

impl Reader<'_> {
    /// Reads a deployment file; `declared` are the apps of all application files.
    pub(super) fn deployment(&mut self, root: &Node, declared: &[AppName]) -> Vec<Placed> {
        let mut placed = Vec::new();
        let Some(fields) = self.fields(root, root.at, "the deployment file", &FILE_KEYS) else {
            return placed;
        };
        self.version(&fields, "the deployment file");
        let entries = fields.get("nodes").and_then(|node| self.map(node, "nodes"));
        for entry in entries.unwrap_or_default() {
            let path = format!("nodes.{}", entry.key.text);
            let node = entry.key.text.parse::<NodeName>();
            if let Err(error) = &node {
                self.refused(entry.at, "nodes", error);
            }
            let items = self.list(&entry.value, &path, "app names ([] for none)");
            for (index, item) in items.unwrap_or_default().iter().enumerate() {
                let path = format!("{path}[{index}]");
                let app = self.placed_app(item, &path, declared);
                if let (Some(app), Ok(node)) = (app, &node) {
                    placed.push(Placed {
                        app,
                        node: node.clone(),
                        at: self.place(item.at),
                    });
                }
            }
        }
        placed
    }

    fn placed_app(&mut self, item: &Node, path: &str, declared: &[AppName]) -> Option<AppName> {
        let app = self.parsed::<AppName>(item, path, "an app's name")?;
        if declared.contains(&app) {
            return Some(app);
        }
        let problem = Problem::UnknownApp {
            path: path.to_owned(),
            suggestion: nearest(app.as_str(), declared.iter().map(AppName::as_str)),
            app: app.to_string(),
            declared: declared.iter().map(ToString::to_string).collect(),
        };
        self.note(item.at, problem);
        None
    }
}
