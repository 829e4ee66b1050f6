//! Clients of HTTP/2: one by the book, and one that sends frames as it likes.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request, Response};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::harness::{Conn, PATIENCE};

/// A connection by the book; its own thread keeps it going.
pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    sender: SendRequest<Bytes>,
}

/// A response with its whole body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A request that has been sent.
pub(crate) struct Asked {
    pub(crate) response: ResponseFuture,
    pub(crate) body: SendStream<Bytes>,
}

impl Client {
    pub(crate) fn connect(to: SocketAddr) -> Self {
        let runtime = runtime();
        let sender = runtime.block_on(async {
            let socket = tokio::net::TcpStream::connect(to).await.unwrap();
            socket.set_nodelay(true).unwrap();
            begin(socket).await
        });
        Self { runtime, sender }
    }

    /// The same over TLS, to a host that this authority vouches for.
    pub(crate) fn secure(to: SocketAddr, authority: &Path, host: &str) -> Self {
        let runtime = runtime();
        let config = Arc::new(trusting(authority, &[b"h2"]));
        let host = ServerName::try_from(host.to_owned()).unwrap();
        let sender = runtime.block_on(async {
            let socket = tokio::net::TcpStream::connect(to).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(config);
            begin(connector.connect(host, socket).await.unwrap()).await
        });
        Self { runtime, sender }
    }

    /// A GET, or `None` if the server wants no more requests here, and this is one that it has
    /// not begun with.
    pub(crate) fn try_get(&mut self, host: &str) -> Option<Result<Answer, h2::Error>> {
        let refused =
            |error: &h2::Error| error.is_go_away() && error.reason() == Some(Reason::NO_ERROR);
        let ready = self.within(self.sender.clone().ready());
        let mut sender = match ready {
            Ok(sender) => sender,
            Err(error) if refused(&error) => return None,
            // It has said so, and closed what was idle.
            Err(error) if error.is_io() => return None,
            Err(error) => return Some(Err(error)),
        };
        let (response, body) = sender.send_request(get(host, "/"), true).ok()?;
        match self.answer(Asked { response, body }) {
            Err(error) if refused(&error) => None,
            answer => Some(answer),
        }
    }

    fn within<A>(&self, what: impl Future<Output = A>) -> A {
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, what).await.unwrap() })
    }

    /// Sends a request; its body is to come unless `ended`.
    pub(crate) fn send(&mut self, request: Request<()>, ended: bool) -> Asked {
        let ready = self.within(self.sender.clone().ready());
        self.sender = ready.unwrap();
        let (response, body) = self.sender.send_request(request, ended).unwrap();
        Asked { response, body }
    }

    /// Whether the server takes extended CONNECTs.
    pub(crate) fn takes_extended_connect(&self) -> bool {
        self.sender.is_extended_connect_protocol_enabled()
    }

    /// A GET of a host's path.
    pub(crate) fn get(&mut self, host: &str, path: &str) -> Asked {
        self.send(get(host, path), true)
    }

    pub(crate) fn head(&self, response: ResponseFuture) -> Result<Response<RecvStream>, h2::Error> {
        self.within(response)
    }

    /// The whole answer.
    pub(crate) fn answer(&self, asked: Asked) -> Result<Answer, h2::Error> {
        self.within(async {
            let (parts, mut body) = asked.response.await?.into_parts();
            let mut bytes = Vec::new();
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                bytes.extend_from_slice(&data);
            }
            Ok(Answer {
                status: parts.status.as_u16(),
                fields: parts.headers,
                body: bytes,
                trailers: body.trailers().await?,
            })
        })
    }

    /// The next bytes of a body; `None` at its end.
    pub(crate) fn data(&self, body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
        self.within(async {
            loop {
                let data = body.data().await;
                if let Some(Ok(data)) = &data {
                    body.flow_control().release_capacity(data.len()).unwrap();
                    // A stream may end with an empty one.
                    if data.is_empty() {
                        continue;
                    }
                }
                return data;
            }
        })
    }

    /// Sends bytes of a body as the window allows.
    pub(crate) fn write(&self, to: &mut SendStream<Bytes>, mut bytes: Bytes, ended: bool) {
        self.within(async {
            while !bytes.is_empty() {
                to.reserve_capacity(bytes.len());
                let room = std::future::poll_fn(|cx| to.poll_capacity(cx)).await;
                let room = room.unwrap().unwrap();
                let part = bytes.split_to(room.min(bytes.len()));
                to.send_data(part, ended && bytes.is_empty()).unwrap();
            }
        });
    }

    /// Why the server ended the connection for new requests.
    pub(crate) fn wait_goaway(&mut self) -> Option<Reason> {
        let ready = self.within(async {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            loop {
                match self.sender.clone().ready().await {
                    Err(error) => return error,
                    Ok(_) => assert!(tokio::time::Instant::now() < deadline, "no GOAWAY"),
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        ready.reason()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

async fn begin<S>(stream: S) -> SendRequest<Bytes>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    // It ends with an error when a test breaks it; what matters is asked for elsewhere.
    tokio::spawn(async move { drop(connection.await) });
    sender.ready().await.unwrap()
}

/// What a client of TLS believes and speaks.
pub(crate) fn trusting(authority: &Path, alpn: &[&[u8]]) -> ClientConfig {
    let text = std::fs::read(authority).unwrap();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

pub(crate) fn get(host: &str, path: &str) -> Request<()> {
    let uri = format!("http://{host}{path}");
    Request::builder().uri(uri).body(()).unwrap()
}

pub(crate) fn post(host: &str, path: &str) -> Request<()> {
    let uri = format!("http://{host}{path}");
    Request::post(uri).body(()).unwrap()
}

/// A connection of which the test writes every byte.
pub(crate) struct Raw(pub(crate) Conn);

/// A frame that was received.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Raw {
    /// Preface and empty SETTINGS have been sent.
    pub(crate) fn connect(to: SocketAddr) -> Self {
        let mut conn = Conn::connect(to);
        conn.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        conn.send(frame(4, 0, 0, &[]));
        Self(conn)
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.send(bytes);
    }

    pub(crate) fn next(&mut self) -> Frame {
        let head = self.0.read_exact(9);
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]),
            payload: self.0.read_exact(length),
        }
    }

    /// The next frame of a kind; others are passed over.
    pub(crate) fn next_of(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next();
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// The code of the GOAWAY that comes, and the end after it.
    pub(crate) fn goaway(&mut self) -> u32 {
        let frame = self.next_of(7);
        let code = frame.payload[4..8].try_into().unwrap();
        self.0.wait_gone();
        u32::from_be_bytes(code)
    }
}

/// A frame's bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A field section in its plainest form: literals, no Huffman, nothing remembered.
pub(crate) fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in list {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "a length of one byte");
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// HEADERS of a whole GET.
pub(crate) fn get_frame(stream: u32, host: &str) -> Vec<u8> {
    let block = fields(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", host),
    ]);
    frame(1, 5, stream, &block)
}
