//! The language between Flocker's programs: names, messages, error codes and a small client.
//!
//! Nothing in here decides anything. A type that can be wrong is checked once, where it is
//! parsed, and cannot be made otherwise; what is sent over a socket is plain serde JSON.
//!
//! | module | what it speaks of |
//! | --- | --- |
//! | [`name`], [`host`], [`network`] | names of nodes, apps, volumes, edges; host names and their one normal form; networks |
//! | [`termination`], [`certificate`], [`authority`] | TLS of clients and upstreams, an edge's certificates and whom it believes |
//! | [`route`], [`options`], [`upstream`], [`health`], [`gate`], [`edge`] | what an edge serves, how it is paused, its admin API |
//! | [`volume`], [`container`], [`agent`] | what a node stores and runs, the storage agent's API |
//! | [`logs`], [`exec`] | what apps write, commands inside their containers |
//! | [`replication`] | how volumes are kept on other nodes all the time |
//! | [`aside`] | what a node keeps of a volume that its primary lacks |
//! | [`work`] | what operators do with volumes, the jobs that it becomes |
//! | [`app`], [`control`] | what people declare, the control service's API |
//! | [`drain`], [`explain`] | nodes that apps leave; what a move would take |
//! | [`doctor`] | what a node finds when it examines itself |
//! | [`error`], [`client`], [`stream`], [`config`] | error codes with their HTTP status, the HTTP client, bodies of any length, TOML files |
//! | [`tls`] | certificates: who is who, and who may speak to whom |

pub mod agent;
pub mod app;
pub mod aside;
pub mod authority;
pub mod certificate;
pub mod client;
pub mod config;
pub mod container;
pub mod control;
pub mod deploy;
pub mod doctor;
pub mod drain;
pub mod edge;
pub mod error;
pub mod exec;
pub mod explain;
pub mod gate;
pub mod health;
pub mod host;
pub mod logs;
pub mod name;
pub mod network;
pub mod options;
pub mod path;
pub mod redirect;
pub mod replication;
pub mod route;
pub mod stream;
pub mod termination;
pub mod tls;
pub mod upstream;
pub mod volume;
pub mod work;

pub use error::{ErrorBody, ErrorCode};
