//! Path prefixes of route keys, and the one normal form in which paths are compared.
//!
//! A prefix matches on segment borders: `/api` matches `/api`, `/api/` and `/api/v1`, not
//! `/apiary`. Its normal form begins with `/`, does not end with one, and has neither empty nor
//! dot segments; percent-encoded letters, digits, `-`, `.`, `_` and `~` are decoded
//! (RFC 3986, section 6.2.2.2) and other escapes are in upper case. What servers read in more
//! than one way (`%2F`, `%5C`, `\`, `;`) is not allowed in a prefix at all.

use std::{fmt, str::FromStr};

/// Longest prefix, in bytes of its normal form.
pub const PREFIX_BYTES_MAX: usize = 128;
/// Most segments of a prefix.
pub const PREFIX_SEGMENTS_MAX: usize = 16;

/// Why a text is not a path prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a path prefix: {reason}")]
pub struct InvalidPrefix {
    /// The text as it came.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A path prefix in normal form; the root is empty and matches every path.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPrefix(String);

impl PathPrefix {
    /// The prefix that matches every path.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Whether it matches every path.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Its normal form: empty, or from its `/` on.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How many segments it has.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.0.bytes().filter(|byte| *byte == b'/').count()
    }
}

impl FromStr for PathPrefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        normalise(text).map(Self).map_err(|reason| InvalidPrefix {
            text: text.to_owned(),
            reason,
        })
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

fn normalise(text: &str) -> Result<String, &'static str> {
    let rest = text.strip_prefix('/').ok_or("it must begin with '/'")?;
    let mut normal = String::new();
    if rest.is_empty() {
        return Ok(normal);
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    for segment in rest.split('/') {
        normal.push('/');
        let from = normal.len();
        push_segment(segment, &mut normal)?;
        match normal.get(from..).unwrap_or_default() {
            "" => return Err("it has an empty segment"),
            "." | ".." => return Err("it has a dot segment"),
            _ => {}
        }
    }
    if normal.len() > PREFIX_BYTES_MAX {
        return Err("it is longer than 128 bytes");
    }
    if rest.split('/').count() > PREFIX_SEGMENTS_MAX {
        return Err("it has more than 16 segments");
    }
    Ok(normal)
}

fn push_segment(segment: &str, normal: &mut String) -> Result<(), &'static str> {
    let mut bytes = segment.as_bytes();
    while let [byte, after @ ..] = bytes {
        bytes = after;
        match byte {
            b'%' => {
                let ([high, low, ..], Some(escaped)) = (after, escaped(after)) else {
                    return Err("a '%' is not followed by two hexadecimal digits");
                };
                bytes = after.get(2..).unwrap_or_default();
                match escaped {
                    b'/' | b'\\' | b';' | 0 => {
                        return Err("it escapes a byte that servers read in different ways");
                    }
                    escaped if is_unreserved(escaped) => normal.push(char::from(escaped)),
                    _ => {
                        normal.push('%');
                        normal.push(char::from(high.to_ascii_uppercase()));
                        normal.push(char::from(low.to_ascii_uppercase()));
                    }
                }
            }
            byte if is_unreserved(*byte) || b"!$&'()*+,=:@".contains(byte) => {
                normal.push(char::from(*byte));
            }
            _ => return Err("only unreserved bytes, \"!$&'()*+,=:@\" and escapes are allowed"),
        }
    }
    Ok(())
}

/// The byte that two hexadecimal digits at the beginning of `digits` stand for.
#[must_use]
pub fn escaped(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

/// Bytes whose escape means the same as they do (RFC 3986, section 2.3).
#[must_use]
pub fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_normal_form() {
        for (text, normal) in [
            ("/", ""),
            ("/api", "/api"),
            ("/api/", "/api"),
            ("/API", "/API"),
            ("/%61pi/v%31", "/api/v1"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a+b@c:d", "/a+b@c:d"),
            ("/...", "/..."),
        ] {
            let prefix: PathPrefix = text.parse().unwrap();
            assert_eq!(prefix.as_str(), normal, "{text}");
            assert_eq!(prefix.is_root(), normal.is_empty());
        }
        assert_eq!("/a/b/c".parse::<PathPrefix>().unwrap().segments(), 3);
        assert_eq!(PathPrefix::root().segments(), 0);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_no_prefix() {
        for text in [
            "",
            "api",
            "//",
            "/a//b",
            "/./a",
            "/a/..",
            "/a/%2e%2E",
            "/a%2fb",
            "/a%5Cb",
            "/a%00",
            "/a\\b",
            "/a;b",
            "/a%3bb",
            "/a?b",
            "/a#b",
            "/a b",
            "/a%",
            "/a%1",
            "/a%zz",
            "/\u{e4}",
            "/a\"b",
        ] {
            assert!(text.parse::<PathPrefix>().is_err(), "{text:?}");
        }
        let long = format!("/{}", "a".repeat(PREFIX_BYTES_MAX));
        assert!(long.parse::<PathPrefix>().is_err());
        assert!(long[..PREFIX_BYTES_MAX].parse::<PathPrefix>().is_ok());
        assert!("/a".repeat(16).parse::<PathPrefix>().is_ok());
        assert!("/a".repeat(17).parse::<PathPrefix>().is_err());
    }
}
