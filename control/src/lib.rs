//! The control service and its command line: desired and observed state, moves, file formats.
//!
//! `logic` decides, `driver` acts, `formats` reads what people declare.

pub mod config;
pub mod driver;
pub mod error;
pub mod formats;
pub mod logic;
pub mod metrics;
