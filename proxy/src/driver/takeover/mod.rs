//! The binary upgrade: a new process takes an edge over from an old one.
//!
//! ```text
//!   old                                   new
//!    │  starts it; a socket pair is its stdin
//!    │ ◄──────────────── hello ───────────┤  its configuration is right
//!    ├─ inheritance, listening sockets ──►│  table, gates, tokens; workers accept
//!    │ ◄──────────────── ready ───────────┤
//!    ├─ go, with predecessors ───────────►│  serves the admin API
//!    │ ◄──────────────── taken ───────────┤
//!    │  accepts no more, serves what it has, follows the gates, ends
//! ```
//!
//! Until "taken" the old process has given nothing up: whatever becomes of the new one before
//! that, it goes on alone. Verbs wait meanwhile, so nothing that was inherited is stale. Both
//! hold the same sockets for a moment and each accepts what it gets; none is ever closed
//! while it is the last of its kind, so no connection is refused and none in a queue is lost.
//!
//! What the old process has parked or in flight stays its own. The new one tells every verb
//! to its predecessors as well, each at a socket of its own ([`crate::driver::edge::predecessors`]).

mod wire;

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use flocker_api::{
    edge::ListenerKind,
    gate::Token,
    route::{Generation, Route, RouteKey},
};
use serde::{Deserialize, Serialize};

use super::tls::Bequest;
use crate::logic::gate::Pause;

/// The argument that tells a process to take over from who is at its stdin.
pub const ARGUMENT: &str = "--take-over";

/// How the language between the two is numbered; another version is not understood.
const PROTOCOL: u32 = 1;

/// All that a new process must know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Inheritance {
    /// Generation of the table.
    pub generation: Generation,
    /// All routes.
    pub routes: Vec<Route>,
    /// Those that are there because of the configuration file.
    pub file_routes: Vec<Route>,
    /// Gates that have been paused at some time.
    pub gates: Vec<InheritedGate>,
    /// The newest token of any gate, also of those that are gone.
    pub token: Token,
    /// What is listened on, a line per descriptor.
    pub listeners: Vec<InheritedListener>,
    /// What is logged, if it was changed while running.
    pub log: Option<String>,
    /// Certificates and ticket keys that are in memory alone.
    pub tls: Bequest,
}

/// A gate that has been paused at some time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InheritedGate {
    /// Its route.
    pub key: RouteKey,
    /// The newest token that it has seen.
    pub token: Token,
    /// If it is paused now.
    pub paused: Option<Pause>,
}

/// A listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InheritedListener {
    /// For clients.
    Clients {
        /// Its address.
        address: std::net::SocketAddr,
        /// How its connections are read.
        kind: ListenerKind,
    },
    /// The admin API's, on a path.
    AdminUnix {
        /// The path.
        path: PathBuf,
    },
    /// The admin API's, over TCP.
    AdminTcp {
        /// Its address.
        address: std::net::SocketAddr,
    },
}

/// From the new process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FromNew {
    Hello { protocol: u32, version: String },
    Ready,
    Taken,
    Failed { message: String },
}

/// From the old one, after the inheritance.
#[derive(Debug, Serialize, Deserialize)]
struct Go {
    /// Admin sockets of all that went before and still serve something.
    predecessors: Vec<PathBuf>,
}

/// Why a new process did not take over; the old one serves on.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// It cannot be started.
    #[error("cannot start {binary}")]
    Spawn {
        /// What was to be started.
        binary: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It said why it does not.
    #[error("{binary} did not take over: {message}")]
    Refused {
        /// What was started.
        binary: PathBuf,
        /// What it said.
        message: String,
    },
    /// It ended, or said nothing in time.
    #[error("{binary} did not take over ({source}): see what it has logged")]
    Silent {
        /// What was started.
        binary: PathBuf,
        /// What was seen of it.
        #[source]
        source: io::Error,
    },
    /// It speaks another language.
    #[error(
        "{binary} is version {version}, which takes over in another way: stop this one and start it"
    )]
    Version {
        /// What was started.
        binary: PathBuf,
        /// Its version.
        version: String,
    },
}

/// A new process that has been started, from the old one's side.
#[derive(Debug)]
pub struct Heir {
    binary: PathBuf,
    child: tokio::process::Child,
    stream: UnixStream,
}

