//! One health check of one upstream: over the same kind of connection as its clients get.

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use flocker_api::{
    health::{Health, HealthKind},
    route::{Route, UpstreamProtocol},
    upstream::SendProxy,
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    driver::tls::{Configs, Material, TlsError},
    logic::{
        balance::check::{ANSWER_BYTES_MAX, Status, request, status, verdict},
        proxy_header::write_local,
        session::Seal,
    },
};

/// What is asked of a route's upstreams, and how.
#[derive(Clone)]
pub(super) struct Check {
    health: Health,
    send_proxy: Option<SendProxy>,
    protocol: UpstreamProtocol,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Check {
    /// The check of a route.
    ///
    /// # Errors
    /// There is no such authority for the upstreams' certificates.
    pub(super) fn new(
        route: &Route,
        health: &Health,
        material: &Arc<Material>,
    ) -> Result<Self, TlsError> {
        let tls = match Seal::of(route) {
            Some(seal) if health.kind == HealthKind::Http => {
                let config = Configs::new(Arc::clone(material))
                    .client(seal.ca.as_ref(), route.upstream_protocol)?;
                let name = ServerName::try_from(seal.server_name.clone()).ok();
                name.map(|name| (config, name))
            }
            _ => None,
        };
        Ok(Self {
            health: health.clone(),
            send_proxy: route.send_proxy,
            protocol: route.upstream_protocol,
            tls,
        })
    }

    /// Good answers in a row that bring an upstream back, and bad ones that take it out.
    pub(super) fn streaks(&self) -> (u32, u32) {
        (self.health.rise, self.health.fall)
    }

    /// Asks an upstream; what is wrong with it if it is not well.
    pub(super) async fn ask(&self, upstream: SocketAddr) -> Result<(), String> {
        let within = Duration::from_millis(self.health.timeout_ms);
        match timeout(within, self.answer(upstream)).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {within:?}")),
        }
    }

    async fn answer(&self, upstream: SocketAddr) -> io::Result<Result<(), String>> {
        let mut stream = TcpStream::connect(upstream).await?;
        if let Some(version) = self.send_proxy {
            let mut header = Vec::new();
            write_local(version, &mut header);
            stream.write_all(&header).await?;
        }
        let status = match (self.health.kind, &self.tls) {
            (HealthKind::Tcp, _) => return Ok(Ok(())),
            (HealthKind::Http, None) => self.get(upstream, stream).await?,
            (HealthKind::Http, Some((config, name))) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name.clone(), stream).await?;
                self.get(upstream, stream).await?
            }
        };
        Ok(verdict(&self.health, status))
    }

    async fn get(
        &self,
        upstream: SocketAddr,
        mut stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> io::Result<Status> {
        if self.protocol == UpstreamProtocol::H2 {
            return self
                .get_h2(upstream, stream)
                .await
                .map_err(io::Error::other);
        }
        let request = request(&self.health, upstream);
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
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

    async fn get_h2(
        &self,
        upstream: SocketAddr,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Status, Box<dyn Error + Send + Sync>> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let host = match &self.health.host {
            Some(host) => host.to_string(),
            None => upstream.to_string(),
        };
        let url = format!("{scheme}://{host}{}", self.health.path);
        let request = http::Request::get(url).body(())?;
        let (client, connection) = h2::client::handshake(stream).await?;
        let driven = AbortOnDrop(tokio::spawn(connection));
        let (answer, _) = client.ready().await?.send_request(request, true)?;
        let status = answer.await?.status().as_u16();
        drop(driven);
        Ok(Status::Is(status))
    }
}

/// A connection that is not needed longer than its answer.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
