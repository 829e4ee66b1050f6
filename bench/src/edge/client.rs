//! A connection of the load that has one exchange at a time: TCP, HTTP/1.1, or an upgraded one;
//! in clear or in TLS.
//!
//! ```text
//!   connect ──► [prologue ──► its answer] ──► request ──► answer ──► idle ──► request ...
//!                                                            └─ the last ──► ending ──► closed
//! ```
//! Large bodies are thrown away in the kernel (MSG_TRUNC of tcp(7)): they cost the load no copy.

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send,
        socket_with, sockopt,
    },
};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, pki_types::ServerName};

use super::{
    load::Said,
    poller::{Poller, Watch},
};

/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// So much of a body is worth throwing away in the kernel.
const DISCARD_BYTES: usize = 64 << 10;

/// What is said on each connection.
#[derive(Debug, Default)]
pub(super) struct Talk {
    pub(super) tls: Option<Tls>,
    /// Said once, before everything else.
    pub(super) prologue: Vec<u8>,
    pub(super) prologue_answer: Answer,
    pub(super) request: Vec<u8>,
    pub(super) answer: Answer,
    /// One exchange, then the connection ends.
    pub(super) once: bool,
    /// HTTP/2 in clear with so many streams at a time; then only `request` counts, a header block.
    pub(super) h2_streams: Option<usize>,
}

/// What comes back.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing: over once it is sent.
    #[default]
    Nothing,
    /// So many bytes.
    Bytes(usize),
    /// HTTP/1.1 with this status and, but for 101, a Content-Length.
    Http(u16),
}

/// TLS with the subject.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
    /// What each handshake must have been.
    pub(super) kind: Option<HandshakeKind>,
    /// Exchanges after a handshake that was resumed, and after one that was not.
    pub(super) resumed: AtomicU64,
    pub(super) full: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Prologue,
    Exchange,
    Idle,
    /// Nothing more is to come but the end.
    Ending,
}

/// See the module.
pub(super) struct Client {
    socket: OwnedFd,
    talk: Arc<Talk>,
    tls: Option<Box<ClientConnection>>,
    stage: Stage,
    due: Instant,
    /// Of what is sent at this stage.
    sent: usize,
    /// Of the answer: bytes that came and that are to come, once that is known.
    got: usize,
    need: Option<usize>,
    /// A head that is not whole yet.
    head: Vec<u8>,
    /// The subject will close.
    closes: bool,
    watch: Watch,
}

impl Client {
    pub(super) fn connect(
        target: SocketAddr,
        talk: Arc<Talk>,
        due: Instant,
        poller: &Poller,
        key: usize,
    ) -> io::Result<Self> {
        let socket = dial(target)?;
        poller.add(&socket, key, Watch::Read)?;
        let tls = match &talk.tls {
            None => None,
            Some(tls) => {
                let connection = ClientConnection::new(Arc::clone(&tls.config), tls.name.clone());
                Some(Box::new(connection.map_err(io::Error::other)?))
            }
        };
        let stage = match talk.prologue.is_empty() {
            true => Stage::Idle,
            false => Stage::Prologue,
        };
        Ok(Self {
            socket,
            talk,
            tls,
            stage,
            due,
            sent: 0,
            got: 0,
            need: None,
            head: Vec::new(),
            closes: false,
            watch: Watch::Read,
        })
    }

    pub(super) fn is_busy(&self) -> bool {
        matches!(self.stage, Stage::Prologue | Stage::Exchange)
    }

    /// Begins an exchange that was due then.
    pub(super) fn begin(
        &mut self,
        due: Instant,
        poller: &Poller,
        key: usize,
        said: &mut Said,
    ) -> Result<()> {
        self.due = due;
        if self.stage == Stage::Idle {
            self.stage = Stage::Exchange;
            (self.sent, self.got, self.need) = (0, 0, None);
        }
        self.send(said)?;
        self.rewatch(poller, key)
    }

    pub(super) fn event(
        &mut self,
        readable: bool,
        buffer: &mut [u8],
        poller: &Poller,
        key: usize,
        said: &mut Said,
    ) -> Result<()> {
        if readable {
            self.read(buffer, said)?;
        }
        if !said.closed {
            self.send(said)?;
            self.rewatch(poller, key)?;
        }
        Ok(())
    }

