//! `flocker-bench report`: one page from the files of `flocker-bench edge`, with tables and
//! drawings; HTML that needs nothing else, or Markdown with its drawing beside it.
//!
//! Pure but for reading and writing the files. Several files of the same workloads are several
//! runs: a table says every run's ratio, and the figures of the last.

mod chart;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::figures::{Figures, Head, Spread, SubjectFigures, WorkloadFigures};
use crate::plot::svg::escape;

/// Files in, a page out.
///
/// Without several files it is the page of one run. With several, of the same machine, it shows
/// how far runs agree. A page that ends in .md is Markdown, with its drawing in a file beside it;
/// anything else is HTML that contains its drawings.
#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    /// What `flocker-bench edge --json` wrote; the last file's figures are told, every file's ratios
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where the page goes
    #[arg(long, value_name = "PAGE", default_value = "edge.html")]
    pub out: PathBuf,
}

impl ReportArgs {
    /// Writes the page.
    ///
    /// # Errors
    /// When a file is not one of ours or the page cannot be written.
    pub fn run(&self) -> Result<()> {
        let runs: Result<Vec<Figures>> =
            self.files.iter().map(|file| Figures::read(file)).collect();
        let page = Page::new(&runs?)?;
        let write = |path: &Path, text: &str| {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        if self.out.extension().is_some_and(|ending| ending == "md") {
            let drawing = self.out.with_extension("svg");
            let name = drawing
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            write(&drawing, &chart::overview(&page.lines))?;
            write(&self.out, &page.markdown(&name))?;
        } else {
            write(&self.out, &page.html())?;
        }
        say!(
            "{}: {} workloads of {} files",
            self.out.display(),
            page.lines.len(),
            self.files.len()
        );
        Ok(())
    }
}

/// A workload in all runs that have it.
#[derive(Debug)]
struct Line {
    /// As it was in the last.
    last: WorkloadFigures,
    /// Of each peer: the ratio in each run.
    ratios: Vec<(String, Vec<Spread>)>,
}

#[derive(Debug)]
struct Page {
    head: Head,
    runs: usize,
    lines: Vec<Line>,
}

impl Page {
    fn new(runs: &[Figures]) -> Result<Self> {
        let Some(newest) = runs.last() else {
            bail!("there is no file")
        };
        let mut lines: Vec<Line> = Vec::new();
        for workload in runs.iter().flat_map(|run| &run.workloads) {
            let at = lines
                .iter()
                .position(|line| line.last.workload == workload.workload);
            let at = at.unwrap_or_else(|| {
                lines.push(Line {
                    last: WorkloadFigures::default(),
                    ratios: Vec::new(),
                });
                lines.len() - 1
            });
            let line = &mut lines[at];
            for subject in &workload.subjects {
                let Some(ratio) = subject.ratio else { continue };
                match line
                    .ratios
                    .iter_mut()
                    .find(|(name, _)| *name == subject.name)
                {
                    Some((_, ratios)) => ratios.push(ratio),
                    None => line.ratios.push((subject.name.clone(), vec![ratio])),
                }
            }
            line.last = workload.clone();
        }
        // Files of different workloads are not several runs.
        let ratios = lines.iter().flat_map(|line| &line.ratios);
        let times = ratios.map(|(_, ratios)| ratios.len());
        Ok(Self {
            head: newest.head.clone(),
            runs: times.max().unwrap_or(1),
            lines,
        })
    }

    fn html(&self) -> String {
        let mut page = format!("{HEAD}<h1>What the edge costs beside its peers</h1>\n");
        let mut push = |text: &str| page.push_str(text);
        push(&format!("<p class=\"lead\">{}</p>\n", escape(&self.lead())));
        push(&chart::overview(&self.lines));
        for line in &self.lines {
            let last = &line.last;
            push(&format!(
                "<h2 id=\"{0}\">{0}</h2>\n",
                escape(&last.workload)
            ));
            push(&format!("<p>{}</p>\n", escape(&describe(last))));
            if let Some(drawing) = chart::bars(last) {
                push(&drawing);
            }
            push(&html_table(&table(line)));
            let refused = last.subjects.iter().flat_map(|one| {
                one.refused
                    .iter()
                    .map(|reason| format!("{}: {reason}", one.name))
            });
            let refused: Vec<String> = refused.collect();
            if !refused.is_empty() {
                push("<details><summary>Runs that were refused and done again</summary><ul>");
                for reason in refused {
                    push(&format!("<li>{}</li>", escape(&reason)));
                }
                push("</ul></details>\n");
            }
        }
        push("<h2>Where, when and how</h2>\n");
        push(&html_table(&self.facts()));
        push("</main>\n");
        page
    }

