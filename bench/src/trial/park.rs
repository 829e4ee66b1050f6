//! Park: thousands of clients wait at a paused route, half of them leave, as many come after them,
//! and all who are there at the resume are served in the order in which they came.
//!
//! Who leaves gives back its memory: the newcomers must fit into it, and in the end most of it has
//! gone back to the kernel. That half of it does so at once cannot be asked: those who stay live
//! between those who leave.
//!
//! With one worker the order of arrival is known to the clients, and nobody may be overtaken: the
//! origin accepts one after the other, so what it sees is the order in which the edge connects.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use flocker_api::{
    gate::HoldLimits,
    route::{Route, RouteKey},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::{edge::Edge, verdict::Verdict};
use crate::{load::raise_descriptor_limit, testbed::ready};

/// How long counts may take to come right.
const SETTLE: Duration = Duration::from_secs(60);
/// How much the newcomers may add to the memory of all who were parked before, in percent.
const GROWN_PERCENT_MAX: f64 = 10.0;
/// How much of what the parked had taken the edge may keep when all have gone, in percent.
const KEPT_PERCENT_MAX: f64 = 50.0;
/// Requests after each round,
const TRAFFIC: u32 = 100;
/// one in so long.
const TRAFFIC_EVERY: Duration = Duration::from_millis(10);
/// Memory of one parked client, in KiB.
const PARKED_KIB_MAX: f64 = 2.0;

/// Options of the trial.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Clients that are parked
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    clients: u32,
    /// Rounds: what is not given back adds up
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// What one round has shown.
struct Round {
    parked_kib: f64,
    again_kib: f64,
    end_kib: f64,
    served: u64,
    out_of_order: u64,
}

pub(super) async fn run(options: &Options, program: &Path) -> Result<Verdict> {
    raise_descriptor_limit();
    // One worker: the order of arrival is then known to the clients.
    let edge = Edge::start(program, 1, "").await?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let key: RouteKey = "http:parked.test".parse()?;
    let upstream = listener.local_addr()?;
    edge.put(vec![Route::new(key.clone(), [upstream])]).await?;
    let (seen, mut order) = mpsc::unbounded_channel();
    let origin = tokio::spawn(serve(listener, seen));

    let before = edge.memory_kib()? as f64;
    let mut verdict = Verdict::new("park");
    verdict.note("memory before", before, "KiB");
    let clients = f64::from(options.clients);
    let (mut last, mut most_taken) = (None, 0.0_f64);
    for number in 1..=options.rounds {
        let round = round(options, &edge, &key, &mut order).await?;
        let taken = round.parked_kib - before;
        verdict.note(
            format!("round {number}: all parked"),
            round.parked_kib,
            "KiB",
        );
        verdict.note(
            format!("round {number}: half replaced"),
            round.again_kib,
            "KiB",
        );
        verdict.note(format!("round {number}: at the end"), round.end_kib, "KiB");
        if number == 1 {
            let each = taken / clients;
            verdict.promise("memory of one parked client", each, "KiB", PARKED_KIB_MAX);
        }
        let missing = clients - round.served as f64;
        verdict.promise(format!("round {number}: not served"), missing, "", 0.0);
        let out = round.out_of_order as f64;
        verdict.promise(format!("round {number}: out of order"), out, "", 0.0);
        let grown = 100.0 * (round.again_kib - round.parked_kib) / taken.max(1.0);
        let name = format!("round {number}: memory grown by the newcomers");
        verdict.promise(name, grown, "%", GROWN_PERCENT_MAX);
        last = Some(round.end_kib);
        most_taken = most_taken.max(taken);
    }
    if let Some(last) = last {
        verdict.note("memory kept at the end", last - before, "KiB");
        let kept = 100.0 * (last - before) / most_taken.max(1.0);
        verdict.promise("share of it that is kept", kept, "%", KEPT_PERCENT_MAX);
    }
    origin.abort();
    Ok(verdict)
}

