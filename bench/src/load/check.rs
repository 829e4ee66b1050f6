//! Reads back what an app has kept, to compare it with what it had acknowledged.

use std::{collections::HashSet, io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::postgres;

/// Longest time that reading back may take.
const READ_MAX: Duration = Duration::from_secs(60);

/// Why an app's writes cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The connection broke.
    #[error("cannot read the journal of notes back through {address}")]
    Io {
        /// The edge.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("{address} did not give all writes back within {READ_MAX:?}")]
    TooLong {
        /// The edge.
        address: SocketAddr,
    },
    /// The answer is not a whole journal.
    #[error("{address} answered the request for the journal with {what}")]
    Answer {
        /// The edge.
        address: SocketAddr,
        /// What it was.
        what: String,
    },
    /// PostgreSQL says no.
    #[error("cannot read the rows back through {address}")]
    Postgres {
        /// The edge.
        address: SocketAddr,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
}

/// Sequence numbers of a client's notes, read from the whole journal through an edge.
///
/// # Errors
/// When the journal cannot be had whole.
pub async fn journal_of_notes(
    address: SocketAddr,
    host: &str,
    client: &str,
) -> Result<HashSet<u64>, CheckError> {
    let failed = |source| CheckError::Io { address, source };
    let fetch = async {
        let mut stream = TcpStream::connect(address).await.map_err(failed)?;
        let request = format!("GET /notes HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map_err(failed)?;
        Ok(answer)
    };
    let answer = timeout(READ_MAX, fetch)
        .await
        .map_err(|_| CheckError::TooLong { address })??;
    let body = whole_body(&answer).map_err(|what| CheckError::Answer { address, what })?;
    Ok(sequences(body, client))
}

/// The body of a response of status 200 that is as long as its head says.
fn whole_body(answer: &[u8]) -> Result<&[u8], String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(head_bytes)) = head.parse(answer) else {
        return Err("no HTTP response".to_owned());
    };
    if head.code != Some(200) {
        return Err(format!("status {}", head.code.unwrap_or(0)));
    }
    let body = &answer[head_bytes..];
    let length = head
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| {
            std::str::from_utf8(header.value)
                .ok()?
                .trim()
                .parse::<usize>()
                .ok()
        });
    if length != Some(body.len()) {
        let (has, length) = (body.len(), length.unwrap_or(0));
        return Err(format!("{has} bytes where {length} were announced"));
    }
    Ok(body)
}

fn sequences(journal: &[u8], client: &str) -> HashSet<u64> {
    journal
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let line = std::str::from_utf8(line).ok()?;
            let rest = line.strip_prefix(client)?.strip_prefix(' ')?;
            rest.split(' ').next()?.parse().ok()
        })
        .collect()
}

/// Numbers of a client's rows, read through an edge.
///
/// # Errors
/// When they cannot be had.
pub async fn rows_of_postgres(
    address: SocketAddr,
    client: &str,
) -> Result<HashSet<u64>, CheckError> {
    timeout(READ_MAX, postgres::rows(address, client))
        .await
        .map_err(|_| CheckError::TooLong { address })?
        .map_err(|source| CheckError::Postgres { address, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_those_of_the_client_alone() {
        let journal = b"w1 1 aa\nw11 2 bb\nw1 30 cc\nx 4 dd\n";
        assert_eq!(sequences(journal, "w1"), HashSet::from([1, 30]));
    }

    #[test]
    fn half_a_journal_is_not_taken_for_a_whole_one() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nw 1\n";
        assert_eq!(whole_body(answer).unwrap(), b"w 1\n");
        let cut = whole_body(&answer[..answer.len() - 1]).unwrap_err();
        assert_eq!(cut, "3 bytes where 4 were announced");
        let refused = whole_body(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").unwrap_err();
        assert_eq!(refused, "status 503");
    }
}
