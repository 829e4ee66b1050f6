//! A TCP listener whose connections are plain or TLS, by configuration.
//!
//! Handshakes go on beside one another, each under a deadline and only so many at once, so that
//! a client that says nothing keeps nobody else out.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsStream;

use super::{
    credentials::Credentials,
    identity::{Identity, Role},
    wide::Wide,
};

/// Longest handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Handshakes at once; more wait in the listener's queue.
const HANDSHAKES_MAX: usize = 128;
/// Pause after an accept that failed, for want of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What waits in memory to be written to a connection that streams: the more, the fewer calls.
const STREAM_BYTES: usize = 512 << 10;

/// A connection, plain or TLS.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Secure(Box<TlsStream<Wide>>),
}

impl From<TlsStream<Wide>> for Stream {
    fn from(stream: TlsStream<Wide>) -> Self {
        Self::Secure(Box::new(stream))
    }
}

impl Stream {
    /// Makes room for a stream of data that goes out by this connection.
    pub fn widen(&mut self) {
        if let Self::Secure(stream) = self {
            match &mut **stream {
                TlsStream::Client(stream) => {
                    stream.get_mut().1.set_buffer_limit(Some(STREAM_BYTES));
                }
                TlsStream::Server(stream) => {
                    stream.get_mut().1.set_buffer_limit(Some(STREAM_BYTES));
                }
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Secure(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Secure(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Secure(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Secure(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secure(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Secure(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A connection that was taken.
type Taken = (Stream, SocketAddr, Option<Identity>);

/// Takes connections.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    secure: Option<(Credentials, &'static [Role])>,
    handshakes: JoinSet<Option<Taken>>,
}

impl Listener {
    /// With credentials only TLS connections from somebody of these roles are taken, without
    /// them plain ones from anybody.
    #[must_use]
    pub fn new(tcp: TcpListener, credentials: Option<Credentials>, roles: &'static [Role]) -> Self {
        Self {
            tcp,
            secure: credentials.map(|credentials| (credentials, roles)),
            handshakes: JoinSet::new(),
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The next connection; with TLS, who it is. Can be dropped and called again.
    pub async fn accept(&mut self) -> Taken {
        loop {
            let room = self.handshakes.len() < HANDSHAKES_MAX;
            let accepted = tokio::select! {
                Some(ended) = self.handshakes.join_next() => match ended {
                    Ok(Some(taken)) => return taken,
                    _ => continue,
                },
                accepted = self.tcp.accept(), if room => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(peer = %address, %error, "the connection has gone already");
                continue;
            }
            match &self.secure {
                None => return (Stream::Plain(stream), address, None),
                Some((credentials, roles)) => {
                    let handshake = handshake(credentials.clone(), stream, address, roles);
                    self.handshakes.spawn(handshake);
                }
            }
        }
    }
}

async fn handshake(
    credentials: Credentials,
    stream: TcpStream,
    address: SocketAddr,
    roles: &'static [Role],
) -> Option<Taken> {
    let error = match timeout(HANDSHAKE_MAX, credentials.accept(stream, roles)).await {
        Ok(Ok((stream, identity))) => return Some((stream.into(), address, Some(identity))),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it took longer than {HANDSHAKE_MAX:?}"),
    };
    tracing::warn!(peer = %address, error, "a TLS handshake failed");
    None
}

#[cfg(feature = "serve")]
impl axum::serve::Listener for Listener {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        let (stream, address, _) = Self::accept(self).await;
        (stream, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}
