//! Telling systemd how the service is (sd_notify(3)): ready, reloading, stopping, alive, and
//! which process is the main one. Without systemd nothing is sent.

use std::{
    env,
    ffi::OsString,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// Who is told.
#[derive(Debug, Clone, Default)]
pub struct Notify {
    socket: Option<OsString>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// What the environment names.
    #[must_use]
    pub fn from_environment() -> Self {
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let mine = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        Self {
            socket: env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()),
            watchdog: number("WATCHDOG_USEC")
                .filter(|us| mine && *us > 0)
                .map(Duration::from_micros),
        }
    }

    /// How often life is to be shown, if at all: twice as often as asked for.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.socket.as_ref()?;
        self.watchdog.map(|every| every / 2)
    }

    /// It serves.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// It reads its configuration again; [`Notify::ready`] follows.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let us = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={us}"));
    }

    /// It stops.
    pub fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// It lives.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// Another process is the main one from now on.
    pub fn main_pid(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}"));
    }

    fn send(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket.as_bytes(), state.as_bytes()) {
            tracing::warn!(%error, "cannot notify systemd");
        }
    }
}

fn send(socket: &[u8], state: &[u8]) -> io::Result<()> {
    let address = match socket {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state, &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let count = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    }

    #[test]
    fn states_reach_a_socket_by_path_and_by_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let notify = Notify {
            socket: Some(path.into_os_string()),
            watchdog: Some(Duration::from_secs(4)),
        };
        notify.ready("serving");
        assert_eq!(told(&by_path), "READY=1\nSTATUS=serving");
        notify.main_pid(7);
        assert_eq!(told(&by_path), "MAINPID=7");
        notify.reloading();
        assert!(told(&by_path).starts_with("RELOADING=1\nMONOTONIC_USEC="));
        notify.stopping("bye");
        assert!(told(&by_path).starts_with("STOPPING=1"));
        assert_eq!(notify.watchdog(), Some(Duration::from_secs(2)));

        let name = format!("flocker-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        let notify = Notify {
            socket: Some(format!("@{name}").into()),
            watchdog: None,
        };
        notify.alive();
        assert_eq!(told(&by_name), "WATCHDOG=1");
        assert_eq!(notify.watchdog(), None);
    }

    #[test]
    fn without_systemd_nothing_is_sent() {
        Notify::default().ready("serving");
        assert_eq!(Notify::default().watchdog(), None);
    }
}
