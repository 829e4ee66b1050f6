//! TCP under TLS, read in large pieces once much comes.
//!
//! TLS asks for 4 KiB at a time, which is a system call for a quarter of a record. A connection
//! that fills such a read has more to say: from then on it is read ahead into a buffer of its
//! own. One that only ever says little, an API's for example, never gets a buffer.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// What is read at once of a connection of which much comes.
const AHEAD_BYTES: usize = 128 << 10;
/// A read that fills this much is one of a stream.
const FULL_BYTES: usize = 4 << 10;

/// A TCP connection that TLS reads.
#[derive(Debug)]
pub struct Wide {
    tcp: TcpStream,
    /// Empty until much comes.
    ahead: Box<[u8]>,
    /// What of it is read and not yet given.
    from: usize,
    to: usize,
}

impl Wide {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            ahead: Box::default(),
            from: 0,
            to: 0,
        }
    }
}

impl AsyncRead for Wide {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            let (room, before) = (buf.remaining(), buf.filled().len());
            ready!(Pin::new(&mut this.tcp).poll_read(cx, buf))?;
            if room >= FULL_BYTES && buf.filled().len() - before == room {
                this.ahead = vec![0; AHEAD_BYTES].into();
            }
            return Poll::Ready(Ok(()));
        }
        if this.from == this.to {
            let mut ahead = ReadBuf::new(&mut this.ahead);
            ready!(Pin::new(&mut this.tcp).poll_read(cx, &mut ahead))?;
            (this.from, this.to) = (0, ahead.filled().len());
        }
        let given = buf.remaining().min(this.to - this.from);
        buf.put_slice(&this.ahead[this.from..this.from + given]);
        this.from += given;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wide {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn every_byte_arrives_once_in_order_however_it_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let all = sent.clone();
        let sending = tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            peer.write_all(b"hello").await.unwrap();
            // An answer means that the first was read by itself.
            peer.read_u8().await.unwrap();
            peer.write_all(&all).await.unwrap();
        });
        let mut wide = Wide::new(TcpStream::connect(address).await.unwrap());
        let mut first = [0; 8192];
        assert_eq!(wide.read(&mut first).await.unwrap(), 5);
        assert!(wide.ahead.is_empty(), "who says little has no buffer");
        wide.write_u8(1).await.unwrap();
        let (mut got, mut size) = (Vec::new(), 4096);
        loop {
            let mut buffer = vec![0; size];
            let read = wide.read(&mut buffer).await.unwrap();
            if read == 0 {
                break;
            }
            got.extend_from_slice(&buffer[..read]);
            size = size % 20_000 + 4096;
        }
        assert!(!wide.ahead.is_empty());
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
        sending.await.unwrap();
    }
}
