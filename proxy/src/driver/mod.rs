//! Sockets, threads and clocks. Nothing in here decides: sessions and gates do.
//!
//! | module | duty |
//! | --- | --- |
//! | [`edge`] | the running edge: workers, table, gates; carries out admin verbs |
//! | [`worker`] | one thread's loop: readiness, timers and mail in; actions out |
//! | [`h2`] | HTTP/2 connections and their streams |
//! | [`relay`] | bytes from one socket to the other, by copying or by splice |
//! | [`pool`] | idle upstream connections of one worker |
//! | [`timers`] | deadlines of one worker |
//! | [`listener`] | bound sockets |
//! | [`live`] | the published table |
//! | [`access`] | the writer of the access log |
//! | [`watch`] | health checks and names of upstreams |
//! | [`admin`] | the admin API |

pub mod access;
pub mod admin;
pub mod edge;
pub mod h2;
pub mod listener;
pub mod live;
pub mod pool;
pub mod relay;
pub mod timers;
pub mod watch;
pub mod worker;
