//! The processes that an edge was taken over from and that still serve what they have: every
//! verb is told to them, too, and their answers count as the edge's.
//!
//! One that does not answer any more has ended: it is forgotten. Nothing of it can be in
//! flight then, and what it had parked has lost its connection.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use flocker_api::{
    ErrorBody, ErrorCode,
    client::{Client, Endpoint},
    edge::{EdgeStatus, TransactionReply},
    gate::{
        HoldReport, InFlight, PauseReply, PauseRequest, QuiesceReply, QuiesceRequest, ResumeReply,
        ResumeRequest, SwitchRequest, Token,
    },
    route::Transaction,
};
use serde::{Serialize, de::DeserializeOwned};

/// Longest wait for a predecessor's answer to what is done at once.
const DEADLINE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub struct Predecessors(Mutex<Vec<PathBuf>>);

impl Predecessors {
    /// Their admin sockets.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Adds some.
    pub fn extend(&self, paths: Vec<PathBuf>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(paths);
    }

    /// They are another process's now.
    pub fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn forget(&self, path: &PathBuf) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|other| other != path);
    }

    /// Those that still serve something, as they see themselves.
    pub async fn statuses(&self) -> Vec<EdgeStatus> {
        let mut statuses = Vec::new();
        for path in self.paths() {
            let client = client(&path);
            match client.get("/v1/status", DEADLINE).await {
                Ok(status) => statuses.push(status),
                Err(error) => self.failed(&path, &error),
            }
        }
        statuses
    }

    /// Tells a change of the table.
    pub async fn transact(&self, transaction: &Transaction) {
        let same = Transaction {
            against: None,
            operations: transaction.operations.clone(),
        };
        let _told: Vec<TransactionReply> = self.tell("/v1/routes", &same, DEADLINE).await;
    }

    /// Tells a pause; when this has returned, they admit nothing either.
    pub async fn pause(&self, request: &PauseRequest, token: Token) {
        let same = PauseRequest {
            token: Some(token),
            ..request.clone()
        };
        let _told: Vec<PauseReply> = self.tell("/v1/gates/pause", &same, DEADLINE).await;
    }

    /// Waits until they are quiet, too.
    pub async fn quiesce(&self, request: &QuiesceRequest) -> Vec<QuiesceReply> {
        let deadline = DEADLINE + Duration::from_millis(request.deadline_ms);
        self.tell("/v1/gates/quiesce", request, deadline).await
    }

    /// Tells a switch; joins what they held with what we did.
    pub async fn switch(&self, request: &SwitchRequest, reply: &mut ResumeReply) {
        let theirs: Vec<ResumeReply> = self.tell("/v1/gates/switch", request, DEADLINE).await;
        join(reply, theirs);
    }

    /// Tells a resume; joins what they held with what we did.
    pub async fn resume(&self, request: &ResumeRequest, reply: &mut ResumeReply) {
        let theirs: Vec<ResumeReply> = self.tell("/v1/gates/resume", request, DEADLINE).await;
        join(reply, theirs);
    }

    /// Tells something else.
    pub async fn tell_any<Q: Serialize + Sync>(&self, path: &str, request: &Q) {
        let _told: Vec<serde_json::Value> = self.tell(path, request, DEADLINE).await;
    }

    async fn tell<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
        deadline: Duration,
    ) -> Vec<A> {
        let mut answers = Vec::new();
        for socket in self.paths() {
            match client(&socket).post(path, request, deadline).await {
                Ok(answer) => answers.push(answer),
                Err(error) => self.failed(&socket, &error),
            }
        }
        answers
    }

    fn failed(&self, path: &PathBuf, error: &ErrorBody) {
        let socket = path.display();
        match error.code {
            // Nobody listens there any more.
            ErrorCode::Unavailable => {
                tracing::debug!(%socket, "a predecessor has ended");
                self.forget(path);
            }
            _ => tracing::warn!(%socket, %error, "a predecessor did not follow"),
        }
    }
}

fn client(path: &std::path::Path) -> Client {
    Client::new(Endpoint::Unix(path.to_owned()), "predecessor")
}

/// Joins the answers to a quiesce: it is quiet when all are.
#[must_use]
pub fn quiet(mine: QuiesceReply, theirs: Vec<QuiesceReply>) -> QuiesceReply {
    theirs
        .into_iter()
        .fold(mine, |mine, theirs| match (mine, theirs) {
            (QuiesceReply::Ended, _) | (_, QuiesceReply::Ended) => QuiesceReply::Ended,
            (QuiesceReply::Quiesced { closed: a }, QuiesceReply::Quiesced { closed: b }) => {
                QuiesceReply::Quiesced { closed: a + b }
            }
            (QuiesceReply::Busy { in_flight }, QuiesceReply::Quiesced { .. })
            | (QuiesceReply::Quiesced { .. }, QuiesceReply::Busy { in_flight }) => {
                QuiesceReply::Busy { in_flight }
            }
            (QuiesceReply::Busy { mut in_flight }, QuiesceReply::Busy { in_flight: more }) => {
                for InFlight { key, count } in more {
                    match in_flight.iter_mut().find(|line| line.key == key) {
                        Some(line) => line.count += count,
                        None => in_flight.push(InFlight { key, count }),
                    }
                }
                QuiesceReply::Busy { in_flight }
            }
        })
}

fn join(reply: &mut ResumeReply, theirs: Vec<ResumeReply>) {
    for theirs in theirs.into_iter().flat_map(|reply| reply.holds) {
        if let Some(mine) = reply.holds.iter_mut().find(|mine| mine.key == theirs.key) {
            join_hold(mine, &theirs);
        }
    }
}

fn join_hold(mine: &mut HoldReport, theirs: &HoldReport) {
    mine.paused_us = mine.paused_us.max(theirs.paused_us);
    mine.lapsed |= theirs.lapsed;
    mine.released += theirs.released;
    mine.longest_wait_us = mine.longest_wait_us.max(theirs.longest_wait_us);
    mine.refused += theirs.refused;
    mine.client_gone += theirs.client_gone;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(count: u64) -> QuiesceReply {
        QuiesceReply::Busy {
            in_flight: vec![InFlight {
                key: "tcp:1".parse().unwrap(),
                count,
            }],
        }
    }

    #[test]
    fn it_is_quiet_when_all_are_and_what_is_left_adds_up() {
        let quiesced = |closed| QuiesceReply::Quiesced { closed };
        assert_eq!(quiet(quiesced(1), vec![]), quiesced(1));
        assert_eq!(
            quiet(quiesced(1), vec![quiesced(2), quiesced(3)]),
            quiesced(6)
        );
        assert_eq!(quiet(quiesced(1), vec![busy(2)]), busy(2));
        assert_eq!(quiet(busy(1), vec![quiesced(1), busy(2)]), busy(3));
        assert_eq!(
            quiet(busy(1), vec![QuiesceReply::Ended]),
            QuiesceReply::Ended
        );
    }

    #[tokio::test]
    async fn one_that_is_gone_is_forgotten() {
        let predecessors = Predecessors::default();
        predecessors.extend(vec!["/nowhere/edge.sock.1".into()]);
        let transaction = Transaction {
            against: None,
            operations: vec![],
        };
        predecessors.transact(&transaction).await;
        assert!(predecessors.paths().is_empty());
    }
}
