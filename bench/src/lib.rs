//! Load, scenarios and the test bed; and the only crate that sees all the others.

/// Prints a line. Nobody listening any more is no reason to leave a bed standing, as the
/// panic of `println!` would.
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _unheard = writeln!(std::io::stdout(), $($part)*);
    }};
}

pub mod demo;
pub mod edge;
pub mod load;
pub mod plot;
pub mod replicate;
pub mod report;
pub mod scenario;
pub mod spread;
pub mod testbed;
pub mod trial;