    /// What is to be sent at this stage, all of it.
    fn outgoing(&self) -> &[u8] {
        match self.stage {
            Stage::Prologue => &self.talk.prologue,
            Stage::Exchange => &self.talk.request,
            Stage::Idle | Stage::Ending => &[],
        }
    }

    fn expected(&self) -> Answer {
        match self.stage {
            Stage::Prologue => self.talk.prologue_answer,
            _ => self.talk.answer,
        }
    }

    fn send(&mut self, said: &mut Said) -> Result<()> {
        loop {
            let before = self.stage;
            if self.tls.is_some() {
                self.send_sealed()?;
            } else {
                self.send_clear()?;
            }
            let all = self.sent == self.outgoing().len();
            if self.is_busy() && all && self.expected() == Answer::Nothing {
                self.over(said);
            }
            // A prologue without an answer is followed by the request at once.
            if self.stage == before || self.stage != Stage::Exchange {
                return Ok(());
            }
        }
    }

    fn send_clear(&mut self) -> Result<()> {
        while self.sent < self.outgoing().len() {
            match send(
                &self.socket,
                &self.outgoing()[self.sent..],
                SendFlags::NOSIGNAL,
            ) {
                Ok(count) => self.sent += count,
                // Not connected yet is EAGAIN, too.
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        Ok(())
    }

    fn send_sealed(&mut self) -> Result<()> {
        let sent = self.sent;
        let outgoing = match self.stage {
            Stage::Prologue => &self.talk.prologue,
            Stage::Exchange => &self.talk.request,
            Stage::Idle | Stage::Ending => &Vec::new(),
        };
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        if sent < outgoing.len() {
            let taken = io::Write::write(&mut tls.writer(), &outgoing[sent..]);
            self.sent += taken.context("cannot seal")?;
        }
        while tls.wants_write() {
            match tls.write_tls(&mut Wire(&self.socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8], said: &mut Said) -> Result<()> {
        let rest = self.need.map_or(0, |need| need.saturating_sub(self.got));
        let discard = self.tls.is_none() && rest >= DISCARD_BYTES;
        let (flags, most) = match (discard, self.tls.is_some()) {
            (true, _) => (RecvFlags::TRUNC, rest.min(buffer.len())),
            (false, false) => (RecvFlags::empty(), buffer.len()),
            // The other half is for what is in it.
            (false, true) => (RecvFlags::empty(), buffer.len() / 2),
        };
        let count = match recv(&self.socket, &mut buffer[..most], flags) {
            Ok((_, 0)) => return self.ended(said),
            Ok((_, count)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            // Who resets a connection on which nothing is under way has closed it.
            Err(Errno::CONNRESET) if !self.is_busy() => return self.ended(said),
            Err(error) => return Err(error).context("cannot receive"),
        };
        if discard {
            self.got += count;
            return self.settle(said);
        }
        if self.tls.is_none() {
            return self.take(&buffer[..count], said);
        }
        let (sealed, clear) = buffer.split_at_mut(count);
        self.open(sealed, clear, said)
    }

    /// Opens what came; `room` is for what is in it.
    fn open(&mut self, mut sealed: &[u8], room: &mut [u8], said: &mut Said) -> Result<()> {
        while !sealed.is_empty() {
            let Some(tls) = &mut self.tls else {
                return Ok(());
            };
            tls.read_tls(&mut sealed).context("cannot read records")?;
            let state = tls.process_new_packets().context("TLS failed")?;
            let (mut plain, ended) = (state.plaintext_bytes_to_read(), state.peer_has_closed());
            while plain > 0 {
                let Some(tls) = &mut self.tls else {
                    return Ok(());
                };
                let count = io::Read::read(&mut tls.reader(), room).context("cannot open")?;
                plain = plain.saturating_sub(count);
                self.take(&room[..count], said)?;
            }
            if ended && !said.closed {
                return self.ended(said);
            }
        }
        Ok(())
    }

    fn ended(&self, said: &mut Said) -> Result<()> {
        if self.is_busy() {
            let due = self
                .need
                .map_or_else(|| "an answer".to_owned(), |need| format!("{need}"));
            bail!("closed by the subject after {} bytes of {due}", self.got);
        }
        said.closed = true;
        Ok(())
    }

    /// Takes bytes of an answer.
    fn take(&mut self, bytes: &[u8], said: &mut Said) -> Result<()> {
        if !self.is_busy() {
            bail!("{} bytes that nobody asked for", bytes.len());
        }
        match (self.expected(), self.need) {
            (Answer::Nothing, _) => bail!("an answer to what has none"),
            (Answer::Bytes(count), None) => {
                self.need = Some(count);
                self.got += bytes.len();
            }
            (Answer::Http(status), None) => {
                if self.head.is_empty() {
                    self.read_head(bytes, status)?;
                } else {
                    let mut whole = std::mem::take(&mut self.head);
                    whole.extend_from_slice(bytes);
                    self.read_head(&whole, status)?;
                }
            }
            (_, Some(_)) => self.got += bytes.len(),
        }
        self.settle(said)
    }

    fn read_head(&mut self, bytes: &[u8], status: u16) -> Result<()> {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut fields);
        let head = match response.parse(bytes).context("no HTTP")? {
            httparse::Status::Complete(head) => head,
            httparse::Status::Partial if bytes.len() > HEAD_BYTES_MAX => bail!("an endless head"),
            httparse::Status::Partial => {
                self.head = bytes.to_vec();
                return Ok(());
            }
        };
        if response.code != Some(status) {
            bail!("answered with {:?} in place of {status}", response.code);
        }
        let mut body = (status == 101).then_some(0);
        for field in response.headers.iter() {
            if field.name.eq_ignore_ascii_case("content-length") {
                body = std::str::from_utf8(field.value)
                    .ok()
                    .and_then(|text| text.parse().ok());
            } else if field.name.eq_ignore_ascii_case("connection") {
                self.closes |= field.value.eq_ignore_ascii_case(b"close");
            }
        }
        self.need = Some(body.context("an answer without Content-Length")?);
        self.got = bytes.len() - head;
        Ok(())
    }

    /// Whether the answer is whole.
    fn settle(&mut self, said: &mut Said) -> Result<()> {
        let Some(need) = self.need else { return Ok(()) };
        if self.got > need {
            bail!("{} bytes in place of {need}", self.got);
        }
        if self.got == need {
            self.check_handshake()?;
            self.over(said);
        }
        Ok(())
    }

    fn check_handshake(&self) -> Result<()> {
        let (Some(tls), Some(talk)) = (&self.tls, &self.talk.tls) else {
            return Ok(());
        };
        let was = tls.handshake_kind();
        let counter = match was {
            Some(HandshakeKind::Resumed) => &talk.resumed,
            _ => &talk.full,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        match &talk.kind {
            Some(kind) if was != Some(*kind) => bail!("the handshake was {was:?}, not {kind:?}"),
            _ => Ok(()),
        }
    }

    /// What was under way is over.
    fn over(&mut self, said: &mut Said) {
        let was = self.stage;
        (self.sent, self.got, self.need) = (0, 0, None);
        self.head.clear();
        if was == Stage::Prologue {
            self.stage = Stage::Exchange;
            return;
        }
        said.done.push(self.due);
        let http = matches!(self.talk.answer, Answer::Http(_));
        self.stage = Stage::Idle;
        if self.closes || (self.talk.once && http) {
            // HTTP that was told so is closed by the subject.
            self.stage = Stage::Ending;
            said.last = true;
        } else if self.talk.once {
            said.closed = true;
        }
    }

    fn rewatch(&mut self, poller: &Poller, key: usize) -> Result<()> {
        let sealed = self.tls.as_ref().is_some_and(|tls| tls.wants_write());
        let wanted = match sealed || self.sent < self.outgoing().len() {
            true => Watch::Both,
            false => Watch::Read,
        };
        if wanted != self.watch {
            poller
                .change(&self.socket, key, wanted)
                .context("cannot watch")?;
            self.watch = wanted;
        }
        Ok(())
    }
}

/// A connection under way to `target`.
pub(super) fn dial(target: SocketAddr) -> io::Result<OwnedFd> {
    let family = match target {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// A socket as rustls wants it.
struct Wire<'a>(&'a OwnedFd);

impl io::Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
