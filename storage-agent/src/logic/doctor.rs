//! What is found about a node, by what was measured: good, worth a look, or broken, each with
//! what to do.

use std::time::Duration;

use flocker_api::{
    agent::{FencePhase, LeasePolicy, LeaseStatus, RuntimeStatus, StorageKind, StorageStatus},
    doctor::Finding,
    tls::Certificate,
    volume::{Role, VolumeStatus},
};

/// A pool fuller than this becomes slow, and then full (zpoolconcepts(7), zpool `capacity`).
const CAPACITY_WARN: u64 = 80;
/// One fuller than this has no room to free anything in.
const CAPACITY_FAIL: u64 = 95;
/// An authority that ends sooner than this, in days, wants its successor handed out.
const AUTHORITY_DAYS: i64 = 90;
/// A fence that has not looked for so long is not well: it looks ten times a second.
const FENCE_SILENCE: Duration = Duration::from_secs(2);
const DAY: i64 = 86_400;

/// The storage as a whole, and what it can do.
#[must_use]
pub fn storage(status: &StorageStatus) -> Vec<Finding> {
    let what = format!("{:?} {}", status.kind, status.version);
    let version = match &status.problem {
        Some(problem) => Finding::fail(
            "storage",
            format!("{what}: {problem}"),
            "see to the file system, then ask again",
        ),
        None if status.kind == StorageKind::Directory => Finding::warn(
            "storage",
            "directories: snapshots are copies and not atomic",
            "use a ZFS pool for anything that matters",
        ),
        None => Finding::ok("storage", what),
    };
    let has = |name: &str| status.capabilities.iter().any(|c| c == name);
    let able = if status.capabilities.is_empty() {
        "none beyond the usual verbs".to_owned()
    } else {
        status.capabilities.join(", ")
    };
    let capabilities = match status.kind {
        StorageKind::OpenZfs if !has("resume") => Finding::warn(
            "capabilities",
            format!("{able}; no resume: a stream that is cut begins again"),
            "enable the pool's features: zpool upgrade",
        ),
        _ => Finding::ok("capabilities", able),
    };
    vec![version, capabilities]
}

/// A pool, by `zpool list -H -o health,capacity`.
#[must_use]
pub fn pool(name: &str, listed: &str) -> Vec<Finding> {
    let mut fields = listed.split_whitespace();
    let health = fields.next().unwrap_or("unknown");
    let capacity = fields.next().map(|text| text.trim_end_matches('%'));
    let remedy = format!("see 'zpool status {name}'");
    let health = match health {
        "ONLINE" => Finding::ok("pool", format!("{name} is ONLINE")),
        "DEGRADED" => Finding::warn("pool", format!("{name} is DEGRADED"), remedy),
        other => Finding::fail("pool", format!("{name} is {other}"), remedy),
    };
    let room = "free some: destroy what is not needed, or add a disk";
    let space = match capacity.and_then(|text| text.parse::<u64>().ok()) {
        None => Finding::warn(
            "space",
            "the pool does not say how full it is",
            remedy_for(name),
        ),
        Some(percent) => {
            let found = format!("{name} is {percent} % full");
            match percent {
                CAPACITY_FAIL.. => Finding::fail("space", found, room),
                CAPACITY_WARN.. => Finding::warn("space", found, room),
                _ => Finding::ok("space", found),
            }
        }
    };
    vec![health, space]
}

fn remedy_for(pool: &str) -> String {
    format!("see 'zpool list {pool}'")
}

/// The runtime.
#[must_use]
pub fn runtime(status: &RuntimeStatus) -> Finding {
    let what = format!("{:?} {}", status.kind, status.version);
    match &status.problem {
        Some(problem) => Finding::fail("runtime", problem, "start it, or correct [runtime]"),
        None if status.version.contains("process groups") => Finding::warn(
            "runtime",
            format!("{what}: no cgroup tree can be written, so no limits hold"),
            "run the agent as root, with cgroup v2 mounted",
        ),
        None => Finding::ok("runtime", what),
    }
}

/// The node's certificate; `now` is Unix time in seconds.
#[must_use]
pub fn certificate(certificate: &Certificate, authority_until: i64, now: i64) -> Vec<Finding> {
    let renew = format!(
        "renew it: flockerctl ca {} {} --address IP --renew",
        certificate.identity.role, certificate.identity.name
    );
    let left = certificate.not_after - now;
    let life = certificate.not_after - certificate.not_before;
    let own = if left <= 0 {
        Finding::fail(
            "certificate",
            format!("it ended {} ago", days(-left)),
            renew,
        )
    } else if now < certificate.not_before {
        Finding::fail(
            "certificate",
            format!("it holds only in {}", days(certificate.not_before - now)),
            "set this node's clock",
        )
    } else if left < life / 3 {
        Finding::warn("certificate", format!("it ends in {}", days(left)), renew)
    } else {
        Finding::ok("certificate", format!("it ends in {}", days(left)))
    };
    let left = authority_until - now;
    let successor = "make a new authority and hand out its certificate beside the old one's";
    let authority = if left <= 0 {
        Finding::fail(
            "authority",
            format!("it ended {} ago", days(-left)),
            successor,
        )
    } else if left < AUTHORITY_DAYS * DAY {
        Finding::warn("authority", format!("it ends in {}", days(left)), successor)
    } else {
        Finding::ok("authority", format!("it ends in {}", days(left)))
    };
    vec![own, authority]
}

/// A node without a certificate.
#[must_use]
pub fn no_certificate() -> Finding {
    Finding::warn(
        "certificate",
        "none: whoever reaches this node's addresses can read and change every volume",
        "make one with 'flockerctl ca node' and name it in [tls]",
    )
}

