//! The report for people: aligned tables in plain words. Pure.

use std::fmt::Write as _;

use super::{LoadReport, MoveReport, Report};

/// The report as text, its last line the verdict.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    let machine = &report.machine;
    let _infallible = writeln!(
        text,
        "storage {}, containers by {}, {} x {}, {} MiB, Linux {}{}\n",
        report.storage,
        report.runtime,
        machine.cpus,
        machine.cpu_model,
        machine.memory_mib,
        machine.kernel,
        if machine.optimised {
            ""
        } else {
            ", debug build"
        },
    );
    text.push_str(&table(&moves(&report.moves)));
    text.push_str(
        "\nRequests count from a second before their move began until a second after its end;\n\
         waits count from the moment at which a request was meant to be sent.\n\n",
    );
    text.push_str("Where the time went, in ms (all routes are held from pause to switch):\n\n");
    text.push_str(&table(&steps(&report.moves)));
    text.push('\n');
    for load in &report.loads {
        text.push_str(&load_line(load));
    }
    for moved in &report.moves {
        for (failure, count) in &moved.failures {
            let (app, to) = (&moved.app, &moved.to);
            let _infallible = writeln!(text, "{app} to {to}: {count} x {failure}");
        }
        if let Some(reason) = &moved.reason {
            let _infallible = writeln!(text, "{} to {}: {reason}", moved.app, moved.to);
        }
    }
    text.push('\n');
    for verdict in &report.verdicts {
        let mark = match (verdict.held, verdict.required) {
            (true, _) => "ok  ",
            (false, true) => "FAIL",
            (false, false) => "over",
        };
        let _infallible = writeln!(text, "{mark}  {}: {}", verdict.what, verdict.found);
    }
    text.push_str(if report.passed {
        "\nPASSED: no request failed and no acknowledged write was lost.\n"
    } else {
        "\nFAILED: see the lines marked FAIL.\n"
    });
    text
}

fn load_line(load: &LoadReport) -> String {
    let cpu = load.keeping.cpu_us_per_request;
    let cost = if cpu > 0.0 {
        format!("; the generator took {cpu:.0} us of CPU for each")
    } else {
        String::new()
    };
    format!(
        "{} between moves: {} a second for {:.0} s, half within {:.2} ms, 99 of 100 within \
         {:.1} ms; {} connections opened{cost}\n",
        load.app,
        load.rate,
        load.seconds,
        load.usual_p50_ms,
        load.usual_p99_ms,
        load.connections_opened,
    )
}

fn name(moved: &MoveReport) -> String {
    format!("{} {}->{}", moved.app, moved.from, moved.to)
}

/// A column for each move, a row for each number.
fn moves(moves: &[MoveReport]) -> Vec<Vec<String>> {
    type Cell = fn(&MoveReport) -> String;
    let rows: [(&str, Cell); 15] = [
        ("", name),
        ("requests", |m| m.requests.to_string()),
        ("  failed", |m| m.failed.to_string()),
        ("  held by the edges", |m| m.held.to_string()),
        ("longest wait, ms", |m| format!("{:.1}", m.longest_wait_ms)),
        ("half within, ms", |m| format!("{:.2}", m.p50_ms)),
        ("99 of 100 within, ms", |m| format!("{:.1}", m.p99_ms)),
        ("acknowledged writes", |m| m.acknowledged_writes.to_string()),
        ("  lost", |m| m.lost_writes.to_string()),
        ("pause, ms", |m| optional(m.pause_ms)),
        ("  app's own stop, ms", |m| optional(m.app_stop_ms)),
        ("  app's own start, ms", |m| optional(m.app_start_ms)),
        ("  the rest, ms", |m| optional(m.overhead_ms)),
        ("sent while serving", |m| {
            format!("{} in {}", bytes(m.bytes_precopy), m.rounds)
        }),
        ("sent while paused", |m| bytes(m.bytes_final)),
    ];
    rows.iter()
        .map(|(label, cell)| {
            let cells = moves.iter().map(cell);
            std::iter::once((*label).to_owned()).chain(cells).collect()
        })
        .collect()
}

/// A row for each step that any move had.
fn steps(moves: &[MoveReport]) -> Vec<Vec<String>> {
    let mut names: Vec<&str> = Vec::new();
    for step in moves.iter().flat_map(|moved| &moved.steps) {
        if !names.contains(&step.name) {
            names.push(step.name);
        }
    }
    let header = std::iter::once(String::new())
        .chain(moves.iter().map(name))
        .collect();
    let row = |wanted: &&str| {
        let cells = moves.iter().map(|moved| {
            let step = moved.steps.iter().find(|step| step.name == *wanted);
            optional(step.map(|step| step.ms))
        });
        std::iter::once((*wanted).to_owned()).chain(cells).collect()
    };
    std::iter::once(header)
        .chain(names.iter().map(row))
        .collect()
}

fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

fn bytes(count: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people, three digits")]
    let count = count as f64;
    match count {
        0.0..1024.0 => format!("{count:.0} B"),
        1024.0..1_048_576.0 => format!("{:.1} KiB", count / 1024.0),
        _ => format!("{:.1} MiB", count / 1_048_576.0),
    }
}

/// Aligned columns: the first to the left, the others to the right.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _infallible = match at {
                0 => write!(line, "{cell:width$}"),
                _ => write!(line, "   {cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
