//! The edge: routes, holds and relays an app's traffic.
//!
//! `logic` decides and does no I/O.

pub mod logic;
