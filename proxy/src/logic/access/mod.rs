//! What the access log and the metrics of a route learn of a request, or of an opaque session:
//! a [`Visit`] while it is under way, a [`Record`] once it is over.
//!
//! A session marks the steps of its visit; each mark ends a phase and takes its time. How it
//! ended is told in two letters, as HAProxy tells it: who ended it ([`Cause`]), and in which
//! phase ([`Phase`]). Nothing is written here: records are handed over, a thread of the driver
//! formats and writes them ([`mod@format`]).
//!
//! ```text
//!   Head ──► Held ──► Connect ──► Response ──► Data ──► Over
//!     └────────────────►┘ ▲            │
//!                         └── again ───┘
//! ```

pub mod format;
#[cfg(not(flocker_loom))]
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use flocker_api::route::RouteKey;

use super::gate::Gate;

/// What was spoken with the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// An opaque TCP session.
    Tcp,
    /// A TLS session that is passed through.
    Tls,
    /// A request of HTTP/1.x.
    Http1,
    /// A request of HTTP/2.
    Http2,
}

impl Protocol {
    /// Its name in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }
}

/// Who or what ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It came to its own end.
    Done,
    /// The client left or broke off.
    Client,
    /// The client did not go on in time.
    ClientTimeout,
    /// The upstream refused, broke off or answered nonsense.
    Upstream,
    /// The upstream did not connect or go on in time.
    UpstreamTimeout,
    /// The gate refused it: too many parked, or for too long.
    Gate,
    /// The edge refused it: malformed, no route, or not allowed.
    Policy,
    /// The edge had no descriptor, port, memory or place for it.
    Resources,
    /// A quiesce closed it, because its route moves.
    Move,
    /// The edge stopped before it was over.
    Stop,
}

impl Cause {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Done,
        Self::Client,
        Self::ClientTimeout,
        Self::Upstream,
        Self::UpstreamTimeout,
        Self::Gate,
        Self::Policy,
        Self::Resources,
        Self::Move,
        Self::Stop,
    ];

    /// The first letter in the log.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Done => '-',
            Self::Client => 'C',
            Self::ClientTimeout => 'c',
            Self::Upstream => 'S',
            Self::UpstreamTimeout => 's',
            Self::Gate => 'G',
            Self::Policy => 'P',
            Self::Resources => 'R',
            Self::Move => 'M',
            Self::Stop => 'K',
        }
    }

    /// Its name in the metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Client => "client",
            Self::ClientTimeout => "client_timeout",
            Self::Upstream => "upstream",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::Gate => "gate",
            Self::Policy => "policy",
            Self::Resources => "resources",
            Self::Move => "move",
            Self::Stop => "stop",
        }
    }
}

/// How far it had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its head or ClientHello was read.
    Head,
    /// It was parked at the gate.
    Held,
    /// Its upstream was connected.
    Connect,
    /// The head of the response was awaited.
    Response,
    /// A body, or a tunnel, was relayed.
    Data,
    /// It was whole.
    Over,
}

impl Phase {
    /// The second letter in the log.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Head => 'R',
            Self::Held => 'Q',
            Self::Connect => 'C',
            Self::Response => 'H',
            Self::Data => 'D',
            Self::Over => '-',
        }
    }
}

/// What a client said of itself; collected only when it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    /// The key of the route that was found.
    pub route: String,
    /// Method, of HTTP.
    pub method: String,
    /// Path and query, of HTTP.
    pub target: String,
    /// The host or server name that was asked for.
    pub host: String,
    /// The id by which this request is known on both sides.
    pub request_id: String,
    /// The trace of which it is a part (W3C Trace Context, section 3.2.2.3).
    pub trace_id: String,
    /// User-Agent.
    pub user_agent: String,
    /// Version and cipher suite of TLS, where the edge terminates it.
    pub tls: String,
}

