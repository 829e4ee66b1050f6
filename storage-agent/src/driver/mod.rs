//! What touches the world: programs, files, sockets, the clock.

pub mod admin;
pub mod containers;
mod preflight;
mod probe;
pub mod runtime;
pub mod volumes;
