//! Every prefix, every split, every rule; and what no header may do.

use flocker_api::upstream::SendProxy;
use proptest::prelude::*;

use super::*;

fn ends(source: &str, destination: &str) -> Ends {
    Ends {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    }
}

fn v2_bytes(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

fn v4_body(values: &[u8]) -> Vec<u8> {
    let mut body = vec![192, 0, 2, 1, 198, 51, 100, 1, 0xdb, 0xa0, 0x01, 0xbb];
    body.extend(values);
    body
}

/// The header is known when it is whole and not before, whatever follows it.
fn check_all_prefixes(header: &[u8], expected: Option<Ends>) {
    let mut bytes = header.to_vec();
    bytes.extend(b"GET / HTTP/1.1\r\n\r\n");
    for end in 0..=bytes.len() {
        let verdict = parse(bytes.get(..end).unwrap());
        if end < header.len() {
            assert_eq!(verdict, Header::NeedMore, "{end} of {}", header.len());
        } else {
            let bytes = header.len();
            assert_eq!(
                verdict,
                Header::Is {
                    bytes,
                    ends: expected
                },
                "{end}"
            );
        }
    }
}

#[test]
fn version_1_on_every_prefix() {
    for (line, expected) in [
        (
            "PROXY TCP4 192.0.2.1 198.51.100.1 56224 443\r\n",
            Some(ends("192.0.2.1:56224", "198.51.100.1:443")),
        ),
        (
            "PROXY TCP6 2001:db8::1 ::1 1 65535\r\n",
            Some(ends("[2001:db8::1]:1", "[::1]:65535")),
        ),
        ("PROXY TCP6 ffff:f...f:ffff 1\r\n".split_at(0).0, None),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN whatever it 1 2 says\r\n", None),
    ] {
        if !line.is_empty() {
            check_all_prefixes(line.as_bytes(), expected);
        }
    }
}

#[test]
fn version_2_on_every_prefix() {
    let addresses = ends("192.0.2.1:56224", "198.51.100.1:443");
    check_all_prefixes(&v2_bytes(0x21, 0x11, &v4_body(&[])), Some(addresses));
    // With values: an authority, an unknown one, an empty one.
    let values = [2, 0, 1, b'a', 0xe0, 0, 2, 9, 9, 4, 0, 0];
    check_all_prefixes(&v2_bytes(0x21, 0x11, &v4_body(&values)), Some(addresses));
    let mut v6 = vec![0; 36];
    v6[15] = 1;
    v6[31] = 2;
    v6[33] = 7;
    v6[35] = 8;
    check_all_prefixes(&v2_bytes(0x21, 0x21, &v6), Some(ends("[::1]:7", "[::2]:8")));
    // LOCAL, whatever it carries; unix; datagrams; unspecified.
    check_all_prefixes(&v2_bytes(0x20, 0x00, &[]), None);
    check_all_prefixes(&v2_bytes(0x20, 0x11, b"nonsense"), None);
    check_all_prefixes(&v2_bytes(0x21, 0x31, &[0; 216]), None);
    check_all_prefixes(&v2_bytes(0x21, 0x12, &v4_body(&[])), None);
    check_all_prefixes(&v2_bytes(0x21, 0x00, &[1, 2, 3]), None);
}

#[test]
fn a_checksum_must_be_right() {
    let mut header = v2_bytes(0x21, 0x11, &v4_body(&[3, 0, 4, 0, 0, 0, 0]));
    let sum = crc32c(header.iter().copied());
    let at = header.len() - 4;
    header.splice(at.., sum.to_be_bytes());
    assert!(matches!(parse(&header), Header::Is { .. }));
    // The known answer of RFC 3720, appendix B.4.
    assert_eq!(crc32c([0u8; 32].into_iter()), 0x8a91_36aa);
    // Of the addresses and of the sum.
    for flipped in (16..28).chain(at..header.len()) {
        let mut bad = header.clone();
        bad[flipped] ^= 1;
        assert!(matches!(parse(&bad), Header::Malformed(_)), "{flipped}");
    }
}

#[test]
fn what_the_specification_does_not_allow_is_malformed() {
    for line in [
        "GET / HTTP/1.1\r\n\r\n",
        "proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        "PROXY TCP4 192.0.2.1 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \u{e9}\r\n",
    ] {
        assert!(
            matches!(parse(line.as_bytes()), Header::Malformed(_)),
            "{line}"
        );
    }
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
    assert!(matches!(parse(long.as_bytes()), Header::Malformed(_)));
    for (command, family, body) in [
        (0x11, 0x11, v4_body(&[])),
        (0x22, 0x11, v4_body(&[])),
        (0x21, 0x41, v4_body(&[])),
        (0x21, 0x13, v4_body(&[])),
        (0x21, 0x11, vec![0; 11]),
        (0x21, 0x21, vec![0; 35]),
        (0x21, 0x31, vec![0; 215]),
        // Values that are cut short, or reach beyond the header.
        (0x21, 0x11, v4_body(&[1])),
        (0x21, 0x11, v4_body(&[1, 0])),
        (0x21, 0x11, v4_body(&[1, 0, 1])),
        (0x21, 0x11, v4_body(&[1, 0xff, 0xff, 1])),
        (0x21, 0x11, v4_body(&[3, 0, 1, 0])),
        (0x21, 0x11, v4_body(&vec![0; 4096])),
    ] {
        let mut bytes = v2_bytes(command, family, &body);
        // What follows is the client's and no part of a value.
        bytes.extend([0; 64]);
        let verdict = parse(&bytes);
        assert!(
            matches!(verdict, Header::Malformed(_)),
            "{command:x} {family:x}: {verdict:?}"
        );
    }
}

#[test]
fn a_wrong_version_is_known_before_its_length() {
    let bytes = v2_bytes(0x31, 0x11, &v4_body(&[]));
    assert!(matches!(
        parse(bytes.get(..13).unwrap()),
        Header::Malformed(_)
    ));
}

#[test]
fn what_is_written_is_what_is_read() {
    for (source, destination, read) in [
        (
            "192.0.2.1:5",
            "198.51.100.1:443",
            ends("192.0.2.1:5", "198.51.100.1:443"),
        ),
        (
            "[2001:db8::1]:5",
            "[::1]:6",
            ends("[2001:db8::1]:5", "[::1]:6"),
        ),
        (
            "[::ffff:192.0.2.1]:5",
            "198.51.100.1:6",
            ends("192.0.2.1:5", "198.51.100.1:6"),
        ),
        (
            "192.0.2.1:5",
            "[::1]:6",
            ends("[::ffff:192.0.2.1]:5", "[::1]:6"),
        ),
    ] {
        for version in [SendProxy::V1, SendProxy::V2] {
            for facts in [
                Facts::default(),
                Facts {
                    authority: Some("a.test"),
                    alpn: Some(b"h2"),
                },
            ] {
                let mut out = Vec::new();
                write(version, &ends(source, destination), &facts, &mut out);
                check_all_prefixes(&out, Some(read));
                let named = out.windows(6).any(|part| part == b"a.test");
                assert_eq!(named, version == SendProxy::V2 && facts.alpn.is_some());
            }
        }
    }
    for version in [SendProxy::V1, SendProxy::V2] {
        let mut out = Vec::new();
        write_local(version, &mut out);
        check_all_prefixes(&out, None);
    }
}

proptest! {
    #[test]
    fn nothing_panics_and_no_header_is_longer_than_what_is_there(
        signature in prop::sample::select(vec![&SIGNATURE[..], &V1_START[..], &b""[..]]),
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = signature.to_vec();
        bytes.extend(rest);
        if let Header::Is { bytes: length, .. } = parse(&bytes) {
            prop_assert!(length <= bytes.len() && length <= HEADER_BYTES_MAX);
            // More bytes change nothing.
            let known = parse(&bytes);
            bytes.push(0);
            prop_assert_eq!(parse(&bytes), known);
        }
    }

    #[test]
    fn values_of_any_shape_are_bounded_by_the_header(
        values in prop::collection::vec(any::<u8>(), 0..64), beyond in any::<[u8; 16]>(),
    ) {
        let header = v2_bytes(0x21, 0x11, &v4_body(&values));
        let alone = parse(&header);
        let mut followed = header;
        followed.extend(beyond);
        prop_assert_eq!(parse(&followed), alone);
    }
}
