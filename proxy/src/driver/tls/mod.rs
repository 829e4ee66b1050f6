//! TLS material of an edge: certificates, authorities, ticket keys, and the configurations made
//! of them. It opens no connection; see [`super::relay::Sealed`] and the workers.
//!
//! What is read on connections (the certificates, the ticket keys) is an immutable snapshot
//! behind an atomic pointer: a change reaches the next handshake and no connection that stands.
//! Sources are changed under one lock that no worker takes.

mod authorities;
mod bequest;
mod configs;
mod pem;
mod sources;
mod store;
#[cfg(test)]
mod tests;
mod tickets;
pub mod verbs;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use flocker_api::{
    ErrorBody, ErrorCode,
    authority::{AuthorityStatus, PutAuthority},
    certificate::{CertificateStatus, PutCertificate, TicketKey, TicketKeys},
    name::{AuthorityName, CertificateName},
    route::{Route, RouteKey},
    termination::{ClientCertificate, Tls as RouteTls},
};
use rustls::crypto::CryptoProvider;

use self::{
    authorities::Authorities,
    sources::{Reloaded, Sources},
    store::Store,
};
pub use self::{
    bequest::Bequest,
    configs::Configs,
    pem::{PemError, subject},
    tickets::Tickets,
};
use crate::{config::TlsConfig, logic::session::Seal};

/// Why TLS material cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file or folder cannot be read or written.
    #[error("cannot {action} {path}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: PemError,
    },
    /// A certificate that was sent is of no use.
    #[error("certificate {name} is refused: {source}")]
    Refused {
        /// Its name.
        name: CertificateName,
        /// What is wrong.
        source: PemError,
    },
    /// Two certificates of one name.
    #[error("there are two certificates named {0}: give one of them another name")]
    Twice(String),
    /// A file name that makes no name for a certificate.
    #[error("{0}")]
    Name(String),
    /// A certificate of the configuration is not the admin API's to change.
    #[error("certificate {0} comes from a file that the configuration names: change the file")]
    Configured(CertificateName),
    /// There is no such certificate.
    #[error("there is no certificate {0}")]
    NotFound(CertificateName),
    /// An authority that was sent is of no use.
    #[error("authority {name} is refused: {source}")]
    RefusedAuthority {
        /// Its name.
        name: AuthorityName,
        /// What is wrong.
        source: PemError,
    },
    /// An authority of the configuration is not the admin API's to change.
    #[error("authority {0} comes from a file that the configuration names: change the file")]
    ConfiguredAuthority(AuthorityName),
    /// There is no such authority.
    #[error("there is no authority {0}")]
    NoAuthority(AuthorityName),
    /// A route names the authority that is to be removed.
    #[error("authority {name} is named by route {key}: change the route first")]
    AuthorityInUse {
        /// The authority.
        name: AuthorityName,
        /// A route that names it.
        key: RouteKey,
    },
    /// A file of ticket keys is not one.
    #[error("{path} holds no ticket keys: it takes one or two lines of 64 hexadecimal digits")]
    Tickets {
        /// The file.
        path: PathBuf,
    },
    /// A route names an authority that there is not.
    #[error("route {key} names authority {name}: this edge has none of that name")]
    Authority {
        /// The route.
        key: RouteKey,
        /// The authority.
        name: AuthorityName,
    },
    /// A route asks for client certificates and does not say whose.
    #[error(
        "route {0} asks for client certificates: set client_ca to the authority that signs them"
    )]
    NoClientCa(RouteKey),
    /// Terms of TLS on a route that cannot have any.
    #[error("route {0} cannot terminate TLS: that is for https:HOST")]
    NotHttps(RouteKey),
    /// TLS to the upstreams of what is passed through.
    #[error("route {0} passes TLS through: it takes no upstream_tls of its own")]
    Passthrough(RouteKey),
    /// TLS to upstreams whose name is not known.
    #[error("route {0} has no host of its own: upstream_tls needs a server_name")]
    NoServerName(RouteKey),
    /// The system trusts nobody.
    #[error("the system has no trusted authorities: name one in upstream_tls.ca")]
    NoRoots,
    /// The cryptography refuses.
    #[error("cannot use TLS: {0}")]
    Rustls(String),
    /// The kernel gives no random bytes.
    #[error("the kernel gives no random bytes")]
    Random,
}

