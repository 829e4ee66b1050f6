//! Bytes to a request of `notes`: HTTP/1.1 heads by httparse, bodies by Content-Length only.
//!
//! It does no I/O and keeps no state: a connection calls [`parse`] with what it has read so
//! far until the answer is something other than [`Parsed::NeedMore`].

use super::journal::Note;

/// Longest head, in bytes.
pub(crate) const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Longest body, in bytes: a note is far shorter.
pub(crate) const BODY_BYTES_MAX: usize = 4 * 1024;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;

/// What the bytes read so far are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// A request that has not all come yet.
    NeedMore,
    /// A request; `bytes` of the buffer were its own.
    Request {
        /// What it asks for.
        ask: Ask,
        /// Whether the connection stays open after the answer.
        keep_alive: bool,
        /// Length of head and body.
        bytes: usize,
    },
    /// Nothing that can be answered: status with which the connection is closed.
    Malformed(u16, &'static str),
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Keep a note.
    Add(Note),
    /// The whole journal.
    All,
    /// One note, counted from 1.
    One(u64),
    /// How many notes there are.
    Count,
    /// A client's highest sequence number.
    Last(String),
    /// Whether the service is up.
    Health,
    /// Well-formed, and refused: status and reason.
    Refused(u16, &'static str),
}

/// Reads the request at the beginning of `buffer`.
pub(crate) fn parse(buffer: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let head_bytes = match head.parse(buffer) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) if buffer.len() > HEAD_BYTES_MAX => {
            return Parsed::Malformed(431, "the head is longer than 8 KiB");
        }
        Ok(httparse::Status::Partial) => return Parsed::NeedMore,
        Err(_) => return Parsed::Malformed(400, "this is no HTTP/1.1 request"),
    };
    let framing = match Framing::of(&head) {
        Ok(framing) => framing,
        Err((status, reason)) => return Parsed::Malformed(status, reason),
    };
    let bytes = head_bytes + framing.body_bytes;
    let Some(body) = buffer.get(head_bytes..bytes) else {
        return Parsed::NeedMore;
    };
    let (method, target) = (head.method.unwrap_or(""), head.path.unwrap_or(""));
    Parsed::Request {
        ask: ask(method, target, body),
        keep_alive: framing.keep_alive,
        bytes,
    }
}

/// How long the body is, and whether the connection stays.
struct Framing {
    body_bytes: usize,
    keep_alive: bool,
}

impl Framing {
    fn of(head: &httparse::Request<'_, '_>) -> Result<Self, (u16, &'static str)> {
        let mut length: Option<usize> = None;
        let mut keep_alive = head.version == Some(1);
        for header in head.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let value = std::str::from_utf8(header.value).unwrap_or("").trim();
                let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                match value.parse() {
                    Ok(bytes) if digits && length.is_none_or(|known| known == bytes) => {
                        length = Some(bytes);
                    }
                    _ => return Err((400, "Content-Length is not one number")),
                }
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                return Err((411, "a note comes with a Content-Length"));
            } else if header.name.eq_ignore_ascii_case("connection") {
                let value = String::from_utf8_lossy(header.value).to_ascii_lowercase();
                let has = |token: &str| value.split(',').any(|part| part.trim() == token);
                keep_alive = !has("close") && (keep_alive || has("keep-alive"));
            }
        }
        let body_bytes = length.unwrap_or(0);
        if body_bytes > BODY_BYTES_MAX {
            return Err((413, "a note has at most 4 KiB"));
        }
        Ok(Self {
            body_bytes,
            keep_alive,
        })
    }
}

