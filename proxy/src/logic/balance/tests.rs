//! Who is chosen: shares, rounds, failures and comebacks, on virtual time.

use std::collections::BTreeMap;

use flocker_api::upstream::Upstream;
use proptest::prelude::*;

use super::*;
use crate::logic::test_clock;

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn ejection() -> Ejection {
    Ejection {
        failures: 3,
        base: Duration::from_secs(10),
        max: Duration::from_secs(60),
        share_percent: 50,
    }
}

fn route(balance: Balance, upstreams: &[&str]) -> Route {
    let upstreams = upstreams
        .iter()
        .map(|text| text.parse::<Upstream>().unwrap());
    let route = Route::new("tcp:1".parse().unwrap(), upstreams);
    Route { balance, ..route }
}

fn set(balance: Balance, upstreams: &[&str]) -> Arc<Set> {
    Arc::new(Set::new(&route(balance, upstreams), None))
}

fn lease_for(set: &Arc<Set>, client: IpAddr, now: Instant) -> Lease {
    match set.pick(client, Tried::default(), now) {
        Pick::To(lease) => lease,
        other => panic!("{other:?}"),
    }
}

fn lease(set: &Arc<Set>, now: Instant) -> Lease {
    lease_for(set, CLIENT, now)
}

fn pick(set: &Arc<Set>, now: Instant) -> String {
    lease(set, now).address().to_string()
}

fn shares(set: &Arc<Set>, picks: usize, now: Instant) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..picks {
        *shares.entry(pick(set, now)).or_default() += 1;
    }
    shares
}

#[test]
fn equals_take_turns() {
    let set = set(
        Balance::RoundRobin,
        &["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"],
    );
    let now = test_clock();
    let turns: Vec<String> = (0..6).map(|_| pick(&set, now)).collect();
    assert_eq!(turns[..3], turns[3..]);
    assert_eq!(
        shares(&set, 300, now).into_values().collect::<Vec<_>>(),
        [100; 3]
    );
}

#[test]
fn who_was_away_comes_back_without_a_flood() {
    let set = set(Balance::RoundRobin, &["10.0.0.1:1", "10.0.0.2:1"]);
    let now = test_clock();
    let away = Arc::clone(set.members().next().unwrap());
    away.checked(Err("down".to_owned()), (1, 1), now);
    assert_eq!(shares(&set, 1000, now).len(), 1);
    away.checked(Ok(()), (1, 1), now);
    let turns: Vec<String> = (0..6).map(|_| pick(&set, now)).collect();
    let its = turns.iter().filter(|turn| **turn == "10.0.0.1:1").count();
    assert!((3..=4).contains(&its), "{turns:?}");
}

#[test]
fn the_least_loaded_is_next_by_weight() {
    let set = set(
        Balance::LeastConnections,
        &["10.0.0.1:1", "10.0.0.2:1,weight=3"],
    );
    let now = test_clock();
    let leases: Vec<Lease> = (0..8).map(|_| lease(&set, now)).collect();
    let load: Vec<u32> = set.members().map(|member| member.in_flight()).collect();
    assert_eq!(load, [2, 6]);
    drop(leases);
    assert!(set.members().all(|member| member.in_flight() == 0));
    // With nothing to do they take turns.
    let shares = shares(&set, 40, now);
    assert!(
        shares["10.0.0.1:1"] > 0 && shares["10.0.0.2:1"] > 0,
        "{shares:?}"
    );
}

#[test]
fn in_order_means_the_first_that_may_serve() {
    let set = set(
        Balance::InOrder,
        &["10.0.0.1:1", "10.0.0.2:1,drain", "10.0.0.3:1"],
    );
    let now = test_clock();
    assert_eq!(pick(&set, now), "10.0.0.1:1");
    let mut tried = Tried::default();
    tried.add(0);
    let Pick::To(next) = set.pick(CLIENT, tried, now) else {
        panic!("there is another");
    };
    assert_eq!(next.address().to_string(), "10.0.0.3:1");
    tried.add(next.place());
    assert!(!set.has_more(tried, now));
    assert!(matches!(set.pick(CLIENT, tried, now), Pick::Nobody));
}

