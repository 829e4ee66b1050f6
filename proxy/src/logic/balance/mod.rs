//! Which of a route's upstreams is next: a set of them, compiled from the route and from what
//! its names have as addresses.
//!
//! A set is as immutable as the table that it hangs on; what changes by the request is kept in
//! its [`Member`]s, in atomics, which the next set takes over. Drained upstreams are passed
//! over, and so are those that are down or ejected, unless nobody else is left: then whoever is
//! not drained is tried (a wrong check must not stop a service that would answer).
//!
//! Round robin and least connections share a round in virtual time (stride scheduling): every
//! choice moves the chosen one ahead by the inverse of its weight, and the one furthest behind
//! is next. Nobody waits longer than a round, and whoever comes back starts where the others
//! are. The source's choice is a rendezvous hash: each upstream draws a lot for the client,
//! weighted, and the best lot wins; with an upstream gone, only its own clients go elsewhere.

pub mod check;
mod member;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use flocker_api::{
    edge::{UnresolvedName, UpstreamState, UpstreamStatus},
    route::Route,
    upstream::{Balance, SendProxy, UpstreamAddress},
};

pub use self::member::{Ejection, Member};
use super::guard::lists::Lists;

/// How far the choice of an upstream of weight 1 moves it.
const STRIDE: u64 = 1 << 30;
/// How often workers may get in each other's way before one takes what it has chosen all the
/// same.
const CHOICES_MAX: usize = 8;

/// A name among a route's upstreams, and what it led to when it was last asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The name.
    pub name: UpstreamAddress,
    /// Its addresses; the last ones while it has none.
    pub addresses: Vec<SocketAddr>,
    /// Why there are no new ones.
    pub error: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Set {
    balance: Balance,
    slow_start: Duration,
    /// Most in flight at one; 0 is no limit.
    connections_max: u32,
    /// Most that may wait for one to have room.
    pub pending_max: usize,
    /// The header that new connections begin with.
    pub send_proxy: Option<SendProxy>,
    /// Whom the route serves; most serve everybody.
    lists: Option<Box<Lists>>,
    places: Box<[Place]>,
    answers: Box<[Answer]>,
    /// How far the round is: where those who were away go on.
    round: AtomicU64,
}

#[derive(Debug)]
struct Place {
    member: Arc<Member>,
    weight: u16,
    drain: bool,
    /// Which of the answers it is from.
    answer: Option<usize>,
}

/// The upstreams that one session has tried in one round, by their places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried(u64);

impl Tried {
    /// One more.
    pub fn add(&mut self, place: usize) {
        self.0 |= Self::bit(place);
    }

    fn has(self, place: usize) -> bool {
        self.0 & Self::bit(place) != 0
    }

    /// Places that have no bit of their own are never said to be tried; a round is bounded by
    /// its time, too.
    fn bit(place: usize) -> u64 {
        u32::try_from(place).map_or(0, |place| 1u64.checked_shl(place).unwrap_or(0))
    }
}

impl Set {
    /// The upstreams of a route. What is known of those that were there before stays; so do
    /// the answers of their names.
    #[must_use]
    pub fn new(route: &Route, before: Option<&Self>) -> Self {
        let names = route.upstreams.iter().map(|upstream| &upstream.address);
        let names = names.filter(|address| matches!(address, UpstreamAddress::Name { .. }));
        let answers = names.map(|name| {
            let known = before.and_then(|set| set.answers.iter().find(|a| a.name == *name));
            known.cloned().unwrap_or_else(|| Answer {
                name: name.clone(),
                addresses: Vec::new(),
                error: None,
            })
        });
        Self::build(route, answers.collect(), before)
    }

    /// The same upstreams after their names were asked for again; answers for names that are
    /// not there any more are of no use.
    #[must_use]
    pub fn with_answers(&self, route: &Route, answers: &[Answer]) -> Self {
        let names = self.answers.iter();
        let answers = names.map(|known| {
            let new = answers.iter().find(|answer| answer.name == known.name);
            new.unwrap_or(known).clone()
        });
        Self::build(route, answers.collect(), Some(self))
    }

