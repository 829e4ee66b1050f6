//! In which format a client would read an answer of the edge (RFC 9110, section 12.5.1).
#![warn(clippy::indexing_slicing)]

use super::fields::list;

/// A format of the edge's own answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// text/plain
    Text,
    /// text/html
    Html,
    /// application/json
    Json,
}

impl Format {
    /// All of them, the first where nothing is preferred.
    pub const ALL: [Self; 3] = [Self::Text, Self::Html, Self::Json];

    /// Its media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/json",
        }
    }

    fn range(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Self::Text => (b"text/plain", b"text/*"),
            Self::Html => (b"text/html", b"text/*"),
            Self::Json => (b"application/json", b"application/*"),
        }
    }
}

/// How much a client would like each format: 0 (not at all) to 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accept([u16; Format::ALL.len()]);

impl Default for Accept {
    /// A client that says nothing takes anything.
    fn default() -> Self {
        Self([1000; Format::ALL.len()])
    }
}

impl Accept {
    /// From the value of an Accept field.
    #[must_use]
    pub fn of(value: &[u8]) -> Self {
        if value.is_empty() || value == b"*/*" {
            return Self::default();
        }
        Self(Format::ALL.map(|format| {
            let (exact, partial) = format.range();
            // The most specific range counts.
            let quality = |wanted: &[u8]| {
                list(value).find_map(|range| {
                    let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
                    let found = parts.next()?.eq_ignore_ascii_case(wanted);
                    found.then(|| parts.find_map(quality).unwrap_or(1000))
                })
            };
            quality(exact)
                .or_else(|| quality(partial))
                .or_else(|| quality(b"*/*"))
                .unwrap_or(0)
        }))
    }

    /// Which of some formats the client likes best, the first among equals; if it likes none of
    /// them, the first, for an answer is better than none.
    pub fn best<T: Copy>(&self, of: impl Iterator<Item = (Format, T)>) -> Option<T> {
        let mut best: Option<(u16, T)> = None;
        for (format, value) in of {
            let liked = self.0.get(format as usize).copied().unwrap_or(0);
            if best.is_none_or(|(most, _)| liked > most) {
                best = Some((liked, value));
            }
        }
        best.map(|(_, value)| value)
    }
}

/// The thousandths of a `q` parameter (RFC 9110, section 12.4.2).
fn quality(parameter: &[u8]) -> Option<u16> {
    let [b'q' | b'Q', b'=', value @ ..] = parameter else {
        return None;
    };
    let (whole, rest) = value.split_first()?;
    if *whole != b'0' {
        return Some(1000);
    }
    let digits = rest.strip_prefix(b".").unwrap_or_default();
    let mut thousandths = 0;
    for at in 0..3 {
        let digit = digits.get(at).filter(|digit| digit.is_ascii_digit());
        thousandths = thousandths * 10 + digit.map_or(0, |digit| u16::from(digit - b'0'));
    }
    Some(thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_format_is_chosen() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (accept, expected) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            (browser, Format::Html),
            ("application/json", Format::Json),
            ("application/json, text/plain;q=0.9", Format::Json),
            ("text/plain;q=0.5, text/html; q=0.625", Format::Html),
            ("text/plain;q=0, */*;q=0.1", Format::Html),
            ("text/*;q=0.2, application/*;q=0.3", Format::Json),
            ("image/png", Format::Text),
            ("TEXT/HTML;Q=1", Format::Html),
            (";;,,q", Format::Text),
        ] {
            let formats = Format::ALL.into_iter().map(|format| (format, format));
            let best = Accept::of(accept.as_bytes()).best(formats);
            assert_eq!(best, Some(expected), "{accept}");
        }
    }
}
