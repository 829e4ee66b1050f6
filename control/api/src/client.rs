//! A small typed HTTP/1.1 client for the admin APIs: JSON over TCP or a unix socket.
//!
//! Each call opens a connection of its own and has a deadline. Admin calls are rare; what
//! is bought with the extra connect is that no call ever meets a connection that its
//! server is just closing.

use std::{fmt, net::SocketAddr, path::PathBuf, pin::Pin, str::FromStr, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::{
    ErrorBody, ErrorCode,
    tls::{Credentials, Expected},
};

/// Longest answer that is read, in bytes: a route table of a million lines fits.
pub(crate) const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Where an admin API listens: `10.0.0.1:7400` or `unix:/run/flocker/edge.sock`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// The text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an endpoint: write IP:PORT or unix:/PATH")]
pub struct InvalidEndpoint(String);

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err(InvalidEndpoint(text.to_owned())),
            None => text
                .parse()
                .map(Self::Tcp)
                .map_err(|_| InvalidEndpoint(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = InvalidEndpoint;

    fn try_from(text: String) -> Result<Self, InvalidEndpoint> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connection in both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// A client of one endpoint.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
    /// What is behind it, for error messages: "agent of n1", "edge n1-a", "control".
    peer: String,
    /// By which a TCP endpoint is spoken to, and who must be there.
    tls: Option<(Credentials, Expected)>,
}

impl Client {
    /// A client of `endpoint`; `peer` names it in error messages.
    #[must_use]
    pub fn new(endpoint: Endpoint, peer: impl Into<String>) -> Self {
        Self {
            endpoint,
            peer: peer.into(),
            tls: None,
        }
    }

    /// The same, speaking mutual TLS where the endpoint is TCP. A unix socket needs none: the
    /// kernel knows who opens it.
    #[must_use]
    pub fn with_tls(self, credentials: Credentials, expected: Expected) -> Self {
        Self {
            tls: Some((credentials, expected)),
            ..self
        }
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// `GET path`.
    ///
    /// # Errors
    /// The server's error; `unavailable` or `timeout` naming the peer when it gives none.
    pub async fn get<A: DeserializeOwned>(
        &self,
        path: &str,
        deadline: Duration,
    ) -> Result<A, ErrorBody> {
        self.call(Method::GET, path, Bytes::new(), deadline).await
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, ErrorBody> {
        self.call(Method::POST, path, json(request)?, deadline)
            .await
    }

    /// `PUT path` with a JSON body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn put<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, ErrorBody> {
        self.call(Method::PUT, path, json(request)?, deadline).await
    }

    /// `DELETE path` with a JSON body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, ErrorBody> {
        self.call(Method::DELETE, path, json(request)?, deadline)
            .await
    }

    async fn call<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<A, ErrorBody> {
        let exchange = self.exchange(method, path, body);
        let (status, answer) = tokio::time::timeout(deadline, exchange)
            .await
            .map_err(|_| self.late(path, deadline))??;
        if (200..300).contains(&status) {
            return serde_json::from_slice(&answer).map_err(|error| self.nonsense(path, &error));
        }
        Err(serde_json::from_slice(&answer).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&answer);
            let message = format!(
                "{} ({}) answered {path} with {status}: {}",
                self.peer,
                self.endpoint,
                text.trim()
            );
            ErrorBody::new(ErrorCode::Internal, message)
        }))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(u16, Bytes), ErrorBody> {
        let stream = self.open().await?;
        self.exchange_on(stream, method, path, body).await
    }

    /// A connection, by TLS where that is how it is spoken to.
    pub(crate) async fn open(&self) -> Result<Pin<Box<dyn Duplex>>, ErrorBody> {
        match &self.endpoint {
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address)
                    .await
                    .map_err(|error| self.unreachable(&error))?;
                stream
                    .set_nodelay(true)
                    .map_err(|error| self.unreachable(&error))?;
                let Some((credentials, expected)) = &self.tls else {
                    return Ok(Box::pin(stream));
                };
                let stream = credentials.connect(stream, expected).await;
                let stream = stream.map_err(|error| self.unreachable(&error))?;
                Ok(Box::pin(stream))
            }
            Endpoint::Unix(socket) => {
                let stream = UnixStream::connect(socket)
                    .await
                    .map_err(|error| self.unreachable(&error))?;
                Ok(Box::pin(stream))
            }
        }
    }

    async fn exchange_on<S>(
        &self,
        stream: S,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(u16, Bytes), ErrorBody>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |error: hyper::Error| self.unreachable(&error);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // Its errors reach us through the sender as well; it ends with the exchange.
        let driver = AbortOnDrop(tokio::spawn(async move { drop(connection.await) }));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "flocker")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| {
                ErrorBody::new(
                    ErrorCode::InvalidRequest,
                    format!("'{path}' is no path: {error}"),
                )
            })?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        drop(driver);
        match answer {
            Ok(answer) => Ok((status, answer.to_bytes())),
            Err(error) => Err(self.unreachable(error.as_ref())),
        }
    }

    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    pub(crate) fn late(&self, path: &str, deadline: Duration) -> ErrorBody {
        let message = format!(
            "{} ({}) did not answer {path} within {deadline:?}",
            self.peer, self.endpoint
        );
        ErrorBody::new(ErrorCode::Timeout, message)
    }

    pub(crate) fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> ErrorBody {
        let message = format!(
            "{} ({}) does not answer: {}",
            self.peer,
            self.endpoint,
            crate::error::chain(error)
        );
        ErrorBody::new(ErrorCode::Unavailable, message)
    }

    pub(crate) fn nonsense(&self, path: &str, error: &serde_json::Error) -> ErrorBody {
        let message = format!(
            "{} ({}) answered {path} with what this version cannot read: {error}",
            self.peer, self.endpoint
        );
        ErrorBody::new(ErrorCode::Internal, message)
    }
}