    fn build(route: &Route, answers: Vec<Answer>, before: Option<&Self>) -> Self {
        let slow_start = Duration::from_millis(route.slow_start_ms);
        // The first upstreams of all have nobody to take over from, and start at once.
        let starts = !slow_start.is_zero() && before.is_some_and(|set| !set.places.is_empty());
        let mut places: Vec<Place> = Vec::with_capacity(route.upstreams.len());
        for upstream in &route.upstreams {
            let answer = answers.iter().position(|a| a.name == upstream.address);
            let own = upstream.socket();
            let of_name = answer.map_or(&[][..], |index| &answers[index].addresses);
            for address in own.iter().chain(of_name) {
                if places
                    .iter()
                    .any(|place| place.member.address() == *address)
                {
                    continue;
                }
                let known = before.and_then(|set| set.member(*address));
                let member = known.cloned();
                places.push(Place {
                    member: member.unwrap_or_else(|| Arc::new(Member::new(*address, starts))),
                    weight: upstream.weight,
                    drain: upstream.drain,
                    answer,
                });
            }
        }
        if route.health.is_none() {
            places.iter().for_each(|place| place.member.forget_checks());
        }
        let lists = Lists::new(&route.allow, &route.deny);
        let round = before.map_or(0, |set| set.round.load(Ordering::Relaxed));
        Self {
            balance: route.balance,
            slow_start,
            connections_max: route.connections_max,
            pending_max: usize::try_from(route.pending_max).unwrap_or(usize::MAX),
            send_proxy: route.send_proxy,
            lists: (!lists.is_empty()).then(|| Box::new(lists)),
            places: places.into(),
            answers: answers.into(),
            round: AtomicU64::new(round),
        }
    }

    fn member(&self, address: SocketAddr) -> Option<&Arc<Member>> {
        let mut members = self.members();
        members.find(|member| member.address() == address)
    }

