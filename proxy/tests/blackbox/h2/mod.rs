//! HTTP/2 from outside: real clients, streams that are routed and held each on its own, and
//! clients that mean harm.

mod again;
pub(crate) mod client;
mod floods;
mod streams;
mod tools;
pub(crate) mod upstreams;
