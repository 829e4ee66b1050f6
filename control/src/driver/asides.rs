//! What nodes keep aside of volumes: the questions and decisions of operators, carried to the
//! agents. What is kept is in the nodes' status.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path as UrlPath, Query, State},
    response::IntoResponse,
    routing::{get, post},
};
use flocker_api::{
    ErrorBody,
    agent::EpochRequest,
    aside::{AsideDetails, AsideKey, PATHS_MAX, Resolve, Resolved, SetAside},
    name::{NodeName, VolumeId},
};
use serde::Deserialize;

use super::{
    control::Control,
    observer::ask_node,
    peers::{Method, Peer},
    server::{Failure, malformed, parse},
};
use crate::error::Refusal;

/// A walk through all files of two trees may take its time, and so may destroying one.
const WORK_MAX: Duration = Duration::from_secs(120);

pub(super) fn routes() -> Router<Arc<Control>> {
    Router::new()
        .route("/v2/nodes/{node}/volumes/{id}/aside", post(set_aside))
        .route(
            "/v2/nodes/{node}/asides/{id}/{key}",
            get(details).post(resolve),
        )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    paths: Option<usize>,
}

async fn details(
    State(control): State<Arc<Control>>,
    UrlPath((node, id, key)): UrlPath<(String, String, String)>,
    query: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
) -> Result<impl IntoResponse, Failure> {
    let (node, id, key) = aside(&node, &id, &key)?;
    let Query(wanted) = query.map_err(|error| malformed("the query", error))?;
    let paths = wanted.paths.unwrap_or(PATHS_MAX);
    Ok(Json(control.aside(&node, id, key, paths).await?))
}

async fn resolve(
    State(control): State<Arc<Control>>,
    UrlPath((node, id, key)): UrlPath<(String, String, String)>,
    body: Bytes,
) -> Result<impl IntoResponse, Failure> {
    let (node, id, key) = aside(&node, &id, &key)?;
    let how: Resolve = parse(&body)?;
    Ok(Json(control.resolve(&node, id, key, &how).await?))
}

async fn set_aside(
    State(control): State<Arc<Control>>,
    UrlPath((node, id)): UrlPath<(String, String)>,
    body: Bytes,
) -> Result<impl IntoResponse, Failure> {
    let (node, id) = (part(&node)?, part(&id)?);
    let request: EpochRequest = parse(&body)?;
    Ok(Json(control.set_aside(&node, id, request).await?))
}

fn aside(node: &str, id: &str, key: &str) -> Result<(NodeName, VolumeId, AsideKey), Failure> {
    Ok((part(node)?, part(id)?, part(key)?))
}

fn part<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|error| malformed("the path", error))
}

impl Control {
    /// What a node keeps aside, and what was changed in it.
    ///
    /// # Errors
    /// When there is no such node, or what its agent says.
    pub async fn aside(
        &self,
        node: &NodeName,
        id: VolumeId,
        key: AsideKey,
        paths: usize,
    ) -> Result<AsideDetails, ErrorBody> {
        self.known(node)?;
        let path = format!("/v1/asides/{id}/{key}?paths={paths}");
        let peer = Peer::Agent(node.clone());
        let peers = &self.context().peers;
        peers.send(peer, Method::Get, path, &(), WORK_MAX).await
    }

    /// Has a node do with it what an operator has decided.
    ///
    /// # Errors
    /// As [`Self::aside`].
    pub async fn resolve(
        &self,
        node: &NodeName,
        id: VolumeId,
        key: AsideKey,
        how: &Resolve,
    ) -> Result<Resolved, ErrorBody> {
        self.known(node)?;
        tracing::info!(%node, volume = %id, aside = %key, ?how, "an operator has decided");
        let path = format!("/v1/asides/{id}/{key}");
        self.order(node, path, how).await
    }

    /// Has a node put a replica aside as a whole, so that it is sent anew.
    ///
    /// # Errors
    /// As [`Self::aside`].
    pub async fn set_aside(
        &self,
        node: &NodeName,
        id: VolumeId,
        request: EpochRequest,
    ) -> Result<SetAside, ErrorBody> {
        self.known(node)?;
        tracing::info!(%node, volume = %id, "an operator has a replica put aside");
        let path = format!("/v1/volumes/{id}/aside");
        self.order(node, path, &request).await
    }

    async fn order<Q: serde::Serialize, A: serde::de::DeserializeOwned>(
        &self,
        node: &NodeName,
        path: String,
        request: &Q,
    ) -> Result<A, ErrorBody> {
        let context = self.context();
        let peer = Peer::Agent(node.clone());
        let done = context
            .peers
            .send(peer, Method::Post, path, request, WORK_MAX);
        let done = done.await;
        // Whoever looks next sees what has become of it.
        ask_node(context, node).await;
        done
    }

    fn known(&self, node: &NodeName) -> Result<(), Refusal> {
        let known = &self.context().topology.nodes;
        if known.contains_key(node) {
            return Ok(());
        }
        Err(Refusal::UnknownNode {
            node: node.clone(),
            known: known.keys().cloned().collect(),
        })
    }
}
