//! What a load has recorded: every request with its outcome, and how well it kept its schedule.

use std::{collections::HashSet, time::Duration};

use serde::Serialize;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Asks for something that an earlier write must show in.
    Read,
    /// Adds something.
    Write,
}

/// How a request is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    /// By a connection that is kept open for more.
    Kept,
    /// By one opened for it.
    New,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered as it should be.
    Answered,
    /// Answered with a status of 400 or above.
    Status(u16),
    /// Answered, but an earlier acknowledged write was not to be seen.
    Stale,
    /// Answered with what is no HTTP response, or not this one's.
    Malformed,
    /// No connection could be made.
    ConnectFailed,
    /// The connection was reset.
    Reset,
    /// The connection was closed before the answer was complete.
    ClosedEarly,
    /// No answer within the limit.
    TimedOut,
    /// Still without an answer when the load ended.
    Unanswered,
    /// Not sent: too many were in flight. The run does not count.
    NotSent,
}

impl Outcome {
    /// Whether the user of the app has seen an error.
    #[must_use]
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Answered | Self::Unanswered | Self::NotSent)
    }
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When it was meant to be sent, in us since the load began.
    pub intended_us: u64,
    /// From then to the end of its answer, in us.
    pub latency_us: u64,
    /// Which edge it went through: an index into [`Trace::edges`].
    pub edge: u8,
    /// What it did.
    pub kind: Kind,
    /// How it was carried.
    pub connection: Connection,
    /// What became of it.
    pub outcome: Outcome,
    /// Number of the write; 0 for reads.
    pub sequence: u64,
}

/// How well the generator kept its schedule.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Default)]
pub struct Keeping {
    /// From the intended to the real moment of sending, 99th percentile, in ms.
    pub late_p99_ms: f64,
    /// The same, the worst of all.
    pub late_max_ms: f64,
    /// Requests that were due and not sent, because too many were in flight.
    pub not_sent: u64,
    /// CPU time of the generator's thread, in ms.
    pub cpu_ms: f64,
    /// The same for a request, in us.
    pub cpu_us_per_request: f64,
}

impl Keeping {
    /// 99 of 100 requests are sent at most this late; later, the generator is what is measured.
    pub const LATE_P99_MS_MAX: f64 = 25.0;
    /// No request is sent later than this.
    pub const LATE_MAX_MS_MAX: f64 = 250.0;

    /// Whether the schedule was kept, so that the run counts.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.not_sent == 0
            && self.late_p99_ms <= Self::LATE_P99_MS_MAX
            && self.late_max_ms <= Self::LATE_MAX_MS_MAX
    }
}

/// What a load has recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// When it began, Unix time in ms.
    pub began_unix_ms: f64,
    /// How long it took, the answers of the last requests included.
    pub took: Duration,
    /// Requests per second that were meant.
    pub rate: u32,
    /// The edges, as samples refer to them.
    pub edges: Vec<String>,
    /// Name under which its writes were made.
    pub client: String,
    /// Every request, in the order of their intended moments.
    pub samples: Vec<Sample>,
    /// How well the schedule was kept.
    pub keeping: Keeping,
    /// Connections that were opened, those for one request included.
    pub connections_opened: u64,
}

impl Trace {
    /// Numbers of the acknowledged writes that were meant to be sent in a window of
    /// microseconds since the load began.
    pub fn acknowledged(&self, window: std::ops::Range<u64>) -> impl Iterator<Item = u64> + '_ {
        self.samples
            .iter()
            .filter(move |sample| {
                sample.kind == Kind::Write
                    && sample.outcome == Outcome::Answered
                    && window.contains(&sample.intended_us)
            })
            .map(|sample| sample.sequence)
    }

    /// How many acknowledged writes of a window are not among those that are `kept`.
    #[must_use]
    pub fn lost(&self, window: std::ops::Range<u64>, kept: &HashSet<u64>) -> u64 {
        self.acknowledged(window)
            .filter(|sequence| !kept.contains(sequence))
            .count() as u64
    }
}
