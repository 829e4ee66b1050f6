//! Connections that have carried a stream and wait for the next one.
//!
//! A handshake costs both sides more than a small increment does. So rounds of many volumes to
//! one peer share a few connections; each knows who the peer is, and is given up after a while,
//! so that renewed certificates come into use. A move makes a connection of its own beside its
//! snapshot: it shall not find out first that the one which was kept is dead.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use flocker_api::name::NodeName;
use tokio::time::Instant;

use super::transport::Connection;

/// Connections that are kept for one peer.
const PER_PEER_MAX: usize = 4;
/// No connection is used for longer than this.
const AGE_MAX: Duration = Duration::from_secs(60);

/// Who may use a connection that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connections {
    /// One that is kept will do.
    Kept,
    /// Only a new one.
    New,
}

/// What is kept; clones are the same.
#[derive(Clone, Default)]
pub struct Idle {
    kept: Arc<Mutex<HashMap<SocketAddr, Vec<Kept>>>>,
}

struct Kept {
    connection: Connection,
    since: Instant,
}

impl Kept {
    fn is_good(&self, idle_max: Duration) -> bool {
        self.since.elapsed() < idle_max && self.connection.made.elapsed() < AGE_MAX
    }
}

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idle").finish_non_exhaustive()
    }
}

impl Idle {
    fn locked(&self) -> MutexGuard<'_, HashMap<SocketAddr, Vec<Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to this node, if one is kept that has not been idle for longer than this.
    pub(super) fn take(
        &self,
        node: &NodeName,
        to: SocketAddr,
        idle_max: Duration,
    ) -> Option<Connection> {
        let mut all = self.locked();
        let kept = all.get_mut(&to)?;
        kept.retain(|kept| kept.is_good(idle_max));
        let mut connection = kept.pop()?.connection;
        let identity = connection.identity.as_ref();
        if identity.is_some_and(|identity| identity.name != node.as_str()) {
            return None;
        }
        connection.reader.begin_anew();
        Some(connection)
    }

    /// Keeps a connection on which nothing is under way.
    pub(super) fn keep(&self, to: SocketAddr, connection: Connection, idle_max: Duration) {
        let mut all = self.locked();
        all.retain(|_, kept| {
            kept.retain(|kept| kept.is_good(idle_max));
            !kept.is_empty()
        });
        let kept = all.entry(to).or_default();
        if kept.len() < PER_PEER_MAX {
            kept.push(Kept {
                connection,
                since: Instant::now(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use flocker_api::tls::{Identity, Role, Stream};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::driver::transport::{TransferLimits, over};

    const LONG: Duration = Duration::from_secs(30);

    async fn connection(to: SocketAddr, name: Option<&str>) -> Connection {
        let stream = Stream::Plain(TcpStream::connect(to).await.unwrap());
        let identity = name.map(|name| Identity::new(Role::Node, name));
        let (limits, stop) = (TransferLimits::default(), CancellationToken::new());
        over(stream, identity, to, &limits, stop)
    }

    #[tokio::test]
    async fn a_kept_connection_is_used_once_by_whom_it_was_made_for_and_not_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let [b, c]: [NodeName; 2] = ["b", "c"].map(|name| name.parse().unwrap());
        let idle = Idle::default();
        assert!(idle.take(&b, to, LONG).is_none());
        idle.keep(to, connection(to, Some("b")).await, LONG);
        assert!(idle.take(&b, to, LONG).is_some());
        assert!(idle.take(&b, to, LONG).is_none(), "used twice");
        idle.keep(to, connection(to, Some("b")).await, LONG);
        assert!(idle.take(&c, to, LONG).is_none(), "it is another's");
        idle.keep(to, connection(to, None).await, LONG);
        assert!(idle.take(&b, to, Duration::ZERO).is_none(), "too old");
        for _ in 0..2 * PER_PEER_MAX {
            idle.keep(to, connection(to, None).await, LONG);
        }
        let kept = std::iter::from_fn(|| idle.take(&b, to, LONG)).count();
        assert_eq!(kept, PER_PEER_MAX);
    }
}
