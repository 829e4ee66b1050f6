//! What control decides, without any I/O: values in, values out, time as an argument.
//!
//! | module | duty |
//! | --- | --- |
//! | [`state`] | the desired state and the moves; the only way in which they change |
//! | [`saga`] | journal records, their legal order, what comes next |
//! | [`migration`] | the steps of a move in one table; what each of them found |
//! | [`convergence`] | when pre-copy has done enough |
//! | [`deploy`] | declared apps against the known ones: the plan of a deployment |
//! | [`reconcile`] | desired against observed state: what to do next |
//! | [`report`] | state and observations as the API shows them |

pub mod convergence;
pub mod deploy;
pub mod drain;
pub mod explain;
pub mod links;
pub mod migration;
pub mod reconcile;
pub mod report;
pub mod saga;
pub mod state;
pub mod volumes;
