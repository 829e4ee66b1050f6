//! What touches the world: the store, agents and edges, clocks, sockets. Decides nothing.
//!
//! | module | duty |
//! | --- | --- |
//! | [`store`] | keeps the state: a redb file, or memory |
//! | [`ledger`] | the one writer of the store, and the state that readers see |
//! | [`peers`] | agents and edges, behind one seam |
//! | [`executor`] | performs the steps of moves |
//! | [`observer`] | asks agents and edges how they are |
//! | `doctor` | examines nodes |
//! | `asides` | what nodes keep of volumes that their primaries lack |
//! | `leases` | confirms nodes |
//! | [`reconciler`] | carries out what [`crate::logic::reconcile`] plans |
//! | `volumes` | what operators do with volumes |
//! | [`context`] | what they share |
//! | [`control`] | what the API asks for |
//! | [`server`] | the API itself |

mod asides;
pub mod context;
pub mod control;
mod doctor;
mod drain;
pub mod executor;
mod inside;
mod leases;
pub mod ledger;
pub mod observer;
pub mod peers;
mod peers_volumes;
mod questions;
pub mod reconciler;
mod replace;
pub mod server;
mod server_volumes;
pub mod store;
mod volumes;
