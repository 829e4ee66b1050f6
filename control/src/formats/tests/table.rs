//! Each key of each format with a good and a bad value, and each key that is refused.
//!
//! `^` stands before what the error has to point at.

use super::{super::keys, FormatError, Sources, files};

/// Where keys of a kind stand: `@` is their place, `base` is what has to be there besides.
const FRAMES: &[(&str, &str, &str)] = &[
    ("application file", "@", ""),
    (
        "application",
        "version: 1\napplications: {a: {@}}",
        "image: i",
    ),
    (
        "application port",
        "version: 1\napplications: {a: {image: i, ports: [{@}]}}",
        "",
    ),
    (
        "application link",
        "version: 1\napplications: {a: {image: i, links: [{@}]}}",
        "",
    ),
    (
        "application volume",
        "version: 1\napplications: {a: {image: i, volume: {@}}}",
        "",
    ),
    (
        "restart policy",
        "version: 1\napplications: {a: {image: i, restart_policy: {@}}}",
        "",
    ),
    (
        "x-flocker of an application",
        "version: 1\napplications: {b: {image: i}, a: {image: i, x-flocker: {@}}}",
        "",
    ),
    (
        "stop",
        "version: 1\napplications: {a: {image: i, x-flocker: {stop: {@}}}}",
        "",
    ),
    (
        "route",
        "version: 1\napplications: {a: {image: i, x-flocker: {routes: [{@}]}}}",
        "",
    ),
    (
        "ready",
        "version: 1\napplications: {a: {image: i, x-flocker: {ready: {@}}}}",
        "",
    ),
    (
        "ready.http",
        "version: 1\napplications: {a: {image: i, x-flocker: {ready: {http: {@}}}}}",
        "",
    ),
    (
        "ready.tcp",
        "version: 1\napplications: {a: {image: i, x-flocker: {ready: {tcp: {@}}}}}",
        "",
    ),
    (
        "ready.exec",
        "version: 1\napplications: {a: {image: i, x-flocker: {ready: {exec: {@}}}}}",
        "",
    ),
    (
        "move",
        "version: 1\napplications: {a: {image: i, x-flocker: {move: {@}}}}",
        "",
    ),
    (
        "replication",
        "version: 1\napplications: {a: {image: i, x-flocker: {replication: {@}}}}",
        "",
    ),
    (
        "replication grid",
        "version: 1\napplications: {a: {image: i, x-flocker: {replication: {nodes: [n], interval: 1s, grid: [{@}]}}}}",
        "",
    ),
    ("deployment file", "@", ""),
    (
        "Fig service",
        "db: {image: i, ports: [\"1:2\"]}\na: {@}",
        "image: i",
    ),
    ("Compose file", "@", ""),
    (
        "x-flocker of a Compose file",
        "services: {a: {image: i}}\nx-flocker: {@}",
        "",
    ),
    (
        "service",
        "volumes: {v: }\nservices: {db: {image: i, expose: [1]}, a: {@}}",
        "image: i",
    ),
    (
        "x-flocker of a service",
        "services: {a: {image: i, x-flocker: {@}}}",
        "",
    ),
    (
        "service port",
        "services: {a: {image: i, ports: [{@}]}}",
        "",
    ),
    (
        "service volume",
        "volumes: {v: }\nservices: {a: {image: i, volumes: [{@}]}}",
        "",
    ),
    ("env_file", "services: {a: {image: i, env_file: [{@}]}}", ""),
    (
        "depends_on",
        "services: {db: {image: i}, a: {image: i, depends_on: {db: {@}}}}",
        "",
    ),
    (
        "healthcheck",
        "services: {a: {image: i, healthcheck: {@}}}",
        "test: x",
    ),
    ("deploy", "services: {a: {image: i, deploy: {@}}}", ""),
    (
        "deploy.resources",
        "services: {a: {image: i, deploy: {resources: {@}}}}",
        "",
    ),
    (
        "deploy.resources.limits",
        "services: {a: {image: i, deploy: {resources: {limits: {@}}}}}",
        "",
    ),
    ("volume", "services: {}\nvolumes: {v: {@}}", ""),
    (
        "driver_opts",
        "services: {}\nvolumes: {v: {driver_opts: {@}}}",
        "",
    ),
];