#[test]
fn failures_eject_for_longer_each_time_but_never_more_than_the_share() {
    let set = set(
        Balance::InOrder,
        &["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1"],
    );
    let mut now = test_clock();
    let ejection = ejection();
    let first = lease(&set, now);
    let fail = |lease: &Lease, now| {
        assert_eq!(lease.failed(&ejection, now), None);
        assert_eq!(lease.failed(&ejection, now), None);
        lease.failed(&ejection, now)
    };
    // A success in between starts the count again.
    first.failed(&ejection, now);
    first.succeeded();
    for seconds in [10, 20, 40, 60, 60] {
        assert_eq!(fail(&first, now), Some(Duration::from_secs(seconds)));
        assert_ne!(pick(&set, now), "10.0.0.1:1");
        now += Duration::from_secs(seconds);
        assert_eq!(pick(&set, now), "10.0.0.1:1");
    }
    // Long quiet, and it is forgiven.
    now += Duration::from_secs(61);
    assert_eq!(fail(&first, now), Some(Duration::from_secs(10)));
    let second = lease(&set, now);
    assert!(fail(&second, now).is_some());
    let third = lease(&set, now);
    assert_eq!(third.address().to_string(), "10.0.0.3:1");
    assert_eq!(fail(&third, now), None, "half of them are ejected");
    assert_eq!(pick(&set, now), "10.0.0.3:1");
}

#[test]
fn an_only_upstream_is_never_ejected_and_one_of_two_may_be() {
    let now = test_clock();
    for (upstreams, ejected) in [
        (&["10.0.0.1:1"][..], false),
        (&["10.0.0.1:1", "10.0.0.2:1,drain"], false),
        (&["10.0.0.1:1", "10.0.0.2:1"], true),
    ] {
        let set = set(Balance::InOrder, upstreams);
        let lease = lease(&set, now);
        let outcomes: Vec<bool> = (0..9)
            .map(|_| lease.failed(&ejection(), now).is_some())
            .collect();
        assert_eq!(outcomes.contains(&true), ejected, "{upstreams:?}");
    }
}

#[test]
fn when_all_are_out_whoever_is_not_drained_is_tried() {
    let set = set(
        Balance::InOrder,
        &["10.0.0.1:1,drain", "10.0.0.2:1", "10.0.0.3:1"],
    );
    let now = test_clock();
    for member in set.members() {
        member.checked(Err("refused".to_owned()), (2, 3), now);
    }
    assert_eq!(pick(&set, now), "10.0.0.2:1");
    let states: Vec<UpstreamState> = set.status(now).iter().map(|line| line.state).collect();
    assert_eq!(
        states,
        [
            UpstreamState::Draining,
            UpstreamState::Down,
            UpstreamState::Down
        ]
    );
    assert_eq!(set.status(now)[1].reason.as_deref(), Some("refused"));
}

#[test]
fn checks_need_as_many_answers_in_a_row_as_they_say() {
    let set = set(Balance::InOrder, &["10.0.0.1:1", "10.0.0.2:1"]);
    let now = test_clock();
    let member = set.members().next().unwrap();
    let bad = || Err("bad".to_owned());
    assert_eq!(member.checked(Ok(()), (2, 3), now), None);
    assert_eq!(member.checked(bad(), (2, 3), now), None);
    assert_eq!(member.checked(bad(), (2, 3), now), None);
    assert_eq!(
        member.checked(Ok(()), (2, 3), now),
        None,
        "the row is broken"
    );
    for expected in [None, None, Some(false), None] {
        assert_eq!(member.checked(bad(), (2, 3), now), expected);
    }
    assert_eq!(member.checked(Ok(()), (2, 3), now), None);
    assert_eq!(member.checked(Ok(()), (2, 3), now), Some(true));
}

#[test]
fn the_first_check_decides_alone_and_without_checks_nothing_is_down() {
    let mut checked = route(Balance::InOrder, &["10.0.0.1:1", "10.0.0.2:1"]);
    checked.health = Some("tcp".parse().unwrap());
    let set = Set::new(&checked, None);
    let now = test_clock();
    let member = Arc::clone(set.members().next().unwrap());
    assert_eq!(
        member.checked(Err("bad".to_owned()), (2, 3), now),
        Some(false)
    );
    assert!(Set::new(&checked, Some(&set)).status(now)[0].state == UpstreamState::Down);
    checked.health = None;
    let after = Set::new(&checked, Some(&set));
    assert_eq!(after.status(now)[0].state, UpstreamState::Up);
    assert_eq!(after.status(now)[0].reason, None);
}

