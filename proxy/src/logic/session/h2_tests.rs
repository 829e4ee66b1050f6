//! Connections of HTTP/2 without sockets: when they leave, whom they tell, and what they take
//! for a flood.

use std::time::Duration;

use super::{tests::Rig, *};
use crate::logic::h2::{
    meter::Flood,
    trunk::{Standing, TrunkLimits},
};

const PEER: Side = Side::Downstream;
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const LIMITS: TrunkLimits = TrunkLimits {
    streams: 100,
    idle: Duration::from_secs(4),
    ping: Duration::from_secs(15),
};

fn carrier() -> Rig {
    let mut rig = Rig::new();
    rig.with_cx(|_, cx| {
        let carrier = Carrier::new(&cx.limits.h2, cx);
        Some(Session::Carrier(Box::new(carrier)))
    });
    rig
}

fn trunk() -> Rig {
    let mut rig = Rig::new();
    rig.with_cx(|_, cx| {
        let trunk = Trunk::new(LIMITS, cx.now, Duration::from_secs(3));
        Some(Session::Trunk(Box::new(trunk)))
    });
    rig
}

/// A trunk on which streams can be opened.
fn open() -> Rig {
    let mut rig = trunk();
    assert_eq!(rig.event(Event::Connected { reused: false }), []);
    assert_eq!(rig.event(Event::Bytes(PEER, SETTINGS)), []);
    assert_eq!(streams(&mut rig, 0), [Action::Stand(Standing::Open)]);
    rig
}

/// The h2 crate has had its turn.
fn streams(rig: &mut Rig, count: usize) -> Vec<Action> {
    rig.with_cx(|session, cx| {
        let mut session = session.unwrap();
        match &mut session {
            Session::Carrier(carrier) => carrier.streams(count, 0, cx),
            Session::Trunk(trunk) => trunk.streams(count, 0, cx),
            _ => unreachable!("made above"),
        }
        Some(session)
    });
    std::mem::take(&mut rig.actions)
}

/// What its deadline brings, and how long it took.
fn timer(rig: &mut Rig) -> (Duration, Vec<Action>) {
    let at = rig.session().deadline().unwrap();
    let waited = at - rig.now;
    rig.now = at;
    (waited, rig.event(Event::Timer))
}

const CLOSE: Action = Action::Close(Ending::Clean);

#[test]
fn a_client_without_streams_is_told_to_leave_and_then_left() {
    let mut rig = carrier();
    streams(&mut rig, 3);
    assert_eq!(rig.session().deadline(), None, "its streams bound it");
    streams(&mut rig, 0);
    let (waited, actions) = timer(&mut rig);
    assert_eq!(waited, rig.limits.keep_alive);
    assert_eq!(actions, [Action::Leave(Leave::Gracefully)]);
    // What it says meanwhile does not keep it.
    assert_eq!(rig.event(Event::Bytes(PEER, &[0; 24])), []);
    assert_eq!(timer(&mut rig).1, [CLOSE]);
}

#[test]
fn an_edge_that_stops_waits_for_the_streams_of_a_client() {
    let mut rig = carrier();
    streams(&mut rig, 1);
    assert_eq!(rig.event(Event::Drain), [Action::Leave(Leave::Gracefully)]);
    assert_eq!(rig.event(Event::Drain), []);
    assert_eq!(rig.session().deadline(), None);
    streams(&mut rig, 0);
    assert_eq!(timer(&mut rig).1, [CLOSE]);
}

#[test]
fn a_flood_ends_a_client_once() {
    let mut rig = carrier();
    rig.event(Event::Bytes(PEER, &[b'P'; 24]));
    let pings = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[0; 8]].concat();
    let actions = rig.event(Event::Bytes(PEER, &pings.repeat(101)));
    let leave = Action::Leave(Leave::Flood(Flood::Pings));
    assert_eq!(actions, [leave, Action::Close(Ending::Linger)]);
    assert_eq!(rig.event(Event::Bytes(PEER, &pings)), []);
    assert_eq!(rig.counters.h2_floods.value(), 1);
    assert_eq!(rig.session().wants(PEER), Want::Nothing);
}

#[test]
fn a_trunk_that_does_not_come_about_is_a_failed_connect() {
    let failed = |failure| [Action::Stand(Standing::Failed(failure)), CLOSE];
    let mut rig = trunk();
    let event = Event::ConnectFailed(ConnectFailure::NoResources);
    assert_eq!(rig.event(event), failed(ConnectFailure::NoResources));

    let mut rig = trunk();
    let (waited, actions) = timer(&mut rig);
    assert_eq!(waited, Duration::from_secs(3));
    assert_eq!(actions, failed(ConnectFailure::TimedOut));

    // Its SETTINGS do not come in time, something else comes, or nothing.
    let mut rig = trunk();
    rig.event(Event::Connected { reused: false });
    assert_eq!(timer(&mut rig).1, failed(ConnectFailure::TimedOut));
    for event in [Event::Bytes(PEER, b"HTTP/1.1 400 "), Event::Eof(PEER)] {
        let mut rig = trunk();
        rig.event(Event::Connected { reused: false });
        assert_eq!(rig.event(event), failed(ConnectFailure::Refused));
    }
}

#[test]
fn a_trunk_stands_once_its_settings_have_been_read() {
    for cut in 1..SETTINGS.len() {
        let mut rig = trunk();
        rig.event(Event::Connected { reused: false });
        rig.event(Event::Bytes(PEER, &SETTINGS[..cut]));
        assert_eq!(streams(&mut rig, 0), []);
        rig.event(Event::Bytes(PEER, &SETTINGS[cut..]));
        assert_eq!(streams(&mut rig, 0), [Action::Stand(Standing::Open)]);
    }
}

#[test]
fn a_trunk_is_kept_for_a_while_without_streams() {
    let mut rig = open();
    streams(&mut rig, 1);
    streams(&mut rig, 0);
    let (waited, actions) = timer(&mut rig);
    assert_eq!(waited, LIMITS.idle);
    assert_eq!(actions, [Action::Stand(Standing::Leaving), CLOSE]);
}

#[test]
fn a_silent_trunk_is_asked_and_then_given_up() {
    let mut rig = open();
    streams(&mut rig, 1);
    assert_eq!(timer(&mut rig), (LIMITS.ping, vec![Action::Ping]));
    // Any byte is a sign of life.
    rig.event(Event::Bytes(PEER, &[0]));
    assert_eq!(timer(&mut rig), (LIMITS.ping, vec![Action::Ping]));
    let gone = vec![Action::Stand(Standing::Leaving), CLOSE];
    assert_eq!(timer(&mut rig), (LIMITS.ping, gone));
}

#[test]
fn a_trunk_that_leaves_is_closed_after_its_last_stream() {
    let goaway: fn() -> Event<'static> = || Event::Bytes(PEER, GOAWAY);
    for event in [goaway, || Event::Drain] {
        let mut rig = open();
        streams(&mut rig, 2);
        assert_eq!(rig.event(event()), [Action::Stand(Standing::Leaving)]);
        assert_eq!(streams(&mut rig, 1), []);
        let last = streams(&mut rig, 0);
        assert_eq!(last, [Action::Stand(Standing::Leaving), CLOSE]);
    }
    // Without a stream it goes at once.
    let mut rig = open();
    let actions = rig.event(Event::Drain);
    assert_eq!(actions, [Action::Stand(Standing::Leaving), CLOSE]);
}
