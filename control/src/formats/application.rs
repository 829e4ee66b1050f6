//! Application files: `version` and `applications`, each app with image, ports, links,
//! volumes, environment, limits and the `x-flocker` block.

use std::collections::{BTreeMap, BTreeSet};

use flocker_api::{
    app::{App, AppRoute, MovePolicy},
    container::{ContainerSpec, Link, RestartPolicy, StopPolicy},
    name::AppName,
    options::RouteOptions,
    route::{OnMove, RouteKey},
};

use super::{
    declared::{Applications, Declared, PlacedRoute, Unplaced},
    error::Problem,
    extension::Extension,
    keys,
    reader::{Fields, Reader},
    yaml::{Entry, Kind, Mark, Node},
};

/// Variables that the storage agent sets.
pub(super) const RESERVED_VARIABLES: [&str; 4] = [
    "FLOCKER_APP",
    "FLOCKER_NODE",
    "FLOCKER_ADDRESS",
    "FLOCKER_VOLUME",
];
/// Smallest memory limit that Docker takes.
pub(super) const MEMORY_BYTES_MIN: u64 = 6 << 20;
impl Reader<'_> {
    /// Reads an application file.
    pub(super) fn applications(&mut self, root: &Node) -> Applications {
        let mut found = Applications::default();
        let Some(fields) = self.fields(
            root,
            root.at,
            "the application file",
            keys::APPLICATION_FILE,
        ) else {
            return found;
        };
        self.version(&fields, "the application file");
        let Some(node) = fields.get("applications") else {
            return found;
        };
        let Some(entries) = self.map(node, "applications") else {
            return found;
        };
        for entry in entries {
            let path = format!("applications.{}", entry.key.text);
            let name = match entry.key.text.parse::<AppName>() {
                Ok(name) => {
                    found.names.push((name.clone(), self.place(entry.at)));
                    Some(name)
                }
                Err(error) => {
                    self.refused(entry.at, "applications", &error);
                    None
                }
            };
            // A bad name must not hide what is wrong inside.
            let errors_before = self.errors.len();
            let app = self.application(name.as_ref(), entry, &path);
            if let (Some(app), true) = (app, self.errors.len() == errors_before) {
                found.apps.push(app);
            }
        }
        found
    }

    /// The key `version`, which must be 1.
    pub(super) fn version(&mut self, fields: &Fields<'_>, path: &str) {
        if let Some(node) = self.required(fields, path, "version", "the integer 1") {
            self.integer(
                node,
                "version",
                1..=1,
                "the integer 1, the only version there is",
            );
        }
    }

    fn application(
        &mut self,
        name: Option<&AppName>,
        entry: &Entry,
        path: &str,
    ) -> Option<Declared> {
        let fields = self.fields(&entry.value, entry.at, path, keys::APP)?;
        let image = self.image(&fields, path);
        let mut routes = self.ports(&fields, path);
        let links = self.links(&fields, path);
        let volumes = self.volumes(&fields, path);
        let restart = self.restart_policy(&fields, path);
        let environment = self.environment(&fields, path);
        let memory = "an integer of bytes, 6291456 (6 MiB) or more";
        let memory_bytes = fields.get("mem_limit").and_then(|node| {
            let bounds = MEMORY_BYTES_MIN..=i64::MAX.unsigned_abs();
            self.integer(node, &format!("{path}.mem_limit"), bounds, memory)
        });
        let cpu = "an integer from 2 to 262144, 1024 being usual";
        let cpu_shares = fields.get("cpu_shares").and_then(|node| {
            let shares = self.integer(node, &format!("{path}.cpu_shares"), 2..=262_144, cpu)?;
            u32::try_from(shares).ok()
        });
        let extension = fields
            .get("x-flocker")
            .map_or_else(Extension::default, |node| {
                let path = format!("{path}.x-flocker");
                self.extension(node, fields.at("x-flocker"), &path, keys::APP_EXTENSION)
            });
        let mut ports: Vec<u16> = routes.iter().map(|route| route.route.port).collect();
        self.join_routes(&mut routes, extension.routes);
        ports.extend(routes.iter().map(|route| route.route.port));
        let name = name?;
        let mounts = self.mounts(name, &volumes, path);
        Some(Declared {
            app: App {
                container: ContainerSpec {
                    entrypoint: extension.entrypoint,
                    command: extension.command,
                    environment,
                    ports: distinct(ports),
                    volumes: mounts?,
                    links,
                    memory_bytes,
                    cpu_shares,
                    cpu_millis: extension.cpu_millis,
                    restart,
                    stop: extension.stop.unwrap_or_else(StopPolicy::default),
                    ready: extension.ready,
                    pre_stop: extension.pre_stop,
                    ..ContainerSpec::new(name.clone(), image?)
                },
                volume_sizes: volumes.iter().map(|volume| volume.size).collect(),
                routes: routes.iter().map(|route| route.route.clone()).collect(),
                move_policy: extension.move_policy.unwrap_or_else(MovePolicy::default),
                replication: extension.replication,
                depends_on: Vec::new(),
            },
            at: self.place(entry.at),
            routes_at: routes.iter().map(|route| self.place(route.at)).collect(),
            volumes_at: volumes.iter().map(|volume| self.place(volume.at)).collect(),
            node: None,
            unplaced: Unplaced::LeftOut,
            needs: extension.depends_on,
        })
    }

    pub(super) fn image(&mut self, fields: &Fields<'_>, path: &str) -> Option<String> {
        const EXPECTED: &str = "an image: repository[:tag], such as postgres:15";
        let node = self.required(fields, path, "image", EXPECTED)?;
        let path = format!("{path}.image");
        let text = self.text(node, &path, EXPECTED)?;
        if is_image(text) {
            return Some(text.to_owned());
        }
        self.bad(node, &path, EXPECTED);
        None
    }

    /// `ports`: each pair is a `tcp` route from the external port to the internal one.
    fn ports(&mut self, fields: &Fields<'_>, path: &str) -> Vec<PlacedRoute> {
        let path = format!("{path}.ports");
        let mut routes = Vec::new();
        let Some(items) = fields
            .get("ports")
            .and_then(|node| self.list(node, &path, "mappings {internal: PORT, external: PORT}"))
        else {
            return routes;
        };
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let Some(fields) = self.fields(item, item.at, &path, keys::APP_PORT) else {
                continue;
            };
            let mut port = |key: &'static str, what: &str| {
                let node = self.required(&fields, &path, key, what)?;
                self.port(node, &format!("{path}.{key}"))
            };
            let internal = port("internal", "the port at which the app listens");
            let external = port("external", "the port at which edges listen for it");
            if let (Some(port), Some(external)) =
                (internal, external.and_then(|p| p.try_into().ok()))
            {
                routes.push(PlacedRoute {
                    at: item.at,
                    route: AppRoute {
                        options: RouteOptions::default(),
                        key: RouteKey::Tcp(external),
                        port,
                        on_move: OnMove::default(),
                    },
                });
            }
        }
        routes
    }

    /// Adds the routes of `x-flocker` to those of `ports`. One that has the key and port of a
    /// pair in `ports` says more about the same route: its `on_move` holds.
    pub(super) fn join_routes(&mut self, routes: &mut Vec<PlacedRoute>, more: Vec<PlacedRoute>) {
        let of_ports = routes.len();
        for route in more {
            let same = routes[..of_ports].iter_mut().find(|known| {
                known.route.key == route.route.key && known.route.port == route.route.port
            });
            match same {
                Some(known) => known.route = route.route,
                None => routes.push(route),
            }
        }
    }

    /// `links`: to whatever app has the route `tcp:remote_port`.
    fn links(&mut self, fields: &Fields<'_>, path: &str) -> Vec<Link> {
        const EXPECTED: &str = "mappings {local_port: PORT, remote_port: PORT, alias: NAME}";
        let path = format!("{path}.links");
        let items = fields
            .get("links")
            .and_then(|node| self.list(node, &path, EXPECTED));
        let mut seen = BTreeMap::new();
        let mut links = Vec::new();
        for (index, item) in items.unwrap_or_default().iter().enumerate() {
            links.extend(self.link(item, &format!("{path}[{index}]"), &mut seen));
        }
        links
    }

    fn link(
        &mut self,
        item: &Node,
        path: &str,
        seen: &mut BTreeMap<(String, u16), Mark>,
    ) -> Option<Link> {
        const ALIAS: &str = "a name of letters and digits";
        let fields = self.fields(item, item.at, path, keys::APP_LINK)?;
        let mut port = |key: &'static str| {
            let node = self.required(&fields, path, key, "a port")?;
            self.port(node, &format!("{path}.{key}"))
        };
        let (local_port, remote_port) = (port("local_port"), port("remote_port"));
        let node = self.required(&fields, path, "alias", ALIAS)?;
        let path = format!("{path}.alias");
        let alias = self.text(node, &path, ALIAS)?;
        if !alias.bytes().all(|b| b.is_ascii_alphanumeric()) {
            self.bad(node, &path, ALIAS);
            return None;
        }
        // Two ports of one app have the same alias; the variables tell them apart.
        let key = (alias.to_ascii_lowercase(), local_port?);
        if let Some(first) = seen.insert(key, node.at) {
            let what = format!("link alias {alias} with its local port");
            let first = self.place(first);
            self.note(node.at, Problem::Repeated { what, first });
        }
        Some(Link {
            alias: alias.to_owned(),
            local_port: local_port?,
            remote_port: remote_port?,
            to: None,
        })
    }

    fn environment(&mut self, fields: &Fields<'_>, path: &str) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::new();
        let path = format!("{path}.environment");
        let entries = fields
            .get("environment")
            .and_then(|node| self.map(node, &path));
        for entry in entries.unwrap_or_default() {
            let name = entry.key.text.as_str();
            self.variable_name(entry.at, &path, name, entry.key.kind());
            let path = format!("{path}.{name}");
            if let Some(value) = self.argument(&entry.value, &path) {
                environment.insert(name.to_owned(), value);
            }
        }
        environment
    }

    /// Whether a variable may be called so.
    pub(super) fn variable_name(&mut self, at: Mark, path: &str, name: &str, kind: Kind) -> bool {
        let good = kind == Kind::Text
            && !name.is_empty()
            && !name.contains(['=', '\0'])
            && !RESERVED_VARIABLES.contains(&name);
        if !good {
            let problem = Problem::BadValue {
                path: path.to_owned(),
                value: name.to_owned(),
                expected: "a variable's name: a text without '=', and none of those that the \
                           storage agent sets (FLOCKER_APP, FLOCKER_NODE, FLOCKER_ADDRESS, \
                           FLOCKER_VOLUME)"
                    .to_owned(),
            };
            self.note(at, problem);
        }
        good
    }

    /// `restart_policy`: without one, an app that ends is started again.
    fn restart_policy(&mut self, fields: &Fields<'_>, path: &str) -> RestartPolicy {
        fields
            .get("restart_policy")
            .and_then(|node| {
                let at = fields.at("restart_policy");
                self.named_policy(node, at, &format!("{path}.restart_policy"))
            })
            .unwrap_or_default()
    }

    fn named_policy(&mut self, node: &Node, at: Mark, path: &str) -> Option<RestartPolicy> {
        const EXPECTED: &str = "one of never, always, on-failure";
        const COUNT: &str = "an integer, 1 or more";
        let fields = self.fields(node, at, path, keys::RESTART_POLICY)?;
        let node = self.required(&fields, path, "name", EXPECTED)?;
        let words = [
            ("never", RestartPolicy::Never),
            ("always", RestartPolicy::Always),
            ("on-failure", RestartPolicy::OnFailure { retries_max: None }),
        ];
        let mut policy = self.word(node, &format!("{path}.name"), &words)?;
        if let Some(node) = fields.get("maximum_retry_count") {
            let path = format!("{path}.maximum_retry_count");
            match &mut policy {
                RestartPolicy::OnFailure { retries_max } => {
                    let count = self.integer(node, &path, 1..=u64::from(u32::MAX), COUNT)?;
                    *retries_max = u32::try_from(count).ok();
                }
                RestartPolicy::Always | RestartPolicy::Never => {
                    self.bad(node, &path, "left out, unless 'name' is on-failure");
                }
            }
        }
        Some(policy)
    }
}

/// Whether the text is `[registry[:port]/]path[:tag]` as Docker has it.
fn is_image(text: &str) -> bool {
    let (repository, tag) = match text.rsplit_once(':') {
        // `localhost:5000/x`: that colon is the registry's.
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (text, None),
    };
    let word = |c: u8| c.is_ascii_alphanumeric() || b"_.-".contains(&c);
    let tag_is_good = tag.is_none_or(|tag| {
        (1..=128).contains(&tag.len()) && tag.bytes().all(word) && !tag.starts_with(['.', '-'])
    });
    let mut parts = repository.split('/').enumerate();
    let part_is_good = |(index, part): (usize, &str)| {
        let (name, port) = part.split_once(':').unwrap_or((part, "0"));
        let port_is_good = part == name || (index == 0 && port.parse::<u16>().is_ok());
        let bytes = name.as_bytes();
        port_is_good
            && name.bytes().all(word)
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
    };
    tag_is_good && parts.all(part_is_good)
}

pub(super) fn distinct(mut ports: Vec<u16>) -> Vec<u16> {
    let mut seen = BTreeSet::new();
    ports.retain(|port| seen.insert(*port));
    ports
}
