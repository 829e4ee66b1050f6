//! What to do about a container, given the one that is there.
//!
//! Decides and does nothing: each verb of the agent's API has a function here that takes
//! what the runtime reports and says what is to be done, or why it is refused.
//!
//! ```text
//!            create            start             stop / ends
//!   (none) ---------> Created -------> Running -------------> Exited
//!     ^                  |                ^                      |
//!     |     remove       |                +-------- start -------+
//!     +------------------+---------------------- remove ---------+
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use flocker_api::{
    ErrorBody, ErrorCode,
    container::{ContainerSpec, ContainerState, ContainerStatus, Probe},
    name::{AppName, NodeName, VolumeId, VolumeName},
    volume::Epoch,
};
use serde_json::json;

/// Exit code of a process whose end nobody of us could see: it was adopted after a restart of
/// the agent, and only its parent is told.
pub const EXIT_UNKNOWN: i64 = -1;

/// A container of ours, as its runtime reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// What it was made of.
    pub spec: ContainerSpec,
    /// The epoch under which it was made.
    pub epoch: Epoch,
    /// Its life.
    pub state: ContainerState,
    /// The runtime's own name for it.
    pub runtime_id: String,
    /// Its first process, while it runs; as the runtime numbers processes.
    pub pid: Option<i32>,
}

impl Container {
    /// As the API shows it, on the node with this address.
    #[must_use]
    pub fn status(&self, address: IpAddr) -> ContainerStatus {
        ContainerStatus {
            app: self.spec.app.clone(),
            state: self.state.clone(),
            image: self.spec.image.clone(),
            epoch: self.epoch,
            addresses: self
                .spec
                .ports
                .iter()
                .map(|port| SocketAddr::new(address, *port))
                .collect(),
            runtime_id: self.runtime_id.clone(),
            restarts: 0,
            health: None,
            restart: None,
        }
    }

    /// Whether its process runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.state == ContainerState::Running
    }

    /// Whether it has this volume.
    #[must_use]
    pub fn uses(&self, volume: VolumeId) -> bool {
        self.spec.volumes.iter().any(|mount| mount.volume == volume)
    }
}

/// What a create comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Create {
    /// It is there already.
    Keep,
    /// There is none.
    Make,
    /// Another one is there, not running: remove it, then make this one.
    Replace,
}

/// What a start comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It runs: only its probe is to be awaited.
    Await,
    /// Start it, then await its probe.
    Start,
}

/// What a stop comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// There is no container.
    Nothing,
    /// It does not run (any more): only the proof is to be made.
    Prove {
        /// Its exit code, if it ran and the code is known.
        exit_code: Option<i64>,
    },
    /// Ask it to end, then make the proof.
    Stop,
}

/// What a remove comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remove {
    /// There is no container.
    Nothing,
    /// Remove it.
    Remove,
}

/// Why a verb on a container is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request was made under an older epoch than the container or its volumes have.
    #[error("{what} is at epoch {current} on {node}; the request was made under epoch {asked}")]
    StaleEpoch {
        /// The container or volume.
        what: String,
        /// The node.
        node: NodeName,
        /// Its epoch.
        current: Epoch,
        /// The request's.
        asked: Epoch,
    },
    /// The container was made under an older epoch than it shall be started under.
    #[error(
        "the container of {app} on {node} was made under epoch {made}; \
         create it under epoch {asked} before it is started under that"
    )]
    OtherEpoch {
        /// The app.
        app: AppName,
        /// The node.
        node: NodeName,
        /// The container's epoch.
        made: Epoch,
        /// The request's.
        asked: Epoch,
    },
    /// There is no container.
    #[error("there is no container of {app} on {node}; create it first")]
    NotFound {
        /// The app.
        app: AppName,
        /// The node.
        node: NodeName,
    },
    /// It runs, and what is asked needs it stopped.
    #[error("the container of {app} runs on {node}, {difference}; stop it first")]
    Running {
        /// The app.
        app: AppName,
        /// The node.
        node: NodeName,
        /// In what it differs from the one that was asked for, or under which epoch it runs.
        difference: String,
    },
    /// It does not run, and what is asked needs it running.
    #[error("the container of {app} on {node} does not run")]
    NotRunning {
        /// The app.
        app: AppName,
        /// The node.
        node: NodeName,
    },
    /// A volume is not the writable copy of that epoch.
    #[error(
        "volume {volume} is not the primary of epoch {epoch} on {node}: promote it there first"
    )]
    NotPrimary {
        /// The volume.
        volume: VolumeName,
        /// The node.
        node: NodeName,
        /// The request's epoch.
        epoch: Epoch,
    },
    /// A volume is not there at all.
    #[error("volume {volume} ({id}), which {app} needs, is not on {node}")]
    NoVolume {
        /// The app.
        app: AppName,
        /// The volume.
        volume: VolumeName,
        /// Its identity.
        id: VolumeId,
        /// The node.
        node: NodeName,
    },
    /// The specification makes no sense.
    #[error("the container of {app} cannot be: {reason}")]
    Invalid {
        /// The app.
        app: AppName,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

impl From<Refusal> for ErrorBody {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::StaleEpoch { .. } => ErrorCode::StaleEpoch,
            Refusal::OtherEpoch { .. } | Refusal::NotRunning { .. } => ErrorCode::Precondition,
            Refusal::NotFound { .. } | Refusal::NoVolume { .. } => ErrorCode::NotFound,
            Refusal::Running { .. } => ErrorCode::Busy,
            Refusal::NotPrimary { .. } => ErrorCode::NotPrimary,
            Refusal::Invalid { .. } => ErrorCode::InvalidRequest,
        };
        let body = Self::new(code, refusal.to_string());
        match refusal {
            Refusal::StaleEpoch { current, asked, .. } => {
                body.with_details(json!({ "asked": asked, "current": current }))
            }
            _ => body,
        }
    }
}

