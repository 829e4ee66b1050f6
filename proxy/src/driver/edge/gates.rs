//! The gate verbs of an edge.

use std::{sync::Arc, time::Duration};

use flocker_api::{
    gate::{
        GateState, HoldReport, InFlight, PauseReply, PauseRequest, QuiesceReply, QuiesceRequest,
        ResumeReply, ResumeRequest, SwitchRequest, Token,
    },
    route::{Generation, RouteKey},
};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Edge, EdgeError, Mail};
use crate::logic::{
    gate::{Gate, GateError, HoldSummary, Quiet},
    session::Table,
};

/// How often the workers are told again of a quiesce: what was an HTTP request may have become
/// a tunnel meanwhile.
const QUIESCE_AGAIN: Duration = Duration::from_millis(200);

/// Longest wait of a quiesce, whatever is asked for: a day.
const QUIESCE_MS_MAX: u64 = 24 * 60 * 60 * 1000;

type Gates = Vec<(RouteKey, Arc<Gate>)>;

fn gates<'k>(
    table: &Table,
    keys: impl IntoIterator<Item = &'k RouteKey>,
) -> Result<Gates, EdgeError> {
    let mut gates = Gates::new();
    for key in keys {
        let entry = table
            .get(key)
            .ok_or_else(|| EdgeError::NoRoute(key.clone()))?;
        if gates.iter().all(|(known, _)| known != key) {
            gates.push((key.clone(), Arc::clone(&entry.gate)));
        }
    }
    match gates.is_empty() {
        true => Err(EdgeError::NoKeys),
        false => Ok(gates),
    }
}

impl Edge {
    /// Stops the admission of routes: all of them or none. When it returns, nothing is
    /// admitted on any worker.
    ///
    /// # Errors
    /// Names the route that is unknown, or paused, or has seen a newer token.
    pub fn pause(self: &Arc<Self>, request: &PauseRequest) -> Result<PauseReply, EdgeError> {
        let mut change = self.lock();
        let gates = gates(&self.live.load(), &request.keys)?;
        let now = std::time::Instant::now();
        let token = match request.token {
            Some(token) => token,
            None => {
                for (key, gate) in &gates {
                    let status = gate.status(now);
                    if status.state == GateState::Paused {
                        return Err(EdgeError::Paused {
                            key: key.clone(),
                            token: status.token,
                        });
                    }
                    change.token = change.token.max(status.token);
                }
                Token(change.token.0.saturating_add(1))
            }
        };
        for (key, gate) in &gates {
            gate.may_pause(token).map_err(EdgeError::gate(key))?;
        }
        for (key, gate) in &gates {
            gate.pause(token, request.limits, now)
                .map_err(EdgeError::gate(key))?;
        }
        change.token = change.token.max(token);
        drop(change);
        tokio::spawn(Arc::clone(self).keep_deadline(gates));
        Ok(PauseReply { token })
    }

    /// Says when pauses have lapsed. The workers let them; this does, too, should they be stuck.
    pub(super) async fn keep_deadline(self: Arc<Self>, gates: Gates) {
        while let Some(next) = gates.iter().filter_map(|(_, gate)| gate.deadline()).min() {
            sleep_until(next.into()).await;
            for (key, gate) in &gates {
                gate.proceed(std::time::Instant::now());
                if gate.has_lapsed() {
                    tracing::warn!(%key, "a pause has lapsed");
                }
            }
        }
    }

    /// Waits until nothing that was admitted before the pause is in flight.
    ///
    /// # Errors
    /// Names the route that is unknown or whose gate refuses the token.
    pub async fn quiesce(&self, request: &QuiesceRequest) -> Result<QuiesceReply, EdgeError> {
        let gates = gates(&self.live.load(), &request.keys)?;
        for (key, gate) in &gates {
            gate.may_resume(request.token)
                .map_err(EdgeError::gate(key))?;
        }
        let started = Instant::now();
        let deadline = started + Duration::from_millis(request.deadline_ms.min(QUIESCE_MS_MAX));
        let mut again = Instant::now();
        loop {
            let rung = self.bell.quiesces.notified();
            tokio::pin!(rung);
            // From here on no ring is missed.
            rung.as_mut().enable();
            if Instant::now() >= again {
                self.tell_quiesce(&gates);
                again = Instant::now() + QUIESCE_AGAIN;
            }
            let mut in_flight = Vec::new();
            for (key, gate) in &gates {
                match gate.quiet(request.token) {
                    Quiet::Yes => {}
                    Quiet::Ended => return Ok(QuiesceReply::Ended),
                    Quiet::No(count) => in_flight.push(InFlight {
                        key: key.clone(),
                        count,
                    }),
                }
            }
            if in_flight.is_empty() {
                self.quiesce_time.observe(started.elapsed());
                let closed = gates.iter().map(|(_, gate)| gate.closed()).sum();
                return Ok(QuiesceReply::Quiesced { closed });
            }
            if Instant::now() >= deadline {
                return Ok(QuiesceReply::Busy { in_flight });
            }
            // Either way it looks again.
            drop(timeout_at(deadline.min(again), rung).await);
        }
    }

