//! Asks an app once whether it serves.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Most that is read of an answer: its first line is in there.
const ANSWER_BYTES_MAX: u64 = 1024;

/// Whether the port takes connections; if not, why.
pub(super) async fn tcp(address: SocketAddr, limit: Duration) -> Result<(), String> {
    within(limit, TcpStream::connect(address)).await.map(drop)
}

/// Whether `GET path` is answered 2xx; if not, why.
pub(super) async fn http(address: SocketAddr, path: &str, limit: Duration) -> Result<(), String> {
    let answer = within(limit, get(address, path)).await?;
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or(&[]);
    let line = String::from_utf8_lossy(line);
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1));
    match status {
        Some(status) if status.len() == 3 && status.starts_with('2') => Ok(()),
        _ => Err(format!("GET {path} was answered '{line}'")),
    }
}

async fn get(address: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut source = stream.take(ANSWER_BYTES_MAX);
    while !answer.contains(&b'\r') {
        if source.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    Ok(answer)
}

async fn within<T>(
    limit: Duration,
    attempt: impl Future<Output = io::Result<T>>,
) -> Result<T, String> {
    match timeout(limit, attempt).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    async fn answering(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let _read = stream.read(&mut head).await.unwrap();
            stream.write_all(answer).await.unwrap();
        });
        address
    }

    #[tokio::test]
    async fn only_2xx_is_ready() {
        let cases: [(&[u8], bool); 6] = [
            (b"HTTP/1.1 200 OK\r\n\r\n", true),
            (b"HTTP/1.0 204 No Content\r\n\r\n", true),
            (b"HTTP/1.1 503 Starting\r\n\r\n", false),
            (b"HTTP/1.1 2000 Odd\r\n\r\n", false),
            (b"220 smtp ready\r\n", false),
            (b"", false),
        ];
        for (answer, ready) in cases {
            let found = http(answering(answer).await, "/healthz", LIMIT).await;
            assert_eq!(found.is_ok(), ready, "{found:?}");
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_not_ready_and_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(tcp(address, LIMIT).await, Ok(()));
        drop(listener);
        let reason = tcp(address, LIMIT).await.unwrap_err();
        assert!(reason.contains("refused"), "{reason}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_app_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let reason = http(address, "/", LIMIT).await.unwrap_err();
        assert_eq!(reason, "no answer within 5s");
    }
}
