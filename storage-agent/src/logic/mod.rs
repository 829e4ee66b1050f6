//! What the agent decides, without sockets, files, processes or clocks.

pub mod container;
pub mod fence;
pub mod label;
pub mod plan;
pub mod resume;
pub mod retention;
pub mod schedule;
pub mod transfer;
pub mod wire;
pub mod zstream;
