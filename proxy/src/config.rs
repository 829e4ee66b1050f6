//! The edge's configuration: the file form, and the checked form that everything else uses.
//!
//! `config/proxy.toml` is the documented sample of every key.
//!
//! It is long because every limit, timeout and default of every part of the edge stands here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use flocker_api::{
    config::{ConfigError, load},
    name::{AuthorityName, CertificateName, EdgeName, InvalidName},
    network::Network,
    route::Route,
    tls::Files,
};
use serde::Deserialize;

use crate::{
    driver::options::TcpOptions,
    logic::{
        access::format::Style,
        balance::Ejection,
        guard::{self, Guard, lists::Lists},
        h2::{H2Limits, meter::FrameLimits, trunk::TrunkLimits},
        http::HEADERS_MAX,
        session::{Policy, SessionLimits},
    },
    policy::{HttpFile, PagesFile, policy},
};

/// Longest timeout: 30 days.
const TIMEOUT_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1000;
/// Shortest interval between two resolutions of a name.
const RESOLVE_MS_MIN: u64 = 100;
/// Longest life of a session ticket: 7 days.
const TICKET_LIFETIME_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;
/// Most worker threads.
const WORKERS_MAX: usize = 1024;
/// Least of what a head may be limited to, in bytes.
const HEAD_BYTES_MIN: usize = 512;
/// Most of it.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// Least HTTP/2 window, in bytes: the one that every connection begins with (RFC 9113, 6.9.2).
const H2_WINDOW_MIN: u32 = 65_535;
/// Most of it (RFC 9113, 6.9.1).
const H2_WINDOW_MAX: u32 = (1 << 31) - 1;
/// Most streams of an HTTP/2 connection.
const H2_STREAMS_MAX: u32 = 10_000;

/// The file form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: EdgeName,
    #[serde(default)]
    workers: usize,
    user: Option<String>,
    group: Option<String>,
    #[serde(default)]
    listen: ListenFile,
    #[serde(default)]
    clients: ClientsFile,
    #[serde(default)]
    admin: AdminFile,
    #[serde(default)]
    log: LogFile,
    #[serde(default)]
    http: HttpFile,
    #[serde(default)]
    error_pages: PagesFile,
    #[serde(default)]
    tls: TlsFile,
    #[serde(default)]
    limits: LimitsFile,
    #[serde(default)]
    route: Vec<Route>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ListenFile {
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
    tcp: Vec<IpAddr>,
    proxy_from: Vec<Network>,
}

/// Which clients may connect.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ClientsFile {
    allow: Vec<Network>,
    deny: Vec<Network>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AdminFile {
    socket: PathBuf,
    tcp: Option<SocketAddr>,
    tls: Option<Files>,
}