impl Words {
    /// From a request head that has been accepted.
    #[must_use]
    pub fn of_head(head: &[u8], target: &[u8], host: &str) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let line = head.strip_prefix(b"\r\n").unwrap_or(head);
        let method = line.split(|byte| *byte == b' ').next().unwrap_or_default();
        let mut words = Self {
            method: text(method),
            target: text(target),
            host: host.to_owned(),
            ..Self::default()
        };
        for line in line.split(|byte| *byte == b'\n').skip(1) {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                continue;
            };
            let (name, value) = line.split_at(colon);
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            if name.eq_ignore_ascii_case(b"x-request-id") {
                words.request_id = text(value);
            } else if name.eq_ignore_ascii_case(b"user-agent") {
                words.user_agent = text(value);
            } else if name.eq_ignore_ascii_case(b"traceparent") {
                words.trace_id = trace_id(value).map(text).unwrap_or_default();
            }
        }
        words
    }
}

/// The trace id of a traceparent: `00-TRACE-PARENT-FLAGS`, of which a later version may have
/// more.
fn trace_id(value: &[u8]) -> Option<&[u8]> {
    let id = value.split(|byte| *byte == b'-').nth(1)?;
    let hex = id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit);
    (hex && id.iter().any(|byte| *byte != b'0')).then_some(id)
}

/// Times of a visit; what it did not come to is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timers {
    /// From the first byte of the head to its last.
    pub head: Option<Duration>,
    /// Parked at the gate, all times together.
    pub held: Option<Duration>,
    /// From the admission to a connection, all attempts together.
    pub connect: Option<Duration>,
    /// From the connection to the head of the response.
    pub response: Option<Duration>,
    /// From its beginning to its end.
    pub total: Duration,
}

/// A visit that is over.
#[derive(Debug, Clone)]
pub struct Record {
    /// When it ended, in us since 1970; the driver knows.
    pub ended_us: i64,
    /// What was spoken.
    pub protocol: Protocol,
    /// The client.
    pub client: SocketAddr,
    /// The upstream that it was sent to, or tried last.
    pub upstream: Option<SocketAddr>,
    /// The status of the answer; 0 if there was none.
    pub status: u16,
    /// Who ended it.
    pub cause: Cause,
    /// And when.
    pub phase: Phase,
    /// How long it took.
    pub timers: Timers,
    /// Bytes to the upstream and to the client, heads included.
    pub bytes_up: u64,
    /// See `bytes_up`.
    pub bytes_down: u64,
    /// How often it was tried again.
    pub retries: u16,
    /// What the client said.
    pub words: Words,
}

/// No time was taken.
const NONE: u32 = u32::MAX;

/// A request or an opaque session under way. Small: an idle TCP session has one.
#[derive(Debug)]
pub struct Visit {
    began: Instant,
    /// When the present phase began, in us after `began`.
    mark_us: u32,
    head_us: u32,
    held_us: u32,
    connect_us: u32,
    response_us: u32,
    retries: u16,
    status: u16,
    protocol: Protocol,
    cause: Cause,
    phase: Phase,
    upstream: Option<SocketAddr>,
    /// What had been moved when it began, by side.
    before: [u64; 2],
    gate: Option<Arc<Gate>>,
    words: Option<Box<Words>>,
}

impl Visit {
    /// One that began at this time, when its connection had moved so many bytes to each side.
    #[must_use]
    pub fn new(protocol: Protocol, began: Instant, before: [u64; 2]) -> Self {
        Self {
            began,
            mark_us: 0,
            head_us: NONE,
            held_us: NONE,
            connect_us: NONE,
            response_us: NONE,
            retries: 0,
            status: 0,
            protocol,
            cause: Cause::Done,
            phase: Phase::Head,
            upstream: None,
            before,
            gate: None,
            words: None,
        }
    }

    /// Its head, or ClientHello, is whole.
    pub fn headed(&mut self, now: Instant, words: Option<Words>) {
        self.head_us = self.lap(now);
        self.words = words.map(Box::new);
    }

    /// What the client said, if it is to be written.
    pub fn words(&mut self) -> Option<&mut Words> {
        self.words.as_deref_mut()
    }

