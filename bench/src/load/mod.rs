//! Open-loop load: requests are sent when they are due, however slow the answers are.
//!
//! The latency of a request counts from the moment at which it was *meant* to be sent. So a
//! pause of the system shows in every request that fell into it, not only in those that a
//! polite client still sent. Nothing is retried in secret: what fails is recorded as failed.
//!
//! ```text
//! schedule (what is due) -> generator (thread, timer) -> connection (exchange)
//!                                    |                        |
//!                                    +------> ledger <--------+     -> Trace
//! ```
//!
//! `schedule`, `ledger` and `http` do no I/O and read no clock.

mod check;
mod connection;
mod generator;
mod http;
mod ledger;
mod postgres;
mod schedule;
pub(crate) mod timer;
mod trace;

pub use check::{CheckError, journal_of_notes, rows_of_postgres};
pub(crate) use generator::raise_descriptor_limit;
pub use generator::{Load, LoadConfig, LoadError};
pub use postgres::{Writer, WriterConfig};
pub use schedule::{Due, Mix, Schedule};
pub use trace::{Connection, Keeping, Kind, Outcome, Sample, Trace};

/// An edge that load is sent through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name, for the report.
    pub name: String,
    /// Where it listens.
    pub address: std::net::SocketAddr,
}
