//! `volume send`, `receive`: archives to and from a file or a pipe.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use flocker_api::{
    name::NodeName,
    stream::{Download, Pieces},
    work::NodeJob,
};
use hyper::body::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use super::{Cli, volume_work::by};
use crate::{
    args_volume::{Receive, Send},
    failure::{Failure, Verdict},
    human,
};

/// Until the first byte: the snapshot has to be taken.
const BEGIN: Duration = Duration::from_secs(60);
/// Bytes that are read of a file at once.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait to be sent.
const QUEUE: usize = 4;

/// A text as a part of a query (RFC 3986, section 2.1).
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

fn query(parts: &[(&str, Option<&str>)]) -> String {
    let parts = parts
        .iter()
        .filter_map(|(key, value)| Some((key, (*value)?)));
    let parts: Vec<_> = parts
        .map(|(key, value)| format!("{key}={}", encoded(value)))
        .collect();
    parts.join("&")
}

fn is_pipe(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Bytes, rate and, where the length is known, what is left; on stderr, if that is a terminal.
fn bar(length: Option<u64>) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => (
            ProgressBar::new(length),
            "{wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
        ),
        None => (
            ProgressBar::no_length(),
            "{spinner} {binary_bytes}, {binary_bytes_per_sec}",
        ),
    };
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// `flockerctl volume send`
pub(crate) async fn send(cli: &Cli<'_>, args: &Send) -> Result<Verdict, Failure> {
    if is_pipe(&args.file) && io::stdout().is_terminal() {
        let message = "an archive is nothing for a terminal; name a file, or write '> FILE'";
        return Err(Failure::Usage(message.to_owned()));
    }
    let query = query(&[
        ("by", Some(&by())),
        ("node", args.node.as_ref().map(NodeName::as_str)),
        ("snapshot", args.from.snapshot.as_deref()),
        ("since", args.since.as_deref()),
    ]);
    let path = format!("/v2/volumes/{}/archive?{query}", args.from.volume);
    let archive = cli.control.download(&path, BEGIN).await?;
    let bytes = if is_pipe(&args.file) {
        copy(archive, io::stdout().lock()).await?
    } else {
        // A file that is there stays whole until the new one is.
        let fresh = beside(&args.file);
        let written = copy(archive, File::create(&fresh)?).await;
        if written.is_err() {
            std::fs::remove_file(&fresh)?;
        }
        let bytes = written?;
        File::open(&fresh)?.sync_all()?;
        std::fs::rename(&fresh, &args.file)?;
        bytes
    };
    let size = human::bytes(bytes);
    cli.out
        .remark(&format!("{size} of {} sent", args.from.volume));
    Ok(Verdict::Done)
}

fn beside(path: &Path) -> PathBuf {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    fresh.into()
}

async fn copy(mut archive: Download, mut to: impl Write) -> Result<u64, Failure> {
    let bar = bar(None);
    let mut bytes = 0;
    while let Some(piece) = archive.next().await? {
        to.write_all(&piece)?;
        bytes += piece.len() as u64;
        bar.set_position(bytes);
    }
    to.flush()?;
    bar.finish_and_clear();
    Ok(bytes)
}

/// `flockerctl volume receive`
pub(crate) async fn receive(cli: &Cli<'_>, args: &Receive) -> Result<Verdict, Failure> {
    let (from, length): (Box<dyn Read + std::marker::Send>, _) = if is_pipe(&args.file) {
        if io::stdin().is_terminal() {
            let message =
                "an archive is read from a file or a pipe; name a file, or write '< FILE'";
            return Err(Failure::Usage(message.to_owned()));
        }
        (Box::new(io::stdin()), None)
    } else {
        let wrong = |error: io::Error| Failure::Usage(format!("{}: {error}", args.file.display()));
        let file = File::open(&args.file).map_err(wrong)?;
        let length = file.metadata().map_err(wrong)?.len();
        (Box::new(file), Some(length))
    };
    let bar = bar(length);
    let query = query(&[
        ("by", Some(&by())),
        ("node", args.node.as_ref().map(NodeName::as_str)),
    ]);
    let path = format!("/v2/volumes/{}/archive?{query}", args.name);
    let job = cli.control.upload(&path, pieces(from, bar.clone())).await;
    bar.finish_and_clear();
    let job: NodeJob = job?;
    if cli.out.json {
        cli.out.json(&job)?;
    } else {
        cli.out.line(&format!("{} is on {}", args.name, job.node))?;
    }
    Ok(Verdict::Done)
}

/// Reads in a thread of its own: files and pipes are waited for there.
fn pieces(mut from: Box<dyn Read + std::marker::Send>, bar: ProgressBar) -> Pieces {
    let (sender, pieces) = mpsc::channel(QUEUE);
    thread::spawn(move || {
        loop {
            let mut buffer = vec![0; PIECE_BYTES];
            let piece = match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => {
                    buffer.truncate(read);
                    bar.inc(read as u64);
                    Ok(Bytes::from(buffer))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let broken = piece.is_err();
            if sender.blocking_send(piece).is_err() || broken {
                return;
            }
        }
    });
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_query_is_encoded() {
        let query = query(&[
            ("by", Some("uid 0")),
            ("since", None),
            ("snapshot", Some("a&b")),
        ]);
        assert_eq!(query, "by=uid%200&snapshot=a%26b");
    }
}
