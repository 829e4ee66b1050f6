//! The admin API: JSON over HTTP on a unix socket that only its owner may use, and, where the
//! configuration says so, over TCP in clear for a trusted network.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path as UrlPath, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use flocker_api::{
    ErrorBody, ErrorCode,
    edge::TransactionReply,
    gate::{PauseRequest, QuiesceRequest, ResumeRequest, SwitchRequest},
    route::{RouteKey, Transaction},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::edge::Edge;
use crate::metrics;

/// Longest request, in bytes: a transaction of a million routes fits.
const REQUEST_BYTES_MAX: usize = 512 << 20;

/// Why the admin API cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The unix socket cannot be made.
    #[error("cannot listen on admin socket {path}")]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody answers on the unix socket.
    #[error("another edge answers on admin socket {path}: stop it or choose another path")]
    Taken {
        /// Its path.
        path: PathBuf,
    },
    /// The TCP address cannot be bound.
    #[error("cannot listen on admin address {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The bound sockets of the admin API.
#[derive(Debug)]
pub struct Admin {
    unix: UnixListener,
    path: PathBuf,
    tcp: Option<TcpListener>,
}

impl Admin {
    /// Binds what the configuration names.
    ///
    /// # Errors
    /// Names the path or address.
    pub async fn bind(path: &Path, tcp: Option<SocketAddr>) -> Result<Self, AdminError> {
        if UnixStream::connect(path).await.is_ok() {
            return Err(AdminError::Taken { path: path.into() });
        }
        let unix = bind_unix(path).map_err(|source| AdminError::Socket {
            path: path.into(),
            source,
        })?;
        let tcp = match tcp {
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .map_err(|source| AdminError::Tcp { address, source })?,
            ),
            None => None,
        };
        Ok(Self {
            unix,
            path: path.into(),
            tcp,
        })
    }

    /// The TCP address that was bound.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.local_addr().ok()
    }

    /// Serves until dropped.
    pub async fn serve(self, edge: Arc<Edge>) {
        let _remove = RemoveOnDrop(self.path);
        let router = router(edge);
        let unix = axum::serve(self.unix, router.clone());
        match self.tcp {
            // Neither ends by itself.
            Some(tcp) => {
                let (_, _) = tokio::join!(unix, axum::serve(tcp, router));
            }
            None => drop(unix.await),
        }
    }
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(std::fs::remove_file(&self.0));
    }
}

/// Makes the socket under another name first: nobody can connect before its mode is set.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

/// The routes of the API.
pub fn router(edge: Arc<Edge>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/routes", get(routes).post(transact))
        .route("/v1/routes/{*key}", get(route))
        .route("/v1/gates/pause", post(pause))
        .route("/v1/gates/quiesce", post(quiesce))
        .route("/v1/gates/switch", post(switch))
        .route("/v1/gates/resume", post(resume))
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .fallback(|| async {
            Failure(ErrorBody::new(
                ErrorCode::NotFound,
                "no such path: see the table in flocker_api::edge",
            ))
        })
        .layer(axum::extract::DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(edge)
}

struct Failure(ErrorBody);

impl<E: Into<ErrorBody>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, axum::Json(self.0)).into_response()
    }
}

type Answer<T> = Result<axum::Json<T>, Failure>;

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure(ErrorBody::new(
            ErrorCode::InvalidRequest,
            format!("the request is not what it should be: {error}"),
        ))
    })
}

fn answer<T: Serialize>(value: T) -> Answer<T> {
    Ok(axum::Json(value))
}

async fn status(State(edge): State<Arc<Edge>>) -> Response {
    axum::Json(edge.status()).into_response()
}

async fn routes(State(edge): State<Arc<Edge>>) -> Response {
    axum::Json(edge.routes()).into_response()
}

async fn route(
    State(edge): State<Arc<Edge>>,
    UrlPath(key): UrlPath<String>,
) -> Answer<flocker_api::edge::RouteStatus> {
    let key: RouteKey = key
        .parse()
        .map_err(|error: flocker_api::route::InvalidRouteKey| {
            ErrorBody::from_error(ErrorCode::InvalidRequest, &error)
        })?;
    answer(edge.route(&key)?)
}

async fn transact(State(edge): State<Arc<Edge>>, body: Bytes) -> Answer<TransactionReply> {
    let transaction: Transaction = parse(&body)?;
    let generation = edge.transact(&transaction)?;
    answer(TransactionReply { generation })
}

async fn pause(
    State(edge): State<Arc<Edge>>,
    body: Bytes,
) -> Answer<flocker_api::gate::PauseReply> {
    let request: PauseRequest = parse(&body)?;
    answer(edge.pause(&request)?)
}

async fn quiesce(
    State(edge): State<Arc<Edge>>,
    body: Bytes,
) -> Answer<flocker_api::gate::QuiesceReply> {
    let request: QuiesceRequest = parse(&body)?;
    answer(edge.quiesce(&request).await?)
}

async fn switch(
    State(edge): State<Arc<Edge>>,
    body: Bytes,
) -> Answer<flocker_api::gate::ResumeReply> {
    let request: SwitchRequest = parse(&body)?;
    answer(edge.switch(&request)?)
}

async fn resume(
    State(edge): State<Arc<Edge>>,
    body: Bytes,
) -> Answer<flocker_api::gate::ResumeReply> {
    let request: ResumeRequest = parse(&body)?;
    answer(edge.resume(&request)?)
}

async fn show_metrics(State(edge): State<Arc<Edge>>) -> Response {
    let text = metrics::encode(&edge);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn ready(State(edge): State<Arc<Edge>>) -> Response {
    match edge.is_ready() {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
    }
}
