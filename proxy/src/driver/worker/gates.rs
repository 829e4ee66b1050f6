//! The times of gates: deadlines of pauses, probes of upstreams, the pace of a resume. Each gate
//! that has anything to wait for is watched by one worker, whatever becomes of the admin side.

use std::{collections::HashMap, sync::Arc, time::Instant};

use super::{Mail, Worker};
use crate::{driver::timers::Alarm, logic::gate::Gate};

/// By name, with the time of the alarm that is set.
pub(super) type Watched = HashMap<usize, (Arc<Gate>, Instant)>;

/// A gate that is watched is held: its address is a name.
fn name(gate: &Arc<Gate>) -> usize {
    Arc::as_ptr(gate).addr()
}

impl Worker {
    /// Keeps to a gate's times from now on.
    pub(super) fn watch(&mut self, gate: Arc<Gate>) {
        let name = name(&gate);
        let armed = self.gates.get(&name).map(|(_, armed)| *armed);
        match gate.tick(self.now) {
            Some(at) => {
                if armed.is_none_or(|armed| at < armed) {
                    self.timers.set(at, Alarm::Gate(name));
                    self.gates.insert(name, (gate, at));
                }
            }
            None => drop(self.gates.remove(&name)),
        }
    }

    /// A gate's time may have come.
    pub(super) fn tick(&mut self, name: usize) {
        if let Some((_, armed)) = self.gates.get(&name)
            && *armed <= self.now
            && let Some((gate, _)) = self.gates.remove(&name)
        {
            self.watch(gate);
        }
    }

    /// This worker ends; others have sessions at its gates.
    pub(super) fn hand_gates_over(self) {
        let Self { gates, mail, .. } = self;
        let mut left: Vec<Arc<Gate>> = gates.into_values().map(|(gate, _)| gate).collect();
        left.extend(mail.try_iter().filter_map(|mail| match mail {
            Mail::Watch(gate) => Some(gate),
            _ => None,
        }));
        // Whoever asks for a watch from here on finds nobody here.
        drop(mail);
        for gate in left {
            gate.unwatched();
        }
    }
}