/// Decides the verbs of one app on one node.
#[derive(Debug, Clone, Copy)]
pub struct Decide<'a> {
    /// The node, for messages.
    pub node: &'a NodeName,
    /// The app.
    pub app: &'a AppName,
    /// Its container there, if there is one.
    pub existing: Option<&'a Container>,
    /// The epoch of the request.
    pub epoch: Epoch,
}

impl Decide<'_> {
    /// A create.
    ///
    /// # Errors
    /// A newer container is there, or another one runs.
    pub fn create(&self, wanted: &ContainerSpec) -> Result<Create, Refusal> {
        let Some(existing) = self.existing else {
            return Ok(Create::Make);
        };
        self.check_epoch(existing)?;
        if existing.spec == *wanted && existing.epoch == self.epoch {
            return Ok(Create::Keep);
        }
        if !existing.runs() {
            return Ok(Create::Replace);
        }
        let difference = if existing.spec == *wanted {
            format!("made under epoch {}", existing.epoch)
        } else {
            "made of another specification".to_owned()
        };
        Err(self.running(difference))
    }

    /// A start.
    ///
    /// # Errors
    /// There is no container, or not of this epoch.
    pub fn start(&self) -> Result<Start, Refusal> {
        let existing = self.existing.ok_or_else(|| self.not_found())?;
        self.check_epoch(existing)?;
        if existing.epoch != self.epoch {
            return Err(Refusal::OtherEpoch {
                app: self.app.clone(),
                node: self.node.clone(),
                made: existing.epoch,
                asked: self.epoch,
            });
        }
        Ok(if existing.runs() {
            Start::Await
        } else {
            Start::Start
        })
    }

    /// A pre-stop: the container to run the hook in.
    ///
    /// # Errors
    /// There is no container, or it does not run.
    pub fn pre_stop(&self) -> Result<&Container, Refusal> {
        let existing = self.existing.ok_or_else(|| self.not_found())?;
        self.check_epoch(existing)?;
        if existing.runs() {
            Ok(existing)
        } else {
            Err(Refusal::NotRunning {
                app: self.app.clone(),
                node: self.node.clone(),
            })
        }
    }

    /// A stop.
    ///
    /// # Errors
    /// The container is newer than the request.
    pub fn stop(&self) -> Result<Stop, Refusal> {
        let Some(existing) = self.existing else {
            return Ok(Stop::Nothing);
        };
        self.check_epoch(existing)?;
        Ok(match existing.state {
            ContainerState::Created => Stop::Prove { exit_code: None },
            ContainerState::Running => Stop::Stop,
            ContainerState::Exited { code } => Stop::Prove {
                exit_code: known_exit(code),
            },
        })
    }

    /// A remove.
    ///
    /// # Errors
    /// The container is newer than the request, or runs.
    pub fn remove(&self) -> Result<Remove, Refusal> {
        let Some(existing) = self.existing else {
            return Ok(Remove::Nothing);
        };
        self.check_epoch(existing)?;
        if existing.runs() {
            return Err(self.running(format!("under epoch {}", existing.epoch)));
        }
        Ok(Remove::Remove)
    }

    fn check_epoch(&self, existing: &Container) -> Result<(), Refusal> {
        if self.epoch < existing.epoch {
            return Err(Refusal::StaleEpoch {
                what: format!("the container of {}", self.app),
                node: self.node.clone(),
                current: existing.epoch,
                asked: self.epoch,
            });
        }
        Ok(())
    }

    fn not_found(&self) -> Refusal {
        Refusal::NotFound {
            app: self.app.clone(),
            node: self.node.clone(),
        }
    }

    fn running(&self, difference: String) -> Refusal {
        Refusal::Running {
            app: self.app.clone(),
            node: self.node.clone(),
            difference,
        }
    }
}

/// Program and arguments, of what the image and the specification say.
#[must_use]
pub fn command_line(image: &[String], spec: &ContainerSpec) -> Vec<String> {
    let arguments = match (&spec.command, &spec.entrypoint) {
        (Some(command), _) => command.as_slice(),
        // It replaces the image's command, too.
        (None, Some(_)) => &[],
        (None, None) => image,
    };
    let program = spec.entrypoint.iter().flatten();
    program.chain(arguments).cloned().collect()
}

