//! The connections of `notes`: keep-alive HTTP/1.1, one task each, on one thread.
//!
//! On stop it takes no more connections, closes those that are idle, answers what has been
//! asked for, and ends as soon as that is done.

use std::{io, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinSet, LocalSet},
    time::timeout,
};
use tracing::{debug, info, warn};

use super::{
    journal::Journal,
    request::{self, Ask, Parsed},
};

/// Most connections at once; beyond, accepting waits.
const CONNECTIONS_MAX: usize = 8192;
/// Longest time that a connection may say nothing.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Journal bytes that are copied out at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Serves until `stop` is ready, then drains for at most `drain`.
pub(crate) async fn serve(
    listener: TcpListener,
    journal: Journal,
    stop: impl Future<Output = ()>,
    drain: Duration,
) -> anyhow::Result<()> {
    let journal = Rc::new(journal);
    let (stopping, stopped) = watch::channel(false);
    LocalSet::new()
        .run_until(async {
            let mut connections = JoinSet::new();
            let mut stop = std::pin::pin!(stop);
            loop {
                let room = connections.len() < CONNECTIONS_MAX;
                tokio::select! {
                    () = &mut stop => break,
                    Some(_) = connections.join_next() => {}
                    accepted = listener.accept(), if room => match accepted {
                        Ok((stream, _)) => {
                            let connection = Connection {
                                stream,
                                journal: Rc::clone(&journal),
                                stopping: stopped.clone(),
                                buffer: Vec::new(),
                            };
                            connections.spawn_local(connection.run());
                        }
                        Err(error) => {
                            // Out of descriptors, or a client that left: either passes.
                            warn!(%error, "cannot accept a connection");
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    }
                }
            }
            drop(listener);
            info!(connections = connections.len(), "stopping");
            stopping.send_replace(true);
            let all_done = async { while connections.join_next().await.is_some() {} };
            if timeout(drain, all_done).await.is_err() {
                warn!(
                    left = connections.len(),
                    "requests still unanswered at the deadline"
                );
            }
            connections.shutdown().await;
        })
        .await;
    info!(notes = journal.index().count(), "stopped");
    Ok(())
}

/// One connection.
struct Connection {
    stream: TcpStream,
    journal: Rc<Journal>,
    stopping: watch::Receiver<bool>,
    /// Bytes that have come and are not yet answered.
    buffer: Vec<u8>,
}

impl Connection {
    async fn run(mut self) {
        if let Err(error) = self.serve().await {
            debug!(%error, "connection ended");
        }
    }

    async fn serve(&mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        loop {
            match request::parse(&self.buffer) {
                Parsed::NeedMore => {
                    if !self.read().await? {
                        return Ok(());
                    }
                }
                Parsed::Malformed(status, reason) => {
                    return self.answer(status, reason.as_bytes(), false).await;
                }
                Parsed::Request {
                    ask,
                    keep_alive,
                    bytes,
                } => {
                    self.buffer.drain(..bytes);
                    let keep_alive = keep_alive && !*self.stopping.borrow();
                    self.reply(ask, keep_alive).await?;
                    if !keep_alive {
                        return self.stream.shutdown().await;
                    }
                }
            }
        }
    }

    /// Reads more; false at the end, or when the service stops and nothing has been asked.
    async fn read(&mut self) -> io::Result<bool> {
        let idle = self.buffer.is_empty();
        tokio::select! {
            biased;
            read = timeout(IDLE_MAX, self.stream.read_buf(&mut self.buffer)) => match read {
                Ok(read) => Ok(read? > 0),
                Err(_) => Ok(false),
            },
            _ = self.stopping.wait_for(|stopping| *stopping), if idle => Ok(false),
        }
    }

    async fn reply(&mut self, ask: Ask, keep_alive: bool) -> io::Result<()> {
        let number = |number: u64| format!("{number}\n").into_bytes();
        let (status, body) = match ask {
            Ask::Add(note) => match self.journal.add(note).await {
                Ok(at) => (201, number(at)),
                Err(error) => (500, format!("{error}\n").into_bytes()),
            },
            Ask::All => return self.stream_journal(keep_alive).await,
            Ask::Health => (200, b"ok\n".to_vec()),
            Ask::Count => (200, number(self.journal.index().count())),
            Ask::Last(client) => match self.journal.index().last(&client) {
                Some(sequence) => (200, number(sequence)),
                None => (404, format!("no note of client '{client}'\n").into_bytes()),
            },
            Ask::One(at) => match self.journal.index().line(at) {
                Some(line) => (200, line.to_vec()),
                None => (404, format!("there is no note {at}\n").into_bytes()),
            },
            Ask::Refused(status, reason) => (status, format!("{reason}\n").into_bytes()),
        };
        self.answer(status, &body, keep_alive).await
    }

    async fn answer(&mut self, status: u16, body: &[u8], keep_alive: bool) -> io::Result<()> {
        let mut answer = head(status, body.len(), keep_alive);
        answer.extend_from_slice(body);
        self.stream.write_all(&answer).await
    }

    /// Sends the journal as it is now; it only grows, so its text is taken piece by piece.
    async fn stream_journal(&mut self, keep_alive: bool) -> io::Result<()> {
        let bytes = self.journal.index().text().len();
        self.stream.write_all(&head(200, bytes, keep_alive)).await?;
        let mut begin = 0;
        while begin < bytes {
            let end = bytes.min(begin + CHUNK_BYTES);
            let chunk = self.journal.index().text()[begin..end].to_vec();
            self.stream.write_all(&chunk).await?;
            begin = end;
        }
        Ok(())
    }
}

fn head(status: u16, body_bytes: usize, keep_alive: bool) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        201 => "Created",
        404 => "Not Found",
        405 => "Method Not Allowed",
        411 => "Length Required",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        _ => "Bad Request",
    };
    let connection = if keep_alive {
        ""
    } else {
        "connection: close\r\n"
    };
    format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: text/plain\r\n\
         content-length: {body_bytes}\r\n{connection}\r\n"
    )
    .into_bytes()
}
