//! What people see at the end of a workload, and small facts of the head.
#![expect(
    clippy::disallowed_methods,
    reason = "asks git for the commit, and the clock for the date"
)]

use std::{
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use super::figures::{Figures, Spread, WorkloadFigures};

/// Prints the table of a workload.
pub(super) fn table(figures: &WorkloadFigures) {
    if let Some(sessions) = figures.sessions {
        return held(figures, sessions);
    }
    if figures
        .subjects
        .iter()
        .all(|one| one.cpu_per_unit.is_none())
    {
        return others(figures);
    }
    let rate = figures
        .rate
        .map(|rate| format!(", latency at {rate:.0} a second"));
    let how = match figures.cpu_measured.as_str() {
        "rate" => " at a rate, since load and origin were the limit in a closed loop",
        _ => " in a closed loop",
    };
    say!("{}: {}", figures.workload, figures.about);
    say!(
        "  CPU in {} per {}{how}{}",
        figures.cpu_unit,
        figures.unit,
        rate.unwrap_or_default()
    );
    say!(
        "  {:<17} {:>9} {:>17} {:>9} {:>8} {:>8} {:>9} {:>9} {:>9} {:>15} {:>5}",
        "",
        "CPU",
        "range",
        "both",
        "calls",
        "switches",
        "instr.",
        "+p50 us",
        "+p99 us",
        "flocker is",
        "runs"
    );
    for one in &figures.subjects {
        let value = |spread: Option<Spread>, digits: usize| {
            spread.map_or_else(|| "-".to_owned(), |s| format!("{:.digits$}", s.median))
        };
        let range = one
            .cpu_per_unit
            .map(|s| format!("{:.3}..{:.3}", s.min, s.max));
        let ratio = one
            .ratio
            .map(|s| format!("{:.2} ({:.2}..{:.2})", s.median, s.min, s.max));
        say!(
            "  {:<17} {:>9} {:>17} {:>9} {:>8} {:>8} {:>9} {:>9} {:>9} {:>15} {:>5}",
            one.name,
            value(one.cpu_per_unit, 3),
            range.unwrap_or_default(),
            value(one.both_cores_cpu_per_unit, 3),
            value(one.syscalls_per_unit, 2),
            value(one.context_switches_per_unit, 2),
            value(one.instructions_per_unit, 0),
            value(one.p50_added_us, 0),
            value(one.p99_added_us, 0),
            ratio.unwrap_or_default(),
            one.runs
        );
    }
    for one in &figures.subjects {
        for reason in &one.refused {
            say!("  refused: {}: {reason}", one.name);
        }
    }
}

/// The same for memory.
fn held(figures: &WorkloadFigures, sessions: u64) {
    say!(
        "{}: {}; bytes of each of {sessions}",
        figures.workload,
        figures.about
    );
    for one in &figures.subjects {
        let (bytes, ratio) = (one.bytes_per_session, one.ratio);
        let bytes = bytes.map(|s| format!("{:.0} ({:.0}..{:.0})", s.median, s.min, s.max));
        let ratio = ratio.map(|s| format!("flocker is {:.2}", s.median));
        let (bytes, ratio) = (bytes.unwrap_or_default(), ratio.unwrap_or_default());
        say!("  {:<17} {bytes:>24}  {ratio}", one.name);
    }
}

/// The same for figures of other kinds.
fn others(figures: &WorkloadFigures) {
    say!("{}: {}", figures.workload, figures.about);
    for one in &figures.subjects {
        for (name, s) in &one.more {
            let (median, min, max) = (s.median, s.min, s.max);
            say!(
                "  {:<17} {name:<30} {median:>12.2}  ({min:.2}..{max:.2})",
                one.name
            );
        }
    }
}

/// Whether every subject has runs that count.
pub(super) fn is_complete(figures: &Figures) -> bool {
    let mut subjects = figures
        .workloads
        .iter()
        .flat_map(|workload| &workload.subjects);
    subjects.all(|subject| subject.runs > 0)
}

/// Now, in UTC, to the minute (the algorithm of days is of Howard Hinnant's `civil_from_days`).
pub(super) fn date() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    civil(since.as_secs())
}

fn civil(unix: u64) -> String {
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (seconds / 3_600, seconds / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// The commit of the folder that this is run in, with `+` if it has changes.
pub(super) fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return String::new();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit}+"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil(0), "1970-01-01 00:00 UTC");
        assert_eq!(civil(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(civil(1_795_483_860), "2026-11-24 01:31 UTC");
    }
}
