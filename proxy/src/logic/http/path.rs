//! How the path of a request is read to find its route.
//!
//! Bytes are forwarded as they came, so the edge and the upstream must read them alike. Routing
//! reads a path segment by segment and decodes nothing but unreserved bytes
//! ([`flocker_api::path`]); query and trailing slash do not count. Only where a host has routes
//! below paths does it matter what others might read: there a path with dot segments, in
//! whatever disguise, or with a malformed escape is refused, and so is one that leads to another
//! route when `%2F`, `\`, `;` parameters, empty segments and escapes are read as lenient servers
//! do (RFC 3986, sections 3.3 and 6.2.2).
#![warn(clippy::indexing_slicing)]

use flocker_api::path::{PREFIX_BYTES_MAX, escaped, is_unreserved};

/// What other readings there are of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// None.
    None,
    /// A lenient server may read this, in normal form.
    Other(String),
    /// It climbs or is malformed: no route can be told.
    Hopeless,
}

/// Replaces `normal` by the beginning of a path in normal form, in whole segments, as far as a
/// prefix can reach. What is no path (`*`, an authority) gives the root.
pub fn normalise(path: &[u8], normal: &mut String) {
    normal.clear();
    let Some((b'/', rest)) = without_query(path).split_first() else {
        return;
    };
    let mut segments = rest.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_none() {
            return;
        }
        let border = normal.len();
        normal.push('/');
        push_strict(segment, normal);
        if normal.len() > PREFIX_BYTES_MAX {
            normal.truncate(border);
            return;
        }
    }
}

/// What else a path could be taken for.
#[must_use]
pub fn doubt(path: &[u8]) -> Doubt {
    let path = without_query(path);
    let plain = memchr::memchr3(b'%', b'\\', b';', path).is_none()
        && !path
            .windows(2)
            .any(|two| two == b"//" || two == b"/." || two == b"./");
    if plain || path.first() != Some(&b'/') {
        return Doubt::None;
    }
    let Some(decoded) = decode(path) else {
        return Doubt::Hopeless;
    };
    let mut other = String::new();
    for segment in decoded.split(|byte| matches!(byte, b'/' | b'\\')) {
        let parameters = memchr::memchr(b';', segment).unwrap_or(segment.len());
        match segment.get(..parameters).unwrap_or_default() {
            b"" => {}
            b"." | b".." => return Doubt::Hopeless,
            segment => {
                other.push('/');
                segment.iter().for_each(|byte| push(*byte, &mut other));
            }
        }
    }
    Doubt::Other(other)
}

fn without_query(path: &[u8]) -> &[u8] {
    let end = memchr::memchr(b'?', path).unwrap_or(path.len());
    path.get(..end).unwrap_or(path)
}

/// Every escape decoded; `None` when one is malformed or stands for NUL.
fn decode(path: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        rest = after;
        let mut byte = *byte;
        if byte == b'%' {
            byte = escaped(after).filter(|byte| *byte != 0)?;
            rest = after.get(2..)?;
        }
        decoded.push(byte);
    }
    Some(decoded)
}

fn push_strict(segment: &[u8], normal: &mut String) {
    let mut rest = segment;
    while let [byte, after @ ..] = rest {
        rest = after;
        match (byte, escaped(after)) {
            (b'%', Some(escaped)) => {
                rest = after.get(2..).unwrap_or_default();
                match is_unreserved(escaped) {
                    true => normal.push(char::from(escaped)),
                    false => push_escaped(escaped, normal),
                }
            }
            _ => normal.push(char::from(*byte)),
        }
        // Longer than any prefix: the caller cuts it off.
        if normal.len() > PREFIX_BYTES_MAX {
            return;
        }
    }
}

/// As it would stand in a route key.
fn push(byte: u8, normal: &mut String) {
    match is_unreserved(byte) || b"!$&'()*+,=:@".contains(&byte) {
        true => normal.push(char::from(byte)),
        false => push_escaped(byte, normal),
    }
}

fn push_escaped(byte: u8, normal: &mut String) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or('0');
    normal.push('%');
    normal.push(digit(byte >> 4));
    normal.push(digit(byte & 15));
}

#[cfg(test)]
mod tests {
    use flocker_api::path::PathPrefix;
    use proptest::prelude::*;

    use super::*;

    fn normal(path: &str) -> String {
        let mut normal = "left over".to_owned();
        normalise(path.as_bytes(), &mut normal);
        normal
    }

    #[test]
    fn paths_are_read_by_segments() {
        let long = format!("/a/{}/b", "x".repeat(PREFIX_BYTES_MAX));
        for (path, expected) in [
            ("/", ""),
            ("", ""),
            ("*", ""),
            ("?a/b", ""),
            ("/a", "/a"),
            ("/a/", "/a"),
            ("/a?/b", "/a"),
            ("/a/b/?c", "/a/b"),
            ("/%61%2f%C3", "/a%2F%C3"),
            ("//a", "//a"),
            ("/a//b", "/a//b"),
            ("/a%", "/a%"),
            ("/A", "/A"),
            (&long, "/a"),
        ] {
            assert_eq!(normal(path), expected, "{path}");
        }
    }

    #[test]
    fn other_readings_are_known() {
        let other = |text: &str| Doubt::Other(text.to_owned());
        for (path, expected) in [
            ("/a/b", Doubt::None),
            ("/a.b/c", Doubt::None),
            ("/a?%2e%2e/../x", Doubt::None),
            ("*", Doubt::None),
            ("/a/b%2Fc", other("/a/b/c")),
            ("/a\\b", other("/a/b")),
            ("/a%5cb", other("/a/b")),
            ("//a", other("/a")),
            ("/a;x=1/b", other("/a/b")),
            ("/a%3bx/b", other("/a/b")),
            ("/a%40b", other("/a@b")),
            ("/.well-known/x", other("/.well-known/x")),
            ("/a./b", other("/a./b")),
            ("/a/../b", Doubt::Hopeless),
            ("/a/..", Doubt::Hopeless),
            ("/./a", Doubt::Hopeless),
            ("/a/%2e%2E/b", Doubt::Hopeless),
            ("/a/.%2e/b", Doubt::Hopeless),
            ("/a/..;x/b", Doubt::Hopeless),
            ("/a%2f..%2fb", Doubt::Hopeless),
            ("/a\\..\\b", Doubt::Hopeless),
            ("/a/..%5cb", Doubt::Hopeless),
            ("/a%00", Doubt::Hopeless),
            ("/a%", Doubt::Hopeless),
            ("/a%2", Doubt::Hopeless),
            ("/a%zz", Doubt::Hopeless),
        ] {
            assert_eq!(doubt(path.as_bytes()), expected, "{path}");
        }
    }

    proptest! {
        /// A path that nobody could read otherwise has the normal form that a key has.
        #[test]
        fn the_normal_form_is_that_of_keys(path in "(/[a-cA%.~@]{0,4}(61|2E|c3)?){0,6}/?") {
            let text = normal(&path);
            if let Ok(prefix) = path.parse::<PathPrefix>() {
                prop_assert_eq!(prefix.as_str(), text);
            }
        }

        /// Without doubt, there is nothing that a lenient reading would change.
        #[test]
        fn what_is_beyond_doubt_is_read_in_one_way(path in "(/[ab.%;\\\\]{0,3}){1,5}") {
            if doubt(path.as_bytes()) == Doubt::None {
                let decoded = decode(path.as_bytes()).unwrap();
                prop_assert_eq!(decoded, path.as_bytes());
                prop_assert!(path.split('/').skip(1).all(|part| part != "." && part != ".."));
            }
        }
    }
}
