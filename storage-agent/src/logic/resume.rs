//! Whether a broken stream may go on where it ended: what a resume token must say.
//!
//! The token comes from the receiver and so is not to be trusted: whatever it names would be
//! sent. It is taken only where it names a snapshot of this very volume, by name and guid, on a
//! base that both sides have. Anything else is no error: the stream begins anew.

use flocker_api::volume::{Guid, Snapshot};

/// Longest token that is looked at; those of OpenZFS are a few hundred characters.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;

/// What is in a token, as `zfs send -nvt` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The snapshot that was being sent, `DATASET@NAME` as the sender called it.
    pub to_name: String,
    /// Its guid.
    pub to: Guid,
    /// The base of the increment; `None` for a full stream.
    pub from: Option<Guid>,
    /// Whether the stream was a raw one of an encrypted dataset.
    pub raw: bool,
}

/// A stream that may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumption {
    /// The token.
    pub token: String,
    /// The snapshot that it brings.
    pub to: Snapshot,
    /// The base that the receiver has it on.
    pub from: Option<Guid>,
}

/// Why a token is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is not made of what tokens are made of.
    #[error("the token is malformed")]
    Malformed,
    /// It names what is not a snapshot of the volume.
    #[error("the token is for {0}, which is no snapshot of this volume here")]
    Foreign(String),
    /// The base is gone on either side.
    #[error("the token's base {0} is not the newest snapshot of the receiver, or gone here")]
    Base(Guid),
    /// The receiver has snapshots, and the token is for a full stream.
    #[error("the token is for a full stream, and the receiver has snapshots")]
    Full,
    /// It is of an encrypted dataset.
    #[error("the token is for a raw stream")]
    Raw,
}

/// Whether the text can be a token at all: it goes onto a command line.
#[must_use]
pub fn well_formed(token: &str) -> bool {
    (1..=TOKEN_BYTES_MAX).contains(&token.len())
        && !token.starts_with('-')
        && token.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

/// Checks what a token says against what both sides have. `bases` are the sender's snapshots and
/// bookmarks, `ours` its snapshots alone.
///
/// # Errors
/// Why it is not to be used.
pub fn usable(
    token: &Token,
    dataset: &str,
    ours: &[Snapshot],
    bases: &[Snapshot],
    theirs: &[Snapshot],
) -> Result<Snapshot, Unusable> {
    if token.raw {
        return Err(Unusable::Raw);
    }
    let named = token.to_name.strip_prefix(dataset);
    let named = named.and_then(|rest| rest.strip_prefix('@'));
    let to = ours
        .iter()
        .find(|s| Some(s.name.as_str()) == named && s.guid == token.to)
        .ok_or_else(|| Unusable::Foreign(token.to_name.clone()))?;
    let newest = theirs.iter().max_by_key(|s| s.createtxg);
    match (token.from, newest) {
        (None, None) => {}
        (None, Some(_)) => return Err(Unusable::Full),
        (Some(from), newest) => {
            let there = newest.is_some_and(|s| s.guid == from);
            if !there || !bases.iter().any(|s| s.guid == from) {
                return Err(Unusable::Base(from));
            }
        }
    }
    Ok(to.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(guid: u64) -> Snapshot {
        Snapshot {
            name: format!("s{guid}"),
            guid: Guid(guid),
            createtxg: guid,
        }
    }

    fn token(to: u64, from: Option<u64>) -> Token {
        Token {
            to_name: format!("tank/v@s{to}"),
            to: Guid(to),
            from: from.map(Guid),
            raw: false,
        }
    }

    #[test]
    fn a_token_is_taken_for_what_both_sides_have() {
        let ours = [snapshot(2), snapshot(3)];
        let bases = [snapshot(1), snapshot(2), snapshot(3)];
        let check =
            |token: &Token, theirs: &[Snapshot]| usable(token, "tank/v", &ours, &bases, theirs);
        assert_eq!(check(&token(3, None), &[]), Ok(snapshot(3)));
        assert_eq!(check(&token(3, Some(2)), &[snapshot(2)]), Ok(snapshot(3)));
        // A bookmark is a base, though not a snapshot.
        assert_eq!(check(&token(3, Some(1)), &[snapshot(1)]), Ok(snapshot(3)));

        assert_eq!(check(&token(3, None), &[snapshot(2)]), Err(Unusable::Full));
        let base = |guid| Err(Unusable::Base(Guid(guid)));
        assert_eq!(check(&token(3, Some(2)), &[]), base(2));
        assert_eq!(
            check(&token(3, Some(1)), &[snapshot(1), snapshot(2)]),
            base(1)
        );
        assert_eq!(check(&token(3, Some(9)), &[snapshot(9)]), base(9));
    }

    #[test]
    fn what_a_token_may_not_name() {
        let ours = [snapshot(3)];
        let names = [
            "tank/v@s4",
            "tank/w@s3",
            "tank/v/w@s3",
            "tank/vv@s3",
            "tank/v@s3@s3",
            "s3",
            "",
        ];
        for name in names {
            let token = Token {
                to_name: name.to_owned(),
                ..token(3, None)
            };
            let foreign = Err(Unusable::Foreign(name.to_owned()));
            assert_eq!(
                usable(&token, "tank/v", &ours, &ours, &[]),
                foreign,
                "{name}"
            );
        }
        // The right name with another guid.
        let other = Token {
            to: Guid(4),
            ..token(3, None)
        };
        assert!(usable(&other, "tank/v", &ours, &ours, &[]).is_err());
        let raw = Token {
            raw: true,
            ..token(3, None)
        };
        assert_eq!(
            usable(&raw, "tank/v", &ours, &ours, &[]),
            Err(Unusable::Raw)
        );
    }

    #[test]
    fn only_tokens_reach_a_command_line() {
        assert!(well_formed("1-b22cabf1f-b8-789c636064000310a500c4ec"));
        for text in ["", "-A", "1-xyz", "1 2", "1-\n", "1-a;b", "tank/v@s3"] {
            assert!(!well_formed(text), "{text:?}");
        }
        assert!(!well_formed(&"a".repeat(TOKEN_BYTES_MAX + 1)));
    }
}
