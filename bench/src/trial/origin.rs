//! Origins: HTTP/1.1 with a small answer, or an echo; on a thread of their own, started and
//! stopped in the middle of a trial.

use std::{convert::Infallible, net::SocketAddr, sync::mpsc, thread::JoinHandle};

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::{Response, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

/// What an origin speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speech {
    /// HTTP/1.1 with keep-alive; every answer has a body of this many bytes.
    Http(usize),
    /// Sends back what it gets.
    Echo,
}

/// A running origin; closes everything when dropped.
pub(super) struct Origin {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    /// Listens at `address` and serves; returns once it listens.
    pub(super) fn start(address: SocketAddr, speech: Speech) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (bound, listening) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("origin".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(bound.send(Err(error))),
                };
                runtime.block_on(async {
                    match TcpListener::bind(address).await {
                        Ok(listener) => {
                            drop(bound.send(listener.local_addr()));
                            tokio::select! {
                                () = serve(listener, speech) => {}
                                _ = stopped => {}
                            }
                        }
                        Err(error) => drop(bound.send(Err(error))),
                    }
                });
                // Dropping the runtime closes what is open.
            })
            .context("cannot start an origin")?;
        let address = listening
            .recv()
            .context("an origin has ended")?
            .with_context(|| format!("an origin cannot listen at {address}"))?;
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // An error means that it has ended already.
            let _ended = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn serve(listener: TcpListener, speech: Speech) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        drop(stream.set_nodelay(true));
        match speech {
            Speech::Http(bytes) => tokio::spawn(http(stream, bytes)),
            Speech::Echo => tokio::spawn(echo(stream)),
        };
    }
}

async fn http(stream: TcpStream, bytes: usize) {
    let body = Bytes::from(vec![b'x'; bytes]);
    let service = service_fn(move |_| {
        let body = body.clone();
        async move { Ok::<_, Infallible>(Response::new(Full::new(body))) }
    });
    // A client that goes away is not the origin's concern.
    drop(
        http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await,
    );
}

async fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
}
