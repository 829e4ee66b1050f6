//! What a health check asks and how its answer is read.
#![warn(clippy::indexing_slicing)]

use std::net::SocketAddr;

use flocker_api::health::Health;

/// Bytes in which an answer must have said its status.
pub const ANSWER_BYTES_MAX: usize = 1024;

/// What the beginning of an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Nothing yet.
    NeedMore,
    /// Its status.
    Is(u16),
    /// It is no HTTP.
    Malformed,
}

/// The request of an http check.
#[must_use]
pub fn request(health: &Health, upstream: SocketAddr) -> String {
    let host = match &health.host {
        Some(host) => host.to_string(),
        None => upstream.to_string(),
    };
    format!(
        "GET {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: flocker-proxy\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n",
        health.path
    )
}

/// Reads the status line (RFC 9112, section 4) at the beginning of an answer.
#[must_use]
pub fn status(answer: &[u8]) -> Status {
    let form = b"HTTP/1.D DDD";
    for (byte, form) in answer.iter().zip(form) {
        let fits = match form {
            b'D' => byte.is_ascii_digit(),
            _ => byte == form,
        };
        if !fits {
            return Status::Malformed;
        }
    }
    // The byte after the digits: a fourth digit would make it another number.
    match (answer.get(9..12), answer.get(12)) {
        (Some([hundreds, tens, ones]), Some(b' ' | b'\r' | b'\n')) => {
            let digit = |byte: &u8| u16::from(byte - b'0');
            match digit(hundreds) * 100 + digit(tens) * 10 + digit(ones) {
                status @ 100..=599 => Status::Is(status),
                _ => Status::Malformed,
            }
        }
        (Some(_), Some(_)) => Status::Malformed,
        _ => Status::NeedMore,
    }
}

/// Whether a status is a good answer; what is wrong with it if not.
///
/// # Errors
/// A sentence for the operator.
pub fn verdict(health: &Health, status: Status) -> Result<(), String> {
    match status {
        Status::Is(status) if health.status.contains(status) => Ok(()),
        Status::Is(status) => Err(format!("it answered {status}, not {}", health.status)),
        Status::NeedMore => Err("it ended without a status".to_owned()),
        Status::Malformed => Err("it does not speak HTTP/1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_known_after_its_line_and_not_before() {
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        for end in 0..=answer.len() {
            let expected = match end {
                0..13 => Status::NeedMore,
                _ => Status::Is(204),
            };
            assert_eq!(status(answer.split_at(end).0), expected, "{end}");
        }
    }

    #[test]
    fn what_is_no_status_line_is_malformed() {
        for answer in [
            &b"SSH-2.0-OpenSSH"[..],
            b"HTTP/2.0 200 OK",
            b"HTTP/1.1 2000 ",
            b"HTTP/1.1 20x ",
            b"HTTP/1.1 099 ",
            b"HTTP/1.1 600 ",
            b"HTTP/1.1\t200 ",
        ] {
            assert_eq!(status(answer), Status::Malformed, "{answer:?}");
        }
    }

    #[test]
    fn it_asks_what_the_route_says() {
        let health: Health = "http,path=/ready,host=a.test,status=204".parse().unwrap();
        let asked = request(&health, "10.0.0.1:80".parse().unwrap());
        assert!(
            asked.starts_with("GET /ready HTTP/1.1\r\nHost: a.test\r\n"),
            "{asked}"
        );
        let plain = request(&"http".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
        assert!(
            plain.starts_with("GET / HTTP/1.1\r\nHost: 10.0.0.1:80\r\n"),
            "{plain}"
        );
        assert_eq!(verdict(&health, Status::Is(204)), Ok(()));
        assert!(
            verdict(&health, Status::Is(200))
                .unwrap_err()
                .contains("it answered 200")
        );
        assert!(verdict(&health, Status::NeedMore).is_err());
    }
}
