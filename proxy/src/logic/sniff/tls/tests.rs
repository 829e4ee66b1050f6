//! ClientHellos built in code, captured ones, and every prefix, split and cut of both.

use super::*;

/// Captured from OpenSSL's `s_client`, Python's `ssl` and curl; see `testdata/README.md`.
const CAPTURES: [(&str, &[u8], Option<&str>); 5] = [
    (
        "openssl-tls13",
        include_bytes!("../../../../testdata/hello/openssl-tls13.bin"),
        Some("notes.demo"),
    ),
    (
        "openssl-tls12",
        include_bytes!("../../../../testdata/hello/openssl-tls12.bin"),
        Some("notes.demo"),
    ),
    (
        "openssl-no-sni",
        include_bytes!("../../../../testdata/hello/openssl-no-sni.bin"),
        None,
    ),
    (
        "python-alpn",
        include_bytes!("../../../../testdata/hello/python-alpn.bin"),
        Some("db.example.com"),
    ),
    (
        "curl",
        include_bytes!("../../../../testdata/hello/curl.bin"),
        Some("a-long-name.of.some-service.example.com"),
    ),
];

fn limits() -> SniffLimits {
    SniffLimits::default()
}

fn sni(name: &str) -> Sniff {
    Sniff::Sni(Host::normalise(name).unwrap())
}

/// Builds ClientHellos, good and bad.
struct Hello {
    session: Vec<u8>,
    suites: Vec<u8>,
    compressions: Vec<u8>,
    extensions: Option<Vec<(u16, Vec<u8>)>>,
}

fn prefixed16(data: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(data.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(data);
    out
}

fn name_entry(kind: u8, name: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend_from_slice(&prefixed16(name));
    out
}

fn name_list(entries: &[(u8, &[u8])]) -> Vec<u8> {
    let entries: Vec<u8> = entries
        .iter()
        .flat_map(|(kind, name)| name_entry(*kind, name))
        .collect();
    prefixed16(&entries)
}

impl Hello {
    fn new() -> Self {
        Self {
            session: vec![7; 32],
            // One of them GREASE (RFC 8701).
            suites: vec![0x1a, 0x1a, 0x13, 0x01, 0x13, 0x02],
            compressions: vec![0],
            extensions: Some(vec![(0x2a2a, vec![]), (43, vec![2, 3, 4])]),
        }
    }

    fn extension(mut self, kind: u16, data: Vec<u8>) -> Self {
        self.extensions.as_mut().unwrap().push((kind, data));
        self
    }

    fn name(self, name: &str) -> Self {
        self.extension(0, name_list(&[(0, name.as_bytes())]))
    }

    /// The handshake message with its header.
    fn message(&self) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend_from_slice(&[9; 32]);
        body.push(u8::try_from(self.session.len()).unwrap());
        body.extend_from_slice(&self.session);
        body.extend_from_slice(&prefixed16(&self.suites));
        body.push(u8::try_from(self.compressions.len()).unwrap());
        body.extend_from_slice(&self.compressions);
        if let Some(extensions) = &self.extensions {
            let extensions: Vec<u8> = extensions
                .iter()
                .flat_map(|(kind, data)| [kind.to_be_bytes().to_vec(), prefixed16(data)].concat())
                .collect();
            body.extend_from_slice(&prefixed16(&extensions));
        }
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1][..], &length[1..], &body].concat()
    }

    fn bytes(&self) -> Vec<u8> {
        records(&self.message(), FRAGMENT_BYTES_MAX)
    }
}

/// Cuts a handshake message into records of at most so many bytes.
fn records(message: &[u8], fragment: usize) -> Vec<u8> {
    message
        .chunks(fragment)
        .flat_map(|fragment| [vec![22, 3, 1], prefixed16(fragment)].concat())
        .collect()
}

/// The verdict, after every proper prefix was undecided.
fn verdict_after_every_prefix(bytes: &[u8]) -> Sniff {
    for end in 0..bytes.len() {
        assert_eq!(
            client_hello(&bytes[..end], &limits()),
            Sniff::NeedMore,
            "prefix of {end} bytes"
        );
    }
    client_hello(bytes, &limits())
}

#[test]
fn captured_hellos_on_every_prefix() {
    for (name, bytes, host) in CAPTURES {
        let expected = host.map_or(Sniff::NoSni, sni);
        assert_eq!(verdict_after_every_prefix(bytes), expected, "{name}");
    }
}

