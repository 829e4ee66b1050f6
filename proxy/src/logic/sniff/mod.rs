//! The first bytes of a connection to a verdict about where it wants to go.
//!
//! Undecided is never "default": a caller that runs out of patience or bytes while the
//! verdict is `NeedMore` closes the connection.

pub mod tls;

/// Bounds of what is read to reach a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SniffLimits {
    /// Most bytes of a ClientHello with its record headers.
    pub hello_bytes: usize,
}

impl Default for SniffLimits {
    /// 16 KiB: hellos with post-quantum key shares are below 2 KiB.
    fn default() -> Self {
        Self {
            hello_bytes: 16 << 10,
        }
    }
}