impl Default for AdminFile {
    fn default() -> Self {
        Self {
            socket: "/run/flocker/edge.sock".into(),
            tcp: None,
            tls: None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TlsFile {
    certificates: Vec<CertificateFile>,
    folder: Option<PathBuf>,
    tickets: Option<PathBuf>,
    ticket_lifetime_ms: u64,
    reload_ms: u64,
    authorities: BTreeMap<AuthorityName, AuthorityFile>,
}

/// An authority's file, or its files.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum AuthorityFile {
    One(PathBuf),
    Several(AuthorityFiles),
}

/// Where an authority is read from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityFiles {
    /// Its certificates, and lists of revoked ones, in PEM.
    pub certificates: PathBuf,
    /// Further lists.
    pub crls: Option<PathBuf>,
}

impl Default for TlsFile {
    fn default() -> Self {
        Self {
            certificates: Vec::new(),
            folder: None,
            tickets: None,
            ticket_lifetime_ms: 12 * 60 * 60 * 1000,
            reload_ms: 1_000,
            authorities: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateFile {
    name: Option<CertificateName>,
    certificate: PathBuf,
    key: PathBuf,
}

/// What is written of requests and sessions.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LogFile {
    access: Style,
    access_file: Option<PathBuf>,
    access_sample: u32,
    access_queue: usize,
}

impl Default for LogFile {
    fn default() -> Self {
        Self {
            access: Style::Off,
            access_file: None,
            access_sample: 1,
            access_queue: 65_536,
        }
    }
}

/// Every limit and timeout, with its default.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LimitsFile {
    sessions: usize,
    sessions_per_client: u32,
    session_rate: u32,
    session_rate_per_client: u32,
    proxy_header_timeout_ms: u64,
    tcp_keep_alive_ms: u64,
    tcp_user_timeout_ms: u64,
    head_bytes: usize,
    headers: usize,
    target_bytes: usize,
    head_timeout_ms: u64,
    keep_alive_ms: u64,
    request_timeout_ms: u64,
    body_timeout_ms: u64,
    body_rate: u64,
    continue_timeout_ms: u64,
    response_timeout_ms: u64,
    response_idle_ms: u64,
    hello_bytes: usize,
    hello_timeout_ms: u64,
    h2_streams: u32,
    h2_stream_window_bytes: u32,
    h2_resets: u32,
    h2_pings: u32,
    h2_settings: u32,
    h2_empty_data: u32,
    h2_continuations: u32,
    h2_window_updates: u32,
    h2_others: u32,
    upstream_h2_streams: usize,
    upstream_h2_replay_bytes: usize,
    upstream_h2_ping_ms: u64,
    connect_timeout_ms: u64,
    connect_hold_ms: u64,
    tcp_idle_ms: u64,
    upstream_idle_ms: u64,
    upstream_idle_count: usize,
    eject_failures: u32,
    eject_ms: u64,
    eject_ms_max: u64,
    eject_percent_max: u32,
    resolve_interval_ms: u64,
    pipes: usize,
    linger_ms: u64,
    drain_ms: u64,
    upgrade_timeout_ms: u64,
    upgrade_drain_ms: u64,
    metrics_routes: usize,
}

impl Default for LimitsFile {
    fn default() -> Self {
        Self {
            sessions: 100_000,
            sessions_per_client: 20_000,
            session_rate: 0,
            session_rate_per_client: 0,
            proxy_header_timeout_ms: 3_000,
            tcp_keep_alive_ms: 60_000,
            tcp_user_timeout_ms: 0,
            head_bytes: 16 << 10,
            headers: 100,
            target_bytes: 8 << 10,
            head_timeout_ms: 10_000,
            keep_alive_ms: 75_000,
            request_timeout_ms: 3_600_000,
            body_timeout_ms: 30_000,
            body_rate: 100,
            continue_timeout_ms: 1_000,
            response_timeout_ms: 60_000,
            response_idle_ms: 3_600_000,
            hello_bytes: 16 << 10,
            hello_timeout_ms: 10_000,
            h2_streams: 100,
            h2_stream_window_bytes: 64 << 10,
            h2_resets: 100,
            h2_pings: 100,
            h2_settings: 50,
            h2_empty_data: 100,
            h2_continuations: 20,
            h2_window_updates: 1_000,
            h2_others: 200,
            upstream_h2_streams: 100,
            upstream_h2_replay_bytes: 64 << 10,
            upstream_h2_ping_ms: 15_000,
            connect_timeout_ms: 3_000,
            connect_hold_ms: 10_000,
            tcp_idle_ms: 3_600_000,
            upstream_idle_ms: 4_000,
            upstream_idle_count: 256,
            eject_failures: 5,
            eject_ms: 10_000,
            eject_ms_max: 300_000,
            eject_percent_max: 50,
            resolve_interval_ms: 10_000,
            pipes: 32,
            linger_ms: 1_000,
            drain_ms: 30_000,
            upgrade_timeout_ms: 30_000,
            upgrade_drain_ms: 3_600_000,
            metrics_routes: 500,
        }
    }
}

/// The checked form.
#[derive(Debug, Clone)]
pub struct Config {
    /// The edge's name.
    pub name: EdgeName,
    /// Threads; at least one.
    pub workers: usize,
    /// Where HTTP is listened for.
    pub http: Vec<SocketAddr>,
    /// Where TLS is listened for.
    pub https: Vec<SocketAddr>,
    /// At which addresses `tcp:PORT` routes listen.
    pub tcp: Vec<IpAddr>,
    /// From where connections begin with a PROXY header.
    pub proxy_from: Vec<Network>,
    /// The only networks of clients that may connect, if any.
    pub allow: Vec<Network>,
    /// Networks of clients that may not.
    pub deny: Vec<Network>,
    clients: guard::clients::Limits,
    /// The admin API's unix socket.
    pub admin_socket: PathBuf,
    /// The admin API's TCP address.
    pub admin_tcp: Option<SocketAddr>,
    /// By which it speaks mutual TLS there; else in clear.
    pub admin_tls: Option<Files>,
    /// The user that it becomes when it is started as root, and its group.
    pub user: Option<(String, Option<String>)>,
    /// The access log.
    pub access: AccessLog,
    /// Certificates, authorities, ticket keys.
    pub tls: TlsConfig,
    /// Routes that are there from the start.
    pub routes: Vec<Route>,
    /// How long a stopping edge waits for what is in flight.
    pub drain: Duration,
    /// From one resolution of an upstream's name to the next.
    pub resolve_interval: Duration,
    /// Longest time in which a new process must have read its configuration, and again in
    /// which it must have taken over.
    pub upgrade_timeout: Duration,
    /// How long a process that was taken over from serves what it has.
    pub upgrade_drain: Duration,
    /// Most routes with metrics of their own.
    pub metrics_routes: usize,
    /// What the file says, key by key, without its routes.
    keys: BTreeMap<String, String>,
    sessions: usize,
    pipes: usize,
    worker: WorkerLimits,
}

/// What is written of requests and sessions that are over, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLog {
    /// In which form, if at all.
    pub style: Style,
    /// The file; else stderr.
    pub file: Option<PathBuf>,
    /// Of what went well, one in so many is written; at least 1.
    pub sample: u32,
    /// Most records that wait to be written; the rest is dropped and counted.
    pub queue: usize,
}

/// Where TLS material comes from.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// Certificates by name, each with the files of chain and key.
    pub certificates: Vec<(CertificateName, PathBuf, PathBuf)>,
    /// A folder of certificates; those that are sent by the admin API are kept there.
    pub folder: Option<PathBuf>,
    /// The file of ticket keys.
    pub tickets: Option<PathBuf>,
    /// How long a session can be resumed.
    pub ticket_lifetime: Duration,
    /// How often files are looked at.
    pub reload: Duration,
    /// Authorities by name, each with its files.
    pub authorities: BTreeMap<AuthorityName, AuthorityFiles>,
}