/// Kind of mapping, key, a good value, a bad one, words of its error.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("application file", "version", "version: 1\napplications: {}", "version: ^2\napplications: {}", &["version is '2'", "the integer 1"]),
    ("application file", "applications", "version: 1\napplications: {a: {image: i}}", "version: 1\napplications: ^[]", &["applications must be a mapping, not a list"]),
    ("application", "image", "image: 'r.example.com:5000/a/b:1.2'", "image: ^'A:'", &["applications.a.image is 'A:'", "repository[:tag]"]),
    ("application", "ports", "ports: []", "ports: ^80", &["ports must be a list of mappings"]),
    ("application", "links", "links: []", "links: ^x", &["links must be a list of mappings"]),
    ("application", "volume", "volume: {mountpoint: /a}", "volume: ^/a", &["volume must be a mapping"]),
    ("application", "volumes", "volumes: [{mountpoint: /a}, {mountpoint: /b}]", "volumes: ^{}", &["volumes must be a list"]),
    ("application", "environment", "environment: {A: b, C: ''}", "environment: {A: ^1}", &["environment.A must be a text (in quotes"]),
    ("application", "mem_limit", "mem_limit: 6291456", "mem_limit: ^64M", &["mem_limit must be an integer of bytes"]),
    ("application", "cpu_shares", "cpu_shares: 512", "cpu_shares: ^0", &["cpu_shares is '0'", "2 to 262144"]),
    ("application", "restart_policy", "restart_policy: {name: always}", "restart_policy: ^always", &["restart_policy must be a mapping"]),
    ("application", "x-flocker", "x-flocker: {}", "x-flocker: ^1", &["x-flocker must be a mapping"]),
    ("application port", "internal", "internal: 1, external: 2", "internal: ^x, external: 2", &["ports[0].internal must be a port"]),
    ("application port", "external", "internal: 1, external: 65535", "internal: 1, external: ^65536", &["external is '65536'", "1 to 65535"]),
    ("application link", "local_port", "local_port: 1, remote_port: 2, alias: a", "local_port: ^0, remote_port: 2, alias: a", &["local_port is '0'"]),
    ("application link", "remote_port", "local_port: 1, remote_port: 2, alias: a", "local_port: 1, remote_port: ^x, alias: a", &["remote_port must be a port"]),
    ("application link", "alias", "local_port: 1, remote_port: 2, alias: Db1", "local_port: 1, remote_port: 2, alias: ^a_b", &["alias is 'a_b'", "letters and digits"]),
    ("application volume", "mountpoint", "mountpoint: /var/lib/x", "mountpoint: ^x", &["mountpoint is 'x'", "absolute path"]),
    ("application volume", "maximum_size", "mountpoint: /a, maximum_size: '1.5g'", "mountpoint: /a, maximum_size: ^1MB", &["maximum_size is '1MB'"]),
    ("application volume", "dataset_id", "mountpoint: /a, dataset_id: 6f1c1dbb-9a5b-4a3e-8d5e-0f6d5d1b7a11", "mountpoint: /a, dataset_id: ^x", &["dataset_id: invalid"]),
    ("restart policy", "name", "name: never", "name: ^nevr", &["name is 'nevr'", "did you mean 'never'?"]),
    ("restart policy", "maximum_retry_count", "name: on-failure, maximum_retry_count: 3", "name: always, maximum_retry_count: ^3", &["maximum_retry_count is '3'", "on-failure"]),
    ("x-flocker of an application", "routes", "routes: []", "routes: ^{}", &["routes must be a list"]),
    ("x-flocker of an application", "command", "command: [a, b]", "command: ^a", &["command must be a list"]),
    ("x-flocker of an application", "entrypoint", "entrypoint: [a]", "entrypoint: ^[]", &["entrypoint must be a list", "an empty list"]),
    ("x-flocker of an application", "depends_on", "depends_on: [b]", "depends_on: [^c]", &["depends_on[0] names the app 'c'", "declared: b, a"]),
    ("x-flocker of an application", "cpus", "cpus: 0.5", "cpus: ^half", &["cpus is 'half'", "0.01 to 1024"]),
    ("x-flocker of an application", "stop", "stop: {}", "stop: ^SIGINT", &["stop must be a mapping"]),
    ("x-flocker of an application", "ready", "ready: {tcp: {port: 1}}", "^ready: {}", &["one of the keys http, tcp, exec"]),
    ("x-flocker of an application", "pre_stop", "pre_stop: [a]", "pre_stop: [^1]", &["pre_stop[0] must be a text"]),
    ("x-flocker of an application", "move", "move: {}", "move: ^[]", &["move must be a mapping"]),
    ("x-flocker of an application", "replication", "replication: {nodes: [n], interval: 1s}", "^replication: {nodes: [n]}", &["replication lacks the key 'interval'"]),
    ("stop", "signal", "signal: SIGINT", "signal: ^INT", &["signal is 'INT'", "SIGINT"]),
    ("stop", "grace", "grace: 1m30s", "grace: ^90", &["grace is '90'", "with its unit"]),
    ("route", "key", "key: 'http:a.example.com/b', port: 1", "key: ^'udp:1', port: 1", &["'udp:1' is not a route key"]),
    ("route", "port", "key: 'tcp:1', port: 2", "key: 'tcp:1', port: ^0", &["port is '0'"]),
    ("route", "on_move", "key: 'tcp:1', port: 2, on_move: wait", "key: 'tcp:1', port: 2, on_move: ^stay", &["on_move is 'stay'", "close, wait"]),
    ("route", "tls", "key: 'https:a', port: 1, tls: passthrough", "key: 'https:a', port: 1, ^tls: 7", &["tls of a route"]),
    ("route", "upstream_tls", "key: 'http:a', port: 1, upstream_tls: {}", "key: 'http:a', port: 1, ^upstream_tls: 7", &["upstream_tls of a route"]),
    ("route", "balance", "key: 'tcp:1', port: 1, balance: least_connections", "key: 'tcp:1', port: 1, ^balance: best", &["balance of a route", "best"]),
    ("route", "health", "key: 'tcp:1', port: 1, health: {kind: tcp}", "key: 'tcp:1', port: 1, ^health: 7", &["health of a route"]),
    ("route", "slow_start_ms", "key: 'tcp:1', port: 1, slow_start_ms: 100", "key: 'tcp:1', port: 1, ^slow_start_ms: x", &["slow_start_ms of a route"]),
    ("route", "redirect_https", "key: 'http:a', port: 1, redirect_https: true", "key: 'http:a', port: 1, ^redirect_https: 7", &["redirect_https of a route"]),
    ("route", "allow_connect", "key: 'http:a', port: 1, allow_connect: true", "key: 'tcp:1', port: 1, ^allow_connect: true", &["allow_connect is for"]),
    ("route", "body_bytes_max", "key: 'http:a', port: 1, body_bytes_max: 100", "key: 'http:a', port: 1, ^body_bytes_max: x", &["body_bytes_max of a route"]),
    ("route", "error_pages", "key: 'http:a', port: 1, error_pages: shop", "key: 'http:a', port: 1, ^error_pages: 7", &["error_pages of a route"]),
    ("route", "connections_max", "key: 'tcp:1', port: 1, connections_max: 10", "key: 'tcp:1', port: 1, ^connections_max: -1", &["connections_max of a route"]),
    ("route", "pending_max", "key: 'tcp:1', port: 1, pending_max: 10", "key: 'tcp:1', port: 1, ^pending_max: -1", &["pending_max of a route"]),
    ("route", "send_proxy", "key: 'tcp:1', port: 1, send_proxy: v2", "key: 'tcp:1', port: 1, ^send_proxy: v3", &["send_proxy of a route"]),
    ("route", "allow", "key: 'tcp:1', port: 1, allow: [10.0.0.0/8]", "key: 'tcp:1', port: 1, ^allow: [here]", &["allow of a route"]),
    ("route", "deny", "key: 'tcp:1', port: 1, deny: [10.0.0.0/8]", "key: 'tcp:1', port: 1, ^deny: [there]", &["deny of a route"]),
    ("route", "upstream_protocol", "key: 'http:a', port: 1, upstream_protocol: h2", "key: 'http:a', port: 1, ^upstream_protocol: spdy", &["upstream_protocol of a route"]),
    ("ready", "http", "http: {port: 1}", "http: ^1", &["http must be a mapping"]),
    ("ready", "tcp", "tcp: {port: 1}", "^tcp: {}", &["tcp lacks the key 'port'"]),
    ("ready", "exec", "exec: {command: [a]}", "exec: ^a", &["exec must be a mapping"]),
    ("ready.http", "port", "port: 1", "port: ^0", &["port is '0'"]),
    ("ready.http", "path", "port: 1, path: /a", "port: 1, path: ^a", &["path is 'a'", "begins with '/'"]),
    ("ready.http", "timeout", "port: 1, timeout: 5s", "port: 1, timeout: ^0s", &["timeout is '0s'"]),
    ("ready.tcp", "port", "port: 1", "port: ^x", &["port must be a port"]),
    ("ready.tcp", "timeout", "port: 1, timeout: 5s", "port: 1, timeout: ^5", &["with its unit"]),
    ("ready.exec", "command", "command: [a]", "command: ^a", &["command must be a list"]),
    ("ready.exec", "timeout", "command: [a], timeout: 5s", "command: [a], timeout: ^never", &["timeout is 'never'"]),
    ("move", "rounds_max", "rounds_max: 100", "rounds_max: ^101", &["rounds_max is '101'", "1 to 100"]),
    ("move", "final_delta", "final_delta: 1s", "final_delta: ^0s", &["final_delta is '0s'"]),
    ("move", "final_delta_max", "final_delta_max: 10s", "final_delta_max: ^1d", &["final_delta_max is '1d'"]),
    ("move", "hold", "hold: 1m", "hold: ^1", &["hold is '1'"]),
    ("move", "quiesce", "quiesce: 0s", "quiesce: ^soon", &["quiesce is 'soon'"]),
    ("move", "on_busy", "on_busy: proceed", "on_busy: ^wait", &["on_busy is 'wait'", "abort, proceed"]),
    ("replication", "nodes", "nodes: [a, b], interval: 1s", "nodes: ^[], interval: 1s", &["at least one node"]),
    ("replication", "interval", "nodes: [a], interval: 10s", "nodes: [a], interval: ^10ms", &["interval is '10ms'", "or more"]),
    ("replication", "keep", "nodes: [a], interval: 1s, keep: 5", "nodes: [a], interval: 1s, keep: ^0", &["keep is '0'"]),
    ("replication", "grid", "nodes: [a], interval: 1s, grid: []", "nodes: [a], interval: 1s, grid: ^1h", &["grid must be a list"]),
    ("replication grid", "every", "every: 1h, count: 2", "every: ^x, count: 2", &["every is 'x'"]),
    ("replication grid", "count", "every: 1h, count: 2", "every: 1h, count: ^0", &["count is '0'"]),
    ("deployment file", "version", "version: 1\nnodes: {}", "version: ^'1'\nnodes: {}", &["version must be the integer 1"]),
    ("deployment file", "nodes", "version: 1\nnodes: {n1: [], n2: []}", "version: 1\nnodes: {n1: ^a}", &["nodes.n1 must be a list"]),
    ("Fig service", "image", "image: i", "image: ^1", &["a.image must be"]),
    ("Fig service", "environment", "environment: [A=b, 'C=d=e']", "environment: ^A", &["a mapping, or a list of NAME=value"]),
    ("Fig service", "ports", "ports: [\"80:8080\"]", "ports: [^\"80-81:80-81\"]", &["ports[0] is '80-81:80-81'"]),
    ("Fig service", "links", "links: ['db:data']", "links: [^dc]", &["names the app 'dc'", "declared: db, a"]),
    ("Fig service", "volumes", "volumes: [/data]", "volumes: [^'v:/data']", &["volumes[0] is 'v:/data'", "absolute path"]),
    ("Fig service", "mem_limit", "mem_limit: 100000000", "mem_limit: ^7", &["mem_limit is '7'", "6M or more"]),
    ("Fig service", "x-flocker", "x-flocker: {node: n1}", "x-flocker: {node: ^N1}", &["'N1' is not a valid node name"]),
    ("Compose file", "version", "version: \"3.8\"\nservices: {}", "version: ^[]\nservices: {}", &["version must be a version"]),
    ("Compose file", "services", "services: {a: {image: i}}", "services: ^[a]", &["services must be a mapping"]),
    ("Compose file", "volumes", "services: {}\nvolumes: {v: , w: {}}", "services: {}\nvolumes: ^[v]", &["volumes must be a mapping"]),
    ("Compose file", "x-flocker", "services: {}\nx-flocker: {}", "services: {}\nx-flocker: ^n1", &["x-flocker must be a mapping"]),
    ("x-flocker of a Compose file", "nodes", "nodes: {n1: [a]}", "nodes: {n1: [^b]}", &["x-flocker.nodes.n1[0] names the app 'b'"]),
    ("service", "image", "image: 'nginx:1.27'", "image: ^'a b'", &["services.a.image is 'a b'"]),
    ("service", "command", "command: sh -c 'a b'", "command: ^\"sh -c 'a\"", &["quotes are closed"]),
    ("service", "entrypoint", "entrypoint: [], command: a", "entrypoint: ^{}", &["entrypoint must be a list of texts, or one text"]),
    ("service", "environment", "environment: {A: b, C: 1, D: , E: 1.5}", "environment: {A: ^true}", &["environment.A must be a text or a number (in quotes: \"true\")"]),
    ("service", "env_file", "env_file: a.env", "env_file: ^no.env", &["env_file: there is no file 'no.env'"]),
    ("service", "ports", "ports: [\"80:8080\", \"90-92:90-92/tcp\"]", "ports: [^\"127.0.0.1:80:80\"]", &["an address to listen at", "edges listen"]),
    ("service", "expose", "expose: [\"1\", 2, 3-5]", "expose: [^x]", &["expose[0] is 'x'"]),
    ("service", "volumes", "volumes: ['v:/data', '/cache']", "volumes: [^'./here:/data']", &["a folder of the host", "named volume"]),
    ("service", "links", "links: [db, 'db:data']", "links: [^'db:a b']", &["links[0] is 'db:a b'"]),
    ("service", "depends_on", "depends_on: [db]", "depends_on: [^a]", &["this is the app itself"]),
    ("service", "restart", "restart: 'on-failure:3'", "restart: ^sometimes", &["restart is 'sometimes'", "unless-stopped"]),
    ("service", "labels", "labels: [a=b, c]", "labels: {^flocker.app: x}", &["does not begin with 'flocker.'"]),
    ("service", "deploy", "deploy: {}", "deploy: ^[]", &["deploy must be a mapping"]),
    ("service", "healthcheck", "healthcheck: {test: x}", "^healthcheck: {}", &["healthcheck lacks the key 'test'"]),
    ("service", "stop_signal", "stop_signal: INT", "stop_signal: ^SIGSTOP", &["stop_signal is 'SIGSTOP'"]),
    ("service", "stop_grace_period", "stop_grace_period: 1m30s", "stop_grace_period: ^90", &["with its unit"]),
    ("service", "mem_limit", "mem_limit: 512m", "mem_limit: ^much", &["mem_limit is 'much'", "512M"]),
    ("service", "cpus", "cpus: \"1.5\"", "cpus: ^0", &["cpus is '0'"]),
    ("service", "cpu_shares", "cpu_shares: 512", "cpu_shares: ^1", &["cpu_shares is '1'"]),
    ("service", "pids_limit", "pids_limit: 100", "pids_limit: ^-1", &["pids_limit is '-1'"]),
    ("service", "x-flocker", "x-flocker: {}", "x-flocker: {^nod: n1}", &["unknown key 'nod'", "did you mean 'node'?"]),
    ("x-flocker of a service", "node", "node: n1", "node: ^[n1]", &["node must be the name of a node"]),
    ("x-flocker of a service", "routes", "routes: [{key: 'http:a', port: 1}]", "routes: [^{key: 'http:a'}]", &["routes[0] lacks the key 'port'"]),
    ("x-flocker of a service", "ready", "ready: {tcp: {port: 1}}", "ready: {^udp: {port: 1}}", &["unknown key 'udp'"]),
    ("x-flocker of a service", "pre_stop", "pre_stop: [a]", "pre_stop: ^a", &["pre_stop must be a list"]),
    ("x-flocker of a service", "move", "move: {hold: 1m}", "move: {^hld: 1m}", &["did you mean 'hold'?"]),
    ("x-flocker of a service", "replication", "replication: {nodes: [n], interval: 1s}", "replication: ^n2", &["replication must be a mapping"]),
    ("service port", "target", "target: 80, published: 80", "target: ^x, published: 80", &["target is 'x'"]),
    ("service port", "published", "target: 80, published: \"8080\"", "target: 80, published: ^8080-8090", &["published is '8080-8090'"]),
    ("service port", "protocol", "target: 80, published: 80, protocol: tcp", "target: 80, published: 80, protocol: ^udp", &["the protocol 'udp'"]),
    ("service port", "mode", "target: 80, published: 80, mode: ingress", "target: 80, published: 80, mode: ^host", &["mode is 'host'", "ingress"]),
    ("service volume", "type", "type: volume, source: v, target: /a", "type: ^bind, source: /x, target: /a", &["a folder of the host"]),
    ("service volume", "source", "source: v, target: /a", "source: ^w, target: /a", &["the volume 'w' is not declared", "declared: v"]),
    ("service volume", "target", "target: /a", "target: ^a", &["target is 'a'"]),
    ("env_file", "path", "path: a.env", "path: ^no.env", &["no file 'no.env'"]),
    ("env_file", "required", "path: no.env, required: false", "path: a.env, required: ^maybe", &["required is 'maybe'", "true or false"]),
    ("depends_on", "condition", "condition: service_healthy", "condition: ^service_completed_successfully", &["one of service_started, service_healthy"]),
    ("healthcheck", "test", "test: [CMD, a, b]", "test: ^[a, b]", &["[CMD, PROGRAM, ARGUMENT]"]),
    ("healthcheck", "interval", "interval: 1m30s", "interval: ^90", &["with its unit"]),
    ("healthcheck", "timeout", "timeout: 3s", "timeout: ^0s", &["timeout is '0s'"]),
    ("healthcheck", "retries", "retries: 3", "retries: ^0", &["retries is '0'"]),
    ("healthcheck", "start_period", "start_period: 0s", "start_period: ^later", &["start_period is 'later'"]),
    ("healthcheck", "disable", "disable: false", "disable: ^no", &["disable is 'no'"]),
    ("deploy", "resources", "resources: {}", "resources: ^1G", &["resources must be a mapping"]),
    ("deploy", "replicas", "replicas: 1", "replicas: ^2", &["replicas is '2'", "an app runs once"]),
    ("deploy.resources", "limits", "limits: {}", "limits: ^[]", &["limits must be a mapping"]),
    ("deploy.resources.limits", "cpus", "cpus: '0.50'", "cpus: ^many", &["cpus is 'many'"]),
    ("deploy.resources.limits", "memory", "memory: 50M", "memory: ^50X", &["memory is '50X'"]),
    ("deploy.resources.limits", "pids", "pids: 10", "pids: ^0", &["pids is '0'"]),
    ("volume", "driver", "driver: flocker", "driver: ^local", &["driver is 'local'", "one of flocker"]),
    ("volume", "driver_opts", "driver_opts: {}", "driver_opts: ^1G", &["driver_opts must be a mapping"]),
    ("volume", "name", "name: data", "name: ^Data", &["'Data' is not a valid volume name"]),
    ("driver_opts", "size", "size: 1.5GiB", "size: ^big", &["size is 'big'", "512M"]),
];

