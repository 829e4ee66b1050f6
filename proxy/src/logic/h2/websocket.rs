//! The key and its answer in the WebSocket handshake of HTTP/1.1 (RFC 6455, section 4). The
//! handshake of HTTP/2 has neither (RFC 8441, section 5), so the edge plays that part.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::logic::http::{fields, list};

/// What is appended to a key before it is hashed (RFC 6455, section 1.3).
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A key of 16 bytes, which ought to be random.
#[must_use]
pub fn key(random: u128) -> String {
    STANDARD.encode(random.to_be_bytes())
}

/// The answer to a key.
#[must_use]
pub fn accept(key: &str) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(MAGIC);
    STANDARD.encode(context.finish())
}

/// Whether a head asks for an upgrade to WebSocket and nothing else.
#[must_use]
pub fn is_asked(head: &[u8]) -> bool {
    let mut names = fields(head)
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"upgrade"))
        .flat_map(|(_, value)| list(value))
        .peekable();
    names.peek().is_some() && names.all(|name| name.eq_ignore_ascii_case(b"websocket"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_the_one_of_the_standard() {
        // RFC 6455, section 1.3.
        assert_eq!(
            accept("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(key(0), "AAAAAAAAAAAAAAAAAAAAAA==");
    }

    #[test]
    fn an_upgrade_is_to_websocket_or_it_is_another() {
        let head = |value: &str| format!("GET / HTTP/1.1\r\nUpgrade: {value}\r\n\r\n");
        assert!(is_asked(head("websocket").as_bytes()));
        assert!(is_asked(head("WebSocket").as_bytes()));
        assert!(!is_asked(head("websocket, h2c").as_bytes()));
        assert!(!is_asked(b"GET / HTTP/1.1\r\n\r\n"));
    }
}