impl Default for TlsConfig {
    fn default() -> Self {
        let file = TlsFile::default();
        Self {
            certificates: Vec::new(),
            folder: None,
            tickets: None,
            ticket_lifetime: Duration::from_millis(file.ticket_lifetime_ms),
            reload: Duration::from_millis(file.reload_ms),
            authorities: BTreeMap::new(),
        }
    }
}

/// Limits of one worker.
#[derive(Debug, Clone)]
pub struct WorkerLimits {
    /// Limits of a session.
    pub session: SessionLimits,
    /// Most sessions.
    pub sessions: usize,
    /// Most new sessions per second; 0 is no limit.
    pub session_rate: u32,
    /// Options of sockets on both sides.
    pub tcp: TcpOptions,
    /// Most pipes for splice.
    pub pipes: usize,
    /// How long an upstream connection is kept idle.
    pub upstream_idle: Duration,
    /// Most idle connections to one upstream.
    pub upstream_idle_count: usize,
    /// Limits of an HTTP/2 connection to an upstream.
    pub trunk: TrunkLimits,
    /// How long a closed session may take to deliver what is left.
    pub linger: Duration,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Names the file, the key and what would be right.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut config = check(load(path)?).map_err(|reason| ConfigError::Value {
            path: path.to_owned(),
            reason,
        })?;
        flatten("", &toml::Value::Table(load(path)?), &mut config.keys);
        Ok(config)
    }

    /// The keys that another configuration has otherwise, apart from its routes, each with a
    /// line that says how.
    #[must_use]
    pub fn changed_keys(&self, other: &Self) -> Vec<(String, String)> {
        let keys: BTreeSet<&String> = self.keys.keys().chain(other.keys.keys()).collect();
        let of = |config: &Self, key: &String| {
            let value = config.keys.get(key);
            value.map_or("its default", String::as_str).to_owned()
        };
        keys.into_iter()
            .filter(|key| self.keys.get(*key) != other.keys.get(*key))
            .map(|key| {
                let line = format!("{key}: {} becomes {}", of(self, key), of(other, key));
                (key.clone(), line)
            })
            .collect()
    }

    /// Descriptors that all these sessions may need.
    #[must_use]
    pub fn descriptors(&self) -> u64 {
        /// Of listeners, admin connections, files and the like.
        const OTHERS: usize = 1_000;
        let sockets = self.sessions.saturating_mul(2);
        let pipes = self.pipes.saturating_mul(2);
        sockets.saturating_add(pipes).saturating_add(OTHERS) as u64
    }

    /// Whether there are error pages of this name.
    #[must_use]
    pub fn has_error_pages(&self, set: &str) -> bool {
        self.worker.session.policy.pages.has(set)
    }

    /// Who may connect.
    #[must_use]
    pub fn guard(&self) -> Guard {
        Guard::new(
            Lists::new(&self.allow, &self.deny),
            Lists::new(&self.proxy_from, &[]),
            self.clients,
        )
    }

    /// The part of the limits that one worker has.
    #[must_use]
    pub fn worker_limits(&self) -> WorkerLimits {
        self.limits_of_workers(self.workers)
    }

    /// The same where there are so many workers.
    #[must_use]
    pub fn limits_of_workers(&self, workers: usize) -> WorkerLimits {
        WorkerLimits {
            sessions: self.sessions.div_ceil(workers),
            pipes: self.pipes / workers,
            session_rate: per_worker(self.worker.session_rate, workers),
            ..self.worker.clone()
        }
    }
}

