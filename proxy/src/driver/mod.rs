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
//! | [`tls`] | certificates, authorities, ticket keys |
//! | [`listener`] | bound sockets |
//! | [`options`] | options of TCP sockets |
//! | [`live`] | the published table |
//! | [`access`] | the writer of the access log |
//! | [`watch`] | health checks and names of upstreams |
//! | [`admin`], [`admin_sockets`] | the admin API, and where it is offered |
//! | [`life`] | the process from its start to its end: signals, reloads, upgrades |
//! | [`takeover`] | from one process to the next |
//! | [`notify`], [`privileges`] | systemd; the user that it runs as |

pub mod access;
pub mod admin;
pub mod admin_sockets;
pub mod edge;
pub mod h2;
pub mod life;
pub mod listener;
pub mod live;
pub mod notify;
pub mod options;
pub mod pool;
pub mod privileges;
pub mod relay;
pub mod takeover;
pub mod timers;
pub mod tls;
pub mod watch;
pub mod worker;