fn days(seconds: i64) -> String {
    match seconds / DAY {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// The mode bits of the private key's file.
#[must_use]
pub fn key_mode(mode: u32) -> Finding {
    if mode & 0o077 == 0 {
        Finding::ok("key", "only its owner reads it")
    } else {
        Finding::warn(
            "key",
            format!("its mode is {:o}: others can read it", mode & 0o777),
            "chmod 600 the file of tls.key, and renew it if anybody may have",
        )
    }
}

/// The lease, and the thread that watches it.
#[must_use]
pub fn lease(status: &LeaseStatus, silence: Duration, watchdog: bool) -> Vec<Finding> {
    let confirmed = Duration::from_millis(status.remaining_ms);
    let lease = match (status.fence, status.policy) {
        (FencePhase::Fencing | FencePhase::Fenced, _) => Finding::fail(
            "lease",
            "it has run out: this node runs nothing",
            "let this node and control reach one another; it goes on by itself then",
        ),
        (FencePhase::Guarding, None) => Finding::warn(
            "lease",
            "no control has confirmed this node since its agent started",
            "start control, and name this node in its file",
        ),
        (FencePhase::Guarding, Some(_)) if status.remaining_ms == 0 => Finding::warn(
            "lease",
            "it has run out; it is advisory, so everything goes on",
            "let this node and control reach one another",
        ),
        (FencePhase::Guarding, Some(LeasePolicy::Advisory)) => {
            Finding::ok("lease", format!("advisory, for another {confirmed:?}"))
        }
        (FencePhase::Guarding, Some(LeasePolicy::Enforced)) => {
            Finding::ok("lease", format!("enforced, for another {confirmed:?}"))
        }
    };
    let behind = if watchdog { "with" } else { "without" };
    let fence = if silence > FENCE_SILENCE {
        Finding::fail(
            "fence",
            format!("its thread has not looked for {silence:?}"),
            "restart the agent; if that does not help, the machine",
        )
    } else {
        Finding::ok(
            "fence",
            format!("its thread looks, {behind} a watchdog device"),
        )
    };
    vec![lease, fence]
}

/// What of a volume is not as it should be.
#[must_use]
pub fn volume(volume: &VolumeStatus, place: &std::path::Path) -> Option<Finding> {
    let name = &volume.name;
    match (&volume.mounted_at, volume.role) {
        (None, Role::Primary) => Some(Finding::warn(
            "volumes",
            format!("{name} is primary here and not mounted: nobody has confirmed it"),
            "control does so when it reaches this node; is control up?",
        )),
        (Some(at), _) if at != place => Some(Finding::fail(
            "volumes",
            format!(
                "{name} is mounted at {}, not at {}",
                at.display(),
                place.display()
            ),
            "unmount it there; storage.mount_root says where volumes belong",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use flocker_api::{
        agent::LeaseStamp,
        doctor::Level,
        tls::{Identity, Role as Who},
    };

    use super::*;

    fn levels(findings: &[Finding]) -> Vec<Level> {
        findings.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn pools_by_their_own_words() {
        use Level::{Fail, Ok, Warn};
        for (listed, expected) in [
            ("ONLINE\t12\n", [Ok, Ok]),
            ("ONLINE\t80%\n", [Ok, Warn]),
            ("DEGRADED\t95\n", [Warn, Fail]),
            ("FAULTED\t-\n", [Fail, Warn]),
            ("", [Fail, Warn]),
        ] {
            assert_eq!(levels(&pool("tank", listed)), expected, "{listed}");
        }
    }

    #[test]
    fn certificates_by_what_is_left_of_them() {
        use Level::{Fail, Ok, Warn};
        let of = |from: i64, to: i64| Certificate {
            identity: Identity::new(Who::Node, "n1"),
            not_before: from * DAY,
            not_after: to * DAY,
        };
        for ((from, to), authority, expected) in [
            ((0, 90), 1000, [Ok, Ok]),
            ((-70, 20), 150, [Warn, Ok]),
            ((-90, 0), 89, [Fail, Warn]),
            ((1, 90), -1, [Fail, Fail]),
        ] {
            let found = certificate(&of(from, to), authority * DAY, 0);
            assert_eq!(levels(&found), expected, "{found:?}");
        }
        let found = &certificate(&of(-90, -3), 1, 0)[0];
        assert_eq!(found.found, "it ended 3 days ago");
        let remedy = found.remedy.as_deref().unwrap();
        assert!(remedy.contains("flockerctl ca node n1"), "{remedy}");
    }

    #[test]
    fn leases_and_their_thread() {
        use Level::{Fail, Ok, Warn};
        let status = |policy, remaining_ms, fence| LeaseStatus {
            stamp: LeaseStamp {
                incarnation: uuid::Uuid::nil(),
                clock_ms: 0,
            },
            policy,
            remaining_ms,
            fence,
            fences: 0,
        };
        let enforced = Some(LeasePolicy::Enforced);
        for (status, silence, expected) in [
            (status(enforced, 5_000, FencePhase::Guarding), 100, [Ok, Ok]),
            (status(None, 0, FencePhase::Guarding), 100, [Warn, Ok]),
            (
                status(Some(LeasePolicy::Advisory), 0, FencePhase::Guarding),
                0,
                [Warn, Ok],
            ),
            (status(enforced, 0, FencePhase::Fenced), 3_000, [Fail, Fail]),
        ] {
            let found = lease(&status, Duration::from_millis(silence), false);
            assert_eq!(levels(&found), expected, "{found:?}");
        }
    }

    #[test]
    fn keys_that_others_read_are_noticed() {
        assert_eq!(key_mode(0o100_600).level, Level::Ok);
        assert_eq!(key_mode(0o100_640).level, Level::Warn);
    }
}
