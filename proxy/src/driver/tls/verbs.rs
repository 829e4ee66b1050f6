//! The verbs of the admin API about certificates and ticket keys, see
//! [`flocker_api::certificate`].
#![expect(
    clippy::disallowed_methods,
    reason = "what has expired is told by the clock"
)]

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    routing::{get, put},
};
use flocker_api::{
    ErrorBody, ErrorCode,
    certificate::{CertificateList, CertificateStatus, PutCertificate, PutTicketKey, TicketKeys},
    name::{CertificateName, InvalidName},
};

use super::Material;
use crate::driver::{
    admin::{Answer, Failure, answer, parse},
    edge::Edge,
};

/// The verbs.
pub(in crate::driver) fn router() -> Router<Arc<Edge>> {
    Router::new()
        .route("/v1/certificates", get(list))
        .route("/v1/certificates/{name}", put(set).delete(remove))
        .route("/v1/tickets", put(rotate))
}

/// Looks at the files again and again, for as long as the edge lives.
pub async fn watch(edge: Arc<Edge>) {
    let every = edge.config().tls.reload;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let material = Arc::clone(edge.material());
        let looked = tokio::task::spawn_blocking(move || material.refresh(now_s())).await;
        if looked.is_err() {
            tracing::error!("looking at the files of certificates has panicked");
        }
    }
}

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

async fn list(State(edge): State<Arc<Edge>>) -> Answer<CertificateList> {
    answer(CertificateList {
        certificates: edge.material().certificates(),
    })
}

fn named(name: &str) -> Result<CertificateName, Failure> {
    Ok(name
        .parse()
        .map_err(|error: InvalidName| ErrorBody::from_error(ErrorCode::InvalidRequest, &error))?)
}

/// Carries out what reads and writes files.
async fn blocking<T: Send + 'static>(
    edge: &Edge,
    run: impl FnOnce(&Material) -> Result<T, super::TlsError> + Send + 'static,
) -> Answer<T> {
    let material = Arc::clone(edge.material());
    let done = tokio::task::spawn_blocking(move || run(&material)).await;
    let done = done.map_err(|error| ErrorBody::from_error(ErrorCode::Internal, &error))?;
    Ok(axum::Json(done?))
}

async fn set(
    State(edge): State<Arc<Edge>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer<CertificateStatus> {
    let name = named(&name)?;
    let request: PutCertificate = parse(&body)?;
    blocking(&edge, move |material| {
        material.put(&name, &request, now_s())
    })
    .await
}

async fn remove(
    State(edge): State<Arc<Edge>>,
    Path(name): Path<String>,
) -> Answer<CertificateStatus> {
    let name = named(&name)?;
    blocking(&edge, move |material| material.remove(&name)).await
}

async fn rotate(State(edge): State<Arc<Edge>>, body: Bytes) -> Answer<TicketKeys> {
    let request: PutTicketKey = parse(&body)?;
    blocking(&edge, move |material| material.rotate_tickets(request.key)).await
}
