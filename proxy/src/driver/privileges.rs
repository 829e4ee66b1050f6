//! The user that the edge runs as, and how many descriptors it may have.
//!
//! Started as root with a `user` it becomes that user before it starts any thread, and keeps one
//! capability: to bind ports below 1024, because `tcp` routes come at any time
//! (capabilities(7), CAP_NET_BIND_SERVICE; ambient, so that an upgrade has it, too). What it
//! gives up: files that only root may read (so keys must be readable by the user), and pipes
//! beyond the limit of a user (pipe(7), pipe-user-pages-soft).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::{
    process::{Resource, Rlimit, geteuid, getrlimit, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, Gid, Uid, capabilities, configure_capability_in_ambient_set,
        set_capabilities, set_keep_capabilities, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};

/// Why the edge cannot become its user.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// There is no such user or group.
    #[error(
        "there is no {kind} '{name}' in {file}: make it, or change {kind} in the configuration"
    )]
    Unknown {
        /// "user" or "group".
        kind: &'static str,
        /// What was looked for.
        name: String,
        /// Where.
        file: &'static str,
    },
    /// A file of the system cannot be read, or a folder not be made.
    #[error("cannot prepare {path}")]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is another user already, and only root can change that.
    #[error("cannot become user '{0}': start it as root or as that user")]
    NotRoot(String),
    /// The kernel refuses.
    #[error("cannot become user '{user}'")]
    Kernel {
        /// The user.
        user: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Numbers of a user and its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    user: u32,
    group: u32,
}

/// Becomes a user; `folders` are made for it. Only before any thread is started: the kernel
/// changes the calling thread alone, and threads inherit.
///
/// # Errors
/// See [`PrivilegeError`]; the process must not go on then.
pub fn become_user(
    user: &str,
    group: Option<&str>,
    folders: &[&Path],
) -> Result<(), PrivilegeError> {
    let identity = look_up(user, group)?;
    if geteuid().as_raw() == identity.user {
        return Ok(());
    }
    if !geteuid().is_root() {
        return Err(PrivilegeError::NotRoot(user.to_owned()));
    }
    for folder in folders {
        give_folder(folder, identity).map_err(|source| PrivilegeError::File {
            path: folder.to_path_buf(),
            source,
        })?;
    }
    change(identity).map_err(|source| PrivilegeError::Kernel {
        user: user.to_owned(),
        source: source.into(),
    })
}

/// Makes a folder if there is none; one that is there keeps its owner.
fn give_folder(folder: &Path, identity: Identity) -> io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    std::os::unix::fs::chown(folder, Some(identity.user), Some(identity.group))
}

fn change(identity: Identity) -> rustix::io::Result<()> {
    let (user, group) = (Uid::from_raw(identity.user), Gid::from_raw(identity.group));
    set_thread_groups(&[group])?;
    set_thread_res_gid(group, group, group)?;
    set_keep_capabilities(true)?;
    set_thread_res_uid(user, user, user)?;
    set_keep_capabilities(false)?;
    // A container may not have it to give.
    let bind = CapabilitySet::NET_BIND_SERVICE & capabilities(None)?.permitted;
    set_capabilities(
        None,
        CapabilitySets {
            effective: bind,
            permitted: bind,
            inheritable: bind,
        },
    )?;
    if bind.is_empty() {
        tracing::warn!("without CAP_NET_BIND_SERVICE no route can listen at a port below 1024");
        return Ok(());
    }
    configure_capability_in_ambient_set(CapabilitySet::NET_BIND_SERVICE, true)
}

fn look_up(user: &str, group: Option<&str>) -> Result<Identity, PrivilegeError> {
    const PASSWD: &str = "/etc/passwd";
    const GROUP: &str = "/etc/group";
    let read = |path: &str| {
        fs::read_to_string(path).map_err(|source| PrivilegeError::File {
            path: path.into(),
            source,
        })
    };
    let (user_number, own_group) =
        find_user(&read(PASSWD)?, user).ok_or_else(|| PrivilegeError::Unknown {
            kind: "user",
            name: user.to_owned(),
            file: PASSWD,
        })?;
    let group = match group {
        None => own_group,
        Some(name) => find_group(&read(GROUP)?, name).ok_or_else(|| PrivilegeError::Unknown {
            kind: "group",
            name: name.to_owned(),
            file: GROUP,
        })?,
    };
    Ok(Identity {
        user: user_number,
        group,
    })
}

/// Numbers of a user and its group in the text of passwd(5).
fn find_user(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let user = fields.nth(1)?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        found.then_some((user, group))
    })
}

/// Number of a group in the text of group(5).
fn find_group(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let group = fields.nth(1)?.parse().ok()?;
        found.then_some(group)
    })
}

/// Raises the limit of open descriptors to what is needed, as far as the kernel lets us; says
/// how many there are.
#[must_use]
pub fn raise_descriptors(needed: u64) -> u64 {
    let now = getrlimit(Resource::Nofile);
    let current = now.current.unwrap_or(u64::MAX);
    if current >= needed {
        return current;
    }
    let maximum = now.maximum.unwrap_or(u64::MAX);
    let wish = |maximum: u64| Rlimit {
        current: Some(needed.min(maximum)),
        maximum: Some(maximum),
    };
    // Only root may raise the hard limit, and only up to fs.nr_open.
    let raised = (maximum < needed && setrlimit(Resource::Nofile, wish(needed)).is_ok())
        || setrlimit(Resource::Nofile, wish(maximum)).is_ok();
    match raised {
        true => getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        false => current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_their_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nflock:x:7:8::/:/bin/false\n\
                      flocker:x:998:997::/:/usr/sbin/nologin\nbroken\n";
        assert_eq!(find_user(passwd, "flocker"), Some((998, 997)));
        assert_eq!(find_user(passwd, "flo"), None);
        assert_eq!(find_user(passwd, ""), None);
        assert_eq!(
            find_group("root:x:0:\nssl-cert:x:110:a,b\n", "ssl-cert"),
            Some(110)
        );
        assert_eq!(find_group("root:x:0:\n", "ssl"), None);
    }

    #[test]
    fn an_unknown_user_is_named_with_the_place_where_it_is_missing() {
        let error = become_user("nobody-of-this-name", None, &[]).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("nobody-of-this-name") && message.contains("/etc/passwd"));
    }
}
