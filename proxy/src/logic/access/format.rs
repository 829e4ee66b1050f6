//! A [`Record`] as a line: for people and old tools, or as JSON.
//!
//! ```text
//! TIME CLIENT PROTOCOL ROUTE UPSTREAM HEAD/HELD/CONNECT/RESPONSE/TOTAL STATUS UP/DOWN END RETRIES "METHOD HOST TARGET" REQUEST TRACE "AGENT" TLS
//! ```
//!
//! Times are in ms; `-` stands for what there is not. Whatever a client sent is escaped: no
//! byte of its making can end a field or a line.

use std::fmt::Write;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Record, Timers};

/// How records are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// Not at all.
    #[default]
    Off,
    /// A line of fields each.
    Text,
    /// A JSON object a line.
    Json,
}

/// Appends the line of a record.
pub fn write(record: &Record, style: Style, line: &mut String) {
    match style {
        Style::Off => {}
        Style::Text => text(record, line),
        Style::Json => json(record, line),
    }
}

fn text(record: &Record, line: &mut String) {
    let Record { words, timers, .. } = record;
    // Writing to a String cannot fail.
    let _infallible = (|| {
        write!(line, "{} {} ", when(record), record.client)?;
        write!(line, "{} ", record.protocol.name())?;
        bare(line, &words.route);
        match record.upstream {
            Some(upstream) => write!(line, " {upstream} ")?,
            None => line.push_str(" - "),
        }
        for (at, time) in parts(timers).into_iter().enumerate() {
            if at > 0 {
                line.push('/');
            }
            match time {
                Some(us) => write!(line, "{}.{:03}", us / 1000, us % 1000)?,
                None => line.push('-'),
            }
        }
        match record.status {
            0 => line.push_str(" -"),
            status => write!(line, " {status}")?,
        }
        write!(line, " {}/{} ", record.bytes_up, record.bytes_down)?;
        write!(
            line,
            "{}{} {} \"",
            record.cause.letter(),
            record.phase.letter(),
            record.retries
        )?;
        for (at, word) in [&words.method, &words.host, &words.target]
            .iter()
            .enumerate()
        {
            if at > 0 {
                line.push(' ');
            }
            bare(line, word);
        }
        line.push_str("\" ");
        bare(line, &words.request_id);
        line.push(' ');
        bare(line, &words.trace_id);
        line.push_str(" \"");
        escape(line, &words.user_agent, false);
        line.push_str("\" ");
        bare(line, &words.tls);
        line.push('\n');
        std::fmt::Result::Ok(())
    })();
}

/// A field without spaces.
fn bare(line: &mut String, word: &str) {
    match word {
        "" => line.push('-'),
        word => escape(line, word, true),
    }
}

/// What is not printable, and what would end the field, becomes `\xNN` byte by byte.
fn escape(line: &mut String, word: &str, spaces: bool) {
    for byte in word.bytes() {
        let plain = byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        if plain || (byte == b' ' && !spaces) {
            line.push(char::from(byte));
        } else {
            let digit = |four: u8| char::from(b"0123456789abcdef"[usize::from(four)]);
            line.extend(['\\', 'x', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

fn parts(timers: &Timers) -> [Option<u128>; 5] {
    let Timers {
        head,
        held,
        connect,
        response,
        total,
    } = timers;
    [*head, *held, *connect, *response, Some(*total)].map(|time| Some(time?.as_micros()))
}

fn when(record: &Record) -> String {
    match Timestamp::from_microsecond(record.ended_us) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => "-".to_owned(),
    }
}

/// The JSON form; what there is not is left out.
#[derive(Serialize)]
struct Line<'r> {
    time: String,
    client: String,
    protocol: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    route: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    end: String,
    cause: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_ms: Option<f64>,
    bytes_up: u64,
    bytes_down: u64,
    retries: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    method: &'r str,
    #[serde(skip_serializing_if = "str::is_empty")]
    host: &'r str,
    #[serde(skip_serializing_if = "str::is_empty")]
    target: &'r str,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'r str,
    #[serde(skip_serializing_if = "str::is_empty")]
    trace_id: &'r str,
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'r str,
    #[serde(skip_serializing_if = "str::is_empty")]
    tls: &'r str,
}

fn json(record: &Record, line: &mut String) {
    let Record { words, .. } = record;
    #[expect(
        clippy::cast_precision_loss,
        reason = "microseconds of 285 years fit into the digits of a double"
    )]
    let [head_ms, held_ms, connect_ms, response_ms, total_ms] =
        parts(&record.timers).map(|time| Some(time? as f64 / 1e3));
    let form = Line {
        time: when(record),
        client: record.client.to_string(),
        protocol: record.protocol.name(),
        route: &words.route,
        upstream: record.upstream.map(|upstream| upstream.to_string()),
        end: [record.cause.letter(), record.phase.letter()]
            .iter()
            .collect(),
        cause: record.cause.name(),
        status: (record.status > 0).then_some(record.status),
        head_ms,
        held_ms,
        connect_ms,
        response_ms,
        total_ms,
        bytes_up: record.bytes_up,
        bytes_down: record.bytes_down,
        retries: record.retries,
        method: &words.method,
        host: &words.host,
        target: &words.target,
        request_id: &words.request_id,
        trace_id: &words.trace_id,
        user_agent: &words.user_agent,
        tls: &words.tls,
    };
    // Strings and numbers always have a JSON form.
    if let Ok(text) = serde_json::to_string(&form) {
        line.push_str(&text);
        line.push('\n');
    }
}