#[test]
fn who_comes_back_starts_slowly() {
    let mut slow = route(Balance::RoundRobin, &["10.0.0.1:1", "10.0.0.2:1"]);
    slow.slow_start_ms = 10_000;
    slow.health = Some("tcp".parse().unwrap());
    let set = Arc::new(Set::new(&slow, None));
    let now = test_clock();
    // The first of all start at once.
    assert_eq!(shares(&set, 100, now)["10.0.0.1:1"], 50);
    let member = set.members().next().unwrap();
    member.checked(Err("bad".to_owned()), (1, 1), now);
    member.checked(Ok(()), (1, 1), now);
    assert_eq!(set.status(now)[0].state, UpstreamState::Starting);
    let early = shares(&set, 110, now)["10.0.0.1:1"];
    assert!((9..=11).contains(&early), "a tenth of the other's: {early}");
    let half = shares(&set, 150, now + Duration::from_secs(5))["10.0.0.1:1"];
    assert!((49..=51).contains(&half), "half of the other's: {half}");
    assert_eq!(
        shares(&set, 100, now + Duration::from_secs(10))["10.0.0.1:1"],
        50
    );

    // So does one that is new among others, from the first look on.
    slow.upstreams.push("10.0.0.3:1".parse().unwrap());
    let grown = Arc::new(Set::new(&slow, Some(&set)));
    let later = now + Duration::from_secs(100);
    let new = shares(&grown, 210, later)["10.0.0.3:1"];
    assert!((9..=11).contains(&new), "{new}");
}

#[test]
fn a_new_set_knows_what_the_old_one_knew() {
    let two = route(Balance::RoundRobin, &["10.0.0.1:1", "10.0.0.2:1"]);
    let set = Arc::new(Set::new(&two, None));
    let now = test_clock();
    let lease = lease(&set, now);
    let mut three = two;
    three.upstreams.push("10.0.0.3:1".parse().unwrap());
    let after = Arc::new(Set::new(&three, Some(&set)));
    let in_flight: Vec<u64> = after
        .status(now)
        .iter()
        .map(|line| line.in_flight)
        .collect();
    assert_eq!(in_flight, [1, 0, 0]);
    drop(lease);
    assert_eq!(after.status(now)[0].in_flight, 0);
}

#[test]
fn names_lead_to_their_answers_and_keep_them() {
    let named = route(
        Balance::RoundRobin,
        &["app.test:80,weight=2", "10.0.0.9:80"],
    );
    let set = Set::new(&named, None);
    assert_eq!(set.members().count(), 1, "not asked for yet");
    let answer = |addresses: &[&str], error: Option<&str>| {
        vec![Answer {
            name: "app.test:80".parse().unwrap(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            error: error.map(str::to_owned),
        }]
    };
    let now = test_clock();
    let set = set.with_answers(&named, &answer(&["10.0.0.1:80", "10.0.0.9:80"], None));
    let lines = |set: &Set| -> Vec<(String, u16)> {
        let lines = set.status(now).into_iter();
        lines
            .map(|line| (line.address.to_string(), line.weight))
            .collect()
    };
    // What is named twice is one, and the first counts.
    let expected = [("10.0.0.1:80".to_owned(), 2), ("10.0.0.9:80".to_owned(), 2)];
    assert_eq!(lines(&set), expected);
    // A change of the route keeps the answers of its names.
    let again = Set::new(&named, Some(&set));
    assert_eq!(lines(&again), expected);
    let failed = again.with_answers(
        &named,
        &answer(&["10.0.0.1:80", "10.0.0.9:80"], Some("gone")),
    );
    assert_eq!(lines(&failed), expected);
    assert_eq!(failed.unresolved()[0].error, "gone");
    // The route has changed while its old name was asked for.
    let other = Set::new(
        &route(Balance::RoundRobin, &["other.test:80"]),
        Some(&failed),
    );
    let late = other.with_answers(&named, &answer(&["10.0.0.1:80"], None));
    assert_eq!(late.answers()[0].name.to_string(), "other.test:80");
}

#[test]
fn workers_in_each_others_way_still_share_evenly() {
    let set = set(
        Balance::RoundRobin,
        &["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1,weight=2"],
    );
    let now = test_clock();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| shares(&set, 1000, now));
        }
    });
    let requests: Vec<u64> = set.status(now).iter().map(|line| line.requests).collect();
    assert_eq!(requests.iter().sum::<u64>(), 4000);
    for (requests, share) in requests.into_iter().zip([1000u64, 1000, 2000]) {
        assert!(requests.abs_diff(share) < 100, "{requests} for {share}");
    }
}