#[test]
fn a_hello_cut_into_records_anywhere_says_the_same() {
    for (name, bytes, host) in CAPTURES {
        let expected = host.map_or(Sniff::NoSni, sni);
        let message = &bytes[5..];
        for fragment in 1..message.len() {
            let cut = records(message, fragment);
            if cut.len() < limits().hello_bytes {
                assert_eq!(
                    client_hello(&cut, &limits()),
                    expected,
                    "{name} in records of {fragment} bytes"
                );
            }
        }
    }
    let hello = Hello::new().name("a.example").message();
    for fragment in [1, 2, 3, 4, 5, 37, hello.len() - 1] {
        let cut = records(&hello, fragment);
        assert_eq!(verdict_after_every_prefix(&cut), sni("a.example"));
    }
}

#[test]
fn a_name_is_normalised_as_route_keys_are() {
    for name in ["Notes.Demo", "notes.demo", "NOTES.DEMO."] {
        let bytes = Hello::new().name(name).bytes();
        assert_eq!(client_hello(&bytes, &limits()), sni("notes.demo"));
    }
}

#[test]
fn what_follows_the_hello_does_not_matter() {
    let mut bytes = Hello::new().name("a.b").bytes();
    // Change cipher spec and early data.
    bytes.extend_from_slice(&[20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 3, 1, 2, 3]);
    assert_eq!(client_hello(&bytes, &limits()), sni("a.b"));
}

#[test]
fn hellos_with_post_quantum_shares_fit_and_larger_ones_do_not() {
    // ML-KEM-768 with X25519: 1216 bytes of key share.
    let bytes = Hello::new()
        .extension(51, vec![5; 1216])
        .name("pq.example")
        .bytes();
    assert_eq!(verdict_after_every_prefix(&bytes), sni("pq.example"));

    let huge = Hello::new()
        .extension(21, vec![0; 17_000])
        .name("huge.example")
        .bytes();
    // Known from the first header, long before the limit.
    assert_eq!(
        client_hello(&huge[..9], &limits()),
        Sniff::Malformed(Reason::TooLarge)
    );
    // Many tiny records are bounded by their headers, too.
    let tiny = records(&Hello::new().extension(21, vec![0; 6_000]).message(), 1);
    assert_eq!(
        client_hello(&tiny, &limits()),
        Sniff::Malformed(Reason::TooLarge)
    );
}

/// As a browser of today sends it: GREASE everywhere, a post-quantum share beside a classical
/// one, an encrypted inner hello (which names the real server; the outer name is what may be
/// routed by), padding.
fn modern() -> Vec<u8> {
    let shares = [
        &[0x3a, 0x3a, 0, 1, 0][..],
        &[0x11, 0xec, 0x04, 0xc0],
        &[5; 1216],
        &[0, 29, 0, 32],
        &[6; 32],
    ];
    let inner = [
        &[0, 0, 1, 0, 1, 7, 0, 32][..],
        &[8; 32],
        &[0, 176],
        &[9; 176],
    ];
    Hello::new()
        .name("outer.example")
        .extension(0xfe0d, inner.concat())
        .extension(51, prefixed16(&shares.concat()))
        .extension(0x5a5a, vec![0])
        .extension(21, vec![0; 100])
        .message()
}

#[test]
fn a_modern_hello_says_its_outer_name_cut_into_records_and_segments_anywhere() {
    let message = modern();
    assert_eq!(
        verdict_after_every_prefix(&records(&message, FRAGMENT_BYTES_MAX)),
        sni("outer.example")
    );
    for cut in 1..message.len() {
        let (first, second) = message.split_at(cut);
        let both = [first, second].map(|part| records(part, FRAGMENT_BYTES_MAX));
        let mut sniffer = Sniffer::default();
        for (part, expected) in [
            (&both[0][..], Sniff::NeedMore),
            (&both.concat(), sni("outer.example")),
        ] {
            assert_eq!(sniffer.sniff(part, &limits()), expected, "cut at {cut}");
        }
    }
}

#[test]
fn a_slow_drip_is_looked_at_a_few_times_and_as_soon_as_it_is_whole() {
    for fragment in [1, 3, FRAGMENT_BYTES_MAX] {
        let bytes = records(&modern(), fragment);
        let (mut sniffer, mut looks) = (Sniffer::default(), 0);
        for end in 1..bytes.len() {
            looks += usize::from(end >= sniffer.look_at);
            assert_eq!(sniffer.sniff(&bytes[..end], &limits()), Sniff::NeedMore);
        }
        assert_eq!(sniffer.sniff(&bytes, &limits()), sni("outer.example"));
        assert!(looks < 120, "{looks} looks at records of {fragment} bytes");
    }
    // What is too long is refused at the limit, not when it would be whole.
    let limits = SniffLimits { hello_bytes: 600 };
    let (mut sniffer, bytes) = (Sniffer::default(), records(&modern()[..500], 1));
    let refused = (1..=600).find(|end| sniffer.sniff(&bytes[..*end], &limits) != Sniff::NeedMore);
    assert!(refused.is_some());
}

