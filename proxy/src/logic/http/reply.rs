//! The edge's own answers: small, and never with a connection in doubt.

use super::{
    pages::{About, Pages, answer},
    request::{write_length, write_number},
};

/// An answer of the edge itself.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'r> {
    /// Its status, and what decides its body.
    pub about: About<'r>,
    /// Retry-After, in s.
    pub retry_after_s: Option<u32>,
    /// Location.
    pub location: Option<&'r [u8]>,
    /// Whether the client's connection is closed after it. True unless the request was read
    /// to its end.
    pub close: bool,
    /// Whether it answers HEAD: no body then.
    pub head_only: bool,
}

/// Appends the answer.
pub fn write_reply(reply: &Reply<'_>, pages: &Pages, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    let format = pages.write(&reply.about, &mut body);
    let status = reply.about.status;
    out.extend_from_slice(b"HTTP/1.1 ");
    write_number(out, status.into());
    out.push(b' ');
    out.extend_from_slice(answer(status).0.as_bytes());
    out.extend_from_slice(b"\r\nContent-Type: ");
    out.extend_from_slice(format.media_type().as_bytes());
    out.extend_from_slice(b"\r\nCache-Control: no-store\r\n");
    write_length(out, body.len() as u64);
    if let Some(seconds) = reply.retry_after_s {
        out.extend_from_slice(b"Retry-After: ");
        write_number(out, seconds.into());
        out.extend_from_slice(b"\r\n");
    }
    if let Some(location) = reply.location {
        out.extend_from_slice(b"Location: ");
        out.extend_from_slice(location);
        out.extend_from_slice(b"\r\n");
    }
    if !reply.about.request_id.is_empty() {
        out.extend_from_slice(b"X-Request-Id: ");
        out.extend_from_slice(reply.about.request_id);
        out.extend_from_slice(b"\r\n");
    }
    if reply.close {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !reply.head_only {
        out.extend_from_slice(&body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::http::{
        Framing, HeadLimits, Method, Verdict, Version, accept::Accept, pages::ANSWERS,
        parse_response, response::Asked,
    };

    fn about(status: u16) -> About<'static> {
        About {
            status,
            set: None,
            accept: Accept::default(),
            request_id: b"",
        }
    }

    #[test]
    fn a_refused_hold_says_when_to_come_back() {
        let mut out = Vec::new();
        let reply = Reply {
            about: About {
                request_id: b"r1",
                ..about(503)
            },
            retry_after_s: Some(2),
            location: None,
            close: false,
            head_only: false,
        };
        write_reply(&reply, &Pages::default(), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 503 Service Unavailable\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\
             Cache-Control: no-store\r\n\
             Content-Length: 33\r\n\
             Retry-After: 2\r\n\
             X-Request-Id: r1\r\n\
             \r\n\
             the service is not available now\n"
        );
    }

    #[test]
    fn our_own_answers_pass_our_own_parser() {
        for (status, phrase, message) in ANSWERS {
            for (method, head_only) in [(Method::Get, false), (Method::Head, true)] {
                let reply = Reply {
                    about: about(status),
                    retry_after_s: None,
                    location: (status < 400).then_some(b"https://a.test/"),
                    close: true,
                    head_only,
                };
                let mut out = Vec::new();
                write_reply(&reply, &Pages::default(), &mut out);
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
                let length = message.len() + 1;
                let (framing, body) = if head_only {
                    (Framing::None, 0)
                } else {
                    (Framing::Length(length as u64), length)
                };
                assert_eq!(head.framing, framing);
                assert_eq!(out.len(), head.head_bytes + body);
                let line = format!("HTTP/1.1 {status} {phrase}\r\n");
                assert!(out.starts_with(line.as_bytes()));
            }
        }
    }
}
