//! What the agent decides, without sockets, files, processes or clocks.

pub mod container;