    /// Its route.
    pub fn routed(&mut self, key: &RouteKey, gate: &Arc<Gate>) {
        self.gate = Some(Arc::clone(gate));
        if let Some(words) = &mut self.words {
            words.route = key.to_string();
        }
    }

    /// It is parked.
    pub fn parked(&mut self, now: Instant) {
        if self.phase == Phase::Connect {
            self.connect_us = add(self.connect_us, self.lap(now));
        } else {
            self.lap(now);
        }
        self.phase = Phase::Held;
    }

    /// An upstream is being connected.
    pub fn connecting(&mut self, now: Instant, to: SocketAddr) {
        match self.phase {
            Phase::Held => self.held_us = add(self.held_us, self.lap(now)),
            // Another attempt: its time is added up.
            Phase::Connect => {}
            _ => drop(self.lap(now)),
        }
        self.phase = Phase::Connect;
        self.upstream = Some(to);
    }

    /// The upstream is connected; a request waits for its response now.
    pub fn connected(&mut self, now: Instant, next: Phase) {
        self.connect_us = add(self.connect_us, self.lap(now));
        self.phase = next;
    }

    /// What was sent is sent again.
    pub fn again(&mut self) {
        self.retries = self.retries.saturating_add(1);
    }

    /// The head of the response is there.
    pub fn responded(&mut self, now: Instant, status: u16) {
        if self.status == 0 {
            self.response_us = self.lap(now);
            self.status = status;
            self.phase = Phase::Data;
        }
    }

    /// The edge answers in place of the upstream.
    pub fn answered(&mut self, status: u16) {
        self.status = status;
    }

    /// Who will have ended it; the first that is named counts.
    pub fn blame(&mut self, cause: Cause) {
        if self.cause == Cause::Done {
            self.cause = cause;
        }
    }

    /// It was whole.
    pub fn over(&mut self) {
        self.phase = Phase::Over;
    }

    /// Whether it was whole, or somebody is to blame already.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.phase == Phase::Over || self.cause != Cause::Done
    }

    /// How long its present phase lasts.
    fn lap(&mut self, now: Instant) -> u32 {
        let at = micros(now.saturating_duration_since(self.began));
        let lap = at.saturating_sub(self.mark_us);
        self.mark_us = at;
        lap
    }

    /// Ends it: counts it for its route, and makes its record if it is to be written.
    pub(crate) fn end(mut self, end: &End) -> Option<Record> {
        match self.phase {
            Phase::Held => self.held_us = add(self.held_us, self.lap(end.now)),
            Phase::Connect => self.connect_us = add(self.connect_us, self.lap(end.now)),
            _ => {}
        }
        let timers = Timers {
            head: time(self.head_us),
            held: time(self.held_us),
            connect: time(self.connect_us),
            response: time(self.response_us),
            total: end.now.saturating_duration_since(self.began),
        };
        let [bytes_down, bytes_up] =
            [0, 1].map(|side: usize| end.moved[side].saturating_sub(self.before[side]));
        if let Some(gate) = &self.gate {
            gate.stats.over(self.cause, &timers, bytes_up, bytes_down);
        }
        let words = *self.words?;
        Some(Record {
            ended_us: 0,
            protocol: self.protocol,
            client: end.client,
            upstream: self.upstream,
            status: self.status,
            cause: self.cause,
            phase: self.phase,
            timers,
            bytes_up,
            bytes_down,
            retries: self.retries,
            words,
        })
    }
}

/// What the end of a visit is told by its session.
pub(crate) struct End {
    pub(crate) now: Instant,
    pub(crate) client: SocketAddr,
    /// What its connection has moved, to the client and to the upstream.
    pub(crate) moved: [u64; 2],
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).map_or(NONE - 1, |us| us.min(NONE - 1))
}

fn add(sum: u32, more: u32) -> u32 {
    match sum {
        NONE => more,
        sum => sum.saturating_add(more).min(NONE - 1),
    }
}

fn time(us: u32) -> Option<Duration> {
    (us != NONE).then(|| Duration::from_micros(us.into()))
}
