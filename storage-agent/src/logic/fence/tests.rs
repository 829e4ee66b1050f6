//! Scenarios on virtual time: what happens to a node by what its control and its clock do.

use flocker_api::agent::LeaseStamp;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const MARGIN: Duration = Duration::from_secs(2);
const TTL: u64 = 10_000;
const RUN: Uuid = Uuid::from_u128(7);

fn at(ms: u64) -> Moment {
    Moment::from_ms(ms)
}

fn grant(policy: LeasePolicy, stamp: u64) -> LeaseRequest {
    LeaseRequest {
        stamp: LeaseStamp {
            incarnation: RUN,
            clock_ms: stamp,
        },
        ttl_ms: TTL,
        policy,
        volumes: Vec::new(),
    }
}

/// A node whose lease was stamped at 0 and which has one tick each 100 ms.
struct Node {
    lease: Lease,
    fence: Fence,
    now: u64,
    /// Whether fencing succeeds.
    able: bool,
    fenced_at: Vec<u64>,
    petted_at: u64,
}

impl Node {
    fn new(policy: LeasePolicy) -> Self {
        let lease = Lease::Vacant.renew(&grant(policy, 0), RUN, MARGIN, at(0));
        Self {
            lease: lease.unwrap(),
            fence: Fence::default(),
            now: 0,
            able: true,
            fenced_at: Vec::new(),
            petted_at: 0,
        }
    }

    fn tick(&mut self) {
        let guarding = self.fence.phase() == FencePhase::Guarding;
        let orders = self.fence.tick(self.lease, at(self.now));
        if orders.pet {
            self.petted_at = self.now;
        }
        if orders.fence {
            if guarding {
                self.fenced_at.push(self.now);
            }
            self.fence.ended(self.able);
        }
    }

    fn run_to(&mut self, end: u64) {
        while self.now < end {
            self.now += 100;
            self.tick();
        }
    }

    fn renew(&mut self, stamp: u64) -> Result<(), LeaseRefusal> {
        let request = grant(LeasePolicy::Enforced, stamp);
        self.lease = self.lease.renew(&request, RUN, MARGIN, at(self.now))?;
        Ok(())
    }
}

#[test]
fn a_node_that_is_renewed_in_time_runs_on() {
    let mut node = Node::new(LeasePolicy::Enforced);
    for round in 1..100 {
        node.run_to(round * 3_300);
        node.renew(node.now).unwrap();
    }
    assert!(node.fenced_at.is_empty());
    assert_eq!(node.petted_at, node.now);
}

#[test]
fn a_node_that_nobody_renews_is_fenced_before_its_lease_ends() {
    let mut node = Node::new(LeasePolicy::Enforced);
    node.run_to(30_000);
    assert_eq!(node.fenced_at, [8_000]);
    assert_eq!(node.fence.phase(), FencePhase::Fenced);
}

#[test]
fn an_advisory_lease_stops_nothing() {
    let mut node = Node::new(LeasePolicy::Advisory);
    node.run_to(30_000);
    assert!(node.fenced_at.is_empty());
    assert_eq!(node.lease.remaining(at(30_000)), Duration::ZERO);
}

#[test]
fn one_renewal_may_be_lost_and_then_another() {
    let mut node = Node::new(LeasePolicy::Enforced);
    node.run_to(7_900);
    node.renew(7_900).unwrap();
    node.run_to(15_800);
    assert!(node.fenced_at.is_empty());
}

#[test]
fn a_frozen_node_fences_with_its_first_breath() {
    let mut node = Node::new(LeasePolicy::Enforced);
    node.run_to(3_000);
    // Stopped, suspended or starved for an hour; the grant that control sent at 3 s lay unread.
    node.now = 3_600_000;
    assert!(matches!(node.renew(3_000), Err(LeaseRefusal::Late { .. })));
    node.tick();
    assert_eq!(node.fenced_at, [3_600_000]);
}

#[test]
fn a_lease_that_comes_while_it_fences_does_not_stop_it_half_way() {
    let mut node = Node::new(LeasePolicy::Enforced);
    node.able = false;
    node.run_to(9_000);
    node.renew(9_000).unwrap();
    node.run_to(9_500);
    assert_eq!(node.fence.phase(), FencePhase::Fencing);
    node.able = true;
    node.run_to(9_700);
    assert_eq!(node.fence.phase(), FencePhase::Guarding);
    assert_eq!(node.fence.fences(), 1);
}

#[test]
fn the_watchdog_is_left_alone_by_a_fence_that_does_not_succeed() {
    let mut node = Node::new(LeasePolicy::Enforced);
    node.able = false;
    node.run_to(60_000);
    assert_eq!(node.petted_at, 7_900);
    node.able = true;
    node.run_to(60_200);
    assert_eq!(node.petted_at, 60_200);
}

#[test]
fn what_comes_up_late_is_swept_away() {
    let mut node = Node::new(LeasePolicy::Enforced);
    node.run_to(9_000);
    assert_eq!(node.fence.phase(), FencePhase::Fenced);
    assert!(node.fence.tick(node.lease, at(9_100)).fence);
}

#[test]
fn grants_of_another_run_or_from_the_future_are_refused() {
    let renew = |request: &LeaseRequest, now| Lease::Vacant.renew(request, RUN, MARGIN, at(now));
    let mut request = grant(LeasePolicy::Enforced, 500);
    let ahead = Duration::from_millis(100);
    assert_eq!(renew(&request, 400), Err(LeaseRefusal::Future { ahead }));
    request.ttl_ms = 3_999;
    assert!(matches!(
        renew(&request, 500),
        Err(LeaseRefusal::Short { .. })
    ));
    request.stamp.incarnation = Uuid::from_u128(8);
    assert_eq!(renew(&request, 500), Err(LeaseRefusal::Stranger));
}

proptest! {
    /// Whatever is lost, late or doubled: a node guards only while some grant, sent at most a ttl
    /// ago by a control that had just read the node's clock, covers it.
    #[test]
    fn no_node_outlives_what_control_counts_on(
        events in prop::collection::vec((1u64..4_000, 0u64..12_000, any::<bool>()), 1..60)
    ) {
        let mut node = Node::new(LeasePolicy::Enforced);
        let mut promised = TTL;
        let mut in_flight: Vec<(u64, u64)> = Vec::new();
        for (step, delay, frozen) in events {
            let sent = node.now;
            promised = promised.max(sent + TTL);
            in_flight.push((sent + delay, sent));
            let end = node.now + step;
            match frozen {
                // A frozen node ticks once when it comes back, before it reads anything.
                true => { node.now = end; node.tick(); }
                false => node.run_to(end),
            }
            let now = node.now;
            for (_, stamp) in in_flight.extract_if(.., |(arrives, _)| *arrives <= now) {
                drop(node.renew(stamp));
            }
            if node.fence.phase() == FencePhase::Guarding && !node.lease.has_lapsed(at(now)) {
                prop_assert!(now + 2_000 <= promised, "guards at {now}, promised {promised}");
            }
        }
    }
}
