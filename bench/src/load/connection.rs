//! Client connections of the load: opened, pooled, checked before use, used for one exchange.

use std::{io, net::SocketAddr};

use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    Outcome,
    http::{self, Parsed},
};

/// Idle connections that are kept for each edge; more are closed once they are not needed.
const IDLE_MAX: usize = 64;

/// An open connection on which nothing is outstanding.
#[derive(Debug)]
pub(super) struct Connected {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connected {
    pub(super) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(512),
        })
    }

    /// Whether the server has neither closed it nor said anything unasked. Asks the kernel,
    /// not the runtime, which may not have heard of it yet.
    fn is_usable(&self) -> bool {
        let mut byte = [0_u8; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        rustix::net::recv(&self.stream, &mut byte, flags) == Err(rustix::io::Errno::AGAIN)
    }

    /// Sends a request and reads its response. `Ok`: status, and the number that its body is,
    /// and whether the connection can carry another.
    pub(super) async fn exchange(
        &mut self,
        request: &[u8],
    ) -> Result<(u16, Option<u64>, bool), Outcome> {
        self.stream
            .write_all(request)
            .await
            .map_err(|error| broken(&error))?;
        loop {
            match http::parse(&self.buffer) {
                Parsed::NeedMore if self.buffer.len() > 2 * http::RESPONSE_BYTES_MAX => {
                    return Err(Outcome::Malformed);
                }
                Parsed::NeedMore => {}
                Parsed::Malformed => return Err(Outcome::Malformed),
                Parsed::Response {
                    status,
                    body,
                    bytes,
                    keep_alive,
                } => {
                    // More than one response was not asked for.
                    if bytes != self.buffer.len() {
                        return Err(Outcome::Malformed);
                    }
                    let number = http::number(body);
                    self.buffer.clear();
                    return Ok((status, number, keep_alive));
                }
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(Outcome::ClosedEarly),
                Ok(_) => {}
                Err(error) => return Err(broken(&error)),
            }
        }
    }
}

fn broken(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionReset => Outcome::Reset,
        _ => Outcome::ClosedEarly,
    }
}

/// Idle connections to one edge.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Vec<Connected>,
}

impl Pool {
    /// The connection that was used last; those that the server has closed are dropped, which
    /// is no failure: nothing had been sent on them.
    pub(super) fn take(&mut self) -> Option<Connected> {
        while let Some(connected) = self.idle.pop() {
            if connected.is_usable() {
                return Some(connected);
            }
        }
        None
    }

    pub(super) fn put(&mut self, connected: Connected) {
        if self.idle.len() < IDLE_MAX {
            self.idle.push(connected);
        }
    }
}
