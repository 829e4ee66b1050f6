//! Writing: text and tables to stdout, complaints to stderr, JSON for programs.

use std::io::{self, IsTerminal, Write};

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::args::Colour;

/// How to write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON in place of text.
    pub(crate) json: bool,
    /// Whether stdout is a terminal that can redraw.
    pub(crate) live: bool,
    colour: bool,
    colour_stderr: bool,
}

/// A meaning that has a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// As it should be.
    Good,
    /// Under way, or worth a look.
    Notice,
    /// Wrong.
    Bad,
    /// A heading.
    Strong,
    /// Of less weight.
    Faint,
}

impl Paint {
    fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Notice => "33",
            Self::Bad => "31",
            Self::Strong => "1",
            Self::Faint => "2",
        }
    }
}

impl Output {
    /// Looks at the terminal and the environment once.
    pub(crate) fn new(json: bool, colour: Colour) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let wanted = |terminal: bool| match colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => terminal && !dumb && !set("NO_COLOR"),
        };
        let terminal = io::stdout().is_terminal();
        Self {
            json,
            live: terminal && !dumb && !json,
            colour: wanted(terminal) && !json,
            colour_stderr: wanted(io::stderr().is_terminal()) && !json,
        }
    }

    /// The text in the colour of its meaning, if there are colours.
    pub(crate) fn paint(&self, paint: Paint, text: &str) -> String {
        colour(self.colour, paint, text)
    }

    /// Writes a text, which brings its own line ends.
    pub(crate) fn text(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    /// Writes a line.
    pub(crate) fn line(&self, text: &str) -> io::Result<()> {
        self.text(&format!("{text}\n"))
    }

    /// Writes a value as JSON.
    pub(crate) fn json<T: Serialize>(&self, value: &T) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        self.text(&text)
    }

    /// Asks a person; `None` where there is none to ask.
    pub(crate) fn ask(&self, question: &str) -> io::Result<Option<bool>> {
        if self.json || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(None);
        }
        self.text(&format!("{question} [y/N] "))?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(Some(matches!(answer.trim(), "y" | "Y" | "yes")))
    }

    /// Writes an error for people to stderr.
    pub(crate) fn complain(&self, text: &str) {
        let label = colour(self.colour_stderr, Paint::Bad, "error:");
        // Nothing can be done about a stderr that takes nothing.
        drop(writeln!(io::stderr().lock(), "{label} {text}"));
    }

    /// Writes a remark for people to stderr.
    pub(crate) fn remark(&self, text: &str) {
        drop(writeln!(io::stderr().lock(), "{text}"));
    }

    /// Writes an error for programs to stderr.
    pub(crate) fn complain_json<T: Serialize>(&self, value: &T) {
        if let Ok(text) = serde_json::to_string(value) {
            drop(writeln!(io::stderr().lock(), "{text}"));
        }
    }

    /// A table without lines: columns by width, two spaces between.
    pub(crate) fn table(&self, header: &[&str], rows: Vec<Vec<String>>) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let painted = header.iter().map(|text| {
            let cell = comfy_table::Cell::new(text);
            if self.colour {
                cell.add_attribute(comfy_table::Attribute::Bold)
            } else {
                cell
            }
        });
        table.set_header(painted.collect::<Vec<_>>());
        for row in rows {
            table.add_row(row.into_iter().map(|text| self.cell(&text)));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// A cell; words that say how something is get their colour.
    fn cell(&self, text: &str) -> comfy_table::Cell {
        let cell = comfy_table::Cell::new(text);
        let colour = match text.split(' ').next() {
            Some("serving" | "open" | "done") => comfy_table::Color::Green,
            Some("starting" | "moving" | "paused" | "draining" | "running" | "undone") => {
                comfy_table::Color::Yellow
            }
            Some("failed" | "unknown" | "stuck" | "undoing" | "unreachable") => {
                comfy_table::Color::Red
            }
            _ => return cell,
        };
        if self.colour { cell.fg(colour) } else { cell }
    }
}

fn colour(wanted: bool, paint: Paint, text: &str) -> String {
    if wanted {
        format!("\u{1b}[{}m{text}\u{1b}[0m", paint.code())
    } else {
        text.to_owned()
    }
}
