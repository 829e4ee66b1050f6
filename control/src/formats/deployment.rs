//! Deployment files: `version` and `nodes`, each with the list of apps that shall run there.

use flocker_api::name::{AppName, NodeName};

use super::{
    error::{Place, Problem, nearest},
    keys,
    reader::Reader,
    yaml::Node,
};

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
        let Some(fields) = self.fields(root, root.at, "the deployment file", keys::DEPLOYMENT_FILE)
        else {
            return placed;
        };
        self.version(&fields, "the deployment file");
        if let Some(node) = fields.get("nodes") {
            placed = self.placements(node, "nodes", declared);
        }
        placed
    }

    /// Reads a mapping of nodes to lists of apps.
    pub(super) fn placements(
        &mut self,
        node: &Node,
        path: &str,
        declared: &[AppName],
    ) -> Vec<Placed> {
        let mut placed = Vec::new();
        for entry in self.map(node, path).unwrap_or_default() {
            let node = entry.key.text.parse::<NodeName>();
            if let Err(error) = &node {
                self.refused(entry.at, path, error);
            }
            let path = format!("{path}.{}", entry.key.text);
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
        self.note(item.at, unknown_app(path, &app, declared));
        None
    }
}

/// An app is named that no file declares.
pub(super) fn unknown_app(path: &str, app: &AppName, declared: &[AppName]) -> Problem {
    Problem::UnknownApp {
        path: path.to_owned(),
        suggestion: nearest(app.as_str(), declared.iter().map(AppName::as_str)),
        app: app.to_string(),
        declared: declared.iter().map(ToString::to_string).collect(),
    }
}
