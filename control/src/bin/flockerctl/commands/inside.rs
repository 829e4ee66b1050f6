//! `app logs`, `app exec`, `app restart`: what goes on in an app's container.

use std::{
    io::{self, Write},
    time::Duration,
};

use flocker_api::{
    control::RestartReply,
    exec::{ExecReply, ExecRequest},
    logs::{AppLogReply, LogLine, LogQuery, LogStream},
    name::{AppName, NodeName},
};
use serde_json::json;

use super::{Cli, DEADLINE, now_ms};
use crate::{
    args_nodes::{Exec, Logs},
    failure::{Failure, Verdict},
    human,
    output::{Output, Paint},
};

/// How long control may keep one question while following.
const LONG_POLL: Duration = Duration::from_secs(10);
/// Before another question while there is no answer.
const PAUSE: Duration = Duration::from_millis(300);
/// Longest restart: its stop, and its start until it is ready.
const RESTART_MAX: Duration = Duration::from_secs(600);

/// `flockerctl app logs`
pub(crate) async fn logs(cli: &Cli<'_>, args: &Logs) -> Result<Verdict, Failure> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut query = LogQuery {
        tail: args.tail,
        since_ms: args.since.map(|since| now_ms().saturating_sub(ms(since))),
        ..LogQuery::default()
    };
    let mut node: Option<NodeName> = None;
    let mut trouble = None;
    loop {
        let path = format!("/v2/apps/{}/logs{}", args.app, query.in_url());
        let deadline = Duration::from_millis(query.wait_ms) + DEADLINE;
        let AppLogReply { node: at, reply } = match cli.control.get(&path, deadline).await {
            Ok(reply) => {
                trouble = None;
                reply
            }
            // The app is on its way, or what carries its output is restarted.
            Err(error) if args.follow && node.is_some() => {
                if trouble.as_ref() != Some(&error.message) {
                    cli.out.remark(&format!("{}; asking again", error.message));
                    trouble = Some(error.message);
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if node.as_ref().is_some_and(|before| *before != at) {
            cli.out.remark(&format!("{} is on {at} now", args.app));
        }
        show(cli.out, &reply.lines, args.timestamps)?;
        node = Some(at);
        if !args.follow && !reply.more {
            return Ok(Verdict::Done);
        }
        let following = args.follow && !reply.more;
        query = LogQuery {
            after: reply.cursor.or(query.after),
            wait_ms: if following { ms(LONG_POLL) } else { 0 },
            // Nothing was ever written: whatever comes is new.
            ..LogQuery::default()
        };
    }
}

fn show(out: &Output, lines: &[LogLine], timestamps: bool) -> io::Result<()> {
    let mut text = String::new();
    for line in lines {
        if out.json {
            text.push_str(&serde_json::to_string(line)?);
        } else {
            if timestamps {
                let at = line.at_ms.map_or_else(|| "-".to_owned(), human::time);
                text.push_str(&out.paint(Paint::Faint, &at));
                text.push(' ');
            }
            match line.stream {
                Some(LogStream::Stderr) => text.push_str(&out.paint(Paint::Notice, &line.text)),
                Some(LogStream::Stdout) | None => text.push_str(&line.text),
            }
        }
        text.push('\n');
    }
    match text.is_empty() {
        true => Ok(()),
        false => out.text(&text),
    }
}

/// `flockerctl app exec`
pub(crate) async fn exec(cli: &Cli<'_>, args: Exec) -> Result<Verdict, Failure> {
    let path = format!("/v2/apps/{}/exec", args.app);
    let request = ExecRequest {
        command: args.command,
        timeout_ms: u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX),
    };
    let reply: ExecReply = cli
        .control
        .post(&path, &request, args.timeout + DEADLINE)
        .await?;
    if cli.out.json {
        cli.out.json(&reply)?;
    } else {
        cli.out.text(&reply.stdout)?;
        // Nothing can be done about a stderr that takes nothing.
        drop(io::stderr().lock().write_all(reply.stderr.as_bytes()));
        if reply.truncated {
            cli.out.remark("(only the end of what it wrote is shown)");
        }
    }
    Ok(match reply.exit_code {
        0 => Verdict::Done,
        code => Verdict::Ended(u8::try_from(code).unwrap_or(1)),
    })
}

/// `flockerctl app restart`
pub(crate) async fn restart(cli: &Cli<'_>, app: &AppName) -> Result<Verdict, Failure> {
    let path = format!("/v2/apps/{app}/restart");
    let reply: RestartReply = cli.control.post(&path, &json!({}), RESTART_MAX).await?;
    if cli.out.json {
        cli.out.json(&reply)?;
    } else {
        let took = human::whole_ms(reply.ready_ms);
        cli.out.line(&format!(
            "app {app} was restarted and is ready (after {took})"
        ))?;
    }
    Ok(Verdict::Done)
}