fn json<Q: Serialize>(request: &Q) -> Result<Bytes, ErrorBody> {
    serde_json::to_vec(request)
        .map(Bytes::from)
        .map_err(|error| {
            ErrorBody::new(
                ErrorCode::InvalidRequest,
                format!("the request is no JSON: {error}"),
            )
        })
}

/// A task that ends with this.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(pub(crate) tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn serve_once(answer: &'static str) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _read = stream.read(&mut head).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        Client::new(Endpoint::Tcp(address), "edge e1")
    }

    #[test]
    fn endpoints_round_trip() {
        for text in ["10.0.0.1:80", "[::1]:80", "unix:/run/x.sock"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["", "unix:", "unix:run", "example.com:80", "10.0.0.1"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_parsed() {
        let client = serve_once("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n7").await;
        assert_eq!(
            client
                .get::<u32>("/", Duration::from_secs(5))
                .await
                .unwrap(),
            7
        );
    }

    #[tokio::test]
    async fn an_error_body_is_the_error() {
        let client =
            serve_once("HTTP/1.1 409 Conflict\r\ncontent-length: 33\r\n\r\n{\"code\":\"busy\",\"message\":\"later\"}").await;
        let error = client
            .get::<u32>("/", Duration::from_secs(5))
            .await
            .unwrap_err();
        assert_eq!(error, ErrorBody::new(ErrorCode::Busy, "later"));
    }

    #[tokio::test]
    async fn a_dead_peer_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let client = Client::new(Endpoint::Tcp(address), "agent of n1");
        let error = client
            .get::<u32>("/", Duration::from_secs(5))
            .await
            .unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable);
        assert!(
            error.message.starts_with("agent of n1 (127.0.0.1:"),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_a_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(Endpoint::Tcp(listener.local_addr().unwrap()), "control");
        let error = client
            .get::<u32>("/v2/status", Duration::from_secs(1))
            .await
            .unwrap_err();
        assert_eq!(error.code, ErrorCode::Timeout);
    }
}