fn upstreams(weights: &[u16]) -> Vec<String> {
    let lines = weights.iter().enumerate();
    lines
        .map(|(index, weight)| format!("10.0.{}.{}:80,weight={weight}", index / 250, index % 250))
        .collect()
}

proptest! {
    #[test]
    fn a_round_gives_everyone_his_share(weights in prop::collection::vec(1..20u16, 2..12)) {
        let lines = upstreams(&weights);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let set = set(Balance::RoundRobin, &lines);
        let all: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
        let now = test_clock();
        shares(&set, 10 * all, now);
        for (line, weight) in set.status(now).iter().zip(&weights) {
            let expected = 10 * u64::from(*weight);
            prop_assert!(line.requests.abs_diff(expected) <= 2, "{} for {expected}", line.requests);
        }
    }

    #[test]
    fn nobody_waits_longer_than_a_round(weights in prop::collection::vec(1..20u16, 2..12)) {
        let lines = upstreams(&weights);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let set = set(Balance::RoundRobin, &lines);
        let all: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
        let now = test_clock();
        let mut last = BTreeMap::new();
        for turn in 0..5 * all {
            let address = pick(&set, now);
            let index = lines.iter().position(|line| line.starts_with(&format!("{address},")));
            let weight = usize::from(weights[index.unwrap()]);
            let since = turn - last.insert(address, turn).unwrap_or(0);
            prop_assert!(since <= 2 * all.div_ceil(weight) + weights.len(), "{since}");
        }
    }

    #[test]
    fn a_source_stays_where_it_is_when_others_come_and_go(
        weights in prop::collection::vec(1..5u16, 2..8), gone in 0..8usize,
    ) {
        let lines = upstreams(&weights);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let gone = gone % lines.len();
        let before = set(Balance::Source, &lines);
        let mut fewer = lines.clone();
        fewer.remove(gone);
        let after = set(Balance::Source, &fewer);
        let now = test_clock();
        let lost: String = lines[gone].split(',').next().unwrap().to_owned();
        for client in 0..200u32 {
            let client = IpAddr::from(std::net::Ipv4Addr::from(0xc000_0200 + client));
            let first = lease_for(&before, client, now).address();
            let again = lease_for(&before, client, now).address();
            prop_assert_eq!(first, again);
            let mapped = IpAddr::V6(match client {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            });
            let mapped = lease_for(&before, mapped, now).address();
            prop_assert_eq!(first, mapped, "the same client by way of IPv6");
            let moved = lease_for(&after, client, now).address();
            if first.to_string() != lost {
                prop_assert_eq!(first, moved);
            }
        }
    }
}

#[test]
fn sources_spread_by_weight() {
    let set = set(Balance::Source, &["10.0.0.1:1", "10.0.0.2:1,weight=3"]);
    let now = test_clock();
    for client in 0..4000u32 {
        let client = IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + client));
        drop(set.pick(client, Tried::default(), now));
    }
    let light = set.status(now)[0].requests;
    assert!((850..1150).contains(&light), "a quarter of 4000: {light}");
}

#[test]
fn an_upstream_has_no_more_than_it_may_have() {
    let now = test_clock();
    for balance in [
        Balance::RoundRobin,
        Balance::LeastConnections,
        Balance::InOrder,
    ] {
        let mut limited = route(balance, &["10.0.0.1:1", "10.0.0.2:1"]);
        limited.connections_max = 2;
        let set = Arc::new(Set::new(&limited, None));
        let mut leases: Vec<Lease> = (0..4).map(|_| lease(&set, now)).collect();
        assert!(set.members().all(|member| member.in_flight() == 2));
        assert!(matches!(
            set.pick(CLIENT, Tried::default(), now),
            Pick::Full
        ));
        let freed = leases.pop().unwrap().address();
        assert_eq!(lease(&set, now).address(), freed);
    }
    // A source waits for its own.
    let mut sticky = route(Balance::Source, &["10.0.0.1:1", "10.0.0.2:1"]);
    sticky.connections_max = 1;
    let set = Arc::new(Set::new(&sticky, None));
    let _own = lease(&set, now);
    assert!(matches!(
        set.pick(CLIENT, Tried::default(), now),
        Pick::Full
    ));
}

#[test]
fn a_route_serves_whom_its_lists_allow() {
    let mut listed = route(Balance::InOrder, &["10.0.0.1:1"]);
    assert!(Set::new(&listed, None).serves(CLIENT));
    listed.deny = vec!["192.0.2.0/24".parse().unwrap()];
    assert!(!Set::new(&listed, None).serves(CLIENT));
}
