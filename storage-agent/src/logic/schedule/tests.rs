//! What is sent when: single rules, and a simulated node on virtual time.

use flocker_api::volume::Guid;
use proptest::prelude::*;

use super::*;

fn id(number: u8) -> VolumeId {
    VolumeId(uuid::Uuid::from_u128(u128::from(number)))
}

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn secs(seconds: u64) -> Moment {
    Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Moment {
    Duration::from_millis(millis)
}

fn snapshot(number: u64) -> Snapshot {
    Snapshot {
        name: format!("flocker-1-{number}"),
        guid: Guid(number),
        createtxg: number,
    }
}

fn set(volume: u8, interval: u64, targets: &[&str]) -> Event {
    Event::Set {
        volume: id(volume),
        interval: secs(interval),
        targets: targets.iter().map(|target| node(target)).collect(),
    }
}

fn looked(at: Moment, found: &[(u8, Sight)]) -> Event {
    Event::Looked {
        at,
        found: found
            .iter()
            .map(|(volume, sight)| (id(*volume), *sight))
            .collect(),
    }
}

fn arrived(volume: u8, target: &str, taken_at: Moment, number: u64) -> Event {
    Event::Ended {
        volume: id(volume),
        target: node(target),
        result: Ok(Arrived {
            taken_at,
            snapshot: snapshot(number),
        }),
    }
}

fn failed(volume: u8, target: &str, code: ErrorCode) -> Event {
    Event::Ended {
        volume: id(volume),
        target: node(target),
        result: Err(ErrorBody::new(code, "no")),
    }
}

fn send(volume: u8, target: &str, take: bool) -> Action {
    Action::Send {
        volume: id(volume),
        target: node(target),
        take,
    }
}

fn look(volumes: &[u8]) -> Action {
    Action::Look(volumes.iter().map(|volume| id(*volume)).collect())
}

/// A schedule in which volume 1 has been sent to n2 at 0 s, and is due again at 10 s.
fn once_sent() -> Schedule {
    let mut schedule = Schedule::new(Pace::default());
    assert_eq!(schedule.handle(set(1, 10, &["n2"]), secs(0)), [look(&[1])]);
    let actions = schedule.handle(looked(secs(0), &[(1, Sight::Blind)]), secs(0));
    assert_eq!(actions, [send(1, "n2", true)]);
    assert_eq!(
        schedule.handle(arrived(1, "n2", secs(0), 1), millis(50)),
        []
    );
    assert_eq!(schedule.deadline(millis(50)), Some(secs(10)));
    schedule
}

#[test]
fn what_did_not_change_is_not_sent_and_counts_as_current() {
    let mut schedule = once_sent();
    assert_eq!(schedule.handle(Event::Tick, secs(10)), [look(&[1])]);
    assert_eq!(
        schedule.handle(looked(secs(10), &[(1, Sight::Written(0))]), secs(10)),
        []
    );
    let status = &schedule.status(id(1), secs(12))[0];
    assert_eq!((status.lag_ms, status.lag_bytes), (Some(2_000), Some(0)));
    assert_eq!((status.state, status.rounds), (TargetState::Idle, 1));
    assert_eq!(schedule.deadline(secs(12)), Some(secs(20)));
}

/// As on a storage that cannot tell what was written before it makes a stream of it.
#[test]
fn what_turns_out_to_be_nothing_counts_as_current_and_leaves_no_target_behind() {
    let mut schedule = Schedule::new(Pace::default());
    schedule.handle(set(1, 10, &["n2", "n3"]), secs(0));
    schedule.handle(looked(secs(0), &[(1, Sight::Blind)]), secs(0));
    schedule.handle(arrived(1, "n2", secs(0), 1), secs(1));
    schedule.handle(arrived(1, "n3", secs(0), 1), secs(1));
    assert_eq!(schedule.handle(Event::Tick, secs(10)), [look(&[1])]);
    let blind = looked(secs(10), &[(1, Sight::Blind)]);
    assert_eq!(schedule.handle(blind, secs(10)), [send(1, "n2", true)]);
    let unchanged = Event::Unchanged {
        volume: id(1),
        target: node("n2"),
        at: millis(10_001),
    };
    // Nor is there anything for the other one.
    assert_eq!(schedule.handle(unchanged, millis(10_050)), []);
    for status in schedule.status(id(1), secs(12)) {
        assert_eq!((status.lag_ms, status.lag_bytes), (Some(1_999), Some(0)));
        assert_eq!((status.state, status.rounds), (TargetState::Idle, 1));
    }
    assert_eq!(schedule.deadline(secs(12)), Some(millis(20_001)));
}

#[test]
fn what_changed_is_sent_with_a_new_snapshot() {
    let mut schedule = once_sent();
    schedule.handle(Event::Tick, secs(10));
    let found = looked(secs(10), &[(1, Sight::Written(4096))]);
    assert_eq!(schedule.handle(found, secs(10)), [send(1, "n2", true)]);
    let status = &schedule.status(id(1), secs(11))[0];
    assert_eq!(
        (status.lag_ms, status.lag_bytes),
        (Some(11_000), Some(4096))
    );
    assert_eq!(status.state, TargetState::Sending);
    schedule.handle(arrived(1, "n2", secs(10), 2), secs(11));
    let status = &schedule.status(id(1), secs(11))[0];
    assert_eq!((status.lag_ms, status.lag_bytes), (Some(1_000), Some(0)));
    assert_eq!(status.acknowledged, Some(snapshot(2)));
}

#[test]
fn targets_share_a_snapshot_and_are_sent_to_one_after_the_other() {
    let mut schedule = Schedule::new(Pace::default());
    schedule.handle(set(1, 10, &["n2", "n3"]), secs(0));
    let first = schedule.handle(looked(secs(0), &[(1, Sight::Blind)]), secs(0));
    assert_eq!(first, [send(1, "n2", true)]);
    let second = schedule.handle(arrived(1, "n2", secs(0), 1), secs(1));
    assert_eq!(second, [send(1, "n3", false)]);
    assert_eq!(schedule.handle(arrived(1, "n3", secs(0), 1), secs(2)), []);
    let lags = schedule.status(id(1), secs(3));
    assert!(lags.iter().all(|target| target.lag_ms == Some(3_000)));
}

#[test]
fn a_target_that_was_away_gets_one_increment_to_the_newest() {
    let mut schedule = once_sent();
    for round in 1..5 {
        let now = secs(100 * round);
        schedule.handle(Event::Tick, now);
        let actions = schedule.handle(looked(now, &[(1, Sight::Written(9))]), now);
        assert_eq!(actions, [send(1, "n2", true)]);
        schedule.handle(failed(1, "n2", ErrorCode::Unavailable), now + millis(1));
    }
    let status = &schedule.status(id(1), secs(500))[0];
    assert_eq!(status.state, TargetState::Failing);
    assert_eq!(status.error.as_ref().unwrap().code, ErrorCode::Unavailable);
    assert_eq!(status.lag_ms, Some(500_000));
    // Nothing was written since the last attempt took its snapshot: that one is sent.
    schedule.handle(Event::Tick, secs(600));
    let actions = schedule.handle(looked(secs(600), &[(1, Sight::Written(0))]), secs(600));
    assert_eq!(actions, [send(1, "n2", false)]);
    schedule.handle(arrived(1, "n2", secs(400), 5), secs(601));
    assert_eq!(schedule.status(id(1), secs(601))[0].error, None);
}

#[test]
fn pauses_grow_and_what_does_not_pass_waits_longest() {
    let pauses = |code| {
        let mut schedule = once_sent();
        let mut now = secs(10);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            schedule.handle(Event::Tick, now);
            schedule.handle(looked(now, &[(1, Sight::Written(1))]), now);
            schedule.handle(failed(1, "n2", code), now);
            let next = schedule.deadline(now).unwrap();
            pauses.push((next - now).as_secs());
            now = next;
        }
        pauses
    };
    assert_eq!(
        pauses(ErrorCode::Unavailable),
        [1, 2, 4, 8, 16, 32, 60, 60, 60]
    );
    assert_eq!(pauses(ErrorCode::Diverged), [60; 9]);
    assert_eq!(pauses(ErrorCode::Busy), [1; 9]);
}

