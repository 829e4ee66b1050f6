//! The `x-flocker` block of an app or a service: what its file's format has no key for.

use std::net::{Ipv4Addr, SocketAddr};

use flocker_api::{
    app::{AppRoute, DependencyCondition, MovePolicy, OnBusy},
    container::{Probe, StopPolicy},
    name::{AppName, NodeName},
    options::{ROUTE_OPTIONS, RouteOptions},
    replication::ReplicationPolicy,
    route::{OnMove, Route, RouteKey},
};

use super::{
    declared::{Need, PlacedRoute, Wish},
    error::Problem,
    keys::{self, Keys},
    quantity,
    reader::{Fields, Reader},
    yaml::{Mark, Node, Value},
};

/// Time that a probe gives an app when the file says nothing.
const READY_TIMEOUT_MS: u64 = 30_000;

/// Signals by which a program can be asked to end.
pub(super) const SIGNALS: [&str; 10] = [
    "SIGTERM",
    "SIGINT",
    "SIGQUIT",
    "SIGHUP",
    "SIGKILL",
    "SIGUSR1",
    "SIGUSR2",
    "SIGWINCH",
    "SIGABRT",
    "SIGRTMIN+3",
];

/// The block, read. What a format's block may not hold is never there.
#[derive(Default)]
pub(super) struct Extension {
    pub(super) node: Option<(NodeName, Mark)>,
    pub(super) routes: Vec<PlacedRoute>,
    pub(super) entrypoint: Option<Vec<String>>,
    pub(super) command: Option<Vec<String>>,
    pub(super) depends_on: Vec<Need>,
    pub(super) cpu_millis: Option<u64>,
    pub(super) stop: Option<StopPolicy>,
    pub(super) ready: Option<Probe>,
    pub(super) pre_stop: Option<Vec<String>>,
    pub(super) move_policy: Option<MovePolicy>,
    pub(super) replication: Option<ReplicationPolicy>,
}

