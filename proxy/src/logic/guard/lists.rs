//! Lists of networks, compiled for lookup: sorted ranges without overlaps, by family.

use std::net::IpAddr;

use flocker_api::network::Network;

/// Networks as ranges; a lookup is a binary search.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ranges {
    /// First and last address of each; no two overlap, since they would be one.
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

/// Who is allowed: whoever is not denied and, if any are allowed by name, is among these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lists {
    allow: Ranges,
    deny: Ranges,
}

impl Lists {
    /// Compiles two lists.
    #[must_use]
    pub fn new(allow: &[Network], deny: &[Network]) -> Self {
        Self {
            allow: Ranges::new(allow),
            deny: Ranges::new(deny),
        }
    }

    /// Whether an address is allowed.
    #[must_use]
    pub fn allows(&self, ip: IpAddr) -> bool {
        if self.is_empty() {
            return true;
        }
        let ip = ip.to_canonical();
        !self.deny.contains(ip) && (self.allow.is_empty() || self.allow.contains(ip))
    }

    /// Whether an address is in the list of the allowed.
    #[must_use]
    pub fn names(&self, ip: IpAddr) -> bool {
        !self.allow.is_empty() && self.allow.contains(ip.to_canonical())
    }

    /// Whether everybody is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

impl Ranges {
    fn new(networks: &[Network]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network.range() {
                (IpAddr::V4(first), IpAddr::V4(last)) => v4.push((first.into(), last.into())),
                (IpAddr::V6(first), IpAddr::V6(last)) => v6.push((first.into(), last.into())),
                _ => {}
            }
        }
        Self {
            v4: merged(v4),
            v6: merged(v6),
        }
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => has(&self.v4, ip.into()),
            IpAddr::V6(ip) => has(&self.v6, ip.into()),
        }
    }
}

/// Networks either contain one another or have nothing in common, so that whatever begins within
/// another is a part of it.
fn merged<A: Ord + Copy>(mut ranges: Vec<(A, A)>) -> Box<[(A, A)]> {
    // The larger first of those that begin alike.
    ranges.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    let mut kept: Vec<(A, A)> = Vec::with_capacity(ranges.len());
    for range in ranges {
        if kept.last().is_none_or(|last| last.1 < range.0) {
            kept.push(range);
        }
    }
    kept.into()
}

fn has<A: Ord + Copy>(ranges: &[(A, A)], address: A) -> bool {
    let after = ranges.partition_point(|range| range.0 <= address);
    let candidate = after.checked_sub(1).and_then(|at| ranges.get(at));
    candidate.is_some_and(|range| address <= range.1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn deny_wins_over_allow_and_an_empty_allow_allows_all() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let lists = Lists::new(&networks(&["10.0.0.0/8"]), &networks(&["10.6.0.0/16"]));
        assert!(lists.allows(ip("10.1.0.1")) && lists.allows(ip("::ffff:10.1.0.1")));
        assert!(!lists.allows(ip("10.6.0.1")) && !lists.allows(ip("::ffff:10.6.0.1")));
        assert!(!lists.allows(ip("11.0.0.1")) && !lists.allows(ip("::1")));
        let only_deny = Lists::new(&[], &networks(&["2001:db8::/32"]));
        assert!(only_deny.allows(ip("10.0.0.1")) && only_deny.allows(ip("::1")));
        assert!(!only_deny.allows(ip("2001:db8::1")));
        assert!(Lists::default().allows(ip("10.0.0.1")) && !Lists::default().names(ip("10.0.0.1")));
    }

    proptest! {
        #[test]
        fn a_compiled_list_says_what_its_networks_say(
            pieces in prop::collection::vec((any::<u32>(), 0..=32u32), 0..12),
            probes in prop::collection::vec(any::<u32>(), 20),
        ) {
            let networks: Vec<Network> = pieces
                .iter()
                .map(|(address, bits)| {
                    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
                    let first = std::net::Ipv4Addr::from(address & mask);
                    format!("{first}/{bits}").parse().unwrap()
                })
                .collect();
            let ranges = Ranges::new(&networks);
            let edges = networks.iter().flat_map(|network| {
                let (first, last) = network.range();
                [first, last]
            });
            let probes = probes.iter().map(|probe| IpAddr::from(std::net::Ipv4Addr::from(*probe)));
            for probe in probes.chain(edges) {
                let expected = networks.iter().any(|network| network.contains(probe));
                prop_assert_eq!(ranges.contains(probe), expected, "{}", probe);
            }
        }
    }
}
