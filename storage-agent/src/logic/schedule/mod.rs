//! When which volume is sent where: continuous replication of one node, on paper.
//!
//! Each volume with a policy has a link to each of its targets:
//!
//! ```text
//!          its time comes          it changed, or nobody can tell
//!   Idle ------------------> Due ---------------------------------> (its turn) -> Sending
//!    ^  ^                     |                                                     |  |
//!    |  +----- unchanged -----+                                       acknowledged  |  | failed
//!    +------------------------------------------------------------------------------+  v
//!                              Due <------------- its pause is over ------------- Failing
//! ```
//!
//! A volume whose time has come is looked at first, together with the others that are about
//! to be due: what did not change since its newest snapshot is not sent, and its copies count
//! as current. Of those that wait for a turn the one with the oldest copy is first. One thing
//! at a time is sent of a volume, and so many in all as the limit says. However long a target
//! was away, one increment brings it to the newest snapshot.
//!
//! Time is the time since the agent's start. This module neither knows how a volume is looked
//! at nor how it is sent: it says what to do and is told what came of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flocker_api::{
    ErrorBody, ErrorCode,
    name::{NodeName, VolumeId},
    replication::{TargetState, TargetStatus},
    volume::Snapshot,
};

/// Time since the agent's start.
pub type Moment = Duration;

/// How the schedule is bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// Most streams at once.
    pub sends_max: usize,
    /// Shortest time between two looks.
    pub look: Duration,
    /// First pause after a failure; doubled with each further one.
    pub retry_first: Duration,
    /// Longest pause after failures; also the pause after what does not pass by itself.
    pub retry_max: Duration,
    /// How long a volume is left alone after something else was done with it.
    pub hold: Duration,
}

impl Default for Pace {
    /// 8 at once, a look each quarter of a second, retries after 1 s to 1 min, 5 s of rest.
    fn default() -> Self {
        Self {
            sends_max: 8,
            look: Duration::from_millis(250),
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
            hold: Duration::from_secs(5),
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A volume has this policy from now on.
    Set {
        /// The volume.
        volume: VolumeId,
        /// Its interval.
        interval: Duration,
        /// Its targets.
        targets: Vec<NodeName>,
    },
    /// A volume is no longer replicated.
    Cleared {
        /// The volume.
        volume: VolumeId,
    },
    /// Volumes were looked at.
    Looked {
        /// When that was begun.
        at: Moment,
        /// What each was found to be.
        found: Vec<(VolumeId, Sight)>,
    },
    /// A transfer has ended.
    Ended {
        /// The volume.
        volume: VolumeId,
        /// The target.
        target: NodeName,
        /// How.
        result: Result<Arrived, ErrorBody>,
    },
    /// What was to be sent turned out to be nothing: the target has everything, and there is no
    /// new snapshot.
    Unchanged {
        /// The volume.
        volume: VolumeId,
        /// The target.
        target: NodeName,
        /// When that was so.
        at: Moment,
    },
    /// Something else is done with a volume: a move, an operator.
    Touched {
        /// The volume.
        volume: VolumeId,
    },
    /// Time has passed.
    Tick,
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// So many bytes were written since its newest snapshot; none, nothing changed.
    Written(u64),
    /// The storage cannot tell.
    Blind,
}

/// An acknowledged transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// When its snapshot was taken; for one that was there before, when that was.
    pub taken_at: Moment,
    /// The snapshot.
    pub snapshot: Snapshot,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Look whether these changed since their newest snapshots.
    Look(Vec<VolumeId>),
    /// Bring a target up to date.
    Send {
        /// The volume.
        volume: VolumeId,
        /// The target.
        target: NodeName,
        /// Whether a snapshot is taken first, or the newest there is will do.
        take: bool,
    },
}

#[derive(Debug, Default)]
struct Volume {
    interval: Duration,
    links: BTreeMap<NodeName, Link>,
    /// When its newest snapshot was taken, as far as this agent knows.
    taken_at: Option<Moment>,
    /// What it takes to forget the snapshot that is being taken: when the one before was taken,
    /// and by how much the targets lacked less.
    before: Option<(Option<Moment>, u64)>,
    /// The last look, while no snapshot was taken since.
    seen: Option<(Moment, Sight)>,
    /// Nothing is begun before.
    held_until: Moment,
}

#[derive(Debug)]
struct Link {
    state: State,
    /// Up to when the copy has everything.
    current_at: Option<Moment>,
    acknowledged: Option<Snapshot>,
    /// Bytes of snapshots that it lacks.
    missing: u64,
    rounds: u64,
    failures: u32,
    error: Option<ErrorBody>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing to do before.
    Idle {
        due: Moment,
    },
    /// To be looked at, then sent.
    Due,
    Sending,
    /// Not tried again before.
    Failing {
        retry_at: Moment,
    },
}

/// The schedule of a node.
#[derive(Debug, Default)]
pub struct Schedule {
    pace: Pace,
    volumes: BTreeMap<VolumeId, Volume>,
    /// Volumes of which something is being sent, of which there may be one that has no policy
    /// any more.
    sending: BTreeSet<VolumeId>,
    looking: bool,
    /// When the last look was begun.
    looked_at: Option<Moment>,
}

impl Schedule {
    /// Nothing to do yet.
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        Self {
            pace,
            ..Self::default()
        }
    }