/// Every value of a table under its whole name; routes are compared otherwise.
fn flatten(name: &str, value: &toml::Value, keys: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                match name {
                    "" if key == "route" => {}
                    "" => flatten(key, value, keys),
                    name => flatten(&format!("{name}.{key}"), value, keys),
                }
            }
        }
        value => {
            keys.insert(name.to_owned(), value.to_string());
        }
    }
}

/// A duration of which 0 means none.
fn some_ms(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

fn per_worker(rate: u32, workers: usize) -> u32 {
    rate.div_ceil(u32::try_from(workers).unwrap_or(u32::MAX).max(1))
}

fn check(file: File) -> Result<Config, String> {
    check_limits(&file.limits)?;
    if file.workers > WORKERS_MAX {
        let workers = file.workers;
        return Err(format!(
            "workers is {workers}: it must be at most {WORKERS_MAX}"
        ));
    }
    if !file.admin.socket.is_absolute() {
        let socket = file.admin.socket.display();
        return Err(format!("admin.socket is '{socket}': give an absolute path"));
    }
    if file.group.is_some() && file.user.is_none() {
        return Err("group is given without a user: give both, or neither".to_owned());
    }
    if file.admin.tls.is_some() && file.admin.tcp.is_none() {
        return Err("admin.tls is given without admin.tcp: the unix socket needs none".to_owned());
    }
    let access = check_log(file.log)?;
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let limits = file.limits;
    let policy = policy(file.http, file.error_pages)?;
    Ok(Config {
        workers: match file.workers {
            0 => cores,
            workers => workers,
        },
        name: file.name,
        http: file.listen.http,
        https: file.listen.https,
        tcp: file.listen.tcp,
        proxy_from: file.listen.proxy_from,
        allow: file.clients.allow,
        deny: file.clients.deny,
        clients: guard::clients::Limits {
            sessions: limits.sessions_per_client,
            rate: limits.session_rate_per_client,
        },
        admin_socket: file.admin.socket,
        admin_tcp: file.admin.tcp,
        admin_tls: file.admin.tls,
        user: file.user.map(|user| (user, file.group)),
        keys: BTreeMap::new(),
        access,
        tls: check_tls(file.tls)?,
        routes: file.route,
        drain: Duration::from_millis(limits.drain_ms),
        resolve_interval: Duration::from_millis(limits.resolve_interval_ms),
        upgrade_timeout: Duration::from_millis(limits.upgrade_timeout_ms),
        upgrade_drain: Duration::from_millis(limits.upgrade_drain_ms),
        metrics_routes: limits.metrics_routes,
        sessions: limits.sessions,
        pipes: limits.pipes,
        worker: WorkerLimits::new(&limits, policy),
    })
}

fn check_log(log: LogFile) -> Result<AccessLog, String> {
    if log.access_sample == 0 {
        return Err("log.access_sample is 0: it must be at least 1".to_owned());
    }
    if let Some(file) = &log.access_file
        && !file.is_absolute()
    {
        let file = file.display();
        return Err(format!(
            "log.access_file is '{file}': give an absolute path"
        ));
    }
    Ok(AccessLog {
        style: log.access,
        file: log.access_file,
        sample: log.access_sample,
        queue: log.access_queue,
    })
}

fn check_tls(file: TlsFile) -> Result<TlsConfig, String> {
    for (key, value) in [
        ("ticket_lifetime_ms", file.ticket_lifetime_ms),
        ("reload_ms", file.reload_ms),
    ] {
        // RFC 8446, section 4.6.1: no ticket is good for more than seven days.
        if !(1..=TICKET_LIFETIME_MS_MAX).contains(&value) {
            return Err(format!(
                "tls.{key} is {value}: it must be 1 to {TICKET_LIFETIME_MS_MAX}"
            ));
        }
    }
    let mut certificates = Vec::new();
    for one in file.certificates {
        let name = match one.name {
            Some(name) => name,
            None => {
                name_of(&one.certificate).map_err(|error| format!("tls.certificates: {error}"))?
            }
        };
        certificates.push((name, one.certificate, one.key));
    }
    Ok(TlsConfig {
        certificates,
        folder: file.folder,
        tickets: file.tickets,
        ticket_lifetime: Duration::from_millis(file.ticket_lifetime_ms),
        reload: Duration::from_millis(file.reload_ms),
        authorities: file.authorities.into_iter().map(authority).collect(),
    })
}

fn authority((name, file): (AuthorityName, AuthorityFile)) -> (AuthorityName, AuthorityFiles) {
    let files = match file {
        AuthorityFile::Several(files) => files,
        AuthorityFile::One(certificates) => AuthorityFiles {
            certificates,
            crls: None,
        },
    };
    (name, files)
}

/// The name that a file gives its certificate.
///
/// # Errors
/// The file's name does not make one.
pub(crate) fn name_of(path: &Path) -> Result<CertificateName, String> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.to_lowercase().parse().map_err(|error: InvalidName| {
        let (path, reason) = (path.display(), error.reason);
        format!("{path} makes no name for a certificate: {reason}; give it a name")
    })
}

