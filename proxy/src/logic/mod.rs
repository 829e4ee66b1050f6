//! What the edge decides, without sockets, clocks or threads.

pub mod host;
pub mod http;
pub mod sniff;
pub mod table;