impl Heir {
    /// Starts it with these arguments and waits until its configuration is read.
    ///
    /// # Errors
    /// See [`TakeoverError`]; it has been ended then.
    #[expect(
        clippy::disallowed_methods,
        reason = "an upgrade starts the program that takes over"
    )]
    pub async fn start(
        binary: PathBuf,
        arguments: Vec<OsString>,
        within: Duration,
    ) -> Result<Self, TakeoverError> {
        let spawned = UnixStream::pair().and_then(|(ours, theirs)| {
            ours.set_read_timeout(Some(within))?;
            ours.set_write_timeout(Some(within))?;
            let child = tokio::process::Command::new(&binary)
                .args(arguments.iter().filter(|argument| *argument != ARGUMENT))
                .arg(ARGUMENT)
                // It has a watchdog of its own (sd_watchdog_enabled(3)).
                .env_remove("WATCHDOG_PID")
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .spawn()?;
            Ok((child, ours))
        });
        let (child, stream) = spawned.map_err(|source| TakeoverError::Spawn {
            binary: binary.clone(),
            source,
        })?;
        let mut heir = Self {
            binary,
            child,
            stream,
        };
        match heir.hear().await {
            Ok(FromNew::Hello { protocol, .. }) if protocol == PROTOCOL => Ok(heir),
            Ok(FromNew::Hello { version, .. }) => {
                let binary = heir.binary.clone();
                heir.end().await;
                Err(TakeoverError::Version { binary, version })
            }
            other => Err(heir.failed(other).await),
        }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Gives it everything and waits until it serves.
    ///
    /// # Errors
    /// See [`TakeoverError`]; it has been ended then, and nothing was given up.
    pub async fn hand_over(
        self,
        inheritance: Inheritance,
        sockets: Vec<OwnedFd>,
        predecessors: Vec<PathBuf>,
    ) -> Result<Self, TakeoverError> {
        let sent = self
            .blocking(move |stream| {
                wire::send(stream, &inheritance)?;
                wire::send_descriptors(stream, &sockets)
            })
            .await;
        if let Err(error) = sent {
            return Err(self.failed(Err(error)).await);
        }
        match self.hear().await {
            Ok(FromNew::Ready) => {}
            other => return Err(self.failed(other).await),
        }
        let go = Go { predecessors };
        if let Err(error) = self.blocking(move |stream| wire::send(stream, &go)).await {
            return Err(self.failed(Err(error)).await);
        }
        match self.hear().await {
            Ok(FromNew::Taken) => Ok(self),
            other => Err(self.failed(other).await),
        }
    }

    /// Reaps it should it end before us.
    pub async fn watch(mut self) {
        if let Ok(status) = self.child.wait().await {
            tracing::warn!(%status, "the process that took over has ended");
        }
    }

    async fn hear(&self) -> io::Result<FromNew> {
        self.blocking(wire::receive).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        run: impl FnOnce(&UnixStream) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let stream = self.stream.try_clone()?;
        tokio::task::spawn_blocking(move || run(&stream))
            .await
            .map_err(io::Error::other)?
    }

    async fn failed(mut self, heard: io::Result<FromNew>) -> TakeoverError {
        self.end().await;
        let binary = self.binary;
        match heard {
            Ok(FromNew::Failed { message }) => TakeoverError::Refused { binary, message },
            Ok(other) => TakeoverError::Refused {
                binary,
                message: format!("it said {other:?} out of turn"),
            },
            Err(source) => TakeoverError::Silent { binary, source },
        }
    }

    /// Ends the process that we have started.
    async fn end(&mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::debug!(%error, "the new process is gone already");
        }
    }
}

/// The old process, from the new one's side.
#[derive(Debug)]
pub struct Elder(UnixStream);

impl Elder {
    /// Who is at our stdin; stdin leads nowhere afterwards.
    ///
    /// # Errors
    /// Nobody is, or it says nothing in time.
    pub fn meet(within: Duration) -> io::Result<Self> {
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let null = std::fs::File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        stream.set_read_timeout(Some(within))?;
        stream.set_write_timeout(Some(within))?;
        Ok(Self(stream))
    }

    /// Says that the configuration is right; gets everything.
    ///
    /// # Errors
    /// It is gone.
    pub fn inherit(&self) -> io::Result<(Inheritance, Vec<OwnedFd>)> {
        wire::send(
            &self.0,
            &FromNew::Hello {
                protocol: PROTOCOL,
                version: env!("CARGO_PKG_VERSION").to_owned(),
            },
        )?;
        let inheritance: Inheritance = wire::receive(&self.0)?;
        let sockets = wire::receive_descriptors(&self.0, inheritance.listeners.len())?;
        Ok((inheritance, sockets))
    }

    /// Says that the workers accept; gets the admin sockets of those that went before.
    ///
    /// # Errors
    /// It is gone; then we serve alone.
    pub fn ready(&self) -> io::Result<Vec<PathBuf>> {
        wire::send(&self.0, &FromNew::Ready)?;
        let go: Go = wire::receive(&self.0)?;
        Ok(go.predecessors)
    }

    /// Says that everything is ours now.
    ///
    /// # Errors
    /// It is gone; it does not matter any more.
    pub fn taken(&self) -> io::Result<()> {
        wire::send(&self.0, &FromNew::Taken)
    }

    /// Says why we do not take over.
    pub fn fail(&self, message: String) {
        if let Err(error) = wire::send(&self.0, &FromNew::Failed { message }) {
            tracing::debug!(%error, "the old process does not listen");
        }
    }
}