    /// Takes note of what happened and says what to do now.
    pub fn handle(&mut self, event: Event, now: Moment) -> Vec<Action> {
        match event {
            Event::Set {
                volume,
                interval,
                targets,
            } => self.set(volume, interval, targets, now),
            Event::Cleared { volume } => drop(self.volumes.remove(&volume)),
            Event::Looked { at, found } => self.looked(at, found),
            Event::Ended {
                volume,
                target,
                result,
            } => self.ended(volume, &target, result, now),
            Event::Unchanged { volume, target, at } => self.unchanged(volume, &target, at),
            Event::Touched { volume } => {
                if let Some(volume) = self.volumes.get_mut(&volume) {
                    volume.before = None;
                    volume.held_until = now + self.pace.hold;
                    // What is done there may take snapshots, which the targets then lack.
                    volume.seen = None;
                    for link in volume.links.values_mut() {
                        link.missing = link.missing.max(1);
                    }
                }
            }
            Event::Tick => {}
        }
        self.next(now)
    }

    /// When to tick next, if nothing happens before.
    #[must_use]
    pub fn deadline(&self, now: Moment) -> Option<Moment> {
        let of_links = self.volumes.iter().flat_map(|(id, volume)| {
            let sending = self.sending.contains(id);
            volume
                .links
                .values()
                .filter_map(move |link| match link.state {
                    State::Idle { due } => Some(due.max(volume.held_until)),
                    State::Failing { retry_at } => Some(retry_at.max(volume.held_until)),
                    State::Due if volume.held_until > now => Some(volume.held_until),
                    // Waits for a look, or for a turn, which an event brings.
                    State::Due if volume.seen.is_none() && !self.looking && !sending => {
                        Some(self.looked_at.map_or(now, |at| at + self.pace.look))
                    }
                    State::Due | State::Sending => None,
                })
        });
        of_links.min()
    }

    /// How far each target of a volume is, in the order of the names.
    #[must_use]
    pub fn status(&self, volume: VolumeId, now: Moment) -> Vec<TargetStatus> {
        let Some(volume) = self.volumes.get(&volume) else {
            return Vec::new();
        };
        let written = match volume.seen {
            Some((_, Sight::Written(bytes))) => Some(bytes),
            Some((_, Sight::Blind)) | None => None,
        };
        let links = volume.links.iter();
        links
            .map(|(peer, link)| TargetStatus {
                peer: peer.clone(),
                state: match link.state {
                    State::Idle { .. } => TargetState::Idle,
                    State::Due => TargetState::Due,
                    State::Sending => TargetState::Sending,
                    State::Failing { .. } => TargetState::Failing,
                },
                acknowledged: link.acknowledged.clone(),
                lag_ms: link.current_at.map(|at| millis(now.saturating_sub(at))),
                lag_bytes: link
                    .acknowledged
                    .as_ref()
                    .map(|_| link.missing + written.unwrap_or_default()),
                rounds: link.rounds,
                error: link.error.clone(),
            })
            .collect()
    }

    /// Whether a volume is replicated.
    #[must_use]
    pub fn has(&self, volume: VolumeId) -> bool {
        self.volumes.contains_key(&volume)
    }

