//! What the verbs of an edge refuse, and how that travels.

use std::io;

use flocker_api::{ErrorBody, ErrorCode, gate::Token, route::RouteKey};
use serde_json::json;

use crate::{
    driver::{listener::BindError, tls::TlsError},
    logic::{gate::GateError, table::TransactionError},
};

/// Why a verb was refused.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// There is no such route.
    #[error("there is no route {0}")]
    NoRoute(RouteKey),
    /// The transaction cannot be applied.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// A route's terms of TLS cannot be kept.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A port cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The edge has no address at which tcp routes could listen.
    #[error(
        "route tcp:{0} has no address to listen on: set listen.tcp in the edge's configuration"
    )]
    NoTcpAddress(u16),
    /// A route names error pages that the edge does not have.
    #[error(
        "route {key} names error pages '{set}', which this edge does not have: \
         add error_pages.{set} to its configuration"
    )]
    NoErrorPages {
        /// The route.
        key: RouteKey,
        /// The set.
        set: String,
    },
    /// A gate refuses.
    #[error("the gate of {key} refuses: {source}")]
    Gate {
        /// Its route.
        key: RouteKey,
        /// Why.
        source: GateError,
    },
    /// A pause without a token met a gate that is paused.
    #[error(
        "{key} is paused by token {token} already: resume it, or pause with a token that is not older"
    )]
    Paused {
        /// The route.
        key: RouteKey,
        /// Its token.
        token: Token,
    },
    /// Nothing is named.
    #[error("the request names no route")]
    NoKeys,
}

impl EdgeError {
    /// Joins a gate's refusal with its route.
    pub(super) fn gate(key: &RouteKey) -> impl FnOnce(GateError) -> Self {
        |source| Self::Gate {
            key: key.clone(),
            source,
        }
    }
}

impl From<EdgeError> for ErrorBody {
    fn from(error: EdgeError) -> Self {
        let (code, details) = match &error {
            EdgeError::Transaction(transaction) => return transaction.clone().into(),
            EdgeError::NoRoute(key) => (ErrorCode::NotFound, json!({ "key": key })),
            EdgeError::NoErrorPages { key, .. } => (ErrorCode::Precondition, json!({ "key": key })),
            EdgeError::Bind(bind) => (ErrorCode::Precondition, json!({ "address": bind.address })),
            EdgeError::NoTcpAddress(port) => (ErrorCode::Precondition, json!({ "port": port })),
            EdgeError::Gate { key, source } => match source {
                GateError::StaleToken { current } => (
                    ErrorCode::StaleToken,
                    json!({ "key": key, "current": current }),
                ),
                GateError::NotPaused { current, .. } => (
                    ErrorCode::NotPaused,
                    json!({ "key": key, "current": current }),
                ),
            },
            EdgeError::Paused { key, token } => {
                (ErrorCode::Busy, json!({ "key": key, "current": token }))
            }
            EdgeError::NoKeys | EdgeError::Tls(_) => {
                (ErrorCode::InvalidRequest, serde_json::Value::Null)
            }
        };
        Self::new(code, error.to_string()).with_details(details)
    }
}

/// Why an edge cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel gives no thread, epoll or eventfd.
    #[error("cannot start a worker")]
    Worker(#[source] io::Error),
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The access log cannot be opened.
    #[error("cannot open the access log {path}: make its directory, or change log.access_file")]
    AccessLog {
        /// Its file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// TLS material of the configuration is of no use.
    #[error("cannot use the certificates of the configuration")]
    Tls(#[from] TlsError),
    /// A route of the configuration cannot be served.
    #[error("cannot serve the routes of the configuration")]
    Routes(#[from] EdgeError),
}
