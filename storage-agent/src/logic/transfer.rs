//! What a receiver decides: whom to admit, and what a failed receive means.
//!
//! A primary never receives: only control knows whether it may stop being one, so it must be
//! demoted first. After any error the receiver looks at what it has before it answers, because
//! a receive may have ended well although its end was not seen.

use flocker_api::{
    agent::{Handshake, StorageKind},
    tls::{self, Identity},
    volume::{Epoch, Guid, Role, Snapshot},
};

use crate::error::VolumeError;

/// What the receiver knows of its copy when a sender calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What the copy is.
    pub role: Role,
    /// The newest epoch that it has seen.
    pub epoch: Epoch,
}

/// Whether the streams of one storage can be received by the other.
#[must_use]
pub fn compatible(sender: StorageKind, receiver: StorageKind) -> bool {
    let is_tree = |kind| matches!(kind, StorageKind::Directory);
    is_tree(sender) == is_tree(receiver)
}

/// Whether the sender is who it says; with a certificate only, for without one nothing is known.
///
/// # Errors
/// When the certificate is another one's: a node sends volumes as itself and nobody else.
pub fn genuine(certificate: Option<&Identity>, hello: &Handshake) -> Result<(), VolumeError> {
    match certificate {
        Some(identity)
            if identity.role != tls::Role::Node || identity.name != hello.from.as_str() =>
        {
            Err(VolumeError::Impostor {
                claimed: hello.from.clone(),
                identity: identity.clone(),
            })
        }
        _ => Ok(()),
    }
}

/// Whether a stream may begin.
///
/// # Errors
/// The refusal, as the sender shall read it.
pub fn admit(
    hello: &Handshake,
    sender: StorageKind,
    receiver: StorageKind,
    here: Option<Standing>,
) -> Result<(), VolumeError> {
    let id = hello.volume;
    if !compatible(sender, receiver) {
        return Err(VolumeError::StorageMismatch { sender, receiver });
    }
    if hello.role != Role::Primary {
        return Err(VolumeError::NotPrimary {
            id,
            role: hello.role,
            epoch: hello.epoch,
        });
    }
    match here {
        Some(here) if hello.epoch < here.epoch => Err(VolumeError::StaleEpoch {
            id,
            asked: hello.epoch,
            current: here.epoch,
        }),
        Some(here) if here.role == Role::Primary => Err(VolumeError::ReceiverIsPrimary {
            id,
            epoch: here.epoch,
        }),
        _ => Ok(()),
    }
}

/// What a failed receive means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aftermath {
    /// The snapshot is here all the same: it counts as received.
    Received,
    /// The copy was written to since its newest snapshot, which the sender has: that is kept
    /// aside, the copy goes back to the snapshot, and the sender begins again.
    KeepAside(Snapshot),
    /// It failed.
    Failed,
}

/// Decides what a failed receive of `to` on top of `from` means, by what is here afterwards.
/// `to` is not known where the sender had not come to the end.
///
/// `touched` says whether the file system complained that the copy had been modified.
#[must_use]
pub fn aftermath(
    here: Standing,
    snapshots: &[Snapshot],
    sender: Epoch,
    from: Option<Guid>,
    to: Option<Guid>,
    touched: bool,
) -> Aftermath {
    if snapshots.iter().any(|s| Some(s.guid) == to) {
        return Aftermath::Received;
    }
    let newest = snapshots.iter().max_by_key(|s| s.createtxg);
    match (newest, from) {
        (Some(newest), Some(from))
            if touched
                && newest.guid == from
                && here.role == Role::Replica
                && here.epoch <= sender =>
        {
            Aftermath::KeepAside(newest.clone())
        }
        _ => Aftermath::Failed,
    }
}

#[cfg(test)]
mod tests {
    use flocker_api::{ErrorCode, name::VolumeId};

    use super::*;