#[test]
fn the_oldest_copy_goes_first_and_no_more_than_the_limit() {
    let pace = Pace {
        sends_max: 1,
        ..Pace::default()
    };
    let mut schedule = Schedule::new(pace);
    for volume in 1..=3 {
        schedule.handle(set(volume, 10, &["n2"]), secs(0));
    }
    let blind = [(1, Sight::Blind), (2, Sight::Blind), (3, Sight::Blind)];
    // Only the first was there when the look began.
    let all = schedule.handle(looked(secs(0), &blind), secs(0));
    assert_eq!(all, [send(1, "n2", true)]);
    let next = schedule.handle(arrived(1, "n2", secs(0), 1), secs(30));
    // Volume 1 is due again, but the others have no copy at all.
    assert_eq!(next[0], send(2, "n2", true));
    let next = schedule.handle(arrived(2, "n2", secs(30), 1), secs(60));
    assert_eq!(next[0], send(3, "n2", true));
    schedule.handle(looked(secs(30), &blind), secs(60));
    let next = schedule.handle(arrived(3, "n2", secs(60), 1), secs(61));
    assert_eq!(next[0], send(1, "n2", true));
}

#[test]
fn what_something_else_is_done_with_is_left_alone_for_a_while() {
    let mut schedule = once_sent();
    assert_eq!(
        schedule.handle(Event::Touched { volume: id(1) }, secs(9)),
        []
    );
    assert_eq!(schedule.handle(Event::Tick, secs(13)), []);
    assert_eq!(schedule.deadline(secs(13)), Some(secs(14)));
    assert_eq!(schedule.handle(Event::Tick, secs(14)), [look(&[1])]);
    // Snapshots may have been taken, so that it counts as behind even if nothing changed.
    let actions = schedule.handle(looked(secs(14), &[(1, Sight::Written(0))]), secs(14));
    assert_eq!(actions, [send(1, "n2", false)]);
}