impl From<TlsError> for ErrorBody {
    fn from(error: TlsError) -> Self {
        let code = match &error {
            TlsError::NotFound(_) | TlsError::NoAuthority(_) => ErrorCode::NotFound,
            TlsError::Configured(_)
            | TlsError::ConfiguredAuthority(_)
            | TlsError::AuthorityInUse { .. } => ErrorCode::Precondition,
            TlsError::Io { .. } | TlsError::Random => ErrorCode::Internal,
            _ => ErrorCode::InvalidRequest,
        };
        Self::from_error(code, &error)
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Rustls(error.to_string())
    }
}

/// See the module.
#[derive(Debug)]
pub struct Material {
    provider: Arc<CryptoProvider>,
    store: Arc<ArcSwap<Store>>,
    tickets: Arc<Tickets>,
    authorities: Authorities,
    /// What the file of ticket keys was like when it was read.
    tickets_stamp: Mutex<sources::Stamp>,
    config: TlsConfig,
    sources: Mutex<Sources>,
}

impl Material {
    /// Reads everything that the configuration names.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn load(config: &TlsConfig) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let sources = Sources::load(config, &provider)?;
        let tickets = match &config.tickets {
            Some(path) => read_tickets(path)?,
            None => None,
        };
        let tickets = match tickets {
            Some(tickets) => tickets,
            None => Tickets::random().map_err(|_| TlsError::Random)?,
        };
        Ok(Self {
            store: Arc::new(ArcSwap::from_pointee(sources.store())),
            tickets: Arc::new(tickets),
            authorities: Authorities::load(config, &provider)?,
            tickets_stamp: Mutex::new(config.tickets.as_deref().and_then(sources::stamp)),
            config: config.clone(),
            sources: Mutex::new(sources),
            provider,
        })
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        // What a panic has interrupted is replaced as a whole or not at all.
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The certificates, by name.
    #[must_use]
    pub fn certificates(&self) -> Vec<CertificateStatus> {
        self.sources().status()
    }

    /// Sets a certificate. With a folder it is written there and survives a restart.
    ///
    /// # Errors
    /// It is of no use, or cannot be written; what was served still is.
    pub fn put(
        &self,
        name: &CertificateName,
        put: &PutCertificate,
        now_s: i64,
    ) -> Result<CertificateStatus, TlsError> {
        let mut sources = self.sources();
        let status = sources.put(name, put, &self.config, &self.provider, now_s)?;
        self.store.store(Arc::new(sources.store()));
        Ok(status)
    }

    /// Serves a certificate no more.
    ///
    /// # Errors
    /// There is none of that name, or it comes from the configuration.
    pub fn remove(&self, name: &CertificateName) -> Result<CertificateStatus, TlsError> {
        let mut sources = self.sources();
        let status = sources.remove(name)?;
        self.store.store(Arc::new(sources.store()));
        Ok(status)
    }

    /// Looks whether files have changed, and serves those that are good. Says what it did.
    pub fn refresh(&self, now_s: i64) {
        let mut sources = self.sources();
        let news = sources.refresh(&self.config, &self.provider, now_s);
        if news.iter().any(Reloaded::is_change) {
            self.store.store(Arc::new(sources.store()));
        }
        for piece in news {
            piece.log();
        }
        drop(sources);
        self.authorities.refresh(&self.config);
        self.refresh_tickets();
    }

    /// Looks whether the file of ticket keys has changed: another edge's rotation, brought here
    /// by whatever brings files.
    fn refresh_tickets(&self) {
        let Some(path) = &self.config.tickets else {
            return;
        };
        // A rotation by the API writes the same file.
        let _sources = self.sources();
        let mut known = self
            .tickets_stamp
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = sources::stamp(path);
        if std::mem::replace(&mut *known, now) == now {
            return;
        }
        match read_tickets(path) {
            Ok(Some(tickets)) if tickets.secrets() != self.tickets.secrets() => {
                self.tickets.replace(&tickets);
                let current = self.tickets.status().current;
                tracing::info!(current, "the keys of tickets have changed");
            }
            Ok(_) => {}
            Err(error) => {
                let problem = flocker_api::error::chain(&error);
                tracing::error!(problem, "the file of ticket keys is no good: the keys stay");
            }
        }
    }