/// The file, and the place of its `^` as line and column.
fn framed(of: &str, key: &str, keys: &str) -> (String, Option<(usize, usize)>) {
    let (_, frame, base) = FRAMES
        .iter()
        .find(|(name, ..)| *name == of)
        .unwrap_or_else(|| panic!("no frame for {of}"));
    let base = match base.is_empty() || base.starts_with(&format!("{key}:")) {
        true => String::new(),
        false => format!("{base}, "),
    };
    let text = frame.replace('@', &format!("{base}{keys}"));
    let place = text.find('^').map(|at| {
        let line = text[..at].matches('\n').count() + 1;
        let column = at - text[..at].rfind('\n').map_or(0, |newline| newline + 1) + 1;
        (line, column)
    });
    (text.replacen('^', "", 1), place)
}

fn read(of: &str, text: &str) -> Result<(), Vec<FormatError>> {
    let besides = match of {
        "deployment file" => Some(("a.yml", "version: 1\napplications: {a: {image: i}}\n")),
        _ if text.contains("applications:") => Some(("d.yml", "version: 1\nnodes: {}\n")),
        _ => None,
    };
    let mut sources = Sources::new(files(&[("x.yml", text)]));
    sources.files.extend(files(besides.as_slice()));
    sources.env_files = files(&[("a.env", "A=1\n")]);
    super::super::parse(&sources).map(drop)
}

