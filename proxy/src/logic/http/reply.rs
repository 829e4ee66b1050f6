//! The edge's own answers: small, and never with a connection in doubt.

/// An answer of the edge itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// One line for people.
    pub message: &'static str,
    /// Retry-After, in s.
    pub retry_after_s: Option<u32>,
    /// Whether the client's connection is closed after it. True unless the request was read
    /// to its end.
    pub close: bool,
    /// Whether it answers HEAD: no body then.
    pub head_only: bool,
}

/// Appends the answer.
pub fn write_reply(reply: &Reply, out: &mut Vec<u8>) {
    let _ = (reply, out);
}
