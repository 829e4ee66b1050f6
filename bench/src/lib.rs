//! Load, scenarios and the test bed; and the only crate that sees all the others.

pub mod demo;
pub mod load;
pub mod testbed;