    fn set(&mut self, id: VolumeId, interval: Duration, targets: Vec<NodeName>, now: Moment) {
        let volume = self.volumes.entry(id).or_default();
        let shorter = interval < volume.interval;
        volume.interval = interval;
        volume.links.retain(|node, _| targets.contains(node));
        for target in targets {
            let link = volume.links.entry(target).or_insert_with(|| Link::new(now));
            if let (true, State::Idle { .. }) = (shorter, link.state) {
                link.state = State::Idle { due: now };
            }
        }
    }

    fn looked(&mut self, at: Moment, found: Vec<(VolumeId, Sight)>) {
        self.looking = false;
        for (id, sight) in found {
            if let Some(volume) = self.volumes.get_mut(&id) {
                volume.saw(at, sight);
            }
        }
    }

    fn unchanged(&mut self, id: VolumeId, target: &NodeName, at: Moment) {
        self.sending.remove(&id);
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        volume.untake();
        if let Some(link) = volume.links.get_mut(target) {
            link.missing = 0;
            link.failures = 0;
            link.error = None;
            link.state = State::Due;
        }
        volume.saw(at, Sight::Written(0));
    }

    fn ended(
        &mut self,
        id: VolumeId,
        target: &NodeName,
        result: Result<Arrived, ErrorBody>,
        now: Moment,
    ) {
        self.sending.remove(&id);
        let pace = self.pace.clone();
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        let interval = volume.interval;
        let Some(link) = volume.links.get_mut(target) else {
            return;
        };
        match result {
            Ok(arrived) => link.arrived(arrived, interval),
            Err(error) => link.failed(error, spread(id), &pace, now),
        }
    }

    fn next(&mut self, now: Moment) -> Vec<Action> {
        for volume in self.volumes.values_mut() {
            let mut woken = false;
            for link in volume.links.values_mut() {
                woken |= link.wake(now);
            }
            // That nothing had changed then says nothing of now.
            let stale = |(at, sight): &(Moment, Sight)| *sight == Sight::Written(0) && *at < now;
            volume.seen.take_if(|seen| woken && stale(seen));
        }
        let mut actions = Vec::new();
        while let Some(action) = self.next_send(now) {
            actions.push(action);
        }
        actions.extend(self.next_look(now));
        actions
    }

    /// Of those that wait for a turn the one with the oldest copy; one that has none is older
    /// than all.
    fn next_send(&mut self, now: Moment) -> Option<Action> {
        if self.sending.len() >= self.pace.sends_max {
            return None;
        }
        let volumes = self.volumes.iter();
        let free = volumes.filter(|(id, v)| !self.sending.contains(id) && v.held_until <= now);
        let ready = free.flat_map(|(id, volume)| {
            let links = volume.links.iter();
            links
                .filter(|(_, link)| link.state == State::Due && volume.is_worth_sending(link, now))
                .map(|(node, link)| (link.current_at, *id, node.clone()))
        });
        let (_, id, target) = ready.min()?;
        let volume = self.volumes.get_mut(&id)?;
        let take = volume.wants_snapshot(volume.links.get(&target)?, now);
        if take {
            volume.take(now);
        }
        volume.links.get_mut(&target)?.state = State::Sending;
        self.sending.insert(id);
        Some(Action::Send {
            volume: id,
            target,
            take,
        })
    }

    /// One look for all that are due or soon will be.
    fn next_look(&mut self, now: Moment) -> Option<Action> {
        let rested = self.looked_at.is_none_or(|at| at + self.pace.look <= now);
        if self.looking || !rested {
            return None;
        }
        let unseen = |volume: &&Volume| volume.seen.is_none() && volume.held_until <= now;
        let waits = |volume: &Volume| volume.links.values().any(|link| link.state == State::Due);
        if !self.volumes.values().filter(unseen).any(waits) {
            return None;
        }
        let soon = now + self.pace.look;
        let near = |volume: &Volume| {
            let near = |link: &Link| match link.state {
                State::Due => true,
                State::Idle { due } => due <= soon,
                State::Sending | State::Failing { .. } => false,
            };
            volume.links.values().any(near)
        };
        let volumes = self.volumes.iter();
        let looked = volumes
            .filter(|(id, volume)| unseen(volume) && near(volume) && !self.sending.contains(id));
        let looked: Vec<_> = looked.map(|(id, _)| *id).collect();
        if looked.is_empty() {
            return None;
        }
        self.looking = true;
        self.looked_at = Some(now);
        Some(Action::Look(looked))
    }
}

