//! What touches the world: programs, files, sockets, the clock.

pub mod admin;
mod asides;
mod bookmarks;
mod confirm;
pub mod containers;
mod directory;
pub mod doctor;
pub mod fence;
mod health;
mod index;
mod inside;
mod preflight;
mod probe;
mod progress;
mod readiness;
mod receiver;
mod replicator;
mod rounds;
pub mod runtime;
mod scheduler;
mod storage;
mod supervisor;
mod tidy;
pub mod transport;
pub mod volumes;
mod zfs;
