//! Sizes (`256M`) and durations (`300ms`) as people write them.

/// What a size may look like.
pub(super) const SIZE_EXPECTED: &str = "a size above zero in quotes, such as \"64M\", \"1.5G\" or \"1T\" (K, M, G, T are powers of 1024)";
/// What a duration may look like.
pub(super) const DURATION_EXPECTED: &str =
    "a number with its unit: ms, s, m or h, such as 300ms, 10s, 1.5m or 1m30s";
/// Longest duration: a day.
pub(super) const DURATION_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// Bytes of `256M`, `1.5g`, `4096`: powers of 1024, rounded up. `None` when it is no size.
pub(super) fn size_bytes(text: &str) -> Option<u64> {
    let (number, shift) = match text.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        b'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let (whole, millionths) = decimal(number)?;
    let unit = 1_u128 << shift;
    let bytes = u128::from(whole) * unit + (u128::from(millionths) * unit).div_ceil(1_000_000);
    u64::try_from(bytes).ok().filter(|bytes| *bytes > 0)
}

/// Bytes as Compose files have them: `512m`, `1gb`, `4096`, `1.5GiB`; powers of 1024.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let trimmed = lower
        .strip_suffix("ib")
        .or_else(|| lower.strip_suffix('b'))
        .unwrap_or(&lower);
    // `1ib` is no size: an `i` belongs to a unit.
    let unit_is_there = trimmed.ends_with(['k', 'm', 'g', 't']);
    (unit_is_there || !lower.ends_with("ib"))
        .then(|| size_bytes(trimmed))
        .flatten()
}

/// `0.5` as 500; digits after the third are cut.
pub(super) fn thousandths(text: &str) -> Option<u64> {
    let (whole, millionths) = decimal(text)?;
    whole.checked_mul(1000)?.checked_add(millionths / 1000)
}

/// Milliseconds of `300ms`, `10s`, `1m30s`. `None` when it is no duration or above a day.
pub(super) fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0_u64;
    let mut last_unit = u64::MAX;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        // Largest unit first, each once: `1m30s`, not `30s1m`.
        if unit_ms >= last_unit {
            return None;
        }
        last_unit = unit_ms;
        let (whole, millionths) = decimal(number)?;
        let part = whole.checked_mul(unit_ms)? + millionths * unit_ms / 1_000_000;
        total = total.checked_add(part)?;
        rest = after;
    }
    (last_unit != u64::MAX && total <= DURATION_MS_MAX).then_some(total)
}

/// `12.5` as 12 and 500,000 millionths; digits further right are cut.
fn decimal(text: &str) -> Option<(u64, u64)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let millionths = fraction
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(6)
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some((whole.parse().ok()?, millionths))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1", Some(1)),
            ("64K", Some(64 << 10)),
            ("256m", Some(256 << 20)),
            ("1.5G", Some(3 << 29)),
            ("2.T", Some(2 << 40)),
            ("0.3", Some(1)),
            ("0", None),
            ("0G", None),
            ("", None),
            ("G", None),
            ("-1", None),
            ("1MB", None),
            ("1 G", None),
            ("1.2.3", None),
            ("99999999T", None),
        ] {
            assert_eq!(size_bytes(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn bytes_of_compose_files() {
        for (text, expected) in [
            ("512m", Some(512 << 20)),
            ("512M", Some(512 << 20)),
            ("1gb", Some(1 << 30)),
            ("1.5GiB", Some(3 << 29)),
            ("4096", Some(4096)),
            ("4096b", Some(4096)),
            ("1ib", None),
            ("1x", None),
            ("", None),
            ("b", None),
            ("0", None),
        ] {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
        assert_eq!(thousandths("0.25"), Some(250));
        assert_eq!(thousandths("2"), Some(2000));
        assert_eq!(thousandths(".5"), None);
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("300ms", Some(300)),
            ("10s", Some(10_000)),
            ("1.5s", Some(1_500)),
            ("1m30s", Some(90_000)),
            ("24h", Some(DURATION_MS_MAX)),
            ("0s", Some(0)),
            ("25h", None),
            ("10", None),
            ("", None),
            ("s", None),
            ("30s1m", None),
            ("1s1s", None),
            ("1d", None),
            ("-1s", None),
            ("1 s", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(duration_ms(text), ms, "{text:?}");
        }
    }
}
