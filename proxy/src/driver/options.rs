//! Options of TCP sockets on both sides: how a peer that is gone without a word is found out.

use std::{io, os::fd::AsFd, time::Duration};

use socket2::{SockRef, TcpKeepalive};

/// Probes without an answer after which a connection is lost.
const PROBES: u32 = 4;

/// See the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// A silent connection is probed after this long (tcp(7), `TCP_KEEPIDLE`), and then at a
    /// quarter of it.
    pub keep_alive: Option<Duration>,
    /// A connection is lost when what was sent is not acknowledged for this long (tcp(7),
    /// `TCP_USER_TIMEOUT`).
    pub user_timeout: Option<Duration>,
}

impl TcpOptions {
    /// Sets them; what is accepted from a listener inherits them.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn set(&self, socket: &impl AsFd) -> io::Result<()> {
        let socket = SockRef::from(socket);
        if let Some(idle) = self.keep_alive {
            let between = (idle / PROBES).max(Duration::from_secs(1));
            let keep_alive = TcpKeepalive::new()
                .with_time(idle)
                .with_interval(between)
                .with_retries(PROBES);
            socket.set_tcp_keepalive(&keep_alive)?;
        }
        if self.user_timeout.is_some() {
            socket.set_tcp_user_timeout(self.user_timeout)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_inherits_the_options_of_its_listener() {
        let options = TcpOptions {
            keep_alive: Some(Duration::from_secs(60)),
            user_timeout: Some(Duration::from_secs(90)),
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        options.set(&listener).unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.keepalive().unwrap());
        assert_eq!(
            accepted.tcp_keepalive_time().unwrap(),
            Duration::from_secs(60)
        );
        assert_eq!(
            accepted.tcp_keepalive_interval().unwrap(),
            Duration::from_secs(15)
        );
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), PROBES);
        assert_eq!(accepted.tcp_user_timeout().unwrap(), options.user_timeout);
        assert!(!SockRef::from(&client).keepalive().unwrap());
    }
}
