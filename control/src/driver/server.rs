//! The HTTP API: parse, ask [`Control`], answer. TCP and, mode 0600, a unix socket.

use std::{
    io, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path as UrlPath, Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use flocker_api::{
    ErrorBody, ErrorCode,
    control::{DeployRequest, MoveRequest, RestartReply},
    drain::{Cordon, DrainNode},
    exec::ExecRequest,
    logs::LogQuery,
    name::{AppName, MoveId, NodeName},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::net::UnixListener;

use super::{asides, control::Control, server_volumes};
use crate::error::Refusal;

/// Longest wait that one long-poll may ask for.
const WAIT_MAX: Duration = Duration::from_secs(60);

pub(super) type Shared = State<Arc<Control>>;

/// The API's routes.
pub fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route(
            "/v2/status",
            get(|State(control): Shared| async move { Json(control.status()) }),
        )
        .route("/v2/nodes/{node}/doctor", get(examine))
        .merge(asides::routes())
        .route("/v2/deploy", post(deploy))
        .route("/v2/apps/{app}", get(app).delete(delete_app))
        .route("/v2/apps/{app}/logs", get(app_logs))
        .route("/v2/apps/{app}/exec", post(app_exec))
        .route("/v2/apps/{app}/restart", post(restart_app))
        .route("/v2/moves", get(moves).post(begin_move))
        .route("/v2/moves/explain", post(explain_move))
        .route("/v2/moves/{id}", get(move_status))
        .route("/v2/moves/{id}/abort", post(abort_move))
        .route("/v2/nodes/{node}/cordon", put(cordon))
        .route("/v2/nodes/{node}/drain", get(drain_status).post(drain))
        .route("/v2/nodes/{node}/drain/abort", post(abort_drain))
        .route("/v2/routes", get(routes).post(transact))
        .route("/v2/gates/{verb}", post(gate))
        .merge(server_volumes::routes())
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ok\n" }))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .with_state(control)
}

/// Serves the API until `ended` is done.
///
/// # Errors
/// When it cannot be served any longer.
pub async fn serve(
    control: Arc<Control>,
    tcp: impl axum::serve::Listener<Addr = SocketAddr>,
    unix: Option<UnixListener>,
    ended: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let app = router(control);
    let on_unix = app.clone();
    tokio::select! {
        served = async { axum::serve(tcp, app).await } => served,
        served = async {
            match unix {
                Some(unix) => axum::serve(unix, on_unix).await,
                None => std::future::pending().await,
            }
        } => served,
        () = ended => Ok(()),
    }
}

/// Binds the unix socket, mode 0600; a stale one is replaced.
///
/// # Errors
/// When it cannot be bound, or another program listens on it.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(io::Error::from(io::ErrorKind::AddrInUse)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)?;
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// An error on its way out.
pub(super) struct Failure(pub(super) ErrorBody);

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.into())
    }
}

