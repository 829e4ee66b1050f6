//! The admin API: JSON over HTTP. Where it is offered is in [`super::admin_sockets`].

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Bytes,
    extract::{Path as UrlPath, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use flocker_api::{
    ErrorBody, ErrorCode,
    client::Client,
    edge::{
        DrainRequest, LogFilter, Predecessor, ReloadReply, TransactionReply, UpgradeReply,
        UpgradeRequest,
    },
    gate::{PauseRequest, QuiesceRequest, ResumeRequest, SwitchRequest},
    route::{RouteKey, Transaction},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::oneshot;

use super::{
    edge::{Edge, predecessors},
    life::{Front, Order},
    tls,
};
use crate::metrics;

/// Longest wait for the process that took over to answer in our place.
const FORWARD_MAX: Duration = Duration::from_secs(30);

/// Longest request, in bytes: a transaction of a million routes fits.
const REQUEST_BYTES_MAX: usize = 512 << 20;

/// The routes of the API.
pub fn router(edge: &Arc<Edge>, front: &Arc<Front>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/routes", get(routes).post(transact))
        .route("/v1/routes/{*key}", get(route))
        .route("/v1/gates/pause", post(pause))
        .route("/v1/gates/quiesce", post(quiesce))
        .route("/v1/gates/switch", post(switch))
        .route("/v1/gates/resume", post(resume))
        .route("/v1/log", get(log).put(set_log))
        .route("/v1/reload", post(reload))
        .route("/v1/drain", post(drain))
        .route("/v1/upgrade", post(upgrade))
        .route("/metrics", get(show_metrics))
        .merge(tls::verbs::router())
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .fallback(|| async {
            Failure(ErrorBody::new(
                ErrorCode::NotFound,
                "no such path: see the table in flocker_api::edge",
            ))
        })
        .layer(axum::extract::DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .layer(middleware::from_fn_with_state(
            (Arc::clone(edge), Arc::clone(front)),
            in_turn,
        ))
        .layer(Extension(Arc::clone(front)))
        .with_state(Arc::clone(edge))
}

/// What changes routes and gates comes one after the other. Whoever asks a process that has
/// handed over while he waited is answered by the one that took over; only that one itself
/// comes by another socket, and is answered here.
async fn in_turn(
    State((edge, front)): State<(Arc<Edge>, Arc<Front>)>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let changes = request.method() == Method::POST
        && (path == "/v1/routes" || path.starts_with("/v1/gates/"))
        && path != "/v1/gates/quiesce";
    let turn = match changes {
        true => Some(edge.turn().await),
        false => None,
    };
    let by_successor = request.extensions().get::<BySuccessor>().is_some();
    if let Some(successor) = front.successor()
        && !by_successor
        && request.uri().path().starts_with("/v1/")
    {
        drop(turn);
        return forward(&successor, request).await;
    }
    next.run(request).await
}

/// Marks what came by the socket that only a successor knows.
#[derive(Debug, Clone, Copy)]
pub struct BySuccessor;

async fn forward(successor: &Client, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let answered: Result<serde_json::Value, ErrorBody> = match head.method {
        Method::GET => successor.get(&path, FORWARD_MAX).await,
        method => {
            let body = axum::body::to_bytes(body, REQUEST_BYTES_MAX).await;
            let body = body.map_err(|error| error.to_string());
            let value = body.and_then(|body| match body.is_empty() {
                true => Ok(serde_json::Value::Null),
                false => serde_json::from_slice(&body).map_err(|error| error.to_string()),
            });
            match (value, method) {
                (Err(error), _) => Err(ErrorBody::new(ErrorCode::InvalidRequest, error)),
                (Ok(value), Method::PUT) => successor.put(&path, &value, FORWARD_MAX).await,
                (Ok(value), Method::DELETE) => successor.delete(&path, &value, FORWARD_MAX).await,
                (Ok(value), _) => successor.post(&path, &value, FORWARD_MAX).await,
            }
        }
    };
    match answered {
        Ok(value) => axum::Json(value).into_response(),
        Err(error) => Failure(error).into_response(),
    }
}

pub(in crate::driver) struct Failure(ErrorBody);

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

pub(in crate::driver) type Answer<T> = Result<axum::Json<T>, Failure>;

pub(in crate::driver) fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure(ErrorBody::new(
            ErrorCode::InvalidRequest,
            format!("the request is not what it should be: {error}"),
        ))
    })
}

pub(in crate::driver) fn answer<T: Serialize>(value: T) -> Answer<T> {
    Ok(axum::Json(value))
}