#[test]
fn a_policy_that_goes_while_something_is_sent_leaves_nothing_behind() {
    let mut schedule = once_sent();
    schedule.handle(Event::Tick, secs(10));
    schedule.handle(looked(secs(10), &[(1, Sight::Written(1))]), secs(10));
    schedule.handle(Event::Cleared { volume: id(1) }, secs(10));
    assert_eq!(schedule.status(id(1), secs(10)), []);
    schedule.handle(set(1, 10, &["n3"]), secs(10));
    schedule.handle(looked(secs(10), &[(1, Sight::Blind)]), secs(11));
    // Still one thing at a time.
    assert!(schedule.sending.contains(&id(1)));
    let actions = schedule.handle(arrived(1, "n2", secs(10), 2), secs(12));
    assert!(matches!(&actions[..], [Action::Send { target, .. }] if *target == node("n3")));
}

/// A node on paper: volumes that are written to at random, a wire that fails at random.
struct World {
    schedule: Schedule,
    now: Moment,
    /// Per volume: when it was last written to, and when its newest snapshot was taken.
    volumes: BTreeMap<VolumeId, (Option<Moment>, Option<Moment>)>,
    /// Up to when each copy has everything.
    copies: BTreeMap<(VolumeId, NodeName), Moment>,
    /// What runs, by when it ends.
    running: Vec<(Moment, Running)>,
    sent: u32,
}

#[derive(Clone)]
enum Running {
    Look(Moment, Vec<VolumeId>),
    Send(VolumeId, NodeName, bool, Option<Moment>),
}

impl World {
    fn carry_out(&mut self, actions: Vec<Action>, fails: bool) {
        for action in actions {
            let (takes, running) = match action {
                Action::Look(volumes) => (millis(40), Running::Look(self.now, volumes)),
                Action::Send {
                    volume,
                    target,
                    take,
                } => {
                    let busy = |r: &(Moment, Running)| matches!(&r.1, Running::Send(other, ..) if *other == volume);
                    assert!(!self.running.iter().any(busy), "two streams of a volume");
                    let known = self.volumes.get_mut(&volume).unwrap();
                    if take || known.1.is_none() {
                        known.1 = Some(self.now);
                    }
                    self.sent += 1;
                    (millis(90), Running::Send(volume, target, fails, known.1))
                }
            };
            self.running.push((self.now + takes, running));
        }
        let sends = |r: &&(Moment, Running)| matches!(r.1, Running::Send(..));
        assert!(
            self.running.iter().filter(sends).count() <= 2,
            "more than the limit"
        );
    }