#[test]
fn each_key_has_a_row_and_each_row_a_key() {
    let mut missing = Vec::new();
    for keys in keys::ALL {
        for key in keys.allowed {
            if !ROWS
                .iter()
                .any(|(of, name, ..)| *of == keys.of && name == key)
            {
                missing.push(format!("{}: {key}", keys.of));
            }
        }
    }
    assert_eq!(missing, [""; 0], "keys without a good and a bad value");
    for (of, key, ..) in ROWS {
        let known = keys::ALL
            .iter()
            .any(|keys| keys.of == *of && keys.allowed.contains(key));
        assert!(known, "{of} has no key {key}");
    }
}

#[test]
fn good_values_are_taken() {
    let mut wrong = Vec::new();
    for (of, key, good, ..) in ROWS {
        let (text, _) = framed(of, key, good);
        if let Err(errors) = read(of, &text) {
            wrong.push(format!("{of}: {good}: {}", errors[0]));
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn bad_values_are_named_with_their_place() {
    let mut wrong = Vec::new();
    for (of, key, _, bad, words) in ROWS {
        let (text, place) = framed(of, key, bad);
        let (line, column) = place.unwrap_or_else(|| panic!("{of}: {bad}: where?"));
        let errors = read(of, &text).err().unwrap_or_default();
        let begin = format!("x.yml:{line}:{column}: ");
        let right = match &errors[..] {
            [error] => {
                let error = error.to_string();
                error.starts_with(&begin) && words.iter().all(|word| error.contains(word))
            }
            _ => false,
        };
        if !right {
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            wrong.push(format!("{of}: {bad}: not {begin} but {errors:?}"));
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn refused_keys_say_what_to_do_instead() {
    for keys in keys::ALL {
        for (key, instead) in keys.refused {
            let whole = if keys.of == "Compose file" {
                "services: {}\n"
            } else {
                ""
            };
            let (text, place) = framed(keys.of, key, &format!("{whole}^{key}: x"));
            let (line, column) = place.unwrap();
            let errors = read(keys.of, &text).unwrap_err();
            let expected = format!("x.yml:{line}:{column}: the key '{key}' in ");
            let found = errors
                .iter()
                .map(ToString::to_string)
                .find(|error| error.starts_with(&expected) && error.ends_with(instead));
            assert!(found.is_some(), "{}: {key}: {errors:#?}", keys.of);
        }
    }
}

#[test]
fn unknown_keys_are_answered_with_the_known_ones() {
    for keys in keys::ALL {
        let whole = match keys.of {
            "Compose file" => "services: {}\n",
            "application file" => "version: 1\napplications: {}\n",
            "deployment file" => "version: 1\nnodes: {}\n",
            _ => "",
        };
        let (text, place) = framed(keys.of, "zz", &format!("{whole}^zzzzzz: 1"));
        let (line, column) = place.unwrap();
        let errors = read(keys.of, &text).unwrap_err();
        let allowed = format!("allowed: {}", keys.allowed.join(", "));
        let found = errors.iter().map(ToString::to_string).any(|error| {
            error.starts_with(&format!("x.yml:{line}:{column}: unknown key 'zzzzzz'"))
                && error.ends_with(&allowed)
        });
        assert!(found, "{}: {errors:#?}", keys.of);
    }
}

#[test]
fn routes_have_the_options_of_edges() {
    for option in flocker_api::options::ROUTE_OPTIONS {
        assert!(keys::ROUTE.allowed.contains(&option), "{option}");
    }
}

#[test]
fn each_key_is_in_the_documentation() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/apps.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut missing = Vec::new();
    for keys in keys::ALL {
        for key in keys.allowed {
            if !text.contains(&format!("`{key}`")) {
                missing.push(format!("{}: {key}", keys.of));
            }
        }
    }
    assert_eq!(missing, [""; 0]);
}