async fn status(State(edge): State<Arc<Edge>>) -> Response {
    let mut status = edge.status();
    for before in edge.predecessors().statuses().await {
        status.predecessors.push(Predecessor {
            pid: before.pid,
            sessions: before.sessions,
            parked: before.parked,
        });
    }
    axum::Json(status).into_response()
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
    edge.predecessors().transact(&transaction).await;
    answer(TransactionReply { generation })
}

async fn pause(
    State(edge): State<Arc<Edge>>,
    body: Bytes,
) -> Answer<flocker_api::gate::PauseReply> {
    let request: PauseRequest = parse(&body)?;
    let reply = edge.pause(&request)?;
    edge.predecessors().pause(&request, reply.token).await;
    answer(reply)
}

async fn quiesce(
    State(edge): State<Arc<Edge>>,
    body: Bytes,
) -> Answer<flocker_api::gate::QuiesceReply> {
    let request: QuiesceRequest = parse(&body)?;
    let (mine, theirs) = tokio::join!(
        edge.quiesce(&request),
        edge.predecessors().quiesce(&request)
    );
    answer(predecessors::quiet(mine?, theirs))
}

async fn switch(
    State(edge): State<Arc<Edge>>,
    body: Bytes,
) -> Answer<flocker_api::gate::ResumeReply> {
    let request: SwitchRequest = parse(&body)?;
    let mut reply = edge.switch(&request)?;
    edge.predecessors().switch(&request, &mut reply).await;
    answer(reply)
}

async fn resume(
    State(edge): State<Arc<Edge>>,
    body: Bytes,
) -> Answer<flocker_api::gate::ResumeReply> {
    let request: ResumeRequest = parse(&body)?;
    let mut reply = edge.resume(&request)?;
    edge.predecessors().resume(&request, &mut reply).await;
    answer(reply)
}

async fn log(Extension(front): Extension<Arc<Front>>) -> Answer<LogFilter> {
    let filter = front.log.filter();
    answer(LogFilter { filter })
}

async fn set_log(
    State(edge): State<Arc<Edge>>,
    Extension(front): Extension<Arc<Front>>,
    body: Bytes,
) -> Answer<LogFilter> {
    let request: LogFilter = parse(&body)?;
    front
        .log
        .set(&request.filter)
        .map_err(|error| ErrorBody::from_error(ErrorCode::InvalidRequest, &error))?;
    drop(edge);
    answer(request)
}

async fn reload(Extension(front): Extension<Arc<Front>>) -> Answer<ReloadReply> {
    answer(order(&front, |reply| Order::Reload { reply }).await??)
}

async fn drain(Extension(front): Extension<Arc<Front>>, body: Bytes) -> Answer<()> {
    let request: DrainRequest = parse(&body)?;
    answer(order(&front, |reply| Order::Drain { request, reply }).await?)
}

async fn upgrade(Extension(front): Extension<Arc<Front>>, body: Bytes) -> Answer<UpgradeReply> {
    let UpgradeRequest { binary } = parse(&body)?;
    answer(order(&front, |reply| Order::Upgrade { binary, reply }).await??)
}

/// Gives an order to the process and waits until it is carried out.
async fn order<A>(
    front: &Front,
    make: impl FnOnce(oneshot::Sender<A>) -> Order,
) -> Result<A, Failure> {
    let (reply, replied) = oneshot::channel();
    let stopping = || {
        Failure(ErrorBody::new(
            ErrorCode::Unavailable,
            "the edge is stopping, or has handed over",
        ))
    };
    let sent = front.orders.send(make(reply)).await;
    sent.map_err(|_| stopping())?;
    replied.await.map_err(|_| stopping())
}

async fn show_metrics(State(edge): State<Arc<Edge>>, headers: HeaderMap) -> Response {
    const OPENMETRICS: &str = "application/openmetrics-text";
    let accept = headers.get(header::ACCEPT).and_then(|it| it.to_str().ok());
    let openmetrics = accept.is_some_and(|accept| accept.contains(OPENMETRICS));
    // A million routes take their time, and others shall be answered meanwhile.
    let text = tokio::task::spawn_blocking(move || metrics::encode(&edge)).await;
    let Ok(text) = text else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let (kind, text) = match openmetrics {
        true => (
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            text,
        ),
        false => (
            "text/plain; version=0.0.4; charset=utf-8",
            metrics::to_text(&text),
        ),
    };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn ready(State(edge): State<Arc<Edge>>) -> Response {
    match edge.is_ready() {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
    }
}