impl From<ErrorBody> for Failure {
    fn from(error: ErrorBody) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

pub(super) type Answer<T> = Result<Json<T>, Failure>;

async fn deploy(State(control): Shared, body: Bytes) -> Answer<impl Serialize> {
    let request: DeployRequest = parse(&body)?;
    Ok(Json(control.deploy(&request).await?))
}

async fn examine(State(control): Shared, UrlPath(name): UrlPath<String>) -> Answer<impl Serialize> {
    Ok(Json(control.examine(&node_name(&name)?).await?))
}

async fn app(State(control): Shared, UrlPath(name): UrlPath<String>) -> Answer<impl Serialize> {
    Ok(Json(control.app(&app_name(&name)?)?))
}

async fn delete_app(
    State(control): Shared,
    UrlPath(name): UrlPath<String>,
) -> Answer<impl Serialize> {
    control.delete_app(&app_name(&name)?).await?;
    Ok(Json(json!({})))
}

async fn app_logs(
    State(control): Shared,
    UrlPath(name): UrlPath<String>,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Answer<impl Serialize> {
    let Query(mut query) = query.map_err(|error| malformed("the query", error))?;
    let most = u64::try_from(WAIT_MAX.as_millis()).unwrap_or(u64::MAX);
    query.wait_ms = query.wait_ms.min(most);
    Ok(Json(control.app_logs(&app_name(&name)?, query).await?))
}

async fn app_exec(
    State(control): Shared,
    UrlPath(name): UrlPath<String>,
    body: Bytes,
) -> Answer<impl Serialize> {
    let request: ExecRequest = parse(&body)?;
    Ok(Json(control.app_exec(&app_name(&name)?, &request).await?))
}

async fn restart_app(
    State(control): Shared,
    UrlPath(name): UrlPath<String>,
) -> Answer<impl Serialize> {
    let ready = control.restart_app(&app_name(&name)?).await?;
    let ready_ms = u64::try_from(ready.as_millis()).unwrap_or(u64::MAX);
    Ok(Json(RestartReply { ready_ms }))
}

async fn moves(State(control): Shared) -> Json<impl Serialize> {
    Json(control.moves())
}

async fn begin_move(State(control): Shared, body: Bytes) -> Answer<impl Serialize> {
    let request: MoveRequest = parse(&body)?;
    Ok(Json(control.begin_move(&request).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LongPoll {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_ms: u64,
}

async fn move_status(
    State(control): Shared,
    UrlPath(id): UrlPath<String>,
    query: Result<Query<LongPoll>, QueryRejection>,
) -> Answer<impl Serialize> {
    let id = move_id(&id)?;
    let Query(poll) = query.map_err(|error| malformed("the query", error))?;
    let wait = Duration::from_millis(poll.wait_ms).min(WAIT_MAX);
    Ok(Json(control.move_status(id, poll.after, wait).await?))
}

async fn abort_move(
    State(control): Shared,
    UrlPath(id): UrlPath<String>,
) -> Answer<impl Serialize> {
    Ok(Json(control.abort_move(move_id(&id)?).await?))
}

async fn explain_move(State(control): Shared, body: Bytes) -> Answer<impl Serialize> {
    let request: MoveRequest = parse(&body)?;
    Ok(Json(control.explain_move(&request).await?))
}

async fn cordon(
    State(control): Shared,
    UrlPath(node): UrlPath<String>,
    body: Bytes,
) -> Answer<impl Serialize> {
    let Cordon { cordoned } = parse(&body)?;
    control.cordon(&node_name(&node)?, cordoned).await?;
    Ok(Json(json!({})))
}

async fn drain(
    State(control): Shared,
    UrlPath(node): UrlPath<String>,
    body: Bytes,
) -> Answer<impl Serialize> {
    let request: DrainNode = parse(&body)?;
    Ok(Json(control.drain(&node_name(&node)?, request).await?))
}

async fn drain_status(
    State(control): Shared,
    UrlPath(node): UrlPath<String>,
    query: Result<Query<LongPoll>, QueryRejection>,
) -> Answer<impl Serialize> {
    let Query(poll) = query.map_err(|error| malformed("the query", error))?;
    let wait = Duration::from_millis(poll.wait_ms).min(WAIT_MAX);
    let node = node_name(&node)?;
    Ok(Json(control.drain_status(&node, poll.after, wait).await?))
}

async fn abort_drain(
    State(control): Shared,
    UrlPath(node): UrlPath<String>,
) -> Answer<impl Serialize> {
    Ok(Json(control.abort_drain(&node_name(&node)?).await?))
}

async fn routes(State(control): Shared) -> Json<impl Serialize> {
    Json(control.routes().await)
}

async fn transact(State(control): Shared, body: Bytes) -> Answer<impl Serialize> {
    Ok(Json(control.transact(&parse(&body)?).await))
}

async fn gate(
    State(control): Shared,
    UrlPath(verb): UrlPath<String>,
    body: Bytes,
) -> Result<Response, Failure> {
    Ok(match verb.as_str() {
        "pause" => Json(control.pause(parse(&body)?).await?).into_response(),
        "quiesce" => Json(control.quiesce(&parse(&body)?).await).into_response(),
        "switch" => Json(control.switch(&parse(&body)?).await).into_response(),
        "resume" => Json(control.resume(&parse(&body)?).await).into_response(),
        _ => unknown().await.into_response(),
    })
}

async fn metrics(State(control): Shared) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], control.metrics())
}

async fn unknown() -> Failure {
    let message = "there is no such path or method; the API is described in flocker_api::control";
    Failure(ErrorBody::new(ErrorCode::NotFound, message))
}

pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| malformed("the request", error))
}

fn app_name(text: &str) -> Result<AppName, Failure> {
    text.parse().map_err(|error| malformed("the path", error))
}

fn node_name(text: &str) -> Result<NodeName, Failure> {
    text.parse().map_err(|error| malformed("the path", error))
}

fn move_id(text: &str) -> Result<MoveId, Failure> {
    let id = text.parse();
    id.map_err(|error| malformed(&format!("'{text}' is no move"), error))
}

pub(super) fn malformed(what: &str, error: impl std::fmt::Display) -> Failure {
    Refusal::Malformed(format!("{what}: {error}")).into()
}
