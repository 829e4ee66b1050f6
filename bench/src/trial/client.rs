//! Clients of a trial: one exchange over each protocol that an edge serves.

use std::{cell::RefCell, net::SocketAddr, sync::Arc};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request,
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// How an exchange is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1 on kept connections.
    Http1,
    /// HTTP/1.1, a connection for each request.
    Http1New,
    /// HTTP/2 without TLS, streams of one connection.
    Http2,
    /// HTTP/1.1 in TLS on kept connections.
    Tls,
    /// HTTP/2 in TLS, streams of one connection.
    TlsHttp2,
    /// A connection, a few bytes there and back.
    Tcp,
}

/// Where to, and as what.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) host: String,
    /// Whom to trust, for TLS.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

type Body = Empty<Bytes>;

/// A client of one target.
pub(super) struct Client {
    protocol: Protocol,
    target: Target,
    idle: RefCell<Vec<http1::SendRequest<Body>>>,
    shared: tokio::sync::Mutex<Option<http2::SendRequest<Body>>>,
}

/// What the echo is asked to say.
const WORD: &[u8; 32] = b"the quick brown fox jumps over..";

impl Client {
    pub(super) fn new(protocol: Protocol, target: Target) -> Self {
        Self {
            protocol,
            target,
            idle: RefCell::default(),
            shared: tokio::sync::Mutex::default(),
        }
    }

    /// One exchange; an error is its reason in a few words.
    pub(super) async fn exchange(&self) -> Result<(), String> {
        match self.protocol {
            Protocol::Tcp => self.echo().await,
            Protocol::Http2 | Protocol::TlsHttp2 => self.stream().await,
            Protocol::Http1 | Protocol::Http1New | Protocol::Tls => self.request().await,
        }
    }

    async fn echo(&self) -> Result<(), String> {
        let mut stream = self.connect().await?;
        stream.write_all(WORD).await.map_err(said("write"))?;
        let mut answer = [0; WORD.len()];
        stream.read_exact(&mut answer).await.map_err(said("read"))?;
        match answer == *WORD {
            true => Ok(()),
            false => Err("another echo".to_owned()),
        }
    }

    async fn request(&self) -> Result<(), String> {
        let kept = self.usable();
        let mut sender = match kept {
            Some(sender) => sender,
            None => match self.protocol {
                Protocol::Tls => self.handshake(self.secure(b"http/1.1").await?).await?,
                _ => self.handshake(self.connect().await?).await?,
            },
        };
        let answer = sender
            .send_request(self.get()?)
            .await
            .map_err(said("request"))?;
        read(answer).await?;
        if self.protocol != Protocol::Http1New && sender.ready().await.is_ok() {
            self.idle.borrow_mut().push(sender);
        }
        Ok(())
    }

    async fn stream(&self) -> Result<(), String> {
        let mut sender = {
            let mut shared = self.shared.lock().await;
            match shared.as_ref().filter(|sender| !sender.is_closed()) {
                Some(sender) => sender.clone(),
                None => {
                    let fresh = match self.protocol {
                        Protocol::TlsHttp2 => self.multiplex(self.secure(b"h2").await?).await?,
                        _ => self.multiplex(self.connect().await?).await?,
                    };
                    shared.insert(fresh).clone()
                }
            }
        };
        sender.ready().await.map_err(said("connection"))?;
        let answer = sender
            .send_request(self.get()?)
            .await
            .map_err(said("request"))?;
        read(answer).await
    }

    fn usable(&self) -> Option<http1::SendRequest<Body>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(sender) = idle.pop() {
            // What the server has closed is no failure: nothing was sent on it.
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn get(&self) -> Result<Request<Body>, String> {
        let authority = &self.target.host;
        let uri = match self.protocol {
            Protocol::Http2 => format!("http://{authority}/"),
            Protocol::TlsHttp2 => format!("https://{authority}/"),
            _ => "/".to_owned(),
        };
        Request::get(uri)
            .header("host", authority)
            .body(Empty::new())
            .map_err(said("request"))
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        let stream = TcpStream::connect(self.target.address)
            .await
            .map_err(said("connect"))?;
        stream.set_nodelay(true).map_err(said("connect"))?;
        Ok(stream)
    }

    async fn secure(
        &self,
        protocol: &[u8],
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
        let config = self.target.tls.as_deref().ok_or("no trust for TLS")?;
        let mut config = config.clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from(self.target.host.clone()).map_err(said("name"))?;
        TlsConnector::from(Arc::new(config))
            .connect(name, self.connect().await?)
            .await
            .map_err(said("tls"))
    }

    async fn handshake<S>(&self, stream: S) -> Result<http1::SendRequest<Body>, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(said("handshake"))?;
        // Its errors reach us through the sender.
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok(sender)
    }

    async fn multiplex<S>(&self, stream: S) -> Result<http2::SendRequest<Body>, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(said("handshake"))?;
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok(sender)
    }
}

async fn read(answer: hyper::Response<Incoming>) -> Result<(), String> {
    let status = answer.status().as_u16();
    answer.into_body().collect().await.map_err(said("body"))?;
    match status {
        200 => Ok(()),
        other => Err(format!("status {other}")),
    }
}

/// An error as the stage at which it came and its innermost cause.
fn said<E: std::error::Error>(stage: &'static str) -> impl Fn(E) -> String {
    move |error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        format!("{stage}: {cause}")
    }
}