async fn round(
    options: &Options,
    edge: &Edge,
    key: &RouteKey,
    order: &mut mpsc::UnboundedReceiver<u32>,
) -> Result<Round> {
    let keys = [key.clone()];
    let limits = HoldLimits {
        hold_ms: 120_000,
        sessions: options.clients as usize,
        per_client: options.clients as usize,
        ..HoldLimits::default()
    };
    let token = edge.pause(&keys, limits).await?;
    let mut clients = arrive(edge, 0..options.clients).await?;
    parked(edge, options.clients).await?;
    let parked_kib = edge.memory_kib()? as f64;

    clients.retain(|(number, _)| number % 2 == 0);
    let staying = options.clients.div_ceil(2);
    parked(edge, staying).await?;
    let newcomers = options.clients - staying;
    let numbers = options.clients..options.clients + newcomers;
    clients.append(&mut arrive(edge, numbers).await?);
    parked(edge, options.clients).await?;
    let again_kib = edge.memory_kib()? as f64;

    edge.resume(&keys, token).await?;
    let mut served = 0;
    let mut answer = [0; 512];
    for (number, stream) in &mut clients {
        let count = tokio::time::timeout(SETTLE, stream.read(&mut answer))
            .await
            .with_context(|| format!("client {number} got no answer"))??;
        ensure!(
            answer[..count].starts_with(b"HTTP/1.1 200"),
            "client {number} got '{}'",
            String::from_utf8_lossy(&answer[..count])
        );
        served += 1;
    }
    let mut out_of_order = 0;
    let mut highest = None;
    while let Ok(number) = order.try_recv() {
        out_of_order += u64::from(highest.is_some_and(|highest| number < highest));
        highest = highest.max(Some(number));
    }
    drop(clients);
    ready::until("the edge without sessions", SETTLE, || async {
        let sessions = edge.sessions().await?;
        ensure!(sessions == 0, "{sessions} sessions are left");
        Ok(())
    })
    .await?;
    traffic(edge).await?;
    Ok(Round {
        parked_kib,
        again_kib,
        end_kib: edge.memory_kib()? as f64,
        served,
        out_of_order,
    })
}

/// Clients of these numbers connect and send a request each.
async fn arrive(edge: &Edge, numbers: std::ops::Range<u32>) -> Result<Vec<(u32, TcpStream)>> {
    let mut clients = Vec::new();
    for number in numbers {
        let mut stream = TcpStream::connect(edge.http())
            .await
            .with_context(|| format!("client {number} cannot connect"))?;
        let request = format!("GET /{number} HTTP/1.1\r\nHost: parked.test\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        clients.push((number, stream));
    }
    Ok(clients)
}

/// A little ordinary traffic: an allocator gives memory back while it works.
async fn traffic(edge: &Edge) -> Result<()> {
    for _ in 0..TRAFFIC {
        let mut stream = TcpStream::connect(edge.http()).await?;
        stream
            .write_all(b"GET /traffic HTTP/1.1\r\nHost: parked.test\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        ensure!(
            answer.starts_with(b"HTTP/1.1 200"),
            "a request after a resume got '{}'",
            String::from_utf8_lossy(&answer)
        );
        tokio::time::sleep(TRAFFIC_EVERY).await;
    }
    Ok(())
}

async fn parked(edge: &Edge, wanted: u32) -> Result<()> {
    ready::until("the parked", SETTLE, || async {
        let parked = edge.parked().await?;
        ensure!(
            parked == u64::from(wanted),
            "{parked} are parked, not {wanted}"
        );
        Ok(())
    })
    .await
}

/// Answers every request and tells its number, in the order in which connections came.
async fn serve(listener: TcpListener, seen: mpsc::UnboundedSender<u32>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let seen = seen.clone();
        // One after the other: a task each could read them in another order.
        let mut request = vec![0; 1024];
        if let Ok(count @ 1..) = stream.read(&mut request).await {
            let text = String::from_utf8_lossy(&request[..count]);
            let number = text
                .strip_prefix("GET /")
                .and_then(|rest| rest.split(' ').next()?.parse().ok());
            if let Some(number) = number {
                let _trial_is_over = seen.send(number);
            }
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
            // A client that has gone meanwhile is missed by the trial itself.
            drop(stream.write_all(answer.as_bytes()).await);
        }
    }
}
