//! Sessions over real sockets, with peers that cut, bend and break what they send.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::Arc,
};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConnection, RootCertStore,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    version::{TLS12, TLS13},
};

use super::*;

/// Configurations of both ends.
struct Terms {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Terms {
    fn new(version: &'static rustls::SupportedProtocolVersion) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["a.demo".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            server: Arc::new(server),
            client: Arc::new(client),
        }
    }
}

/// A client that hands out its records, and the edge's end of its connection.
struct Bed {
    client: ClientConnection,
    wire: std::net::TcpStream,
    edge: Sealed,
}

impl Bed {
    fn new(terms: &Terms) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        wire.set_nodelay(true).unwrap();
        let (inside, _) = listener.accept().unwrap();
        inside.set_nonblocking(true).unwrap();
        let inside = TcpStream::from_std(inside);
        let name = ServerName::try_from("a.demo").unwrap();
        Self {
            client: ClientConnection::new(Arc::clone(&terms.client), name).unwrap(),
            wire,
            edge: Sealed::accept(inside, Arc::clone(&terms.server), Vec::new()).unwrap(),
        }
    }

    /// What the client has to say.
    fn said(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Sends something and lets the edge act on it.
    fn send(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.wire.write_all(bytes).unwrap();
        match self.edge.open {
            true => Ok(true),
            false => self.edge.handshake(),
        }
    }

    /// Gives the client what the edge has said.
    fn hear(&mut self) {
        self.wire.set_nonblocking(true).unwrap();
        let mut bytes = [0; 65536];
        while let Ok(count @ 1..) = self.wire.read(&mut bytes) {
            let mut rest = &bytes[..count];
            while !rest.is_empty() {
                self.client.read_tls(&mut rest).unwrap();
                drop(self.client.process_new_packets());
            }
        }
        self.wire.set_nonblocking(false).unwrap();
    }

    fn open(terms: &Terms) -> Self {
        let mut bed = Self::new(terms);
        while bed.client.is_handshaking() || !bed.edge.is_open() {
            let said = bed.said();
            bed.send(&said).unwrap();
            bed.hear();
        }
        bed
    }

    /// What the edge reads now.
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        let mut buffer = [0; 100];
        loop {
            match self.edge.read(&mut buffer) {
                Ok(Got { count: 0, .. }) => return Ok(all),
                Ok(got) => all.extend_from_slice(&buffer[..got.count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !all.is_empty() => {
                    return Ok(all);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn say(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.client.writer().write_all(bytes).unwrap();
        self.said()
    }
}

#[test]
fn records_arrive_however_they_are_cut_and_leave_no_buffer_behind() {
    for version in [&TLS12, &TLS13] {
        let terms = Terms::new(version);
        let mut bed = Bed::new(&terms);
        while bed.client.is_handshaking() || !bed.edge.is_open() {
            for byte in bed.said() {
                bed.send(&[byte]).unwrap();
            }
            bed.hear();
        }
        let said = bed.say(b"hello, edge");
        let (last, most) = said.split_last().unwrap();
        for byte in most {
            bed.send(&[*byte]).unwrap();
            assert_eq!(bed.read().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        assert!(bed.edge.incoming.capacity() > 0, "most of a record waits");
        bed.send(&[*last]).unwrap();
        assert_eq!(bed.read().unwrap(), b"hello, edge");
        assert_eq!(bed.edge.write(b"hello").unwrap(), 5);
        bed.hear();
        let mut got = [0; 5];
        bed.client.reader().read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
        assert!(bed.edge.is_silent());
        for buffer in [
            &bed.edge.incoming,
            &bed.edge.plain.bytes,
            &bed.edge.outgoing.bytes,
        ] {
            assert_eq!(buffer.capacity(), 0);
        }
    }
}

#[test]
fn a_goodbye_is_an_end_and_a_cut_is_none() {
    for version in [&TLS12, &TLS13] {
        let terms = Terms::new(version);
        let mut bed = Bed::open(&terms);
        let mut said = bed.say(b"last words");
        bed.client.send_close_notify();
        said.extend(bed.said());
        bed.send(&said).unwrap();
        assert_eq!(bed.read().unwrap(), b"last words");
        assert_eq!(bed.read().unwrap(), b"");
        // The other half still goes.
        bed.edge.write(b"and mine").unwrap();
        bed.edge.finish();
        bed.hear();
        let mut got = Vec::new();
        bed.client.reader().read_to_end(&mut got).unwrap();
        assert_eq!(got, b"and mine", "with a goodbye of the edge's own");

        let mut cut = Bed::open(&terms);
        let said = cut.say(b"last wo");
        cut.send(&said).unwrap();
        cut.wire.shutdown(Shutdown::Write).unwrap();
        assert_eq!(cut.read().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[test]
fn a_bent_byte_ends_the_session_and_nothing_else() {
    for version in [&TLS12, &TLS13] {
        let terms = Terms::new(version);
        // The hello, the rest of the handshake, and what is said then.
        for flight in 0..3 {
            let mut at = 0;
            loop {
                let mut bed = Bed::new(&terms);
                for _ in 0..flight.min(1) {
                    let said = bed.said();
                    bed.send(&said).unwrap();
                    bed.hear();
                }
                if flight == 2 {
                    bed = Bed::open(&terms);
                    bed.client.writer().write_all(b"some words").unwrap();
                }
                let mut said = bed.said();
                let Some(byte) = said.get_mut(at) else { break };
                *byte ^= 0x41;
                let shaken = bed.send(&said);
                let heard = bed.read();
                // Whatever came of it: it may be asked, written to and ended, again and again.
                for _ in 0..2 {
                    drop(bed.edge.handshake());
                    drop(bed.edge.write(b"x"));
                    drop(bed.read());
                }
                bed.edge.finish();
                if flight == 2 {
                    assert!(heard.is_err(), "byte {at}: {shaken:?}");
                }
                at += 5;
            }
        }
    }
}

#[test]
fn what_the_kernel_has_no_room_for_is_kept_and_goes_later() {
    let terms = Terms::new(&TLS13);
    let mut bed = Bed::open(&terms);
    let bytes: Vec<u8> = (0..=250).cycle().take(8 << 20).collect();
    let mut sent = 0;
    while bed.edge.pending() == 0 {
        sent += bed.edge.write(&bytes[sent..]).unwrap();
    }
    let kept = bed.edge.pending();
    assert!(kept <= WRITE_BYTES + 1024, "{kept} are kept");
    assert_eq!(
        bed.edge.write(&bytes[sent..]).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    let mut got = Vec::new();
    let mut chunk = vec![0; 65536];
    while got.len() < sent {
        bed.edge.flush().unwrap();
        let count = bed.wire.read(&mut chunk).unwrap();
        let mut rest = &chunk[..count];
        while !rest.is_empty() {
            bed.client.read_tls(&mut rest).unwrap();
            bed.client.process_new_packets().unwrap();
            let mut plain = [0; 20_000];
            while let Ok(count @ 1..) = bed.client.reader().read(&mut plain) {
                got.extend_from_slice(&plain[..count]);
            }
        }
    }
    assert!(got == bytes[..sent]);
    assert_eq!(bed.edge.outgoing.bytes.capacity(), 0);
}

#[test]
fn keys_are_changed_under_way() {
    let terms = Terms::new(&TLS13);
    let mut bed = Bed::open(&terms);
    for round in 0..3 {
        bed.client.refresh_traffic_keys().unwrap();
        let said = bed.say(b"with new keys");
        // Half a record is at hand while the edge writes.
        let (half, rest) = said.split_at(said.len() - 3);
        bed.send(half).unwrap();
        drop(bed.read());
        bed.edge.write(b"meanwhile").unwrap();
        bed.send(rest).unwrap();
        assert_eq!(bed.read().unwrap(), b"with new keys", "round {round}");
        bed.edge.write(b"and more").unwrap();
        bed.hear();
        let mut got = [0; 17];
        bed.client.reader().read_exact(&mut got).unwrap();
        assert_eq!(&got, b"meanwhileand more");
    }
}

#[test]
fn a_session_is_small() {
    // Its keys and state; buffers there are none while it is idle.
    let size = size_of::<Sealed>();
    assert!(size <= 3072, "{size}");
}