fn ask(method: &str, target: &str, body: &[u8]) -> Ask {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match (method, path) {
        ("POST", "/notes") => match Note::from_body(body) {
            Some(note) => Ask::Add(note),
            None => Ask::Refused(400, "the body of a note is 'CLIENT SEQUENCE'"),
        },
        ("GET", "/healthz") => Ask::Health,
        ("GET", "/notes") => Ask::All,
        ("GET", "/notes/count") => Ask::Count,
        ("GET", "/notes/last") => match query.split('&').find_map(|q| q.strip_prefix("client=")) {
            Some(client) => Ask::Last(client.to_owned()),
            None => Ask::Refused(400, "write /notes/last?client=CLIENT"),
        },
        ("GET", _) => match path.strip_prefix("/notes/").map(str::parse) {
            Some(Ok(number)) => Ask::One(number),
            _ => Ask::Refused(404, "there is /notes, /notes/N, /notes/count, /notes/last"),
        },
        (_, "/notes" | "/healthz") => Ask::Refused(405, "only GET, and POST to /notes"),
        _ => Ask::Refused(404, "there is /notes, /notes/N, /notes/count, /notes/last"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POST: &[u8] = b"POST /notes HTTP/1.1\r\nHost: n\r\nContent-Length: 5\r\n\r\nw1 42";

    #[test]
    fn every_prefix_of_a_request_needs_more() {
        for end in 0..POST.len() {
            assert_eq!(parse(&POST[..end]), Parsed::NeedMore, "prefix of {end}");
        }
        let expected = Parsed::Request {
            ask: Ask::Add(Note::from_body(b"w1 42").unwrap()),
            keep_alive: true,
            bytes: POST.len(),
        };
        assert_eq!(parse(POST), expected);
        assert_eq!(parse(&[POST, b"GET /"].concat()), expected);
    }

    fn ask_of(text: &str) -> Ask {
        match parse(text.as_bytes()) {
            Parsed::Request { ask, .. } => ask,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn paths_say_what_is_asked_for() {
        let get = |target: &str| ask_of(&format!("GET {target} HTTP/1.1\r\n\r\n"));
        assert_eq!(get("/notes"), Ask::All);
        assert_eq!(get("/notes/17"), Ask::One(17));
        assert_eq!(get("/notes/count"), Ask::Count);
        assert_eq!(get("/notes/last?client=w1"), Ask::Last("w1".to_owned()));
        assert!(matches!(get("/notes/last"), Ask::Refused(400, _)));
        assert!(matches!(get("/notes/x"), Ask::Refused(404, _)));
        assert!(matches!(get("/"), Ask::Refused(404, _)));
        assert!(matches!(
            ask_of("DELETE /notes HTTP/1.1\r\n\r\n"),
            Ask::Refused(405, _)
        ));
    }

    #[test]
    fn connections_stay_open_as_http_says() {
        let keeps = |text: &str| match parse(text.as_bytes()) {
            Parsed::Request { keep_alive, .. } => keep_alive,
            other => panic!("{other:?}"),
        };
        assert!(keeps("GET /notes HTTP/1.1\r\n\r\n"));
        assert!(!keeps("GET /notes HTTP/1.0\r\n\r\n"));
        assert!(!keeps("GET /notes HTTP/1.1\r\nConnection: Close\r\n\r\n"));
        assert!(keeps(
            "GET /notes HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        ));
    }

    #[test]
    fn ambiguous_or_oversized_framing_is_refused() {
        let status = |headers: &str| match parse(
            format!("POST /notes HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes(),
        ) {
            Parsed::Malformed(status, _) => status,
            other => panic!("{headers}: {other:?}"),
        };
        assert_eq!(status("Transfer-Encoding: chunked"), 411);
        assert_eq!(status("Content-Length: +5"), 400);
        assert_eq!(status("Content-Length: 5\r\nContent-Length: 6"), 400);
        assert_eq!(status("Content-Length: 5000"), 413);
        let endless = format!("GET /notes HTTP/1.1\r\nX: {}", "y".repeat(HEAD_BYTES_MAX));
        assert!(matches!(
            parse(endless.as_bytes()),
            Parsed::Malformed(431, _)
        ));
    }
}