/// The code, unless it is [`EXIT_UNKNOWN`].
#[must_use]
pub fn known_exit(code: i64) -> Option<i64> {
    (code != EXIT_UNKNOWN).then_some(code)
}

/// Checks what a specification says as a whole; its names were checked when it was parsed.
///
/// # Errors
/// The first thing that cannot be.
pub fn check_spec(spec: &ContainerSpec) -> Result<(), Refusal> {
    let invalid = |reason: String| Refusal::Invalid {
        app: spec.app.clone(),
        reason,
    };
    if spec.image.is_empty() {
        return Err(invalid("it names no image".to_owned()));
    }
    if signal(&spec.stop.signal).is_none() {
        let text = &spec.stop.signal;
        return Err(invalid(format!(
            "'{text}' is no signal to stop by; SIGTERM, SIGINT or SIGQUIT are usual"
        )));
    }
    if spec.ports.contains(&0) {
        return Err(invalid("port 0 is no port".to_owned()));
    }
    for (key, value) in &spec.environment {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            return Err(invalid(format!("'{key}' is no environment variable")));
        }
    }
    let commands = [&spec.command, &spec.pre_stop];
    if commands.into_iter().flatten().any(Vec::is_empty) {
        return Err(invalid("a command needs a program".to_owned()));
    }
    if spec.labels.keys().any(|key| key.starts_with("flocker.")) {
        return Err(invalid(
            "labels that begin with 'flocker.' are the agent's own".to_owned(),
        ));
    }
    if spec.entrypoint.as_ref().is_some_and(Vec::is_empty) && spec.command.is_none() {
        return Err(invalid(
            "without an entrypoint it needs a command".to_owned(),
        ));
    }
    if spec
        .health
        .as_ref()
        .is_some_and(|health| health.command.is_empty())
    {
        return Err(invalid("its health check needs a program".to_owned()));
    }
    check_mounts(spec).map_err(invalid)?;
    spec.ready
        .as_ref()
        .map_or(Ok(()), check_probe)
        .map_err(invalid)
}

fn check_mounts(spec: &ContainerSpec) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for mount in &spec.volumes {
        let path = mount.mountpoint.display();
        let normal = mount.mountpoint.is_absolute()
            && mount.mountpoint != Path::new("/")
            && !mount
                .mountpoint
                .components()
                .any(|part| part.as_os_str() == "..");
        if !normal {
            return Err(format!(
                "volume {} cannot be mounted at '{path}': an absolute path below / is needed",
                mount.name
            ));
        }
        if !seen.insert(&mount.mountpoint) {
            return Err(format!("two volumes are mounted at '{path}'"));
        }
    }
    Ok(())
}

fn check_probe(probe: &Probe) -> Result<(), String> {
    match probe {
        Probe::Tcp { port: 0, .. } | Probe::Http { port: 0, .. } => {
            Err("its probe names port 0".to_owned())
        }
        Probe::Http { path, .. }
            if !path.starts_with('/') || path.contains(char::is_whitespace) =>
        {
            Err(format!(
                "its probe's path '{path}' must begin with / and have no spaces"
            ))
        }
        Probe::Exec { command, .. } if command.is_empty() => {
            Err("its probe's command needs a program".to_owned())
        }
        Probe::Tcp { .. } | Probe::Http { .. } | Probe::Exec { .. } => Ok(()),
    }
}

/// The number of the signal of this name, with or without `SIG`: one of those by which
/// programs are asked to end (signal(7)).
#[must_use]
pub fn signal(name: &str) -> Option<i32> {
    Some(match name.strip_prefix("SIG").unwrap_or(name) {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "KILL" => 9,
        "USR1" => 10,
        "USR2" => 12,
        "TERM" => 15,
        "WINCH" => 28,
        _ => return None,
    })
}

/// What the container finds in its environment: the image's variables, those of its links above
/// them, its own above those, and Flocker's above all.
#[must_use]
pub fn environment(
    image: &BTreeMap<String, String>,
    spec: &ContainerSpec,
    node: &NodeName,
    address: IpAddr,
    volume: Option<&PathBuf>,
) -> BTreeMap<String, String> {
    let mut variables = image.clone();
    let links = spec.links.iter();
    variables.extend(links.flat_map(|link| link.variables(&spec.app)));
    variables.extend(spec.environment.clone());
    variables.insert("FLOCKER_APP".to_owned(), spec.app.to_string());
    variables.insert("FLOCKER_NODE".to_owned(), node.to_string());
    variables.insert("FLOCKER_ADDRESS".to_owned(), address.to_string());
    if let Some(volume) = volume {
        variables.insert("FLOCKER_VOLUME".to_owned(), volume.display().to_string());
    }
    variables
}

#[cfg(test)]
mod tests;
