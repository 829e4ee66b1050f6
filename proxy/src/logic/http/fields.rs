//! Lines and fields of a head: what requests and responses have in common.
#![warn(clippy::indexing_slicing)]

use memchr::{memchr, memchr2_iter};

use super::{HeadLimits, RejectReason};

/// Most options in the Connection fields of one head, apart from the three known ones.
const OPTIONS_MAX: usize = 16;

/// Longest field name that [`Field::of`] knows.
const KNOWN_BYTES_MAX: usize = 21;

/// Fields that a `Connection` option cannot take away (RFC 9110, section 7.6.1: an option
/// must not name a field meant for all recipients). Those that the edge writes itself are
/// not listed: they are never copied.
const PROTECTED: [&[u8]; 14] = [
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"origin",
    b"range",
    b"set-cookie",
    b"traceparent",
    b"tracestate",
    b"trailer",
    b"x-request-id",
];

/// Where a head ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Not in these bytes.
    Open,
    /// After so many bytes, the empty line included.
    Ends(usize),
    /// It is longer than the limit, or has a line that does not end in CR LF.
    Refused(RejectReason),
}

/// Finds the end of the head that begins at `from`. Every line must end in CR LF and neither
/// may stand alone (RFC 9112, section 2.2 lets us refuse both).
pub(super) fn extent(bytes: &[u8], from: usize, limits: &HeadLimits) -> Extent {
    let window = bytes
        .get(..bytes.len().min(limits.head_bytes))
        .unwrap_or(bytes);
    let mut line = from;
    let mut expected_lf = None;
    for at in memchr2_iter(b'\r', b'\n', window) {
        if at < from || expected_lf == Some(at) {
            continue;
        }
        if window.get(at) == Some(&b'\n') {
            return Extent::Refused(RejectReason::LineEnd);
        }
        match window.get(at + 1) {
            Some(b'\n') if at == line => return Extent::Ends(at + 2),
            Some(b'\n') => {
                line = at + 2;
                expected_lf = Some(at + 1);
            }
            Some(_) => return Extent::Refused(RejectReason::LineEnd),
            None => break,
        }
    }
    if bytes.len() >= limits.head_bytes {
        Extent::Refused(RejectReason::HeadTooLong)
    } else {
        Extent::Open
    }
}

/// The fields of a head that [`extent`] and httparse have accepted, in order.
pub(crate) fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    lines(head).skip(1).filter_map(|line| {
        let colon = memchr(b':', line)?;
        Some((line.get(..colon)?, line.get(colon + 1..)?.trim_ascii()))
    })
}

/// The lines of such a head without their CR LF, up to the empty one.
pub(crate) fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = head;
    std::iter::from_fn(move || {
        let end = memchr(b'\n', rest)?;
        let line = rest.get(..end.checked_sub(1)?)?;
        rest = rest.get(end + 1..)?;
        (!line.is_empty()).then_some(line)
    })
}

/// Field names that mean something to the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Expect,
    /// What a client can read; only looked at.
    Accept,
    /// Whether trailers are taken; the rest of it is for one hop.
    Te,
    /// The id of the request: replaced by the edge's, unless that is the same.
    RequestId,
    /// Meant for one hop, or for the edge alone; never passed on.
    HopByHop,
    /// X-Forwarded-*, X-Client-Cert-Subject and the like: what clients say of themselves is not passed on as it is.
    Forwarded,
    /// One of the above written with `_` for `-`: servers that turn field names into
    /// variables would take it for the real one. Not passed on.
    Lookalike,
    /// Everything else.
    Other,
}

impl Field {
    /// The field of this name.
    pub(super) fn of(name: &[u8]) -> Self {
        if name.len() > KNOWN_BYTES_MAX || memchr(b'_', name).is_none() {
            return Self::exact(name);
        }
        let mut dashed = [0; KNOWN_BYTES_MAX];
        for (to, from) in dashed.iter_mut().zip(name) {
            *to = if *from == b'_' { b'-' } else { *from };
        }
        match Self::exact(dashed.get(..name.len()).unwrap_or_default()) {
            Self::Other => Self::Other,
            _ => Self::Lookalike,
        }
    }