    /// Its upstreams.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.places.iter().map(|place| &place.member)
    }

    /// The addresses of those that may be given something.
    pub fn serving(&self) -> impl Iterator<Item = SocketAddr> {
        let places = self.places.iter().filter(|place| !place.drain);
        places.map(|place| place.member.address())
    }

    /// What its names led to.
    #[must_use]
    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    /// Whether the route serves this client.
    #[must_use]
    pub fn serves(&self, client: IpAddr) -> bool {
        self.lists.as_ref().is_none_or(|lists| lists.allows(client))
    }

    /// Whether upstreams have a limit.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.connections_max > 0
    }

    /// The upstream for a client, unless all that may serve have been tried or are full.
    #[must_use]
    pub fn pick(self: &Arc<Self>, client: IpAddr, tried: Tried, now: Instant) -> Pick {
        // Another worker may be quicker to take the last place of one.
        for _ in 0..CHOICES_MAX {
            // Most routes have one.
            let place = match &*self.places {
                [place] => {
                    let free = !place.drain && !tried.has(0) && !self.is_full(place);
                    free.then_some(0)
                }
                _ => self.choose(client, tried, now),
            };
            let Some((place, member)) =
                place.and_then(|place| Some((place, &self.places.get(place)?.member)))
            else {
                break;
            };
            if member.enter(self.connections_max) {
                return Pick::To(Lease {
                    set: Arc::clone(self),
                    member: Arc::clone(member),
                    place,
                });
            }
        }
        match self.candidates(tried, now).next() {
            Some(_) => Pick::Full,
            None => Pick::Nobody,
        }
    }

    fn is_full(&self, place: &Place) -> bool {
        self.connections_max > 0 && place.member.in_flight() >= self.connections_max
    }

    /// Whether there is one that may serve and has not been tried.
    #[must_use]
    pub fn has_more(&self, tried: Tried, now: Instant) -> bool {
        self.candidates(tried, now).next().is_some()
    }

    fn candidates(&self, tried: Tried, now: Instant) -> impl Iterator<Item = (usize, &Place)> {
        let usable = move |place: &Place| !place.drain && place.member.is_usable(now);
        let in_need = !self.places.iter().any(usable);
        let places = self.places.iter().enumerate();
        places.filter(move |(index, place)| {
            !tried.has(*index) && !place.drain && (in_need || usable(place))
        })
    }

    fn choose(&self, client: IpAddr, tried: Tried, now: Instant) -> Option<usize> {
        match self.balance {
            Balance::InOrder => {
                let mut candidates = self.candidates(tried, now);
                let first = candidates.find(|(_, place)| !self.is_full(place));
                first.map(|(index, _)| index)
            }
            Balance::Source => {
                let lots = self.candidates(tried, now).map(|(index, place)| {
                    (index, lot(client, place.member.address(), place.weight))
                });
                let best = lots.min_by(|(_, a), (_, b)| a.total_cmp(b));
                // A client waits for its own rather than to leave it.
                let (best, _) = best?;
                (!self.is_full(self.places.get(best)?)).then_some(best)
            }
            Balance::RoundRobin => self.next_in_round(tried, now, |_, _| (0, 1)),
            Balance::LeastConnections => self.next_in_round(tried, now, |member, weight| {
                (u64::from(member.in_flight()), weight)
            }),
        }
    }

    /// The one with the smallest load (a fraction), and among these the one furthest behind.
    fn next_in_round(
        &self,
        tried: Tried,
        now: Instant,
        load: impl Fn(&Member, u64) -> (u64, u64),
    ) -> Option<usize> {
        for choice in 1..=CHOICES_MAX {
            let round = self.round.load(Ordering::Relaxed);
            let mut behind_most = u64::MAX;
            let mut best: Option<Chance<'_>> = None;
            let candidates = self.candidates(tried, now);
            for (index, place) in candidates.filter(|(_, place)| !self.is_full(place)) {
                let weight = place.member.weight(place.weight, self.slow_start, now);
                let seen = place.member.pass.load(Ordering::Relaxed);
                let chance = Chance {
                    index,
                    member: &place.member,
                    load: load(&place.member, weight),
                    seen,
                    pass: seen.max(round),
                    weight,
                };
                behind_most = behind_most.min(chance.pass);
                if best.as_ref().is_none_or(|best| chance.is_before(best)) {
                    best = Some(chance);
                }
            }
            let best = best?;
            self.round.fetch_max(behind_most, Ordering::Relaxed);
            if best.take() || choice == CHOICES_MAX {
                return Some(best.index);
            }
        }
        None
    }

    /// What an operator sees of it.
    #[must_use]
    pub fn status(&self, now: Instant) -> Vec<UpstreamStatus> {
        let places = self.places.iter();
        let line = |place: &Place| {
            let member = &place.member;
            let ejected = member.ejected_for(now);
            let state = if place.drain {
                UpstreamState::Draining
            } else if member.is_down() {
                UpstreamState::Down
            } else if ejected.is_some() {
                UpstreamState::Ejected
            } else if member.is_starting(self.slow_start, now) {
                UpstreamState::Starting
            } else {
                UpstreamState::Up
            };
            let name = place.answer.and_then(|index| self.answers.get(index));
            UpstreamStatus {
                address: member.address(),
                name: name.map(|answer| answer.name.clone()),
                weight: place.weight,
                state,
                reason: member.reason(),
                ejected_for_ms: ejected
                    .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
                in_flight: member.in_flight().into(),
                requests: member.requests.value(),
                failed: member.failed.value(),
                ejections: member.ejected.value(),
            }
        };
        places.map(line).collect()
    }

    /// Its names that have no answer.
    #[must_use]
    pub fn unresolved(&self) -> Vec<UnresolvedName> {
        let failed = self.answers.iter().filter_map(|answer| {
            Some(UnresolvedName {
                name: answer.name.clone(),
                error: answer.error.clone()?,
            })
        });
        failed.collect()
    }

    /// Whether one more may be ejected.
    fn may_eject(&self, ejection: &Ejection, now: Instant) -> bool {
        let serving = self.places.iter().filter(|place| !place.drain);
        let (mut all, mut ejected) = (0, 0);
        for place in serving {
            all += 1;
            ejected += u64::from(place.member.ejected_for(now).is_some());
        }
        let most = (all * u64::from(ejection.share_percent) / 100).max(1);
        all > 1 && ejected < most
    }
}

