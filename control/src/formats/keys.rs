//! Every key of every format, in one place: what a mapping may hold, and what it may not
//! although people know it from elsewhere, with what to do instead.
//!
//! Tests go through `ALL`: each key has a good and a bad value there, and a line in
//! `docs/apps.md`.

/// The keys of one kind of mapping.
#[derive(Debug)]
pub(super) struct Keys {
    /// What it is, for tests.
    #[cfg(test)]
    pub(super) of: &'static str,
    /// What it may hold.
    pub(super) allowed: &'static [&'static str],
    /// What it may not hold, and what to do instead.
    pub(super) refused: &'static [(&'static str, &'static str)],
}

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident = $of:literal [$($key:literal),* $(,)?]
        $(refused [$($bad:literal => $instead:expr),* $(,)?])?;)*) => {
        $($(#[$doc])* pub(super) const $name: &Keys = &Keys {
            #[cfg(test)]
            of: $of,
            allowed: &[$($key),*],
            refused: &[$($(($bad, $instead)),*)?],
        };)*
        /// All of them.
        #[cfg(test)]
        pub(super) const ALL: &[&Keys] = &[$($name),*];
    };
}

const BY_NAME: &str = "apps find each other by 'links' and 'depends_on', wherever they run";
const HOST: &str =
    "an app must run the same on each node; leave it out, or build it into the image";
const SECRETS: &str = "give it by 'environment' or 'env_file', or keep it in a volume";
const RESOURCES: &str = "use 'deploy: {resources: {limits: {cpus, memory, pids}}}'";
const COMPOSE: &str = "Fig's files do not have it here: write a Compose file, with the services \
                       under the key 'services'";
const HEALTH_START: &str =
    "leave it out: an app that starts is asked every few milliseconds until it is ready";
const ONE_COPY: &str = "an app runs once, where its volumes are";