fn check_limits(limits: &LimitsFile) -> Result<(), String> {
    if limits.sessions == 0 {
        return Err("limits.sessions is 0: it must be at least 1".to_owned());
    }
    for (key, value, least) in [
        ("head_timeout_ms", limits.head_timeout_ms, 1),
        ("keep_alive_ms", limits.keep_alive_ms, 1),
        ("request_timeout_ms", limits.request_timeout_ms, 1),
        ("body_timeout_ms", limits.body_timeout_ms, 1),
        ("continue_timeout_ms", limits.continue_timeout_ms, 0),
        ("response_idle_ms", limits.response_idle_ms, 1),
        ("response_timeout_ms", limits.response_timeout_ms, 1),
        ("hello_timeout_ms", limits.hello_timeout_ms, 1),
        ("connect_timeout_ms", limits.connect_timeout_ms, 1),
        ("connect_hold_ms", limits.connect_hold_ms, 0),
        ("tcp_idle_ms", limits.tcp_idle_ms, 1),
        ("upstream_idle_ms", limits.upstream_idle_ms, 0),
        ("proxy_header_timeout_ms", limits.proxy_header_timeout_ms, 1),
        ("tcp_keep_alive_ms", limits.tcp_keep_alive_ms, 0),
        ("tcp_user_timeout_ms", limits.tcp_user_timeout_ms, 0),
        ("eject_ms", limits.eject_ms, 1),
        ("eject_ms_max", limits.eject_ms_max, limits.eject_ms),
        (
            "resolve_interval_ms",
            limits.resolve_interval_ms,
            RESOLVE_MS_MIN,
        ),
        ("upstream_h2_ping_ms", limits.upstream_h2_ping_ms, 1),
        ("linger_ms", limits.linger_ms, 0),
        ("drain_ms", limits.drain_ms, 0),
        ("upgrade_timeout_ms", limits.upgrade_timeout_ms, 1),
        ("upgrade_drain_ms", limits.upgrade_drain_ms, 0),
    ] {
        if !(least..=TIMEOUT_MS_MAX).contains(&value) {
            return Err(format!(
                "limits.{key} is {value}: it must be {least} to {TIMEOUT_MS_MAX}"
            ));
        }
    }
    check_h2_limits(limits)?;
    // The kernel counts in whole seconds, and in a short integer.
    let keep_alive = limits.tcp_keep_alive_ms;
    if keep_alive != 0 && !(1_000..=32_000_000).contains(&keep_alive) {
        return Err(format!(
            "limits.tcp_keep_alive_ms is {keep_alive}: it must be 0 or 1000 to 32000000"
        ));
    }
    if limits.eject_percent_max > 100 {
        let percent = limits.eject_percent_max;
        return Err(format!(
            "limits.eject_percent_max is {percent}: it must be 0 to 100"
        ));
    }
    if !(1..=HEADERS_MAX).contains(&limits.headers) {
        let headers = limits.headers;
        return Err(format!(
            "limits.headers is {headers}: it must be 1 to {HEADERS_MAX}"
        ));
    }
    for (key, bytes) in [
        ("head_bytes", limits.head_bytes),
        ("hello_bytes", limits.hello_bytes),
        ("target_bytes", limits.target_bytes),
    ] {
        if !(HEAD_BYTES_MIN..=HEAD_BYTES_MAX).contains(&bytes) {
            return Err(format!(
                "limits.{key} is {bytes}: it must be {HEAD_BYTES_MIN} to {HEAD_BYTES_MAX}"
            ));
        }
    }
    Ok(())
}