    /// The authorities, by name.
    #[must_use]
    pub fn authorities(&self, now_s: i64) -> Vec<AuthorityStatus> {
        self.authorities.status(now_s)
    }

    /// Sets an authority; it judges the next handshakes. With a folder it is written there and
    /// survives a restart.
    ///
    /// # Errors
    /// It is of no use, or cannot be written; what counted still does.
    pub fn put_authority(
        &self,
        name: &AuthorityName,
        put: &PutAuthority,
        now_s: i64,
    ) -> Result<AuthorityStatus, TlsError> {
        self.authorities.put(name, put, &self.config, now_s)
    }

    /// Believes an authority no more. Whether a route names it is the caller's to know.
    ///
    /// # Errors
    /// There is none of that name, or it comes from the configuration.
    pub fn remove_authority(
        &self,
        name: &AuthorityName,
        now_s: i64,
    ) -> Result<AuthorityStatus, TlsError> {
        self.authorities.remove(name, now_s)
    }

    /// Makes a ticket key the current one; with a file of ticket keys it is written there.
    ///
    /// # Errors
    /// It cannot be written; nothing has changed then.
    pub fn rotate_tickets(&self, key: TicketKey) -> Result<TicketKeys, TlsError> {
        // One at a time.
        let _sources = self.sources();
        let next = Tickets::new(key, None);
        let mut secrets = next.secrets();
        let old = self.tickets.secrets();
        if old.first() == secrets.first() {
            return Ok(self.tickets.status());
        }
        secrets.extend(old.into_iter().take(1));
        if let Some(path) = &self.config.tickets {
            let lines: String = secrets
                .iter()
                .map(|key| String::from(key.clone()) + "\n")
                .collect();
            sources::write_secret(path, lines.as_bytes())?;
        }
        if let Some(key) = secrets.into_iter().next() {
            self.tickets.rotate(key);
        }
        Ok(self.tickets.status())
    }

    /// Whether a route's terms of TLS can be kept by this edge.
    ///
    /// # Errors
    /// Says why not.
    pub fn check(&self, route: &Route) -> Result<(), TlsError> {
        let key = || route.key.clone();
        let known = |name: &AuthorityName| match self.authorities.has(name) {
            true => Ok(()),
            false => Err(TlsError::Authority {
                key: route.key.clone(),
                name: name.clone(),
            }),
        };
        let https = matches!(route.key, RouteKey::Https(..));
        if let RouteTls::Terminate(terms) = &route.tls {
            if !https {
                return Err(TlsError::NotHttps(key()));
            }
            match &terms.client_ca {
                Some(name) => known(name)?,
                None if terms.client_certificate != ClientCertificate::None => {
                    return Err(TlsError::NoClientCa(key()));
                }
                None => {}
            }
        }
        if let Some(tls) = &route.upstream_tls {
            if https && route.tls.is_passthrough() {
                return Err(TlsError::Passthrough(key()));
            }
            if Seal::of(route).is_none() {
                return Err(TlsError::NoServerName(key()));
            }
            match &tls.ca {
                Some(name) => known(name)?,
                None => self.authorities.system().map(drop)?,
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

/// The keys of a file; `None` if there is none yet, because a rotation will write it.
fn read_tickets(path: &Path) -> Result<Option<Tickets>, TlsError> {
    let text = match read(path) {
        Ok(text) => text,
        Err(TlsError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let bad = || TlsError::Tickets {
        path: path.to_owned(),
    };
    let text = String::from_utf8(text).map_err(|_| bad())?;
    let keys: Result<Vec<TicketKey>, _> = text.split_whitespace().map(str::parse).collect();
    let mut keys = keys.map_err(|_| bad())?.into_iter();
    match (keys.next(), keys.next(), keys.next()) {
        (Some(current), previous, None) => Ok(Some(Tickets::new(current, previous))),
        _ => Err(bad()),
    }
}