/// One of those among whom the next is chosen.
struct Chance<'s> {
    index: usize,
    member: &'s Member,
    /// Numerator and denominator.
    load: (u64, u64),
    /// Its pass as it was read.
    seen: u64,
    pass: u64,
    weight: u64,
}

impl Chance<'_> {
    fn is_before(&self, other: &Self) -> bool {
        let load = u128::from(self.load.0) * u128::from(other.load.1);
        let others = u128::from(other.load.0) * u128::from(self.load.1);
        (load, self.pass) < (others, other.pass)
    }

    /// Moves it ahead, unless another worker has just done so.
    fn take(&self) -> bool {
        let ahead = self.pass.saturating_add(STRIDE / self.weight.max(1));
        self.member
            .pass
            .compare_exchange(self.seen, ahead, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }
}

/// The lot that an upstream draws for a client; the smallest wins. Exponentially distributed
/// with its weight as rate, so that its chance of winning is its share of the weights.
#[expect(
    clippy::cast_precision_loss,
    reason = "53 bits of a hash are as random as 64"
)]
fn lot(client: IpAddr, upstream: SocketAddr, weight: u16) -> f64 {
    let mut hash = Mix(0x9e37_79b9_7f4a_7c15);
    hash.add_ip(client.to_canonical());
    hash.add_ip(upstream.ip().to_canonical());
    hash.add(u64::from(upstream.port()));
    let unit = ((hash.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -unit.ln() / f64::from(weight)
}

/// A hash that is the same in every process: all edges send a client to the same upstream.
struct Mix(u64);

impl Mix {
    /// The finaliser of SplitMix64.
    fn add(&mut self, word: u64) {
        let mut z = self.0 ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = (z ^ (z >> 31)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }

    fn add_ip(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.add(u64::from(u32::from(ip))),
            IpAddr::V6(ip) => {
                let [high, low] = [u128::from(ip) >> 64, u128::from(ip) & u128::from(u64::MAX)];
                self.add(u64::try_from(high).unwrap_or(0));
                self.add(u64::try_from(low).unwrap_or(0));
            }
        }
    }
}

/// Answer to [`Set::pick`].
#[derive(Debug)]
pub enum Pick {
    /// This one.
    To(Lease),
    /// Those that may serve have as many as they may have.
    Full,
    /// None may serve, or all have been tried.
    Nobody,
}

/// An upstream in use: counted as its load until dropped. What became of it is told here.
#[derive(Debug)]
pub struct Lease {
    set: Arc<Set>,
    member: Arc<Member>,
    place: usize,
}

impl Lease {
    /// Where it leads.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.member.address()
    }

    /// For [`Tried::add`].
    #[must_use]
    pub fn place(&self) -> usize {
        self.place
    }

    /// Whether its route has others.
    #[must_use]
    pub fn has_others(&self) -> bool {
        self.set.places.iter().filter(|place| !place.drain).count() > 1
    }

    /// The upstream has served.
    pub fn succeeded(&self) {
        self.member.succeeded();
    }

    /// The upstream has failed a client: it could not be connected, hung up, was silent for too
    /// long, or said itself that it could not serve. Says for how long it is ejected for it.
    pub fn failed(&self, ejection: &Ejection, now: Instant) -> Option<Duration> {
        let too_often = self.member.failed(ejection);
        let again = self.member.ejected_for(now).is_some();
        let eject = too_often && !again && self.set.may_eject(ejection, now);
        eject.then(|| self.member.eject(ejection, now))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.member.leave();
    }
}
