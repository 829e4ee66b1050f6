//! What the agent decides, without sockets, files, processes or clocks.

pub mod archive;
pub mod aside;
pub mod bucket;
pub mod container;
pub mod diverge;
pub mod doctor;
pub mod fence;
pub mod label;
pub mod plan;
pub mod rate;
pub mod restart;
pub mod resume;
pub mod retention;
pub mod schedule;
pub mod transfer;
pub mod verbs;
pub mod wire;
pub mod zstream;