fn h2_limits(limits: &LimitsFile) -> H2Limits {
    H2Limits {
        streams: limits.h2_streams,
        stream_window: limits.h2_stream_window_bytes,
        replay_bytes: limits.upstream_h2_replay_bytes,
        frames: FrameLimits {
            resets: limits.h2_resets,
            pings: limits.h2_pings,
            settings: limits.h2_settings,
            empty_data: limits.h2_empty_data,
            continuations: limits.h2_continuations,
            window_updates: limits.h2_window_updates,
            others: limits.h2_others,
        },
    }
}

/// What RFC 9113 allows, and what lets an honest client work.
fn check_h2_limits(limits: &LimitsFile) -> Result<(), String> {
    if limits.upstream_h2_streams == 0 {
        return Err("limits.upstream_h2_streams is 0: it must be at least 1".to_owned());
    }
    let window = (H2_WINDOW_MIN, H2_WINDOW_MAX);
    for (key, value, (least, most)) in [
        ("h2_streams", limits.h2_streams, (1, H2_STREAMS_MAX)),
        (
            "h2_stream_window_bytes",
            limits.h2_stream_window_bytes,
            window,
        ),
        ("h2_settings", limits.h2_settings, (2, u32::MAX)),
    ] {
        if !(least..=most).contains(&value) {
            return Err(format!(
                "limits.{key} is {value}: it must be {least} to {most}"
            ));
        }
    }
    Ok(())
}

