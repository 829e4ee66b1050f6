//! A service as a whole.

use flocker_api::{
    app::{App, MovePolicy},
    container::{ContainerSpec, RestartPolicy, StopPolicy},
    name::AppName,
};

use super::{
    super::{
        application::distinct,
        declared::{Applications, Declared, Unplaced},
        error::Problem,
        extension::{Extension, SIGNALS},
        keys::{self, Keys},
        reader::{Fields, Reader},
        words,
        yaml::{Entry, Kind, Mark, Node, Value},
    },
    Dialect, Frame,
};

impl Reader<'_> {
    /// Reads one service; `whole` is what its name is in.
    pub(super) fn service(
        &mut self,
        entry: &Entry,
        path: &str,
        whole: &str,
        frame: &Frame<'_>,
        found: &mut Applications,
    ) {
        // `x-...` at the top of a Fig file is somebody else's, as in a Compose file.
        if frame.dialect == Dialect::Fig && is_foreign(&entry.key.text) {
            return;
        }
        let name = match entry.key.text.parse::<AppName>() {
            Ok(name) => {
                found.names.push((name.clone(), self.place(entry.at)));
                Some(name)
            }
            Err(error) => {
                self.refused(entry.at, whole, &error);
                None
            }
        };
        let errors_before = self.errors.len();
        let app = self.service_keys(name.as_ref(), entry, path, frame);
        if let (Some(app), true) = (app, self.errors.len() == errors_before) {
            found.apps.push(app);
        }
    }

    fn service_keys(
        &mut self,
        name: Option<&AppName>,
        entry: &Entry,
        path: &str,
        frame: &Frame<'_>,
    ) -> Option<Declared> {
        let keys = match frame.dialect {
            Dialect::Compose => keys::SERVICE,
            Dialect::Fig => keys::FIG_SERVICE,
        };
        let fields = self.extensible(&entry.value, entry.at, path, keys)?;
        let image = self.image(&fields, path);
        let environment = self.service_environment(&fields, path, frame.outside);
        let (mut routes, exposed) = self.service_ports(&fields, path, frame.dialect);
        let volumes = self.service_volumes(&fields, path, frame);
        let needs = self.service_needs(&fields, path, frame.dialect);
        let limits = self.limits(&fields, path);
        let (probe, health) = self.healthcheck(&fields, path).unzip();
        let labels = self.labels(&fields, path);
        let restart = self.restart(&fields, path);
        let stop = self.service_stop(&fields, path);
        let entrypoint = self.entrypoint(&fields, path);
        let command = self.service_command(&fields, path);
        if entrypoint.as_ref().is_some_and(Vec::is_empty) && fields.get("command").is_none() {
            let path = format!("{path}.entrypoint");
            let reason = "without an entrypoint there must be a 'command'".to_owned();
            self.note(fields.at("entrypoint"), Problem::Refused { path, reason });
        }
        let extension = fields
            .get("x-flocker")
            .map_or_else(Extension::default, |node| {
                let path = format!("{path}.x-flocker");
                self.extension(node, fields.at("x-flocker"), &path, keys::SERVICE_EXTENSION)
            });
        let mut ports: Vec<u16> = routes.iter().map(|route| route.route.port).collect();
        ports.extend(exposed);
        self.join_routes(&mut routes, extension.routes);
        ports.extend(routes.iter().map(|route| route.route.port));
        let name = name?;
        let mounts = self.mounts(name, &volumes, path);
        let container = ContainerSpec {
            entrypoint,
            command,
            environment,
            ports: distinct(ports),
            volumes: mounts?,
            labels,
            memory_bytes: limits.memory_bytes,
            cpu_shares: limits.cpu_shares,
            cpu_millis: limits.cpu_millis,
            pids_max: limits.pids_max,
            restart,
            stop,
            ready: extension.ready.or(probe),
            health,
            pre_stop: extension.pre_stop,
            ..ContainerSpec::new(name.clone(), image?)
        };
        Some(Declared {
            app: App {
                volume_sizes: volumes.iter().map(|volume| volume.size).collect(),
                routes: routes.iter().map(|route| route.route.clone()).collect(),
                move_policy: extension.move_policy.unwrap_or_else(MovePolicy::default),
                replication: extension.replication,
                ..App::new(container)
            },
            at: self.place(entry.at),
            routes_at: routes.iter().map(|route| self.place(route.at)).collect(),
            volumes_at: volumes.iter().map(|volume| self.place(volume.at)).collect(),
            node: extension.node.map(|(node, at)| (node, self.place(at))),
            unplaced: Unplaced::Stays,
            needs,
        })
    }

    fn restart(&mut self, fields: &Fields<'_>, path: &str) -> RestartPolicy {
        const EXPECTED: &str = "one of no, always, unless-stopped, on-failure, on-failure:RETRIES";
        let path = format!("{path}.restart");
        let Some((node, text)) = fields
            .get("restart")
            .and_then(|node| Some((node, self.text(node, &path, EXPECTED)?)))
        else {
            return RestartPolicy::default();
        };
        let policy = match text.split_once(':') {
            None if text == "no" => Some(RestartPolicy::Never),
            None if ["always", "unless-stopped"].contains(&text) => Some(RestartPolicy::Always),
            None if text == "on-failure" => Some(RestartPolicy::OnFailure { retries_max: None }),
            Some(("on-failure", count)) => {
                let count = count.parse::<u32>().ok().filter(|count| *count > 0);
                count.map(|count| RestartPolicy::OnFailure {
                    retries_max: Some(count),
                })
            }
            _ => None,
        };
        if policy.is_none() {
            self.bad(node, &path, EXPECTED);
        }
        policy.unwrap_or_default()
    }

    fn service_stop(&mut self, fields: &Fields<'_>, path: &str) -> StopPolicy {
        let mut stop = StopPolicy::default();
        if let Some(node) = fields.get("stop_signal") {
            // As Docker takes them: with or without SIG.
            let short = SIGNALS.map(|name| (name.trim_start_matches("SIG"), name));
            let long = SIGNALS.map(|name| (name, name));
            let words = [long, short].concat();
            if let Some(signal) = self.word(node, &format!("{path}.stop_signal"), &words) {
                signal.clone_into(&mut stop.signal);
            }
        }
        if let Some(node) = fields.get("stop_grace_period")
            && let Some(ms) = self.duration_ms(node, &format!("{path}.stop_grace_period"), 0)
        {
            stop.grace_ms = ms;
        }
        stop
    }

    fn entrypoint(&mut self, fields: &Fields<'_>, path: &str) -> Option<Vec<String>> {
        let node = fields.get("entrypoint")?;
        let path = format!("{path}.entrypoint");
        // Empty: the image's own is not used.
        let empty = match &node.value {
            Value::List(items) => items.is_empty(),
            Value::Scalar(scalar) => node.kind() == Kind::Text && scalar.text.is_empty(),
            Value::Map(_) => false,
        };
        if empty {
            return Some(Vec::new());
        }
        self.command_line(node, &path)
    }

    fn service_command(&mut self, fields: &Fields<'_>, path: &str) -> Option<Vec<String>> {
        let node = fields.get("command")?;
        self.command_line(node, &format!("{path}.command"))
    }

    /// A list of words, or one text that is split into them.
    fn command_line(&mut self, node: &Node, path: &str) -> Option<Vec<String>> {
        const EXPECTED: &str = "a list of texts, or one text: a program and its arguments";
        match &node.value {
            Value::List(_) => self.command(node, path),
            Value::Scalar(_) => {
                let text = self.text(node, path, EXPECTED)?;
                let words = words::split(text).filter(|words| !words.is_empty());
                if words.is_none() {
                    self.bad(node, path, "a command whose quotes are closed");
                }
                words
            }
            Value::Map(_) => {
                self.wrong_type(node, path, EXPECTED);
                None
            }
        }
    }

    /// A mapping to which others may add keys of their own, beginning with `x-`.
    pub(super) fn extensible<'n>(
        &mut self,
        node: &'n Node,
        at: Mark,
        path: &str,
        keys: &Keys,
    ) -> Option<Fields<'n>> {
        let errors_before = self.errors.len();
        let fields = self.fields(node, at, path, keys)?;
        let foreign: Vec<_> = match &node.value {
            Value::Map(entries) => entries
                .iter()
                .filter(|entry| is_foreign(&entry.key.text))
                .map(|entry| self.place(entry.at))
                .collect(),
            Value::List(_) | Value::Scalar(_) => Vec::new(),
        };
        let mut kept = self.errors.split_off(errors_before);
        kept.retain(|error| !foreign.contains(&error.place));
        self.errors.append(&mut kept);
        Some(fields)
    }

    /// A text or a number, as it was written.
    pub(super) fn word_or_number<'n>(
        &mut self,
        node: &'n Node,
        path: &str,
        what: &str,
    ) -> Option<&'n str> {
        match (&node.value, node.kind()) {
            (Value::Scalar(scalar), Kind::Text | Kind::Integer | Kind::Number)
                if !scalar.text.is_empty() =>
            {
                Some(&scalar.text)
            }
            _ => {
                self.wrong_type(node, path, what);
                None
            }
        }
    }

    /// An integer, in quotes or not, as variables leave them.
    pub(super) fn loose_integer(
        &mut self,
        node: &Node,
        path: &str,
        bounds: std::ops::RangeInclusive<u64>,
        what: &str,
    ) -> Option<u64> {
        let text = self.word_or_number(node, path, what)?;
        let value = text.parse().ok().filter(|value| bounds.contains(value));
        if value.is_none() {
            self.bad(node, path, what);
        }
        value
    }
}

/// Whether a key belongs to another tool; one that is nearly ours is rather a slip.
fn is_foreign(key: &str) -> bool {
    key.starts_with("x-")
        && key != "x-flocker"
        && super::super::error::nearest(key, ["x-flocker"]).is_none()
}