    fn tell_quiesce(&self, gates: &Gates) {
        for (_, gate) in gates {
            if gate.in_flight() == 0 {
                continue;
            }
            for mailbox in &self.mailboxes {
                mailbox.send(Mail::Quiesce(Arc::clone(gate)));
            }
        }
    }

    /// Retargets paused routes in one generation, and lets the parked go.
    ///
    /// # Errors
    /// Names the route that is unknown or whose gate refuses the token; nothing is changed.
    pub fn switch(self: &Arc<Self>, request: &SwitchRequest) -> Result<ResumeReply, EdgeError> {
        let change = self.lock();
        let old = self.live.load();
        let gates = gates(&old, request.changes.iter().map(|change| &change.key))?;
        for (key, gate) in &gates {
            gate.may_resume(request.token)
                .map_err(EdgeError::gate(key))?;
        }
        for retarget in &request.changes {
            let entry = old
                .get(&retarget.key)
                .ok_or_else(|| EdgeError::NoRoute(retarget.key.clone()))?;
            let over = !entry.gate.is_closed() && !entry.gate.has_lapsed();
            if over && entry.route.upstreams != retarget.upstreams {
                let source = GateError::NotPaused {
                    asked: request.token,
                    current: entry.gate.token(),
                };
                return Err(EdgeError::gate(&retarget.key)(source));
            }
        }
        let new = old.retarget(&request.changes)?;
        let generation = new.generation();
        let after = new.clone();
        self.live.publish(new);
        for retarget in &request.changes {
            if let Some(entry) = old.get(&retarget.key) {
                entry.gate.retarget();
                let set = after.get(&retarget.key).map(|entry| &*entry.set);
                self.forget(&entry.set, set);
                self.watch.changed(&after, &retarget.key);
            }
        }
        let holds = match request.resume {
            true => self.open(&gates, request.token)?,
            false => Vec::new(),
        };
        drop(change);
        Ok(ResumeReply { generation, holds })
    }

    /// Opens paused gates.
    ///
    /// # Errors
    /// Names the route that is unknown or whose gate refuses the token; nothing is changed.
    pub fn resume(self: &Arc<Self>, request: &ResumeRequest) -> Result<ResumeReply, EdgeError> {
        let change = self.lock();
        let table = self.live.load();
        let gates = gates(&table, &request.keys)?;
        for (key, gate) in &gates {
            gate.may_resume(request.token)
                .map_err(EdgeError::gate(key))?;
        }
        let holds = self.open(&gates, request.token)?;
        drop(change);
        Ok(ResumeReply {
            generation: generation(&table),
            holds,
        })
    }

    fn open(self: &Arc<Self>, gates: &Gates, token: Token) -> Result<Vec<HoldReport>, EdgeError> {
        let now = std::time::Instant::now();
        let mut holds = Vec::new();
        for (key, gate) in gates {
            let hold = gate.resume(token, now).map_err(EdgeError::gate(key))?;
            holds.push(report(key, &hold));
        }
        for (_, gate) in gates {
            gate.proceed(now);
        }
        Ok(holds)
    }
}

fn generation(table: &Table) -> Generation {
    table.generation()
}

fn report(key: &RouteKey, hold: &HoldSummary) -> HoldReport {
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    HoldReport {
        key: key.clone(),
        paused_us: micros(hold.paused),
        lapsed: hold.lapsed,
        released: hold.released,
        longest_wait_us: micros(hold.longest_wait),
        refused: hold.refused,
        client_gone: hold.client_gone,
    }
}
