//! Numbers as people read them.

/// `812 B`, `1.2 KiB`, `64.0 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // Not at 1024: 1023.96 would be shown as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `64.1 MiB/s`.
pub(crate) fn rate(bytes_sent: u64, ms: f64) -> String {
    if ms <= 0.0 {
        return "-".to_owned();
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "three digits are shown, and a rate is never negative"
    )]
    let per_second = (bytes_sent as f64 / ms * 1e3) as u64;
    format!("{}/s", bytes(per_second))
}

/// `0 ms`, `0.41 ms`, `8.2 ms`, `84 ms`, `1.24 s`, `2m05s`.
pub(crate) fn ms(ms: f64) -> String {
    if ms < 0.005 {
        "0 ms".to_owned()
    } else if ms < 0.995 {
        format!("{ms:.2} ms")
    } else if ms < 9.95 {
        format!("{ms:.1} ms")
    } else if ms < 999.5 {
        format!("{ms:.0} ms")
    } else if ms < 9_995.0 {
        format!("{:.2} s", ms / 1e3)
    } else if ms < 59_950.0 {
        format!("{:.1} s", ms / 1e3)
    } else {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a duration is never negative, nor 500 million years"
        )]
        let seconds = (ms / 1e3).round() as u64;
        format!("{}m{:02}s", seconds / 60, seconds % 60)
    }
}

/// [`ms`] of whole milliseconds.
pub(crate) fn whole_ms(value: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    ms(value as f64)
}

/// A setting in ms as it would be written: `300ms`, `10s`, `1m30s`.
pub(crate) fn setting_ms(value: u64) -> String {
    let (minutes, rest) = (value / 60_000, value % 60_000);
    let minutes = match minutes {
        0 => String::new(),
        _ => format!("{minutes}m"),
    };
    match (rest % 1000, rest / 1000) {
        (0, 0) if !minutes.is_empty() => minutes,
        (0, seconds) => format!("{minutes}{seconds}s"),
        _ if minutes.is_empty() && rest < 1000 => format!("{rest}ms"),
        (ms, seconds) => format!("{minutes}{seconds}.{ms:03}s"),
    }
}

/// How long ago: `3s`, `5m`, `2h`, `4d`.
pub(crate) fn age(now_ms: u64, then_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A time of day and date, in UTC, to the millisecond.
pub(crate) fn time(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok();
    let at = at.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| "-".to_owned(), |at| format!("{at:.3}"))
}

/// When something ends that ends in days: `in 89 days`, `12 days ago`.
///
/// What was made for ten days a moment ago ends in ten days, not in nine: a minute counts as
/// nothing.
pub(crate) fn in_days(now_s: i64, then_s: i64) -> String {
    const MOMENT_S: i64 = 60;
    let days = match then_s - now_s {
        left if left > 0 => (left + MOMENT_S) / 86_400,
        past => past / 86_400,
    };
    match days {
        _ if then_s <= now_s => format!("{} ago", plural_days(-days)),
        0 => "within a day".to_owned(),
        _ => format!("in {}", plural_days(days)),
    }
}

fn plural_days(days: i64) -> String {
    plural(usize::try_from(days).unwrap_or(0), "day")
}

/// `12,345`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 edge`, `4 edges`, `0 edges`.
pub(crate) fn plural(number: usize, thing: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_for_ten_days_says_so_a_moment_later() {
        let day = 86_400;
        assert_eq!(in_days(0, 10 * day), "in 10 days");
        assert_eq!(in_days(7, 10 * day), "in 10 days");
        assert_eq!(in_days(61, 10 * day), "in 9 days");
        assert_eq!(in_days(100, day), "within a day");
        assert_eq!(in_days(day, day - 1), "0 days ago");
        assert_eq!(in_days(3 * day, day), "2 days ago");
    }

    #[test]
    fn sizes_and_rates() {
        for (value, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (67_108_864, "64.0 MiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(value), text);
        }
        assert_eq!(rate(1 << 20, 500.0), "2.0 MiB/s");
        assert_eq!(rate(1, 0.0), "-");
    }

    #[test]
    fn durations() {
        for (value, text) in [
            (0.0, "0 ms"),
            (0.006, "0.01 ms"),
            (0.414, "0.41 ms"),
            (0.999, "1.0 ms"),
            (8.2, "8.2 ms"),
            (9.97, "10 ms"),
            (84.4, "84 ms"),
            (999.7, "1.00 s"),
            (1_240.0, "1.24 s"),
            (12_345.0, "12.3 s"),
            (59_960.0, "1m00s"),
            (125_000.0, "2m05s"),
        ] {
            assert_eq!(ms(value), text);
        }
    }

    #[test]
    fn settings_read_back() {
        for text in ["0s", "300ms", "10s", "1m", "1m30s", "1.500s", "1m0.250s"] {
            let duration = flocker_control::formats::duration(text).unwrap();
            let value = u64::try_from(duration.as_millis()).unwrap();
            assert_eq!(setting_ms(value), text);
        }
    }

    #[test]
    fn ages_and_counts() {
        assert_eq!(age(1_000, 5_000), "0s");
        assert_eq!(age(60_000, 500), "59s");
        assert_eq!(age(60_000, 0), "1m");
        assert_eq!(age(7_200_000, 0), "2h");
        assert_eq!(age(172_800_000, 0), "2d");
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(plural(1, "edge"), "1 edge");
        assert_eq!(plural(0, "edge"), "0 edges");
    }
}