#[test]
fn hellos_without_a_name_say_so() {
    assert_eq!(client_hello(&Hello::new().bytes(), &limits()), Sniff::NoSni);
    let mut old = Hello::new();
    old.extensions = None;
    old.session.clear();
    assert_eq!(verdict_after_every_prefix(&old.bytes()), Sniff::NoSni);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, a line per rule")]
fn malformed_hellos_are_never_a_default() {
    use Reason::{Hostname, Lengths, NotClientHello, NotHandshake, Record, ServerName};
    let name: &[u8] = b"a.example";
    let with_names = |data: Vec<u8>| Hello::new().extension(0, data).bytes();
    let mut no_suites = Hello::new().name("a.b");
    no_suites.suites.clear();
    let mut odd_suites = Hello::new().name("a.b");
    odd_suites.suites.push(0);
    let mut no_compression = Hello::new().name("a.b");
    no_compression.compressions.clear();
    let mut long_session = Hello::new().name("a.b");
    long_session.session.push(0);
    let mut trailing = Hello::new().name("a.b").message();
    trailing.push(0);
    trailing[3] += 1;
    let table: [(&str, Vec<u8>, Reason); 23] = [
        ("plain HTTP", b"GET / HTTP/1.1\r\n".to_vec(), NotHandshake),
        ("SSLv2 hello", vec![0x80, 0x2e, 1, 0, 2], NotHandshake),
        ("alert", vec![21, 3, 3, 0, 2, 1, 0], NotHandshake),
        ("record version 2.0", vec![22, 2, 0, 0, 9], Record),
        ("empty record", vec![22, 3, 1, 0, 0], Record),
        ("record of 16,385 bytes", vec![22, 3, 1, 0x40, 1], Record),
        (
            "ServerHello",
            vec![22, 3, 3, 0, 4, 2, 0, 0, 0],
            NotClientHello,
        ),
        (
            "alert between two records",
            [
                records(&Hello::new().message()[..20], 20),
                vec![21, 3, 3, 0, 2, 1, 0],
            ]
            .concat(),
            NotHandshake,
        ),
        ("empty message", vec![22, 3, 1, 0, 4, 1, 0, 0, 0], Lengths),
        ("no cipher suites", no_suites.bytes(), Lengths),
        ("half a cipher suite", odd_suites.bytes(), Lengths),
        ("no compression methods", no_compression.bytes(), Lengths),
        ("session of 33 bytes", long_session.bytes(), Lengths),
        ("byte after the extensions", records(&trailing, 99), Lengths),
        (
            "server_name twice",
            Hello::new().name("a.b").name("a.b").bytes(),
            ServerName,
        ),
        (
            "two names",
            with_names(name_list(&[(0, name), (0, b"b.example")])),
            ServerName,
        ),
        (
            "no name in the list",
            with_names(name_list(&[])),
            ServerName,
        ),
        (
            "a name of another type",
            with_names(name_list(&[(1, name)])),
            ServerName,
        ),
        ("empty extension", with_names(vec![]), Lengths),
        (
            "list longer than its extension",
            with_names(vec![0, 99, 0, 0, 1, b'a']),
            Lengths,
        ),
        ("empty name", with_names(name_list(&[(0, b"")])), Hostname),
        (
            "NUL in the name",
            with_names(name_list(&[(0, b"a.b\0.c")])),
            Hostname,
        ),
        (
            "name with a port",
            with_names(name_list(&[(0, b"a.b:443")])),
            Hostname,
        ),
    ];
    for (what, bytes, reason) in table {
        assert_eq!(
            client_hello(&bytes, &limits()),
            Sniff::Malformed(reason),
            "{what}"
        );
    }
}

/// Whatever byte is changed, there is a verdict and no panic; and a hello that is refused
/// after a prefix stays refused.
#[test]
fn flipped_bytes_never_panic_and_refusals_stay() {
    let bytes = Hello::new().name("a.example").bytes();
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = bytes.clone();
            bad[at] ^= flip;
            let mut refused = None;
            for end in 0..=bad.len() {
                let verdict = client_hello(&bad[..end], &limits());
                match (refused, verdict) {
                    (None, Sniff::Malformed(reason)) => refused = Some(reason),
                    (None, _) => {}
                    (Some(_), verdict) => {
                        assert!(matches!(verdict, Sniff::Malformed(_)), "byte {at}");
                    }
                }
            }
        }
    }
}
