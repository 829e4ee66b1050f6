//! The origin behind all subjects: one thread, epoll, answers that were made beforehand. It is as
//! cheap as it can be, so that the core that it shares with the load is not the limit.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::{Context as _, Result};
use memchr::memmem;
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt},
};
use slab::Slab;

use super::{
    cpu,
    poller::{Poller, Ready, Watch},
};

/// Key of the listening socket; connections have smaller ones.
const LISTENER: usize = usize::MAX - 1;
/// What is read at a time.
const BUFFER_BYTES: usize = 256 << 10;
/// Connections accepted at a time.
const ACCEPTS: usize = 32;
/// Its queue: as long as the kernel allows (somaxconn).
const BACKLOG: i32 = 4096;

/// What an origin speaks.
#[derive(Debug, Clone)]
pub(super) enum Speech {
    /// HTTP/1.0 and 1.1: this body to every request; kept open unless the request says otherwise.
    Http(usize),
    /// The same for what does not upgrade; after a 101, so many bytes are answered with these.
    Upgrade(usize, Vec<u8>),
    /// So many bytes are answered with these.
    Exchange(usize, Vec<u8>),
    /// Everything is thrown away, and counted.
    Sink,
}

/// A running origin; ends with the value.
pub(super) struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    tid: AtomicU32,
    bytes: AtomicU64,
    open: AtomicU64,
}

