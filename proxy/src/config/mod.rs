//! The edge's configuration: the file form, and the checked form that everything else uses.
//!
//! `config/proxy.toml` is the documented sample of every key.

mod limits;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
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

pub use self::limits::WorkerLimits;
use self::limits::{LimitsFile, check_limits};
use crate::{
    logic::{
        access::format::Style,
        guard::{self, Guard, lists::Lists},
    },
    policy::{HttpFile, PagesFile, policy},
};

/// Longest life of a session ticket: 7 days.
const TICKET_LIFETIME_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;
/// Most worker threads.
const WORKERS_MAX: usize = 1024;

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

#[cfg(test)]
mod tests;
