//! The edge's own answers: small, and never with a connection in doubt.

use super::request::{write_length, write_number};

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
    out.extend_from_slice(b"HTTP/1.1 ");
    write_number(out, reply.status.into());
    out.push(b' ');
    out.extend_from_slice(phrase(reply.status).as_bytes());
    out.extend_from_slice(b"\r\nContent-Type: text/plain; charset=utf-8\r\n");
    out.extend_from_slice(b"Cache-Control: no-store\r\n");
    // With its line end.
    write_length(out, reply.message.len() as u64 + 1);
    if let Some(seconds) = reply.retry_after_s {
        out.extend_from_slice(b"Retry-After: ");
        write_number(out, seconds.into());
        out.extend_from_slice(b"\r\n");
    }
    if reply.close {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !reply.head_only {
        out.extend_from_slice(reply.message.as_bytes());
        out.push(b'\n');
    }
}

/// Reason phrases of the statuses that the edge answers with (RFC 9110, section 15).
fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        404 => "Not Found",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        // A phrase may be empty (RFC 9112, section 4).
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::http::{
        Framing, HeadLimits, Method, Verdict, Version, parse_response, response::Asked,
    };

    #[test]
    fn a_refused_hold_says_when_to_come_back() {
        let mut out = Vec::new();
        write_reply(
            &Reply {
                status: 503,
                message: "held too long",
                retry_after_s: Some(2),
                close: false,
                head_only: false,
            },
            &mut out,
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 503 Service Unavailable\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\
             Cache-Control: no-store\r\n\
             Content-Length: 14\r\n\
             Retry-After: 2\r\n\
             \r\n\
             held too long\n"
        );
    }

    #[test]
    fn our_own_answers_pass_our_own_parser() {
        for status in [
            400, 404, 408, 413, 414, 417, 421, 429, 431, 500, 501, 502, 503, 504, 505,
        ] {
            for (method, head_only) in [(Method::Get, false), (Method::Head, true)] {
                let reply = Reply {
                    status,
                    message: "why",
                    retry_after_s: None,
                    close: true,
                    head_only,
                };
                let mut out = Vec::new();
                write_reply(&reply, &mut out);
                let asked = Asked {
                    method,
                    version: Version::Http11,
                    upgrade: false,
                };
                let Verdict::Head(head) = parse_response(&out, &asked, &HeadLimits::default())
                else {
                    panic!("{status} is malformed");
                };
                assert!(!head.keep_alive);
                let (framing, body) = if head_only {
                    (Framing::None, 0)
                } else {
                    (Framing::Length(4), 4)
                };
                assert_eq!(head.framing, framing);
                assert_eq!(out.len(), head.head_bytes + body);
                assert!(!out.starts_with(format!("HTTP/1.1 {status} \r\n").as_bytes()));
            }
        }
    }
}