    /// What ended by now, told to the schedule.
    fn advance(&mut self, to: Moment, fails: bool) {
        loop {
            let ends = self.running.iter().map(|(end, _)| *end).min();
            let next = [ends, self.schedule.deadline(self.now)]
                .into_iter()
                .flatten()
                .min();
            let Some(next) = next
                .map(|next| next.max(self.now))
                .filter(|next| *next <= to)
            else {
                self.now = to;
                return;
            };
            self.now = next;
            let (done, rest) = self.running.drain(..).partition(|(end, _)| *end <= next);
            self.running = rest;
            let mut events = vec![Event::Tick];
            for (_, running) in done {
                events.push(self.outcome(running));
            }
            for event in events {
                let actions = self.schedule.handle(event, self.now);
                self.carry_out(actions, fails);
            }
        }
    }

    fn outcome(&mut self, running: Running) -> Event {
        match running {
            Running::Look(at, volumes) => {
                let sight = |id: &VolumeId| {
                    let (written, taken) = self.volumes[id];
                    let changed = taken.is_none_or(|taken| written.is_some_and(|w| w >= taken));
                    (*id, Sight::Written(u64::from(changed) * 10))
                };
                let found = volumes.iter().map(sight).collect();
                Event::Looked { at, found }
            }
            Running::Send(volume, target, fails, taken) => {
                let result = match (fails, taken) {
                    (false, Some(taken_at)) => {
                        self.copies.insert((volume, target.clone()), taken_at);
                        let snapshot = snapshot(u64::try_from(taken_at.as_millis()).unwrap());
                        Ok(Arrived { taken_at, snapshot })
                    }
                    _ => Err(ErrorBody::new(ErrorCode::Unavailable, "no")),
                };
                Event::Ended {
                    volume,
                    target,
                    result,
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is written and whatever fails: once the wire is good again, every copy has
    /// what was written, and then nothing more is sent.
    #[test]
    fn every_copy_catches_up_and_then_there_is_silence(
        writes in proptest::collection::vec((0_u64..30_000, 0_u8..6), 0..60),
        bad in 0_u64..20_000,
        intervals in proptest::collection::vec(1_u64..9, 6),
    ) {
        let pace = Pace { sends_max: 2, ..Pace::default() };
        let mut world = World {
            schedule: Schedule::new(pace),
            now: secs(0),
            volumes: (0..6).map(|n| (id(n), (None, None))).collect(),
            copies: BTreeMap::new(),
            running: Vec::new(),
            sent: 0,
        };
        for (n, interval) in (0..6).zip(&intervals) {
            let actions = world.schedule.handle(set(n, *interval, &["n2", "n3"]), secs(0));
            world.carry_out(actions, false);
        }
        let mut writes = writes;
        writes.sort_unstable();
        for (at, volume) in writes {
            let at = millis(at);
            world.advance(at, at >= millis(bad) && at < millis(bad + 9_000));
            world.volumes.get_mut(&id(volume)).unwrap().0 = Some(at);
        }
        // The longest pause after failures, the longest interval and some turns later.
        world.advance(secs(30 + 75 + 10 + 10), false);
        for (volume, (written, _)) in &world.volumes {
            for target in ["n2", "n3"] {
                let copy = world.copies.get(&(*volume, node(target)));
                prop_assert!(copy.is_some(), "{volume} has no copy on {target}");
                prop_assert!(copy > written.as_ref(), "{volume} on {target}: {copy:?}, {written:?}");
            }
        }
        let sent = world.sent;
        world.advance(secs(300), false);
        prop_assert_eq!(world.sent, sent, "something is sent though nothing changes");
    }
}