impl Reader<'_> {
    /// Reads the block, which may hold these keys.
    pub(super) fn extension(
        &mut self,
        node: &Node,
        at: Mark,
        path: &str,
        keys: &Keys,
    ) -> Extension {
        let Some(fields) = self.fields(node, at, path, keys) else {
            return Extension::default();
        };
        let sub = |key: &str| format!("{path}.{key}");
        Extension {
            node: fields.get("node").and_then(|node| {
                let name = self.parsed(node, &sub("node"), "the name of a node")?;
                Some((name, node.at))
            }),
            entrypoint: fields
                .get("entrypoint")
                .and_then(|node| self.command(node, &sub("entrypoint"))),
            depends_on: fields
                .get("depends_on")
                .map(|node| self.dependencies(node, &sub("depends_on")))
                .unwrap_or_default(),
            cpu_millis: fields
                .get("cpus")
                .and_then(|node| self.cpu_millis(node, &sub("cpus"))),
            routes: fields
                .get("routes")
                .map(|node| self.routes(node, &sub("routes")))
                .unwrap_or_default(),
            command: fields
                .get("command")
                .and_then(|node| self.command(node, &sub("command"))),
            stop: fields
                .get("stop")
                .and_then(|node| self.stop(node, fields.at("stop"), &sub("stop"))),
            ready: fields
                .get("ready")
                .and_then(|node| self.ready(node, fields.at("ready"), &sub("ready"))),
            pre_stop: fields
                .get("pre_stop")
                .and_then(|node| self.command(node, &sub("pre_stop"))),
            move_policy: fields
                .get("move")
                .and_then(|node| self.move_policy(node, fields.at("move"), &sub("move"))),
            replication: fields.get("replication").and_then(|node| {
                self.replication(node, fields.at("replication"), &sub("replication"))
            }),
        }
    }

    /// Names of apps that are to be there first.
    fn dependencies(&mut self, node: &Node, path: &str) -> Vec<Need> {
        let mut needs = Vec::new();
        let items = self.list(node, path, "names of apps");
        for (index, item) in items.unwrap_or_default().iter().enumerate() {
            let path = format!("{path}[{index}]");
            if let Some(app) = self.parsed::<AppName>(item, &path, "an app's name") {
                needs.push(Need {
                    app,
                    at: self.place(item.at),
                    path,
                    wish: Wish::First(DependencyCondition::Ready),
                });
            }
        }
        needs
    }

    /// A number of CPUs, in thousandths.
    pub(super) fn cpu_millis(&mut self, node: &Node, path: &str) -> Option<u64> {
        const EXPECTED: &str = "a number of CPUs from 0.01 to 1024, such as 0.5";
        let Value::Scalar(scalar) = &node.value else {
            self.wrong_type(node, path, EXPECTED);
            return None;
        };
        let millis = quantity::thousandths(&scalar.text);
        let millis = millis.filter(|millis| (10..=1_024_000).contains(millis));
        if millis.is_none() {
            self.bad(node, path, EXPECTED);
        }
        millis
    }

    fn routes(&mut self, node: &Node, path: &str) -> Vec<PlacedRoute> {
        let mut routes = Vec::new();
        let items = self.list(node, path, "mappings {key: KEY, port: PORT}");
        for (index, item) in items.unwrap_or_default().iter().enumerate() {
            routes.extend(self.route(item, &format!("{path}[{index}]")));
        }
        routes
    }

    fn route(&mut self, item: &Node, path: &str) -> Option<PlacedRoute> {
        const KEY: &str = "a route key: tcp:PORT, http:HOST or https:HOST";
        let fields = self.fields(item, item.at, path, keys::ROUTE)?;
        let key = self
            .required(&fields, path, "key", KEY)
            .and_then(|node| self.parsed::<RouteKey>(node, &format!("{path}.key"), KEY));
        let port = self
            .required(&fields, path, "port", "the port at which the app listens")
            .and_then(|node| self.port(node, &format!("{path}.port")));
        let words = [("close", OnMove::Close), ("wait", OnMove::Wait)];
        let on_move = fields
            .get("on_move")
            .and_then(|node| self.word(node, &format!("{path}.on_move"), &words));
        let options = self.route_options(&fields, path);
        let route = AppRoute {
            key: key?,
            port: port?,
            on_move: on_move.unwrap_or_default(),
            options: options?,
        };
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, route.port));
        let served = Route::new(route.key.clone(), [any]);
        if let Some(misfit) = route.options.apply(served).misfit() {
            self.refused(fields.at(misfit.field), path, &misfit);
            return None;
        }
        Some(PlacedRoute { at: item.at, route })
    }

    /// The options that are named, as an edge's own file has them.
    fn route_options(&mut self, fields: &Fields<'_>, path: &str) -> Option<RouteOptions> {
        let mut options = RouteOptions::default();
        let mut good = true;
        for name in ROUTE_OPTIONS {
            let Some(node) = fields.get(name) else {
                continue;
            };
            if let Err(error) = options.insert(name, node.to_json()) {
                good = false;
                self.refused(fields.at(name), path, &error);
            }
        }
        good.then_some(options)
    }

    fn stop(&mut self, node: &Node, at: Mark, path: &str) -> Option<StopPolicy> {
        let fields = self.fields(node, at, path, keys::STOP)?;
        let mut stop = StopPolicy::default();
        if let Some(node) = fields.get("signal") {
            let path = format!("{path}.signal");
            if let Some(signal) = self.word(node, &path, &SIGNALS.map(|name| (name, name))) {
                signal.clone_into(&mut stop.signal);
            }
        }
        if let Some(node) = fields.get("grace")
            && let Some(ms) = self.duration_ms(node, &format!("{path}.grace"), 0)
        {
            stop.grace_ms = ms;
        }
        Some(stop)
    }

    fn ready(&mut self, node: &Node, at: Mark, path: &str) -> Option<Probe> {
        let fields = self.fields(node, at, path, keys::READY)?;
        let kinds: Vec<&str> = fields.keys().collect();
        let [kind] = kinds[..] else {
            let problem = Problem::WrongType {
                path: path.to_owned(),
                expected: "a mapping with one of the keys http, tcp, exec".to_owned(),
                found: format!("one with {}", kinds.len()),
            };
            self.note(at, problem);
            return None;
        };
        let (node, at, path) = (fields.get(kind)?, fields.at(kind), format!("{path}.{kind}"));
        match kind {
            "http" => self.http_probe(node, at, &path),
            "tcp" => self.tcp_probe(node, at, &path),
            "exec" => self.exec_probe(node, at, &path),
            // Noted as an unknown key already.
            _ => None,
        }
    }

    fn http_probe(&mut self, node: &Node, at: Mark, path: &str) -> Option<Probe> {
        const PATH: &str = "a path that begins with '/', such as /healthz";
        let fields = self.fields(node, at, path, keys::READY_HTTP)?;
        let timeout_ms = self.probe_timeout(fields.get("timeout"), path);
        let mut url_path = Some("/".to_owned());
        if let Some(node) = fields.get("path") {
            let path = format!("{path}.path");
            let text = self.text(node, &path, PATH);
            let good =
                |text: &&str| text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic());
            url_path = text.filter(good).map(str::to_owned);
            if text.is_some() && url_path.is_none() {
                self.bad(node, &path, PATH);
            }
        }
        let node = self.required(&fields, path, "port", "the port to ask")?;
        Some(Probe::Http {
            port: self.port(node, &format!("{path}.port"))?,
            path: url_path?,
            timeout_ms: timeout_ms?,
        })
    }

    fn tcp_probe(&mut self, node: &Node, at: Mark, path: &str) -> Option<Probe> {
        let fields = self.fields(node, at, path, keys::READY_TCP)?;
        let timeout_ms = self.probe_timeout(fields.get("timeout"), path);
        let node = self.required(&fields, path, "port", "the port to connect to")?;
        Some(Probe::Tcp {
            port: self.port(node, &format!("{path}.port"))?,
            timeout_ms: timeout_ms?,
        })
    }

    fn exec_probe(&mut self, node: &Node, at: Mark, path: &str) -> Option<Probe> {
        let fields = self.fields(node, at, path, keys::READY_EXEC)?;
        let timeout_ms = self.probe_timeout(fields.get("timeout"), path);
        let node = self.required(
            &fields,
            path,
            "command",
            "a list: a program and its arguments",
        )?;
        Some(Probe::Exec {
            command: self.command(node, &format!("{path}.command"))?,
            timeout_ms: timeout_ms?,
        })
    }

    fn probe_timeout(&mut self, node: Option<&Node>, path: &str) -> Option<u64> {
        node.map_or(Some(READY_TIMEOUT_MS), |node| {
            self.duration_ms(node, &format!("{path}.timeout"), 1)
        })
    }

    fn move_policy(&mut self, node: &Node, at: Mark, path: &str) -> Option<MovePolicy> {
        let fields = self.fields(node, at, path, keys::MOVE)?;
        let mut policy = MovePolicy::default();
        if let Some(node) = fields.get("rounds_max") {
            let path = format!("{path}.rounds_max");
            let rounds = self.integer(node, &path, 1..=100, "an integer from 1 to 100");
            policy.rounds_max = rounds.and_then(|n| n.try_into().ok())?;
        }
        let mut duration = |key: &str, min_ms: u64, into: &mut u64| {
            if let Some(node) = fields.get(key)
                && let Some(ms) = self.duration_ms(node, &format!("{path}.{key}"), min_ms)
            {
                *into = ms;
            }
        };
        duration("final_delta", 1, &mut policy.final_delta_ms);
        // Who raises the one without naming the other does not mean never to move.
        policy.final_delta_ms_max = policy.final_delta_ms_max.max(policy.final_delta_ms);
        duration("final_delta_max", 1, &mut policy.final_delta_ms_max);
        duration("hold", 1, &mut policy.hold_ms);
        duration("quiesce", 0, &mut policy.quiesce_ms);
        if let Some(node) = fields.get("on_busy") {
            let words = [("abort", OnBusy::Abort), ("proceed", OnBusy::Proceed)];
            policy.on_busy = self.word(node, &format!("{path}.on_busy"), &words)?;
        }
        self.check_move_policy(&policy, at, path);
        Some(policy)
    }

    /// Durations that each are fine but cannot be together.
    fn check_move_policy(&mut self, policy: &MovePolicy, at: Mark, path: &str) {
        let mut refuse = |key: &str, ms: u64, expected: String| {
            let path = format!("{path}.{key}");
            let value = format!("{ms}ms");
            let problem = Problem::BadValue {
                path,
                value,
                expected,
            };
            self.note(at, problem);
        };
        if policy.final_delta_ms_max < policy.final_delta_ms {
            let expected = format!("at least final_delta, {}ms", policy.final_delta_ms);
            refuse("final_delta_max", policy.final_delta_ms_max, expected);
        }
        if policy.quiesce_ms >= policy.hold_ms {
            let expected = format!("shorter than hold, {}ms", policy.hold_ms);
            refuse("quiesce", policy.quiesce_ms, expected);
        }
    }
}
