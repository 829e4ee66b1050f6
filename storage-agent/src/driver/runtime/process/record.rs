//! What the process runtime keeps on disk of a container, so that a later agent finds it.
//!
//! One folder for each app: `container.json`, written whole and renamed into place, and the
//! app's output in `log`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use flocker_api::{
    container::{ContainerSpec, ContainerState},
    volume::Epoch,
};
use serde::{Deserialize, Serialize};

use crate::logic::container::EXIT_UNKNOWN;

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// What it was made of.
    pub(super) spec: ContainerSpec,
    /// The epoch under which it was made.
    pub(super) epoch: Epoch,
    /// Program and arguments.
    pub(super) command: Vec<String>,
    /// All of its environment.
    pub(super) environment: BTreeMap<String, String>,
    /// Who it runs as, when the agent is root.
    pub(super) user: Option<User>,
    /// Where its volumes are mounted.
    pub(super) volume_paths: Vec<PathBuf>,
    /// Its life.
    pub(super) life: Life,
}

/// A user of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct User {
    /// User id.
    pub(super) uid: u32,
    /// Group id.
    pub(super) gid: u32,
}

/// Its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum Life {
    /// Never started.
    Created,
    /// Its process runs, or ran when this was written.
    Running {
        /// The process.
        pid: i32,
        /// Its start, in clock ticks since boot.
        start_ticks: u64,
        /// The boot in which it was started.
        boot_id: String,
    },
    /// Its process ended.
    Exited {
        /// The process.
        pid: i32,
        /// Its exit code, if anyone of us saw it.
        code: Option<i64>,
    },
}

impl Life {
    /// As the API has it.
    pub(super) fn state(&self) -> ContainerState {
        match self {
            Self::Created => ContainerState::Created,
            Self::Running { .. } => ContainerState::Running,
            Self::Exited { code, .. } => ContainerState::Exited {
                code: code.unwrap_or(EXIT_UNKNOWN),
            },
        }
    }

    /// The process, running or not.
    pub(super) fn pid(&self) -> Option<i32> {
        match self {
            Self::Created => None,
            Self::Running { pid, .. } | Self::Exited { pid, .. } => Some(*pid),
        }
    }
}

impl Record {
    /// Reads the record of a folder.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let text = fs::read(folder.join("container.json"))?;
        serde_json::from_slice(&text).map_err(io::Error::from)
    }

    /// Writes the record of a folder: all of it or, on a crash, none.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let next = folder.join("container.json.next");
        fs::write(&next, serde_json::to_vec_pretty(self)?)?;
        fs::rename(next, folder.join("container.json"))
    }
}

/// An image of the process runtime: a file `NAME.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Image {
    /// Program and arguments.
    pub(super) command: Vec<String>,
    /// Who it runs as, when the agent is root: a name in `/etc/passwd`.
    #[serde(default)]
    pub(super) user: Option<String>,
    /// Environment variables.
    #[serde(default)]
    pub(super) environment: BTreeMap<String, String>,
}

/// Finds a user by name in the text of `/etc/passwd` (passwd(5)).
pub(super) fn find_user(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        if fields.first() != Some(&name) {
            return None;
        }
        Some(User {
            uid: fields.get(2)?.parse().ok()?,
            gid: fields.get(3)?.parse().ok()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres:x:106:113::/:/bin/sh\nbad:x\n";
        assert_eq!(
            find_user(passwd, "postgres"),
            Some(User { uid: 106, gid: 113 })
        );
        assert_eq!(find_user(passwd, "post"), None);
        assert_eq!(find_user(passwd, "bad"), None);
    }

    #[test]
    fn an_image_file_with_an_unknown_key_is_refused() {
        let image: Image = toml::from_str("command = [\"a\"]").unwrap();
        assert_eq!(image.command, ["a"]);
        assert!(toml::from_str::<Image>("command = []\ncolour = 1").is_err());
    }
}