impl WorkerLimits {
    fn new(limits: &LimitsFile, policy: Arc<Policy>) -> Self {
        let ms = Duration::from_millis;
        Self {
            session: SessionLimits {
                head_bytes: limits.head_bytes,
                headers: limits.headers,
                target_bytes: limits.target_bytes,
                head_timeout: ms(limits.head_timeout_ms),
                keep_alive: ms(limits.keep_alive_ms),
                request_timeout: ms(limits.request_timeout_ms),
                body_timeout: ms(limits.body_timeout_ms),
                body_rate: limits.body_rate,
                continue_timeout: ms(limits.continue_timeout_ms),
                response_idle: ms(limits.response_idle_ms),
                response_timeout: ms(limits.response_timeout_ms),
                connect_timeout: ms(limits.connect_timeout_ms),
                connect_hold: ms(limits.connect_hold_ms),
                tcp_idle: ms(limits.tcp_idle_ms),
                hello_bytes: limits.hello_bytes,
                hello_timeout: ms(limits.hello_timeout_ms),
                h2: h2_limits(limits),
                proxy_header_timeout: ms(limits.proxy_header_timeout_ms),
                ejection: Ejection {
                    failures: limits.eject_failures,
                    base: ms(limits.eject_ms),
                    max: ms(limits.eject_ms_max),
                    share_percent: limits.eject_percent_max,
                },
                policy,
            },
            sessions: limits.sessions,
            session_rate: limits.session_rate,
            tcp: TcpOptions {
                keep_alive: some_ms(limits.tcp_keep_alive_ms),
                user_timeout: some_ms(limits.tcp_user_timeout_ms),
            },
            pipes: limits.pipes,
            upstream_idle: ms(limits.upstream_idle_ms),
            upstream_idle_count: limits.upstream_idle_count,
            trunk: TrunkLimits {
                streams: limits.upstream_h2_streams,
                idle: ms(limits.upstream_idle_ms),
                ping: ms(limits.upstream_h2_ping_ms),
            },
            linger: ms(limits.linger_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Config::load(file.path()).map_err(|error| flocker_api::error::chain(&error))
    }

    fn sample() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/proxy.toml")
    }

    #[test]
    fn the_sample_is_valid_and_shows_the_defaults() {
        let config = Config::load(&sample()).unwrap();
        assert_eq!(config.routes.len(), 1);
        let short = parse("name = 'n1-a'").unwrap();
        assert_eq!(
            format!("{:?}", config.worker_limits()),
            format!("{:?}", short.worker_limits())
        );
        assert_eq!(config.drain, short.drain);
        assert_eq!(config.admin_socket, short.admin_socket);
        assert_eq!(config.access, short.access);
    }

    #[test]
    fn the_sample_names_every_limit() {
        let text = std::fs::read_to_string(sample()).unwrap();
        let debug = format!("{:?}", LimitsFile::default());
        let inner = debug
            .trim_start_matches("LimitsFile { ")
            .trim_end_matches(" }");
        for field in inner.split(", ") {
            let key = field.split(':').next().unwrap();
            assert!(text.contains(&format!("\n{key} = ")), "{key} is missing");
        }
    }

    #[test]
    fn what_two_files_have_otherwise_is_said_key_by_key() {
        let before = parse("name = 'e'\n[limits]\nsessions = 5\nlinger_ms = 7").unwrap();
        let after = parse("name = 'e'\nworkers = 3\n[limits]\nsessions = 6").unwrap();
        let lines: Vec<String> = before
            .changed_keys(&after)
            .into_iter()
            .map(|(_, line)| line)
            .collect();
        assert_eq!(
            lines,
            [
                "limits.linger_ms: 7 becomes its default",
                "limits.sessions: 5 becomes 6",
                "workers: its default becomes 3",
            ]
        );
        assert!(after.changed_keys(&after).is_empty());
    }

    #[test]
    fn certificates_have_the_names_of_their_files_or_their_own() {
        let config = parse(
            "name = 'e'\n[tls]\ncertificates = [{certificate = '/x/Www.pem', key = '/x/k'}, \
             {name = 'b', certificate = '/x/y z.pem', key = '/x/k'}]",
        );
        let config = config.unwrap().tls.certificates;
        let names = config.iter().map(|(name, ..)| name.as_str());
        assert_eq!(names.collect::<Vec<_>>(), ["www", "b"]);
    }

    #[test]
    fn what_cannot_be_is_refused_by_key() {
        for (text, expected) in [
            ("name = 'N'", "not a valid edge name"),
            ("name = 'e'\ncolour = 1", "colour"),
            ("name = 'e'\nworkers = 5000", "workers is 5000"),
            ("name = 'e'\n[limits]\nheaders = 129", "limits.headers"),
            ("name = 'e'\n[log]\naccess_sample = 0", "log.access_sample"),
            ("name = 'e'\n[log]\naccess_file = 'a'", "log.access_file"),
            ("name = 'e'\n[log]\naccess = 'xml'", "access"),
            ("name = 'e'\n[limits]\nhead_bytes = 1", "limits.head_bytes"),
            ("name = 'e'\n[limits]\nsessions = 0", "limits.sessions"),
            (
                "name = 'e'\n[limits]\ntcp_idle_ms = 9000000000000",
                "limits.tcp_idle_ms",
            ),
            ("name = 'e'\n[limits]\nh2_streams = 0", "limits.h2_streams"),
            (
                "name = 'e'\n[limits]\nh2_stream_window_bytes = 1",
                "limits.h2_stream_window_bytes",
            ),
            (
                "name = 'e'\n[tls]\ncertificates = [{certificate = '/y z.pem', key = '/k'}]",
                "/y z.pem",
            ),
            (
                "name = 'e'\n[tls]\nticket_lifetime_ms = 604800001",
                "tls.ticket_lifetime_ms",
            ),
            ("name = 'e'\n[admin]\nsocket = 'x'", "absolute path"),
            ("name = 'e'\n[http]\ntrusted = ['10.0.0.1/8']", "10.0.0.1/8"),
            ("name = 'e'\n[http]\nforwarded = 'no'", "forwarded"),
            ("name = 'e'\n[error_pages.x]\n200 = '/x.html'", "200"),
            ("name = 'e'\n[error_pages.x]\n503 = '/x.php'", ".html"),
            ("name = 'e'\n[error_pages.x]\n503 = 'x.html'", "absolute"),
            (
                "name = 'e'\n[error_pages.x]\n503 = '/none/x.html'",
                "No such",
            ),
            ("name = 'e'\n[listen]\nhttp = ['x']", "http"),
            (
                "name = 'e'\n[[route]]\nkey = 'udp:1'\nupstreams = []",
                "udp:1",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