keys! {
    APPLICATION_FILE = "application file" ["version", "applications"];
    APP = "application" [
        "image", "ports", "links", "volume", "volumes", "environment", "mem_limit", "cpu_shares",
        "restart_policy", "x-flocker",
    ];
    APP_PORT = "application port" ["internal", "external"];
    APP_LINK = "application link" ["local_port", "remote_port", "alias"];
    APP_VOLUME = "application volume" ["mountpoint", "maximum_size", "dataset_id"];
    RESTART_POLICY = "restart policy" ["name", "maximum_retry_count"];
    APP_EXTENSION = "x-flocker of an application" [
        "routes", "command", "entrypoint", "depends_on", "cpus", "stop", "ready", "pre_stop",
        "move", "replication",
    ];
    STOP = "stop" ["signal", "grace"];
    ROUTE = "route" [
        "key", "port", "on_move", "tls", "upstream_tls", "balance", "health", "slow_start_ms",
        "redirect_https", "allow_connect", "body_bytes_max", "error_pages", "connections_max",
        "pending_max", "send_proxy", "allow", "deny", "upstream_protocol",
    ];
    READY = "ready" ["http", "tcp", "exec"];
    READY_HTTP = "ready.http" ["port", "path", "timeout"];
    READY_TCP = "ready.tcp" ["port", "timeout"];
    READY_EXEC = "ready.exec" ["command", "timeout"];
    MOVE = "move" [
        "rounds_max", "final_delta", "final_delta_max", "hold", "quiesce", "on_busy",
    ];
    REPLICATION = "replication" ["nodes", "interval", "keep", "grid"];
    GRID = "replication grid" ["every", "count"];
    DEPLOYMENT_FILE = "deployment file" ["version", "nodes"];
    FIG_SERVICE = "Fig service" [
        "image", "environment", "ports", "links", "volumes", "mem_limit", "x-flocker",
    ] refused [
        "build" => "name an image that is built already by 'image'",
        "command" => COMPOSE, "entrypoint" => COMPOSE, "expose" => COMPOSE, "restart" => COMPOSE,
        "working_dir" => HOST, "user" => HOST, "hostname" => HOST, "domainname" => HOST,
        "privileged" => HOST, "dns" => HOST, "net" => BY_NAME,
        "volumes_from" => "a volume belongs to one app",
    ];
    COMPOSE_FILE = "Compose file" ["version", "services", "volumes", "x-flocker"] refused [
        "name" => "apps are called like their services; leave it out",
        "networks" => BY_NAME,
        "secrets" => SECRETS,
        "configs" => SECRETS,
        "include" => "give all files to one 'flockerctl deploy'",
        "models" => "leave it out",
    ];
    COMPOSE_EXTENSION = "x-flocker of a Compose file" ["nodes"];
    SERVICE = "service" [
        "image", "command", "entrypoint", "environment", "env_file", "ports", "expose", "volumes",
        "links", "depends_on", "restart", "labels", "deploy", "healthcheck", "stop_signal",
        "stop_grace_period", "mem_limit", "cpus", "cpu_shares", "pids_limit", "x-flocker",
    ] refused [
        "build" => "name an image that is built already by 'image'",
        "container_name" => "the container of an app is called flocker-APP; leave it out",
        "networks" => BY_NAME, "network_mode" => BY_NAME, "external_links" => BY_NAME,
        "extra_hosts" => BY_NAME, "dns" => HOST, "dns_search" => HOST, "dns_opt" => HOST,
        "hostname" => HOST, "domainname" => HOST, "mac_address" => HOST,
        "secrets" => SECRETS, "configs" => SECRETS, "credential_spec" => SECRETS,
        "volumes_from" => "a volume belongs to one app",
        "tmpfs" => "use a folder of the image, or a volume",
        "extends" => "use YAML anchors and '<<'",
        "profiles" => "use a file for each, and give to 'flockerctl deploy' those that are meant",
        "scale" => ONE_COPY,
        "user" => HOST, "working_dir" => HOST, "privileged" => HOST, "cap_add" => HOST,
        "cap_drop" => HOST, "devices" => HOST, "device_cgroup_rules" => HOST, "gpus" => HOST,
        "group_add" => HOST, "init" => HOST, "ipc" => HOST, "pid" => HOST, "uts" => HOST,
        "userns_mode" => HOST, "cgroup" => HOST, "cgroup_parent" => HOST, "isolation" => HOST,
        "platform" => HOST, "runtime" => HOST, "read_only" => HOST, "security_opt" => HOST,
        "shm_size" => HOST, "sysctls" => HOST, "ulimits" => HOST, "stdin_open" => HOST,
        "tty" => HOST, "storage_opt" => HOST, "annotations" => "use 'labels'",
        "oom_kill_disable" => HOST, "oom_score_adj" => HOST, "blkio_config" => HOST,
        "mem_reservation" => RESOURCES, "mem_swappiness" => RESOURCES,
        "memswap_limit" => RESOURCES, "cpu_count" => RESOURCES, "cpu_percent" => RESOURCES,
        "cpu_period" => RESOURCES, "cpu_quota" => RESOURCES, "cpu_rt_period" => RESOURCES,
        "cpu_rt_runtime" => RESOURCES, "cpuset" => RESOURCES,
        "logging" => "what an app writes is kept by its node; leave it out",
        "pull_policy" => "an image that is not on the node is pulled; leave it out",
        "develop" => "leave it out", "attach" => "leave it out", "use_api_socket" => HOST,
        "post_start" => "build it into the image's entrypoint",
        "pre_stop" => "use 'x-flocker: {pre_stop: [PROGRAM, ARGUMENT]}'",
        "label_file" => "use 'labels'", "provider" => "leave it out", "models" => "leave it out",
    ];
    SERVICE_EXTENSION = "x-flocker of a service" [
        "node", "routes", "ready", "pre_stop", "move", "replication",
    ];
    SERVICE_PORT = "service port" ["target", "published", "protocol", "mode"] refused [
        "host_ip" => "edges listen at the addresses that they are given; leave it out",
        "name" => "leave it out",
        "app_protocol" => "use 'x-flocker: {routes: [{key: \"http:HOST\", port: PORT}]}'",
    ];
    SERVICE_VOLUME = "service volume" ["type", "source", "target"] refused [
        "read_only" => "volumes are writable for their one app; leave it out",
        "bind" => "a folder of the host does not move: use a named volume",
        "tmpfs" => "use a folder of the image, or a volume",
        "volume" => "leave it out",
        "image" => "use a volume",
        "consistency" => "leave it out",
    ];
    ENV_FILE = "env_file" ["path", "required"] refused [
        "format" => "there is one format; leave it out",
    ];
    DEPENDS_ON = "depends_on" ["condition"] refused [
        "restart" => "an app finds the other again by itself; leave it out",
        "required" => "leave out the app that may be missing",
    ];
    HEALTHCHECK = "healthcheck" [
        "test", "interval", "timeout", "retries", "start_period", "disable",
    ] refused ["start_interval" => HEALTH_START];
    DEPLOY = "deploy" ["resources", "replicas"] refused [
        "mode" => ONE_COPY,
        "placement" => "use 'x-flocker: {node: NODE}'",
        "restart_policy" => "use 'restart' of the service",
        "labels" => "use 'labels' of the service",
        "update_config" => "requests are held while an app changes; leave it out",
        "rollback_config" => "deploy the former file again; leave it out",
        "endpoint_mode" => "leave it out",
    ];
    RESOURCES_KEYS = "deploy.resources" ["limits"] refused [
        "reservations" => "only limits are kept; leave it out",
    ];
    LIMITS = "deploy.resources.limits" ["cpus", "memory", "pids"];
    VOLUME = "volume" ["driver", "driver_opts", "name"] refused [
        "external" => "a volume that is there is found by its name; leave it out",
        "labels" => "leave it out",
    ];
    DRIVER_OPTS = "driver_opts" ["size"] refused [
        "type" => "volumes are Flocker's own; leave it out",
        "device" => "volumes are Flocker's own; leave it out",
        "o" => "volumes are Flocker's own; leave it out",
    ];
}
