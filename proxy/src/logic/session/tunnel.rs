//! An established opaque stretch: bytes go both ways until both sides have ended.
//!
//! The end of one side is passed on and the other goes on; a reset is passed on as a reset, after
//! what that side had said before it: a service that answers and closes while its client is still
//! sending resets the connection, and its answer counts. A tunnel that is silent for too long
//! ends, half-closed ones too.

use std::{sync::Arc, time::Instant};

use flocker_api::route::OnMove;

use super::{Action, Cx, Ending, Event, Key, Side, Want, on_move};
use crate::logic::{
    access::{Cause, Visit},
    gate::Admission,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Tunnel {
    admission: Admission,
    /// When bytes last moved.
    active: Instant,
    idle_until: Instant,
    ended: [bool; 2],
    /// A side that takes nothing more, of which what it sent before is still being read.
    deaf: Option<Side>,
    silent: bool,
}

/// What becomes of a tunnel after an event.
#[derive(Debug)]
pub(super) enum Course {
    /// It goes on.
    On,
    /// It is over.
    End(Ending),
    /// Its route is quiesced and nothing went through it yet, not even an end.
    Untouched,
}

impl Tunnel {
    pub(super) fn new(admission: Admission, cx: &Cx<'_>) -> Self {
        Self {
            admission,
            active: cx.now,
            idle_until: cx.now + cx.limits.tcp_idle,
            ended: [false; 2],
            deaf: None,
            silent: true,
        }
    }

    pub(super) fn handle(&mut self, event: Event<'_>, key: &Key, cx: &mut Cx<'_>) -> Course {
        match event {
            Event::Piped { from, bytes } => {
                self.active = cx.now;
                self.silent = false;
                if from == Side::Upstream && bytes > 0 {
                    self.admission.answered(cx.now);
                }
            }
            Event::Eof(side) if self.deaf == Some(side) => {
                return Course::End(Ending::Reset(side.other()));
            }
            Event::Eof(side) => {
                self.silent = false;
                self.ended[side as usize] = true;
                if self.ended == [true; 2] {
                    return Course::End(Ending::Clean);
                }
                cx.act(Action::Finish(side.other()));
            }
            Event::Unwritable(side) if self.deaf.is_none() && !self.ended[side as usize] => {
                count_error(side, cx);
                self.deaf = Some(side);
            }
            Event::Broken(side) | Event::Unwritable(side) => {
                if self.deaf.is_none() {
                    count_error(side, cx);
                }
                return Course::End(Ending::Reset(side.other()));
            }
            Event::Timer => {
                self.idle_until = self.active + cx.limits.tcp_idle;
                if cx.now >= self.idle_until {
                    return Course::End(Ending::Clean);
                }
            }
            Event::Quiesce(gate) if Arc::ptr_eq(gate, self.admission.gate()) => {
                if self.silent {
                    return Course::Untouched;
                }
                if on_move(key, cx) == OnMove::Close {
                    gate.count_closed();
                    // The client may be sending: a reset would eat what it has not read yet.
                    return Course::End(Ending::Linger);
                }
            }
            _ => {}
        }
        Course::On
    }

    pub(super) fn wants(&self, side: Side) -> Want {
        match self.ended[side as usize] || self.deaf == Some(side.other()) {
            true => Want::Nothing,
            false => Want::Pipe(None),
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.idle_until
    }

    pub(super) fn admission(&self) -> &Admission {
        &self.admission
    }

    pub(super) fn into_admission(self) -> Admission {
        self.admission
    }
}

/// Who ended a tunnel, as its visit shall know it.
pub(super) fn tunnel_over(visit: &mut Visit, event: &Event<'_>, ending: Ending) {
    match (event, ending) {
        (Event::Timer, _) => visit.blame(Cause::ClientTimeout),
        (Event::Quiesce(_), _) => visit.blame(Cause::Move),
        (_, Ending::Reset(Side::Upstream)) => visit.blame(Cause::Client),
        (_, Ending::Reset(Side::Downstream)) => visit.blame(Cause::Upstream),
        _ => visit.over(),
    }
}

fn count_error(side: Side, cx: &Cx<'_>) {
    if side == Side::Upstream {
        cx.counters.upstream_errors.inc();
    }
}
