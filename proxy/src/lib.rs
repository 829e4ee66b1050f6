//! The edge: routes, holds and relays an app's traffic.
//!
//! `logic` decides and does no I/O; `driver` does I/O and decides nothing. See the tables in
//! [`logic`] and [`driver`].

pub mod config;
pub mod driver;
pub mod logic;
pub mod metrics;
mod policy;
