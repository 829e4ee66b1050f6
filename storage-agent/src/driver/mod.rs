//! What touches the world: programs, files, sockets, the clock.

pub mod volumes;
