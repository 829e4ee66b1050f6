//! The verbs of the admin API about certificates, authorities and ticket keys, see
//! [`flocker_api::certificate`] and [`flocker_api::authority`].
#![expect(
    clippy::disallowed_methods,
    reason = "what has expired is told by the clock"
)]

use std::{
    str::FromStr,
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
    authority::{AuthorityList, AuthorityStatus, PutAuthority},
    certificate::{CertificateList, CertificateStatus, PutCertificate, PutTicketKey, TicketKeys},
    name::{AuthorityName, CertificateName, InvalidName},
    route::Route,
    termination::Tls,
};

use super::{Material, TlsError};
use crate::driver::{
    admin::{Answer, Failure, answer, parse},
    edge::Edge,
};

/// The verbs.
pub(in crate::driver) fn router() -> Router<Arc<Edge>> {
    Router::new()
        .route("/v1/certificates", get(list))
        .route("/v1/certificates/{name}", put(set).delete(remove))
        .route("/v1/authorities", get(list_authorities))
        .route(
            "/v1/authorities/{name}",
            put(set_authority).delete(remove_authority),
        )
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

fn named<N: FromStr<Err = InvalidName>>(name: &str) -> Result<N, Failure> {
    Ok(name
        .parse()
        .map_err(|error: InvalidName| ErrorBody::from_error(ErrorCode::InvalidRequest, &error))?)
}

/// Carries out what reads and writes files.
async fn blocking<T: Send + 'static>(
    edge: &Edge,
    run: impl FnOnce(&Material) -> Result<T, TlsError> + Send + 'static,
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
    let name: CertificateName = named(&name)?;
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
    let name: CertificateName = named(&name)?;
    blocking(&edge, move |material| material.remove(&name)).await
}

async fn rotate(State(edge): State<Arc<Edge>>, body: Bytes) -> Answer<TicketKeys> {
    let request: PutTicketKey = parse(&body)?;
    blocking(&edge, move |material| material.rotate_tickets(request.key)).await
}

async fn list_authorities(State(edge): State<Arc<Edge>>) -> Answer<AuthorityList> {
    answer(AuthorityList {
        authorities: edge.material().authorities(now_s()),
    })
}

async fn set_authority(
    State(edge): State<Arc<Edge>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Answer<AuthorityStatus> {
    let name: AuthorityName = named(&name)?;
    let request: PutAuthority = parse(&body)?;
    blocking(&edge, move |material| {
        material.put_authority(&name, &request, now_s())
    })
    .await
}

async fn remove_authority(
    State(edge): State<Arc<Edge>>,
    Path(name): Path<String>,
) -> Answer<AuthorityStatus> {
    let name: AuthorityName = named(&name)?;
    let table = edge.table();
    let mut routes = table.entries().map(|entry| &entry.route);
    if let Some(route) = routes.find(|route| names(route, &name)) {
        let key = route.key.clone();
        return Err(TlsError::AuthorityInUse { name, key }.into());
    }
    blocking(&edge, move |material| {
        material.remove_authority(&name, now_s())
    })
    .await
}

/// Whether a route believes this authority.
fn names(route: &Route, name: &AuthorityName) -> bool {
    let of_clients = match &route.tls {
        Tls::Terminate(terms) => terms.client_ca.as_ref(),
        Tls::Passthrough => None,
    };
    let of_upstreams = route.upstream_tls.as_ref().and_then(|tls| tls.ca.as_ref());
    [of_clients, of_upstreams].contains(&Some(name))
}