    fn markdown(&self, drawing: &str) -> String {
        let mut page = format!(
            "# What the edge costs beside its peers\n\n{}\n\n",
            self.lead()
        );
        let mut push = |text: &str| page.push_str(text);
        push(&format!("![ratios of all workloads]({drawing})\n"));
        for line in &self.lines {
            push(&format!(
                "\n## {}\n\n{}\n\n",
                line.last.workload,
                describe(&line.last)
            ));
            push(&markdown_table(&table(line)));
        }
        push("\n## Where, when and how\n\n");
        push(&markdown_table(&self.facts()));
        page
    }

    fn lead(&self) -> String {
        let head = &self.head;
        let mut lead = format!(
            "Each proxy with one worker on a core of its own, load and origin on another; subjects \
             take turns, {} rounds of {} s",
            head.runs, head.seconds
        );
        if self.runs > 1 {
            let _infallible = write!(lead, ", {} such runs", self.runs);
        }
        lead.push_str(". Medians, with the range; a ratio is flocker's cost divided by the other's in the same round: below 1 flocker is cheaper.");
        if head.allow_disturbed {
            lead.push_str(
                " Runs on a disturbed machine were counted, too: this is a trial, not a result.",
            );
        }
        lead
    }

    fn facts(&self) -> Vec<Vec<String>> {
        let head = &self.head;
        let mut rows = vec![vec!["what".to_owned(), "value".to_owned()]];
        let mut row = |name: &str, value: &str| rows.push(vec![name.to_owned(), value.to_owned()]);
        row("command", &head.command);
        row("date", &head.date);
        row("commit", &head.commit);
        for (name, value) in &head.machine {
            row(&name.replace('_', " "), value);
        }
        for (name, value) in &head.versions {
            row(name, value);
        }
        for note in &head.notes {
            row("note", note);
        }
        rows
    }
}

/// What a workload is and how it was measured, in a sentence or two.
fn describe(workload: &WorkloadFigures) -> String {
    let mut text = format!("{}.", workload.about);
    if let Some(sessions) = workload.sessions {
        let _infallible = write!(text, " Bytes that each of {sessions} sessions takes.");
        return text;
    }
    match workload.cpu_measured.as_str() {
        "closed" => text.push_str(" Processor time in a closed loop, the proxy's core full."),
        "rate" => text.push_str(
            " Processor time at a fixed rate, since in a closed loop load and origin were the limit.",
        ),
        _ => {}
    }
    if let Some(rate) = workload.rate {
        let _infallible = write!(text, " Fixed rate: {rate:.0} a second.");
    }
    text
}

/// A column: its title, and what stands in it for a subject.
type Column<'c> = (String, Box<dyn Fn(&SubjectFigures) -> Option<String> + 'c>);

fn column<'c>(
    title: impl Into<String>,
    value: impl Fn(&SubjectFigures) -> Option<String> + 'c,
) -> Column<'c> {
    (title.into(), Box::new(value))
}

