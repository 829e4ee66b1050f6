//! One writer that inserts numbered rows into PostgreSQL through the edges' `tcp` route.
//!
//! A single writer is a closed loop by nature: it has one row under way. Rows are due at a
//! constant rate; while one waits, no further row is due, so a pause shows as the wait of one
//! row and not as a backlog that no such writer has. A PostgreSQL session cannot be handed from one server
//! to another, so a move ends it; the writer then connects again at once, through the next
//! edge, and repeats the row that was not acknowledged. That is what every driver's users do,
//! and why the insert does nothing when the row is there already.
//!
//! ```text
//! Disconnected --connected--> Connected --acknowledged--> Connected (next row)
//!      ^                          |
//!      +---- refused, broken -----+   (same row, next edge)
//! ```
#![expect(
    clippy::disallowed_methods,
    reason = "measures: reads clocks to time rows"
)]

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Config, NoTls};

use super::{
    Connection, LoadError, Mix, Outcome, Schedule, Target, Trace, ledger::Ledger, schedule::Due,
};

/// Wait before an attempt that follows a failed one.
const BACKOFF: Duration = Duration::from_millis(5);

/// What to write.
#[derive(Debug, Clone)]
pub struct WriterConfig {
    /// The edges, used in turn when a connection is lost.
    pub targets: Vec<Target>,
    /// Rows per second.
    pub rate: u32,
    /// A row that is not acknowledged for so long has failed.
    pub answer_max: Duration,
}

/// The running writer.
#[derive(Debug)]
pub struct Writer {
    stop: watch::Sender<bool>,
    task: JoinHandle<Trace>,
    rows: Arc<AtomicU64>,
}

impl Writer {
    /// Starts it on the current runtime.
    ///
    /// # Errors
    /// When there is no target.
    pub fn start(config: WriterConfig) -> Result<Self, LoadError> {
        if config.targets.is_empty() || config.targets.len() > usize::from(u8::MAX) {
            return Err(LoadError::NoTarget);
        }
        let (stop, stopped) = watch::channel(false);
        let rows = Arc::new(AtomicU64::new(0));
        let state = State {
            schedule: Schedule::new(
                config.rate,
                Mix {
                    reads_percent: 0,
                    new_connections_percent: 0,
                },
            ),
            client: format!("w{:08x}", uuid::Uuid::new_v4().as_fields().0),
            origin: Instant::now(),
            ledger: Ledger::new(),
            number: 0,
            edge: 0,
            session: None,
            opened: 0,
            rows: Arc::clone(&rows),
            config,
        };
        Ok(Self {
            stop,
            task: tokio::spawn(state.run(stopped)),
            rows,
        })
    }

    /// Rows that have been acknowledged so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Begins no further row, waits for the current one, and gives the accounts.
    ///
    /// # Errors
    /// When the writer has panicked.
    pub async fn stop(self) -> Result<Trace, LoadError> {
        // The task may have ended by a panic, which is returned below.
        let _ended = self.stop.send(true);
        self.task.await.map_err(|_| LoadError::Panicked)
    }
}

struct State {
    config: WriterConfig,
    schedule: Schedule,
    client: String,
    origin: Instant,
    ledger: Ledger,
    /// The last row's number.
    number: u64,
    /// The edge of the session, or of the next attempt.
    edge: usize,
    session: Option<Client>,
    opened: u64,
    rows: Arc<AtomicU64>,
}

impl State {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) -> Trace {
        let began = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        loop {
            let wait = self
                .schedule
                .next_at()
                .saturating_sub(self.origin.elapsed());
            tokio::select! {
                biased;
                // An error means that nobody holds the writer any more: it ends as well.
                _ = stopped.wait_for(|stopped| *stopped) => break,
                () = tokio::time::sleep(wait) => {}
            }
            if let Some(due) = self.schedule.next_due(self.origin.elapsed()) {
                self.row(due).await;
                self.schedule.skip_before(self.origin.elapsed());
            }
        }
        let took = self.origin.elapsed();
        let (samples, keeping) = self.ledger.close(took, Duration::ZERO);
        Trace {
            began_unix_ms: began.as_secs_f64() * 1e3,
            took,
            rate: self.config.rate,
            edges: self.config.targets.iter().map(|t| t.name.clone()).collect(),
            client: self.client,
            samples,
            keeping,
            connections_opened: self.opened,
        }
    }

    /// Inserts one row, however many sessions that takes.
    async fn row(&mut self, mut due: Due) {
        self.number += 1;
        let number = self.number;
        let mut attempts = 0_u32;
        let end = self.origin.elapsed().max(due.intended) + self.config.answer_max;
        let outcome = loop {
            let left = end.saturating_sub(self.origin.elapsed());
            match timeout(left, self.attempt(number)).await {
                Err(_) => {
                    self.session = None;
                    break Outcome::TimedOut;
                }
                Ok(Ok(())) => break Outcome::Answered,
                Ok(Err(error)) => {
                    tracing::info!(row = number, %error, "session lost; connecting again");
                    self.session = None;
                    self.edge = (self.edge + 1) % self.config.targets.len();
                    due.connection = Connection::New;
                    // At once the first time, as told; then without hammering.
                    if attempts > 0 {
                        tokio::time::sleep(BACKOFF).await;
                    }
                    attempts += 1;
                }
            }
        };
        if outcome == Outcome::Answered {
            self.rows.fetch_add(1, Ordering::Relaxed);
        }
        let edge = u8::try_from(self.edge).unwrap_or(u8::MAX);
        let ticket = self.ledger.begin(due, edge, number, due.intended);
        self.ledger.finish(ticket, outcome, self.origin.elapsed());
    }

    async fn attempt(&mut self, number: u64) -> Result<(), tokio_postgres::Error> {
        if self.session.is_none() {
            self.opened += 1;
            let address = self.config.targets[self.edge].address;
            let session = connect(address).await?;
            session.batch_execute(TABLE).await?;
            self.session = Some(session);
        }
        let Some(session) = &self.session else {
            return Ok(());
        };
        let insert = "INSERT INTO flocker_rows (client, number) VALUES ($1, $2) \
                      ON CONFLICT DO NOTHING";
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        session.execute(insert, &[&self.client, &number]).await?;
        Ok(())
    }
}

/// Made by whoever comes first; quiet when it is there.
const TABLE: &str = "SET client_min_messages = warning; CREATE TABLE IF NOT EXISTS flocker_rows \
                     (client text, number bigint, PRIMARY KEY (client, number))";

async fn connect(address: SocketAddr) -> Result<Client, tokio_postgres::Error> {
    let mut config = Config::new();
    config
        .host(address.ip().to_string())
        .port(address.port())
        .user("postgres")
        .dbname("postgres")
        .application_name("flocker-bench");
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "PostgreSQL session ended");
        }
    });
    Ok(client)
}

/// Numbers of a client's rows.
pub(super) async fn rows(
    address: SocketAddr,
    client: &str,
) -> Result<HashSet<u64>, tokio_postgres::Error> {
    let session = connect(address).await?;
    let select = "SELECT number FROM flocker_rows WHERE client = $1";
    let rows = session.query(select, &[&client]).await?;
    Ok(rows
        .iter()
        .filter_map(|row| u64::try_from(row.get::<_, i64>(0)).ok())
        .collect())
}
