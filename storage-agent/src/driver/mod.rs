//! What touches the world: programs, files, sockets, the clock.

pub mod admin;
mod confirm;
pub mod containers;
mod directory;
pub mod fence;
mod preflight;
mod probe;
mod progress;
mod receiver;
mod replicator;
pub mod runtime;
mod storage;
pub mod transport;
pub mod volumes;
mod zfs;
