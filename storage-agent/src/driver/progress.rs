//! How far a volume's running transfer is, for whoever asks meanwhile.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use flocker_api::{name::NodeName, volume::TransferStatus};
use tokio::time::Instant;

use crate::logic::rate::{Rate, eta};

/// A volume's running transfer, if one runs.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    peer: NodeName,
    snapshot: String,
    bytes: u64,
    bytes_expected: Option<u64>,
    started: Instant,
    rate: Rate,
}

impl Running {
    fn status(&self) -> TransferStatus {
        let elapsed = self.started.elapsed();
        let bytes_per_second = self.rate.per_second(elapsed, self.bytes);
        let expected = self.bytes_expected;
        let eta = expected.and_then(|all| eta(self.bytes, all, bytes_per_second));
        TransferStatus {
            peer: self.peer.clone(),
            snapshot: self.snapshot.clone(),
            bytes: self.bytes,
            bytes_expected: expected,
            bytes_per_second,
            eta_ms: eta.map(whole_ms),
            elapsed_ms: whole_ms(elapsed),
        }
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Progress {
    /// A transfer begins; it is over when the guard is dropped.
    pub(crate) fn begin(&self, peer: &NodeName, snapshot: &str) -> Guard<'_> {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(Running {
            peer: peer.clone(),
            snapshot: snapshot.to_owned(),
            bytes: 0,
            bytes_expected: None,
            started: Instant::now(),
            rate: Rate::default(),
        });
        Guard { progress: self }
    }

    /// How many bytes the running stream will have, or that it is not known.
    pub(crate) fn expect(&self, bytes: Option<u64>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.as_mut() {
            running.bytes_expected = bytes;
        }
    }

    /// What runs now.
    pub(crate) fn status(&self) -> Option<TransferStatus> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map(Running::status)
    }
}

/// A running transfer.
#[derive(Debug)]
pub(crate) struct Guard<'a> {
    progress: &'a Progress,
}

impl Guard<'_> {
    /// Bytes of the stream so far.
    pub(crate) fn set(&self, bytes: u64) {
        let mut running = self
            .progress
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.as_mut() {
            running.bytes = bytes;
            running.rate.mark(running.started.elapsed(), bytes);
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        *self
            .progress
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }
}
