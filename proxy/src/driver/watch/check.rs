//! One health check of one upstream.

use std::{io, net::SocketAddr, time::Duration};

use flocker_api::health::{Health, HealthKind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::logic::balance::check::{ANSWER_BYTES_MAX, Status, request, status, verdict};

/// Asks an upstream; what is wrong with it if it is not well.
pub(super) async fn ask(health: &Health, upstream: SocketAddr) -> Result<(), String> {
    let within = Duration::from_millis(health.timeout_ms);
    let answer = async {
        let stream = TcpStream::connect(upstream).await?;
        match health.kind {
            HealthKind::Tcp => Ok(Ok(())),
            HealthKind::Http => {
                let status = get(health, upstream, stream).await?;
                Ok(verdict(health, status))
            }
        }
    };
    match timeout(within, answer).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(error)) => {
            let error: io::Error = error;
            Err(error.to_string())
        }
        Err(_) => Err(format!("no answer within {within:?}")),
    }
}

async fn get(health: &Health, upstream: SocketAddr, mut stream: TcpStream) -> io::Result<Status> {
    stream
        .write_all(request(health, upstream).as_bytes())
        .await?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
    while answer.len() < ANSWER_BYTES_MAX {
        if stream.read_buf(&mut answer).await? == 0 {
            break;
        }
        match status(&answer) {
            Status::NeedMore => {}
            status => return Ok(status),
        }
    }
    Ok(status(&answer))
}