/// Rows of a workload's table, the first with the titles; columns that nobody has are left out.
fn table(line: &Line) -> Vec<Vec<String>> {
    let last = &line.last;
    let (cost, unit) = (&last.cpu_unit, &last.unit);
    let ranged = |spread: Option<Spread>| spread.map(with_range);
    let plain = |spread: Option<Spread>| spread.map(|spread| number(spread.median));
    let ratios = |one: &SubjectFigures| {
        let (_, ratios) = line.ratios.iter().find(|(name, _)| *name == one.name)?;
        let text = |s: &Spread| format!("{:.2} ({:.2}-{:.2})", s.median, s.min, s.max);
        Some(ratios.iter().map(text).collect::<Vec<_>>().join(", "))
    };
    let mut columns = vec![
        column(format!("CPU {cost}/{unit}"), move |one| {
            ranged(one.cpu_per_unit)
        }),
        column("user", move |one| plain(one.user_per_unit)),
        column("system", move |one| plain(one.system_per_unit)),
        column("both cores", move |one| ranged(one.both_cores_cpu_per_unit)),
        column("system calls", move |one| plain(one.syscalls_per_unit)),
        column("switches", move |one| plain(one.context_switches_per_unit)),
        column("instructions", move |one| plain(one.instructions_per_unit)),
        column("p50 added us", move |one| ranged(one.p50_added_us)),
        column("p99 added us", move |one| ranged(one.p99_added_us)),
        column("p99.9 added us", move |one| ranged(one.p999_added_us)),
        column("bytes/session", move |one| ranged(one.bytes_per_session)),
    ];
    let mut more: Vec<&String> = last
        .subjects
        .iter()
        .flat_map(|one| one.more.keys())
        .collect();
    more.sort();
    more.dedup();
    for name in more {
        columns.push(column(name.replace('_', " "), move |one| {
            ranged(one.more.get(name).copied())
        }));
    }
    columns.push(column("flocker / it", ratios));
    columns.retain(|(_, value)| last.subjects.iter().any(|one| value(one).is_some()));
    let mut titles = vec![String::new()];
    titles.extend(columns.iter().map(|(title, _)| title.clone()));
    let mut rows = vec![titles];
    for one in &last.subjects {
        let mut row = vec![one.name.clone()];
        row.extend(
            columns
                .iter()
                .map(|(_, value)| value(one).unwrap_or_default()),
        );
        rows.push(row);
    }
    rows
}

/// A number with three digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        0.0..0.995 => format!("{value:.3}"),
        0.995..9.95 => format!("{value:.2}"),
        9.95..99.5 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn with_range(spread: Spread) -> String {
    if (spread.max - spread.min).abs() < f64::EPSILON {
        return number(spread.median);
    }
    format!(
        "{} ({} to {})",
        number(spread.median),
        number(spread.min),
        number(spread.max)
    )
}

fn html_table(rows: &[Vec<String>]) -> String {
    let mut text = String::from("<div class=\"scroll\"><table>\n");
    for (at, row) in rows.iter().enumerate() {
        let (tag, class) = match (at, row.first().map(String::as_str)) {
            (0, _) => ("th", ""),
            (_, Some("flocker")) => ("td", " class=\"ours\""),
            _ => ("td", ""),
        };
        let _infallible = write!(text, "<tr{class}>");
        for cell in row {
            // The range is of less weight than the median.
            let cell = escape(cell)
                .replace(" (", " <small>(")
                .replace(')', ")</small>");
            let cell = match cell.contains("<small>") {
                true => cell,
                false => cell.replace("</small>", ""),
            };
            let _infallible = write!(text, "<{tag}>{cell}</{tag}>");
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</table></div>\n");
    text
}

fn markdown_table(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _infallible = writeln!(text, "| {} |", cells.join(" | "));
        if at == 0 {
            let _infallible = writeln!(text, "|{}", " --- |".repeat(row.len()));
        }
    }
    text
}

/// The page's head: its look, in light and dark.
const HEAD: &str = "<!doctype html>
<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">
<title>What the edge costs beside its peers</title>
<style>
:root{color-scheme:light dark;--text:#1c2530;--soft:#5b6877;--line:#d8dee6;--page:#fff;--ours:#eef4fd}
@media(prefers-color-scheme:dark){:root{--text:#e8edf3;--soft:#98a5b5;--line:#2b3440;--page:#0b0f14;--ours:#13233a}}
body{margin:0;background:var(--page);color:var(--text);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
main{max-width:1060px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;margin:0 0 8px}h2{font-size:18px;margin:36px 0 4px}
p{margin:4px 0 12px;color:var(--soft)}.lead{max-width:80ch}
svg{max-width:100%;height:auto;display:block;margin:10px 0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:5px 10px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th{color:var(--soft);font-weight:500}th:first-child,td:first-child{text-align:left}
small{color:var(--soft)}.ours td{background:var(--ours);font-weight:600}
details{font-size:13px;color:var(--soft)}
</style>
<main>
";

#[cfg(test)]
mod tests;
