//! Waits until something answers: asks often, gives up at a deadline, says what was missing.

use std::{future::Future, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

/// Pause between two questions.
const INTERVAL: Duration = Duration::from_millis(20);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(2);

/// Asks until the answer is yes.
///
/// # Errors
/// At the deadline: with what the last answer was.
pub async fn until<F>(what: &str, timeout: Duration, mut ask: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let deadline = Instant::now() + timeout;
    loop {
        match ask().await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("{what} was not ready within {timeout:?}")));
            }
            Err(_) => tokio::time::sleep(INTERVAL).await,
        }
    }
}

/// `GET path` of `host` is answered with 200.
///
/// # Errors
/// When it is not.
pub async fn http(address: SocketAddr, host: &str, path: &str) -> Result<()> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(ANSWER, exchange)
        .await
        .with_context(|| format!("http://{address}{path} does not answer"))?
        .with_context(|| format!("http://{address}{path} cannot be asked"))?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        let line = answer
            .split(|byte| *byte == b'\r')
            .next()
            .unwrap_or_default();
        bail!(
            "http://{address}{path} answers '{}'",
            String::from_utf8_lossy(line)
        );
    }
    Ok(())
}

/// The file is there.
///
/// # Errors
/// When it is not.
pub fn exists(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    bail!("{} is not there", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_never_is_ready_is_named_at_the_deadline() {
        let error = until("the moon", Duration::from_secs(1), || async {
            bail!("not risen")
        })
        .await
        .unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "the moon was not ready within 1s: not risen"
        );
    }
}
