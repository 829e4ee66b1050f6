//! What containers write, and commands run inside them.

use std::time::Duration;

use bollard::{
    container::LogOutput,
    exec::{StartExecOptions, StartExecResults},
    models::ExecConfig,
    query_parameters::LogsOptions,
};
use bytes::Bytes;
use flocker_api::{
    logs::{LogLine, LogQuery, LogReply, LogStream},
    name::AppName,
};
use futures_util::StreamExt;

use super::{Docker, container_name};
use crate::{
    driver::runtime::{LogBounds, Output, RuntimeError, append_bounded, tail},
    logic::container,
};

/// What comes within this time after a first line belongs to the same answer.
const LINGER: Duration = Duration::from_millis(30);

/// Most that is kept for the last lines of a message, in bytes.
const LAST_BYTES_MAX: usize = 16 << 10;

impl Docker {
    /// A line of the engine has the time at which it was written, to the nanosecond and always as
    /// long: that is the cursor, and texts are in the order of times.
    pub(in crate::driver::runtime) async fn logs(
        &self,
        app: &AppName,
        query: &LogQuery,
        bounds: LogBounds,
    ) -> Result<LogReply, RuntimeError> {
        let since = match (&query.after, query.since_ms) {
            (Some(after), _) => after.parse::<jiff::Timestamp>().ok(),
            (None, Some(since_ms)) => i64::try_from(since_ms)
                .ok()
                .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()),
            (None, None) => None,
        };
        let all = query.after.is_some() || query.since_ms.is_some();
        let lines = match query.tail {
            Some(count) if query.after.is_none() => count.min(bounds.lines).to_string(),
            _ if all => "all".to_owned(),
            _ => bounds.lines.to_string(),
        };
        let options = LogsOptions {
            follow: query.wait_ms > 0,
            stdout: true,
            stderr: true,
            // Whole seconds; what is before within the second is left out below.
            since: since.map_or(0, |at| i32::try_from(at.as_second()).unwrap_or(0)),
            timestamps: true,
            tail: lines,
            ..Default::default()
        };
        let client = self.client().await?;
        let name = container_name(app);
        let mut chunks = Box::pin(client.logs(&name, Some(options)));
        let mut reply = LogReply {
            lines: Vec::new(),
            cursor: query.after.clone(),
            more: false,
        };
        let mut bytes = 0;
        let waits = tokio::time::sleep(Duration::from_millis(query.wait_ms));
        tokio::pin!(waits);
        loop {
            let chunk = tokio::select! {
                chunk = chunks.next() => chunk,
                () = &mut waits, if query.wait_ms > 0 => return Ok(reply),
            };
            let Some(chunk) = chunk else {
                return Ok(reply);
            };
            let chunk = chunk.map_err(|error| self.refused("read the output of", app, error))?;
            let Some((stamp, line)) = parse(chunk) else {
                continue;
            };
            let known = query.after.as_deref().is_some_and(|after| *stamp <= *after);
            let early = query
                .since_ms
                .is_some_and(|since| line.at_ms.is_some_and(|at| at < since));
            if known || early {
                continue;
            }
            if reply.lines.len() == bounds.lines || bytes > bounds.bytes {
                reply.more = true;
                return Ok(reply);
            }
            if reply.lines.is_empty() && query.wait_ms > 0 {
                waits.as_mut().reset(tokio::time::Instant::now() + LINGER);
            }
            bytes += line.text.len();
            reply.lines.push(line);
            reply.cursor = Some(stamp);
        }
    }

    pub(in crate::driver::runtime) async fn exec(
        &self,
        app: &AppName,
        command: &[String],
        limit: Duration,
        bytes_max: usize,
    ) -> Result<Output, RuntimeError> {
        tokio::time::timeout(limit, self.exec_to_end(app, command, bytes_max))
            .await
            .map_err(|_| RuntimeError::CommandTimeout {
                command: command.join(" "),
                app: app.clone(),
                node: self.inner.config.node.clone(),
                limit,
            })?
    }

    async fn exec_to_end(
        &self,
        app: &AppName,
        command: &[String],
        bytes_max: usize,
    ) -> Result<Output, RuntimeError> {
        let client = self.client().await?;
        let refused = |error| self.refused("run a command in", app, error);
        let config = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.to_vec()),
            ..Default::default()
        };
        let exec = client
            .create_exec(&container_name(app), config)
            .await
            .map_err(refused)?;
        let started = client
            .start_exec(&exec.id, None::<StartExecOptions>)
            .await
            .map_err(refused)?;
        let mut output = Output::default();
        if let StartExecResults::Attached {
            output: mut chunks, ..
        } = started
        {
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map_err(refused)?;
                let kept = match &chunk {
                    LogOutput::StdErr { .. } => &mut output.stderr,
                    _ => &mut output.stdout,
                };
                output.truncated |= append_bounded(kept, chunk.as_ref(), bytes_max);
            }
        }
        let ended = client.inspect_exec(&exec.id).await.map_err(refused)?;
        output.exit_code = ended.exit_code.unwrap_or(container::EXIT_UNKNOWN);
        Ok(output)
    }

    pub(in crate::driver::runtime) async fn last_lines(
        &self,
        app: &AppName,
        lines: usize,
    ) -> String {
        let Ok(client) = self.client().await else {
            return String::new();
        };
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            tail: lines.to_string(),
            ..Default::default()
        };
        let name = container_name(app);
        let mut chunks = Box::pin(client.logs(&name, Some(options)));
        let mut kept = Vec::new();
        while let Some(Ok(chunk)) = chunks.next().await {
            append_bounded(&mut kept, chunk.as_ref(), LAST_BYTES_MAX);
        }
        tail(&String::from_utf8_lossy(&kept), lines)
    }
}

/// A line with its time, as the engine writes it.
fn parse(chunk: LogOutput) -> Option<(String, LogLine)> {
    let (stream, message) = match chunk {
        LogOutput::StdOut { message } => (Some(LogStream::Stdout), message),
        LogOutput::StdErr { message } => (Some(LogStream::Stderr), message),
        LogOutput::Console { message } => (None, message),
        LogOutput::StdIn { .. } => return None,
    };
    let text = text(&message);
    let (stamp, text) = text.split_once(' ').unwrap_or((&text, ""));
    let at: jiff::Timestamp = stamp.parse().ok()?;
    let line = LogLine {
        at_ms: u64::try_from(at.as_millisecond()).ok(),
        stream,
        text: text.to_owned(),
    };
    Some((stamp.to_owned(), line))
}

fn text(message: &Bytes) -> String {
    let text = String::from_utf8_lossy(message);
    text.trim_end_matches(['\n', '\r']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_its_time_and_its_text() {
        let message = Bytes::from_static(b"2026-11-24T02:00:00.123456789Z it said: hello \n");
        let (stamp, line) = parse(LogOutput::StdErr { message }).unwrap();
        assert_eq!(stamp, "2026-11-24T02:00:00.123456789Z");
        assert_eq!(line.text, "it said: hello ");
        assert_eq!(line.stream, Some(LogStream::Stderr));
        assert_eq!(line.at_ms.map(|ms| ms % 1000), Some(123));
        let message = Bytes::from_static(b"no time\n");
        assert_eq!(parse(LogOutput::StdOut { message }), None);
    }
}