impl Volume {
    /// A snapshot is taken: every target lacks it, and what was seen is in it.
    fn take(&mut self, now: Moment) {
        let written = match self.seen.take() {
            Some((_, Sight::Written(bytes))) => bytes.max(1),
            Some((_, Sight::Blind)) | None => 1,
        };
        self.before = Some((self.taken_at, written));
        self.taken_at = Some(now);
        for link in self.links.values_mut() {
            link.missing += written;
        }
    }

    /// It was taken for nothing, and is gone again.
    fn untake(&mut self) {
        if let Some((taken_at, written)) = self.before.take() {
            self.taken_at = taken_at;
            for link in self.links.values_mut() {
                link.missing = link.missing.saturating_sub(written);
            }
        }
    }

    /// Takes note of a look; targets that lack nothing are current where nothing changed.
    fn saw(&mut self, at: Moment, sight: Sight) {
        // A snapshot that was taken meanwhile makes the answer worthless.
        if self.taken_at.is_some_and(|taken| taken >= at) {
            return;
        }
        self.seen = Some((at, sight));
        if sight != Sight::Written(0) {
            return;
        }
        let due = at + self.interval;
        let current = |link: &&mut Link| link.missing_nothing();
        for link in self.links.values_mut().filter(current) {
            link.current_at = Some(at);
            if matches!(link.state, State::Due | State::Idle { .. }) {
                link.state = State::Idle { due };
            }
        }
    }

    /// Whether enough is known to send it, and there is something to send.
    fn is_worth_sending(&self, link: &Link, now: Moment) -> bool {
        match self.seen {
            Some((_, Sight::Written(0))) => !link.missing_nothing(),
            Some(_) => true,
            None => self.has_young_for(link, now),
        }
    }

    /// A target that lacks the newest snapshot gets that one while it is young: so all targets
    /// share the snapshots of a volume.
    fn has_young_for(&self, link: &Link, now: Moment) -> bool {
        let young = self.taken_at.is_some_and(|at| now < at + self.interval / 2);
        link.missing > 0 && young
    }

    fn wants_snapshot(&self, link: &Link, now: Moment) -> bool {
        let unchanged = matches!(self.seen, Some((_, Sight::Written(0))));
        !unchanged && !self.has_young_for(link, now)
    }
}

impl Link {
    fn new(now: Moment) -> Self {
        Self {
            state: State::Idle { due: now },
            current_at: None,
            acknowledged: None,
            missing: 0,
            rounds: 0,
            failures: 0,
            error: None,
        }
    }

    fn missing_nothing(&self) -> bool {
        self.missing == 0 && self.acknowledged.is_some()
    }

    /// Whether its time has come now.
    fn wake(&mut self, now: Moment) -> bool {
        match self.state {
            State::Idle { due: at } | State::Failing { retry_at: at } if at <= now => {
                self.state = State::Due;
                true
            }
            _ => false,
        }
    }

    fn arrived(&mut self, arrived: Arrived, interval: Duration) {
        self.state = State::Idle {
            due: arrived.taken_at + interval,
        };
        self.current_at = Some(arrived.taken_at);
        self.acknowledged = Some(arrived.snapshot);
        self.missing = 0;
        self.rounds += 1;
        self.failures = 0;
        self.error = None;
    }

    fn failed(&mut self, error: ErrorBody, spread: f64, pace: &Pace, now: Moment) {
        // Its volume is needed elsewhere for a moment: that is no failure.
        let pause = if error.code == ErrorCode::Busy {
            pace.retry_first
        } else if error.code.is_transient() {
            let doubled = pace.retry_first * 2_u32.saturating_pow(self.failures.min(16));
            doubled.min(pace.retry_max)
        } else {
            pace.retry_max
        };
        self.failures += 1;
        // It may have failed after its snapshot was taken.
        self.missing = self.missing.max(1);
        self.state = State::Failing {
            retry_at: now + pause.mul_f64(1.0 + spread / 4.0),
        };
        self.error = Some(error);
    }
}

/// From 0 to 1, the same each time for a volume: so that those that failed together are not
/// tried again together.
fn spread(id: VolumeId) -> f64 {
    f64::from(id.0.as_bytes()[15]) / 255.0
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
