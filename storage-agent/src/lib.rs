//! The storage agent: volumes, replication and containers of one node.
//!
//! [`logic`] decides and touches nothing; [`driver`] touches the world and decides nothing.

pub mod config;
pub mod driver;
pub mod error;
pub mod logic;
pub mod metrics;
