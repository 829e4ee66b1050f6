//! The little HTTP/1.1 that load needs: requests to bytes, bytes to a response. Pure.

/// Longest response that load reads, in bytes: the answers are a number or a sentence.
pub(super) const RESPONSE_BYTES_MAX: usize = 64 * 1024;
/// Most headers of a response.
const HEADERS_MAX: usize = 64;

/// What the bytes read so far are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed<'b> {
    /// A response that has not all come yet.
    NeedMore,
    /// A response.
    Response {
        /// Its status.
        status: u16,
        /// Its body.
        body: &'b [u8],
        /// Length of head and body.
        bytes: usize,
        /// Whether the connection stays open.
        keep_alive: bool,
    },
    /// No response that a client can follow.
    Malformed,
}

/// Reads the response at the beginning of `buffer`.
pub(super) fn parse(buffer: &[u8]) -> Parsed<'_> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let head_bytes = match head.parse(buffer) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Parsed::NeedMore,
        Err(_) => return Parsed::Malformed,
    };
    let mut length = None;
    let mut keep_alive = head.version == Some(1);
    for header in head.headers.iter() {
        let value = std::str::from_utf8(header.value).unwrap_or("").trim();
        if header.name.eq_ignore_ascii_case("content-length") {
            length = value.parse::<usize>().ok();
        } else if header.name.eq_ignore_ascii_case("connection") {
            keep_alive &= !value.eq_ignore_ascii_case("close");
        }
    }
    // Both `notes` and the edge answer with a length; anything else is a fault worth seeing.
    let (Some(status), Some(length)) = (head.code, length) else {
        return Parsed::Malformed;
    };
    if length > RESPONSE_BYTES_MAX {
        return Parsed::Malformed;
    }
    match buffer.get(head_bytes..head_bytes + length) {
        Some(body) => Parsed::Response {
            status,
            body,
            bytes: head_bytes + length,
            keep_alive,
        },
        None => Parsed::NeedMore,
    }
}

/// The number that an answer of `notes` is.
pub(super) fn number(body: &[u8]) -> Option<u64> {
    std::str::from_utf8(body).ok()?.trim_end().parse().ok()
}

/// Requests of one client to `notes`, as bytes.
#[derive(Debug, Clone)]
pub(super) struct Requests {
    host: String,
    client: String,
}

impl Requests {
    pub(super) fn new(host: &str, client: &str) -> Self {
        Self {
            host: host.to_owned(),
            client: client.to_owned(),
        }
    }

    /// Adds a note.
    pub(super) fn write(&self, sequence: u64, close: bool) -> Vec<u8> {
        let body = format!("{} {sequence}", self.client);
        let length = format!("content-length: {}\r\n", body.len());
        self.request("POST /notes", &length, close, &body)
    }

    /// Asks how many notes there are.
    pub(super) fn count(&self, close: bool) -> Vec<u8> {
        self.request("GET /notes/count", "", close, "")
    }

    /// Asks for this client's highest acknowledged note.
    pub(super) fn last(&self, close: bool) -> Vec<u8> {
        let line = format!("GET /notes/last?client={}", self.client);
        self.request(&line, "", close, "")
    }

    fn request(&self, line: &str, headers: &str, close: bool, body: &str) -> Vec<u8> {
        let connection = if close { "connection: close\r\n" } else { "" };
        let host = &self.host;
        format!("{line} HTTP/1.1\r\nhost: {host}\r\n{headers}{connection}\r\n{body}").into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[u8] = b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\nVia: x\r\n\r\n42\n";

    #[test]
    fn every_prefix_of_a_response_needs_more() {
        for end in 0..OK.len() {
            assert_eq!(parse(&OK[..end]), Parsed::NeedMore, "prefix of {end}");
        }
        let Parsed::Response {
            status,
            body,
            bytes,
            keep_alive,
        } = parse(OK)
        else {
            panic!("{:?}", parse(OK));
        };
        assert_eq!((status, bytes, keep_alive), (201, OK.len(), true));
        assert_eq!(number(body), Some(42));
    }

    #[test]
    fn what_cannot_be_followed_is_malformed() {
        for text in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
        ] {
            assert_eq!(parse(text.as_bytes()), Parsed::Malformed, "{text}");
        }
    }

    #[test]
    fn a_closing_response_says_so() {
        let text = b"HTTP/1.1 503 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert!(matches!(
            parse(text),
            Parsed::Response {
                status: 503,
                keep_alive: false,
                ..
            }
        ));
    }

    #[test]
    fn requests_are_what_http_wants() {
        let requests = Requests::new("notes.demo", "w1");
        assert_eq!(
            String::from_utf8(requests.write(7, true)).unwrap(),
            "POST /notes HTTP/1.1\r\nhost: notes.demo\r\ncontent-length: 4\r\n\
             connection: close\r\n\r\nw1 7"
        );
        assert_eq!(
            String::from_utf8(requests.last(false)).unwrap(),
            "GET /notes/last?client=w1 HTTP/1.1\r\nhost: notes.demo\r\n\r\n"
        );
    }
}
