//! The control service and its command line: desired and observed state, moves, file formats.

pub mod formats;
