//! Where the admin API is offered: on a unix socket that only its owner may use and, where the
//! configuration says so, over TCP, with mutual TLS or in clear for a trusted network.
//!
//! A process that hands over lends these sockets to the next one, and serves that one alone, at
//! a path of its own, for as long as it has anything left.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdTcpListener},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixListener as StdUnixListener},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Extension, Router};
use flocker_api::tls::{Credentials, Listener, Role, TlsError};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use super::{
    admin::{BySuccessor, router},
    edge::Edge,
    life::Front,
    takeover::InheritedListener,
};
use crate::config::Config;

/// Longest wait for answers that are under way when the process ends.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Who may use it over TCP.
const ROLES: &[Role] = &[Role::Control, Role::Operator];

/// Why the admin API cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The unix socket cannot be made.
    #[error("cannot listen on admin socket {path}")]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody answers on the unix socket.
    #[error("another edge answers on admin socket {path}: stop it or choose another path")]
    Taken {
        /// Its path.
        path: PathBuf,
    },
    /// The TCP address cannot be bound.
    #[error("cannot listen on admin address {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificates for the TCP address cannot be used.
    #[error("cannot speak TLS on the admin address")]
    Tls(#[from] TlsError),
}

/// What a process inherits of it.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The unix socket, if it is at the configured path.
    pub unix: Option<StdUnixListener>,
    /// The TCP socket.
    pub tcp: Option<(SocketAddr, StdTcpListener)>,
}

/// See the module.
#[derive(Debug)]
pub struct Admin {
    path: PathBuf,
    unix: Option<StdUnixListener>,
    tcp: Option<(SocketAddr, StdTcpListener)>,
    credentials: Option<Credentials>,
    /// Those that take connections, and how they are told to take no more.
    taking: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    /// Where a successor is served.
    aside: Option<(PathBuf, JoinHandle<()>)>,
    /// Whether the path is ours to be removed.
    ours: bool,
}

impl Admin {
    /// Binds what the configuration names and was not inherited.
    ///
    /// # Errors
    /// Names the path, address or file.
    pub async fn bind(config: &Config, inherited: Inherited) -> Result<Self, AdminError> {
        let path = config.admin_socket.clone();
        let unix = match inherited.unix {
            Some(unix) => unix,
            None if UnixStream::connect(&path).await.is_ok() => {
                return Err(AdminError::Taken { path });
            }
            None => bind_unix(&path).map_err(|source| AdminError::Socket {
                path: path.clone(),
                source,
            })?,
        };
        let tcp = match (config.admin_tcp, inherited.tcp) {
            (None, _) => None,
            (Some(address), Some((same, socket))) if same == address => Some((address, socket)),
            (Some(address), _) => {
                let bound = StdTcpListener::bind(address).and_then(|socket| {
                    socket.set_nonblocking(true)?;
                    Ok(socket)
                });
                let bound = bound.map_err(|source| AdminError::Tcp { address, source })?;
                Some((address, bound))
            }
        };
        let files = config.admin_tls.clone();
        Ok(Self {
            path,
            unix: Some(unix),
            tcp,
            credentials: files.map(Credentials::load).transpose()?,
            taking: Vec::new(),
            stop: watch::Sender::new(false),
            aside: None,
            ours: true,
        })
    }

    /// Takes connections from now on.
    pub fn serve(&mut self, edge: &Arc<Edge>, front: &Arc<Front>) {
        let router = router(edge, front);
        if let Some(unix) = &self.unix {
            match unix.try_clone().and_then(UnixListener::from_std) {
                Ok(unix) => self
                    .taking
                    .push(spawn(unix, router.clone(), self.stop.subscribe())),
                Err(error) => tracing::error!(%error, "cannot serve the admin socket"),
            }
        }
        if let Some((address, tcp)) = &self.tcp {
            match tcp.try_clone().and_then(TcpListener::from_std) {
                Ok(tcp) => {
                    let listener = Listener::new(tcp, self.credentials.clone(), ROLES);
                    self.taking
                        .push(spawn(listener, router, self.stop.subscribe()));
                }
                Err(error) => tracing::error!(%address, %error, "cannot serve the admin address"),
            }
        }
    }

    /// Duplicates of the sockets, for the next process.
    ///
    /// # Errors
    /// There are no descriptors.
    pub fn lend(&self) -> io::Result<Vec<(InheritedListener, OwnedFd)>> {
        let mut lent = Vec::new();
        if let Some(unix) = &self.unix {
            let path = self.path.clone();
            let socket = unix.as_fd().try_clone_to_owned()?;
            lent.push((InheritedListener::AdminUnix { path }, socket));
        }
        if let Some((address, tcp)) = &self.tcp {
            let socket = tcp.as_fd().try_clone_to_owned()?;
            lent.push((InheritedListener::AdminTcp { address: *address }, socket));
        }
        Ok(lent)
    }

    /// Serves at a path of this process, too, which only a successor is told.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn step_aside(&mut self, edge: &Arc<Edge>, front: &Arc<Front>) -> io::Result<PathBuf> {
        let mut path = self.path.as_os_str().to_owned();
        path.push(format!(".{}", std::process::id()));
        let path = PathBuf::from(path);
        let unix = UnixListener::from_std(bind_unix(&path)?)?;
        let router = router(edge, front).layer(Extension(BySuccessor));
        self.step_back();
        // It ends with the process.
        let (_, never) = watch::channel(false);
        self.aside = Some((path.clone(), spawn(unix, router, never)));
        Ok(path)
    }

    /// There is no successor after all.
    pub fn step_back(&mut self) {
        if let Some((path, serving)) = self.aside.take() {
            serving.abort();
            remove(&path);
        }
    }

    /// Takes no more connections; those that are there are served to their end. The path
    /// stays: it is another process's now, or will be removed.
    pub fn close(&mut self) {
        self.stop.send_replace(true);
        self.unix = None;
        self.tcp = None;
        if self.aside.is_some() {
            self.ours = false;
        }
    }

    /// Lets those have their answers who have asked, and takes away what is ours of the file
    /// system.
    pub async fn end(&mut self) {
        self.close();
        for taking in self.taking.drain(..) {
            if timeout(ANSWER_MAX, taking).await.is_err() {
                tracing::debug!("the admin API was still answering");
            }
        }
        self.step_back();
        if self.ours {
            remove(&self.path);
        }
    }
}

/// Takes connections until it is told to stop, and then ends with the last of them.
fn spawn<L>(listener: L, router: Router, mut stop: watch::Receiver<bool>) -> JoinHandle<()>
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let stopped = async move {
        if stop.wait_for(|stop| *stop).await.is_err() {
            // Nobody is there who could say so.
            std::future::pending::<()>().await;
        }
    };
    tokio::spawn(async move {
        let serving = axum::serve(listener, router).with_graceful_shutdown(stopped);
        if let Err(error) = serving.await {
            tracing::error!(%error, "the admin API has ended");
        }
    })
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "the socket is gone already");
    }
}

/// Makes the socket under another name first: nobody can connect before its mode is set.
fn bind_unix(path: &Path) -> io::Result<StdUnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".new-{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let listener = StdUnixListener::bind(&fresh)?;
    listener.set_nonblocking(true)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}
