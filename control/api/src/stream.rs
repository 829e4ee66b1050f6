//! Bodies of any length, piece by piece, over [`Client`]: archives of volumes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{BodyExt as _, Limited};
use hyper::{
    Method, Request,
    body::{Body, Bytes, Frame, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::{
    ErrorBody, ErrorCode,
    client::{ANSWER_BYTES_MAX, AbortOnDrop, Client},
};

/// Pieces of a body on their way out, in order; an error breaks the body off.
pub type Pieces = mpsc::Receiver<io::Result<Bytes>>;

/// A body that comes in.
#[derive(Debug)]
pub struct Download {
    body: Incoming,
    /// What it is of, for errors.
    peer: String,
    _driver: AbortOnDrop,
}

impl Download {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When it breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ErrorBody> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| {
                let message = format!("{} broke off: {}", self.peer, crate::error::chain(&error));
                ErrorBody::new(ErrorCode::Unavailable, message)
            })?;
            // What is no data is a trailer.
            if let Ok(piece) = frame.into_data() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}

struct Outgoing(Pieces);

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = self.0.poll_recv(context);
        piece.map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

impl Client {
    /// `GET path`, whose answer is a body of any length. It has to begin within the deadline.
    ///
    /// # Errors
    /// The server's error, or why there is no answer.
    pub async fn download(&self, path: &str, deadline: Duration) -> Result<Download, ErrorBody> {
        let (_, none) = mpsc::channel(1);
        let sending = self.send(Method::GET, path, none);
        let (response, driver) = tokio::time::timeout(deadline, sending)
            .await
            .map_err(|_| self.late(path, deadline))??;
        if response.status().is_success() {
            return Ok(Download {
                body: response.into_body(),
                peer: self.peer().to_owned(),
                _driver: driver,
            });
        }
        Err(self.refusal(path, response).await)
    }

    /// `POST path` with a body of any length.
    ///
    /// # Errors
    /// The server's error, or why there is no answer.
    pub async fn upload<A: DeserializeOwned>(
        &self,
        path: &str,
        pieces: Pieces,
    ) -> Result<A, ErrorBody> {
        let (response, _driver) = self.send(Method::POST, path, pieces).await?;
        if !response.status().is_success() {
            return Err(self.refusal(path, response).await);
        }
        let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let answer = answer.collect().await;
        let answer = answer.map_err(|error| self.unreachable(error.as_ref()))?;
        serde_json::from_slice(&answer.to_bytes()).map_err(|error| self.nonsense(path, &error))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        pieces: Pieces,
    ) -> Result<(hyper::Response<Incoming>, AbortOnDrop), ErrorBody> {
        let stream = self.open().await?;
        let broken = |error: hyper::Error| self.unreachable(&error);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let driver = AbortOnDrop(tokio::spawn(async move { drop(connection.await) }));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "flocker")
            .body(Outgoing(pieces))
            .map_err(|error| {
                let message = format!("'{path}' is no path: {error}");
                ErrorBody::new(ErrorCode::InvalidRequest, message)
            })?;
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok((response, driver))
    }

    async fn refusal(&self, path: &str, response: hyper::Response<Incoming>) -> ErrorBody {
        let status = response.status();
        let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let answer = match answer.collect().await {
            Ok(answer) => answer.to_bytes(),
            Err(error) => return self.unreachable(error.as_ref()),
        };
        serde_json::from_slice(&answer).unwrap_or_else(|_| {
            let message = format!("{} answered {path} with {status}", self.peer());
            ErrorBody::new(ErrorCode::Internal, message)
        })
    }
}