    fn exact(name: &[u8]) -> Self {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match name.len() {
            2 if is(b"te") => Self::Te,
            4 if is(b"host") => Self::Host,
            // The "httpoxy" field: CGI programs take it for their own proxy setting.
            5 if is(b"proxy") => Self::HopByHop,
            6 if is(b"expect") => Self::Expect,
            6 if is(b"accept") => Self::Accept,
            7 if is(b"upgrade") => Self::Upgrade,
            9 if is(b"forwarded") || is(b"x-real-ip") => Self::Forwarded,
            10 if is(b"connection") => Self::Connection,
            10 if is(b"keep-alive") => Self::HopByHop,
            12 if is(b"x-request-id") => Self::RequestId,
            14 if is(b"content-length") => Self::ContentLength,
            14 if is(b"http2-settings") => Self::HopByHop,
            15 if is(b"x-forwarded-for") || is(b"x-forwarded-ssl") => Self::Forwarded,
            16 if is(b"proxy-connection") => Self::HopByHop,
            16 if is(b"x-forwarded-host") || is(b"x-forwarded-port") => Self::Forwarded,
            17 if is(b"transfer-encoding") => Self::TransferEncoding,
            17 if is(b"x-forwarded-proto") => Self::Forwarded,
            18 if is(b"x-forwarded-server") || is(b"x-forwarded-prefix") => Self::Forwarded,
            21 if is(b"x-client-cert-subject") => Self::Forwarded,
            _ => Self::Other,
        }
    }
}

/// The options of all Connection fields of a head (RFC 9110, section 7.6.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    /// How many others there are: names of fields that end here.
    pub(super) others: usize,
}

impl Options {
    /// Adds the options of one Connection field.
    pub(super) fn add(&mut self, value: &[u8]) -> Result<(), RejectReason> {
        for option in list(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                self.others += 1;
            }
        }
        if self.others > OPTIONS_MAX {
            return Err(RejectReason::TooManyOptions);
        }
        Ok(())
    }
}

/// The elements of a comma-separated list; empty ones are skipped (RFC 9110, section 5.6.1).
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// The names that the Connection fields of a head list.
pub(super) struct Listed<'h> {
    names: [&'h [u8]; OPTIONS_MAX],
    count: usize,
}

impl<'h> Listed<'h> {
    /// The names, if [`Options::others`] says that there are any.
    pub(super) fn of(head: &'h [u8], others: usize) -> Self {
        let mut listed = Self {
            names: [&[]; OPTIONS_MAX],
            count: 0,
        };
        if others == 0 {
            return listed;
        }
        let connections = fields(head).filter(|(name, _)| Field::of(name) == Field::Connection);
        for name in connections.flat_map(|(_, value)| list(value)) {
            let known: [&[u8]; 3] = [b"close", b"keep-alive", b"upgrade"];
            if known.iter().any(|known| name.eq_ignore_ascii_case(known)) {
                continue;
            }
            if let Some(slot) = listed.names.get_mut(listed.count) {
                *slot = name;
                listed.count += 1;
            }
        }
        listed
    }

    /// Whether a field of this name ends here.
    pub(super) fn takes(&self, name: &[u8]) -> bool {
        let names = self.names.get(..self.count).unwrap_or_default();
        names.iter().any(|listed| listed.eq_ignore_ascii_case(name))
            && !PROTECTED.iter().any(|kept| kept.eq_ignore_ascii_case(name))
    }
}

/// What Content-Length and Transfer-Encoding of one head say together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lengths {
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
}

impl Lengths {
    /// Adds a Content-Length. A second one is refused even when it says the same
    /// (RFC 9110, section 8.6 and RFC 9112, section 6.3 allow either).
    pub(super) fn add_length(&mut self, value: &[u8]) -> Result<(), RejectReason> {
        if self.length.is_some() || memchr(b',', value).is_some() {
            return Err(RejectReason::LengthDuplicate);
        }
        self.length = Some(decimal(value).ok_or(RejectReason::LengthInvalid)?);
        Ok(())
    }

    /// Adds a Transfer-Encoding, which must be exactly `chunked` (RFC 9112, section 6.1).
    pub(super) fn add_coding(&mut self, value: &[u8]) -> Result<(), RejectReason> {
        if self.chunked {
            return Err(RejectReason::CodingDuplicate);
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(RejectReason::Coding);
        }
        self.chunked = true;
        Ok(())
    }
}

/// A decimal number: digits only, no sign, no space, no overflow (RFC 9110, section 8.6).
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Appends `name: value` and the line's end.
pub(crate) fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_digits_that_fit() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"007"), Some(7));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for text in [
            "",
            "+5",
            "-1",
            " 5",
            "5 ",
            "0x5",
            "5,5",
            "18446744073709551616",
        ] {
            assert_eq!(decimal(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn names_are_known_in_any_case_and_their_lookalikes_too() {
        assert_eq!(Field::of(b"HOST"), Field::Host);
        assert_eq!(Field::of(b"Transfer-Encoding"), Field::TransferEncoding);
        assert_eq!(Field::of(b"Transfer_Encoding"), Field::Lookalike);
        assert_eq!(Field::of(b"X_Forwarded_For"), Field::Lookalike);
        assert_eq!(Field::of(b"X_Trace"), Field::Other);
        assert_eq!(Field::of(b""), Field::Other);
    }
}