impl Origin {
    pub(super) fn start(address: SocketAddr, speech: Speech) -> Result<Self> {
        let wrong = || format!("an origin cannot listen at {address}");
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM.nonblocking(),
            None,
        )
        .with_context(wrong)?;
        socket.set_reuse_address(true).with_context(wrong)?;
        socket.bind(&address.into()).with_context(wrong)?;
        socket.listen(BACKLOG).with_context(wrong)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().with_context(wrong)?;
        let shared = Arc::new(Shared::default());
        let mut serving =
            Serving::new(listener, speech, Arc::clone(&shared)).with_context(wrong)?;
        let thread = std::thread::Builder::new().name("origin".to_owned());
        let thread = thread
            .spawn(move || serving.run())
            .context("cannot start an origin")?;
        Ok(Self {
            address,
            shared,
            thread: Some(thread),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that were thrown away.
    pub(super) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Connections that are open now.
    pub(super) fn open(&self) -> u64 {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Time on a core, in ns.
    pub(super) fn cpu_ns(&self) -> u64 {
        cpu::thread_ns(self.shared.tid.load(Ordering::Relaxed))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// One connection.
struct Peer {
    socket: OwnedFd,
    stage: Stage,
    /// Bytes of a request that is not whole yet, of an exchange.
    got: usize,
    /// The head that is not whole yet.
    head: Vec<u8>,
    /// What is to be sent: how much of the answer is left, and how many more answers.
    left: usize,
    queued: usize,
    /// Close once all is sent.
    last: bool,
    watch: Watch,
}

/// What a connection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Http,
    Switching,
    Exchange,
    Sink,
}

struct Serving {
    listener: TcpListener,
    poller: Poller,
    peers: Slab<Peer>,
    speech: Speech,
    /// The answer of HTTP: head and body.
    answer: Vec<u8>,
    switching: &'static [u8],
    buffer: Vec<u8>,
    shared: Arc<Shared>,
}

/// What comes of an event.
enum After {
    Stay,
    Close,
}

impl Serving {
    fn new(listener: TcpListener, speech: Speech, shared: Arc<Shared>) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(&listener, LISTENER, Watch::Read)?;
        let body = match &speech {
            Speech::Http(bytes) => *bytes,
            _ => 0,
        };
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nServer: origin\r\nContent-Type: text/plain\r\n\
             Content-Length: {body}\r\n\r\n"
        )
        .into_bytes();
        answer.resize(answer.len() + body, b'x');
        Ok(Self {
            listener,
            poller,
            peers: Slab::new(),
            speech,
            answer,
            switching: b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            buffer: vec![0; BUFFER_BYTES],
            shared,
        })
    }

    fn run(&mut self) {
        self.shared.tid.store(cpu::this_thread(), Ordering::Relaxed);
        let mut ready = Ready::new();
        while !self.shared.stop.load(Ordering::Relaxed) {
            if self.poller.wait(&mut ready).is_err() {
                return;
            }
            for (key, readable) in ready.keys.drain(..) {
                if key == LISTENER {
                    self.accept();
                    continue;
                }
                let Some(peer) = self.peers.get_mut(key) else {
                    continue;
                };
                let answer = Answers {
                    http: &self.answer,
                    switching: self.switching,
                    speech: &self.speech,
                };
                let after = if readable {
                    peer.read(&mut self.buffer, &answer, &self.shared)
                } else {
                    peer.write(&answer)
                };
                match after {
                    After::Stay => peer.rewatch(&self.poller, key),
                    After::Close => {
                        self.peers.remove(key);
                        self.shared.open.fetch_sub(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let Ok(socket) = accept_with(&self.listener, flags) else {
                return;
            };
            // Answers are whole: nothing is gained by waiting for more.
            let _best_effort = sockopt::set_tcp_nodelay(&socket, true);
            let stage = match self.speech {
                Speech::Http(_) | Speech::Upgrade(..) => Stage::Http,
                Speech::Exchange(..) => Stage::Exchange,
                Speech::Sink => Stage::Sink,
            };
            let entry = self.peers.vacant_entry();
            if self.poller.add(&socket, entry.key(), Watch::Read).is_err() {
                return;
            }
            entry.insert(Peer {
                socket,
                stage,
                got: 0,
                head: Vec::new(),
                left: 0,
                queued: 0,
                last: false,
                watch: Watch::Read,
            });
            self.shared.open.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What can be answered.
struct Answers<'a> {
    http: &'a [u8],
    switching: &'a [u8],
    speech: &'a Speech,
}

impl Answers<'_> {
    fn of(&self, stage: Stage) -> &[u8] {
        match (stage, self.speech) {
            (Stage::Http, _) => self.http,
            (Stage::Switching, _) => self.switching,
            (Stage::Exchange, Speech::Exchange(_, answer) | Speech::Upgrade(_, answer)) => answer,
            _ => &[],
        }
    }

    fn request_bytes(&self) -> usize {
        match self.speech {
            Speech::Exchange(bytes, _) | Speech::Upgrade(bytes, _) => *bytes,
            _ => usize::MAX,
        }
    }
}

impl Peer {
    fn read(&mut self, buffer: &mut [u8], answers: &Answers<'_>, shared: &Shared) -> After {
        let flags = match self.stage {
            Stage::Sink => RecvFlags::TRUNC,
            _ => RecvFlags::empty(),
        };
        let count = match recv(&self.socket, &mut *buffer, flags) {
            Ok((_, 0)) => return After::Close,
            Ok((_, count)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return After::Stay,
            Err(_) => return After::Close,
        };
        match self.stage {
            Stage::Sink => {
                shared.bytes.fetch_add(count as u64, Ordering::Relaxed);
                return After::Stay;
            }
            Stage::Exchange => {
                self.got += count;
                let whole = answers.request_bytes();
                self.queued += self.got / whole;
                self.got %= whole;
            }
            Stage::Http => self.heads(&buffer[..count], answers),
            // Who does not wait for the 101 is no client of ours.
            Stage::Switching => return After::Close,
        }
        self.write(answers)
    }

    /// Counts the requests in what came.
    fn heads(&mut self, bytes: &[u8], answers: &Answers<'_>) {
        let whole = self.head.is_empty() && bytes.ends_with(b"\r\n\r\n");
        if !whole {
            self.head.extend_from_slice(bytes);
        }
        let taken = std::mem::take(&mut self.head);
        let mut rest = if whole { bytes } else { &taken };
        while let Some(end) = memmem::find(rest, b"\r\n\r\n") {
            let (head, after) = rest.split_at(end + 4);
            rest = after;
            self.queued += 1;
            if matches!(answers.speech, Speech::Upgrade(..)) && has(head, b"pgrade: websocket") {
                self.stage = Stage::Switching;
            }
            let first = &head[..memchr::memchr(b'\r', head).unwrap_or(0)];
            let old = first.ends_with(b"HTTP/1.0") && !has(head, b"onnection: keep-alive");
            self.last |= old || has(head, b"onnection: close");
        }
        self.head = rest.to_vec();
        if whole {
            self.head.clear();
        }
    }

    fn write(&mut self, answers: &Answers<'_>) -> After {
        loop {
            let answer = answers.of(self.stage);
            if self.left == 0 {
                if self.queued == 0 {
                    break;
                }
                self.queued -= 1;
                self.left = answer.len();
            }
            let rest = &answer[answer.len() - self.left..];
            match send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(count) => self.left -= count,
                Err(Errno::AGAIN | Errno::INTR) => return After::Stay,
                Err(_) => return After::Close,
            }
            if self.left == 0 && self.stage == Stage::Switching {
                self.stage = Stage::Exchange;
            }
        }
        match self.last {
            true => After::Close,
            false => After::Stay,
        }
    }

    fn rewatch(&mut self, poller: &Poller, key: usize) {
        let wanted = match self.left {
            0 => Watch::Read,
            _ => Watch::Write,
        };
        // A connection that cannot be watched any more is found out at its next event.
        if wanted != self.watch && poller.change(self.socket.as_fd(), key, wanted).is_ok() {
            self.watch = wanted;
        }
    }
}

/// Field names and values as clients and proxies write them: only the first letter varies.
fn has(head: &[u8], field: &[u8]) -> bool {
    memmem::find(head, field).is_some()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
    };

    use super::*;

    fn origin(speech: Speech) -> (Origin, TcpStream) {
        let origin = Origin::start("127.0.0.1:0".parse().unwrap(), speech).unwrap();
        let stream = TcpStream::connect(origin.address()).unwrap();
        let limit = std::time::Duration::from_secs(20);
        stream.set_read_timeout(Some(limit)).unwrap();
        (origin, stream)
    }

    fn head(stream: &mut TcpStream) -> String {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    #[test]
    fn http_is_answered_however_requests_arrive_and_ends_when_asked_to() {
        let (_origin, mut stream) = origin(Speech::Http(100_000));
        let mut body = vec![0; 100_000];
        stream.write_all(b"GET / HT").unwrap();
        stream.write_all(b"TP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert!(head(&mut stream).contains("Content-Length: 100000"));
        stream.read_exact(&mut body).unwrap();
        let two = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\n";
        stream.write_all(two).unwrap();
        for _ in 0..2 {
            head(&mut stream);
            stream.read_exact(&mut body).unwrap();
        }
        assert_eq!(stream.read(&mut body).unwrap(), 0, "closed after the last");
    }

    #[test]
    fn http_1_0_ends_with_its_answer() {
        let (_origin, mut stream) = origin(Speech::Http(3));
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("\r\n\r\nxxx"), "{text}");
    }

    #[test]
    fn an_upgrade_becomes_an_exchange() {
        let (_origin, mut stream) = origin(Speech::Upgrade(4, b"abc".to_vec()));
        let upgrade = b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(upgrade).unwrap();
        assert!(head(&mut stream).starts_with("HTTP/1.1 101 "));
        stream.write_all(b"12341234").unwrap();
        let mut answers = [0; 6];
        stream.read_exact(&mut answers).unwrap();
        assert_eq!(&answers, b"abcabc");
    }

    #[test]
    fn a_sink_counts() {
        let (origin, mut stream) = origin(Speech::Sink);
        stream.write_all(&[0; 70_000]).unwrap();
        // At most 20 s.
        for _ in 0..2_000 {
            if origin.bytes() < 70_000 {
                std::thread::park_timeout(std::time::Duration::from_millis(10));
            }
        }
        assert_eq!((origin.bytes(), origin.open()), (70_000, 1));
    }
}
