//! A host name in normal form in a buffer of its own: what requests are routed by.
//!
//! [`flocker_api::host::normalise`] decides what a host name is; this only keeps its answer
//! without allocating.

use std::fmt;

/// Bytes of the buffer that [`flocker_api::host::normalise`] writes into.
const BUFFER_BYTES: usize = 256;

/// A host name or IP literal in normal form: lower case, no port, no trailing dot.
#[derive(Clone, Copy)]
pub struct Host {
    bytes: [u8; BUFFER_BYTES],
    /// Invariant: `bytes[..len]` is ASCII and not empty.
    len: u8,
}

impl Host {
    /// The normal form of `text`, which may carry a port as a Host header may.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn normalise(text: &str) -> Result<Self, &'static str> {
        let mut bytes = [0; BUFFER_BYTES];
        let len = flocker_api::host::normalise(text, &mut bytes)?.len();
        let len = u8::try_from(len).map_err(|_| "it is longer than 253 bytes")?;
        Ok(Self { bytes, len })
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl PartialEq for Host {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Host {}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_one_normal_form() {
        assert_eq!(
            Host::normalise("Example.COM.:80").unwrap().as_str(),
            "example.com"
        );
        assert_eq!(Host::normalise("[::1]:80").unwrap().as_str(), "[::1]");
        assert!(Host::normalise("").is_err());
        let longest = vec!["a".repeat(63); 3].join(".") + "." + &"a".repeat(61);
        assert_eq!(longest.len(), 253);
        assert_eq!(Host::normalise(&longest).unwrap().as_str(), longest);
    }
}