    fn hello(epoch: u64, role: Role) -> Handshake {
        Handshake {
            from: "n1".parse().unwrap(),
            volume: VolumeId::random(),
            name: "notes".parse().unwrap(),
            size_bytes: None,
            epoch: Epoch(epoch),
            role,
            keep: flocker_api::replication::Keep::default(),
        }
    }

    #[test]
    fn a_node_sends_as_itself_only() {
        let hello = hello(1, Role::Primary);
        let of = |role, name: &str| Identity::new(role, name);
        assert!(genuine(Some(&of(tls::Role::Node, "n1")), &hello).is_ok());
        assert!(genuine(None, &hello).is_ok());
        for other in [of(tls::Role::Node, "n2"), of(tls::Role::Control, "n1")] {
            let error = genuine(Some(&other), &hello).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Precondition, "{other}");
        }
    }

    fn verdict(hello: &Handshake, here: Option<(Role, u64)>) -> Option<ErrorCode> {
        let here = here.map(|(role, epoch)| Standing {
            role,
            epoch: Epoch(epoch),
        });
        admit(hello, StorageKind::ZfsFuse, StorageKind::OpenZfs, here)
            .err()
            .map(|e| e.code())
    }

    #[test]
    fn admission_table() {
        use Role::{Primary, Replica};
        let from_primary = hello(5, Primary);
        assert_eq!(verdict(&from_primary, None), None);
        assert_eq!(verdict(&from_primary, Some((Replica, 4))), None);
        assert_eq!(verdict(&from_primary, Some((Replica, 5))), None);
        for role in [Replica, Primary] {
            let code = verdict(&from_primary, Some((role, 6)));
            assert_eq!(code, Some(ErrorCode::StaleEpoch));
        }
        for epoch in [4, 5] {
            let code = verdict(&from_primary, Some((Primary, epoch)));
            assert_eq!(code, Some(ErrorCode::Busy));
        }
        assert_eq!(
            verdict(&hello(5, Replica), None),
            Some(ErrorCode::NotPrimary)
        );
    }

    #[test]
    fn trees_and_pools_do_not_mix() {
        let hello = hello(1, Role::Primary);
        let code = |a, b| admit(&hello, a, b, None).err().map(|e| e.code());
        use StorageKind::{Directory, OpenZfs, ZfsFuse};
        assert_eq!(code(Directory, ZfsFuse), Some(ErrorCode::Precondition));
        assert_eq!(code(OpenZfs, Directory), Some(ErrorCode::Precondition));
        assert_eq!(code(OpenZfs, ZfsFuse), None);
        assert_eq!(code(Directory, Directory), None);
    }

    #[test]
    fn only_a_replica_goes_back_and_only_for_its_primary() {
        let snapshot = |guid| Snapshot {
            name: format!("s{guid}"),
            guid: Guid(guid),
            createtxg: guid,
        };
        let here = [snapshot(1), snapshot(2)];
        let replica = Standing {
            role: Role::Replica,
            epoch: Epoch(3),
        };
        let primary = Standing {
            role: Role::Primary,
            ..replica
        };
        let after = |standing, epoch, from, to, touched| {
            aftermath(
                standing,
                &here,
                Epoch(epoch),
                Some(Guid(from)),
                Some(Guid(to)),
                touched,
            )
        };
        assert_eq!(after(replica, 3, 1, 2, false), Aftermath::Received);
        assert_eq!(
            after(replica, 3, 2, 9, true),
            Aftermath::KeepAside(snapshot(2))
        );
        assert_eq!(after(replica, 3, 2, 9, false), Aftermath::Failed);
        assert_eq!(after(replica, 3, 1, 9, true), Aftermath::Failed);
        assert_eq!(
            after(replica, 4, 2, 9, true),
            Aftermath::KeepAside(snapshot(2)),
            "a primary that it has not heard of"
        );
        assert_eq!(after(replica, 2, 2, 9, true), Aftermath::Failed);
        assert_eq!(after(primary, 3, 2, 9, true), Aftermath::Failed);
    }
}
