//! Captured output of zfs-fuse 0.7.0 and OpenZFS, read.

use super::*;

const LISTING: &str = include_str!("../../../../testdata/zfs-fuse/get.txt");

/// `failure<TAB>file`: what each captured error is told as.
const ERRORS: &[(&str, Failure)] = &[
    ("not-found", Failure::NotFound),
    ("no-pool", Failure::NotFound),
    ("snapshot-exists", Failure::Exists),
    ("create-exists", Failure::Exists),
    ("receive-touched", Failure::Touched),
    ("receive-wrong-base", Failure::WrongBase),
    ("receive-exists", Failure::WrongBase),
    ("receive-truncated", Failure::Truncated),
    ("receive-short", Failure::Truncated),
    ("receive-corrupt", Failure::Corrupt),
    ("receive-noise", Failure::Corrupt),
    ("receive-no-space", Failure::NoSpace),
    ("send-no-snapshot", Failure::NoSource),
    ("send-no-base", Failure::NoSource),
    ("rollback-newer", Failure::MoreRecent),
    ("mounted", Failure::Mounted),
    ("not-mounted", Failure::NotMounted),
    ("unmount-busy", Failure::Busy),
    ("receive-busy", Failure::Busy),
    ("snapshot-has-partial", Failure::Busy),
    ("abort-nothing", Failure::NothingPartial),
    ("token", Failure::NoSource),
];

fn captured(folder: &str, name: &str) -> Option<String> {
    let path = format!(
        "{}/testdata/{folder}/{name}.err",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read_to_string(path).ok()
}

#[test]
fn captured_errors_are_told_apart() {
    let mut seen = 0;
    for (name, failure) in ERRORS {
        for folder in ["zfs-fuse", "openzfs"] {
            if let Some(text) = captured(folder, name) {
                assert_eq!(classify(&text), *failure, "{folder}/{name}: {text}");
                seen += 1;
            }
        }
    }
    assert!(seen >= ERRORS.len(), "captures are missing: {seen}");
}

#[test]
fn every_captured_error_is_in_the_table() {
    for folder in ["zfs-fuse", "openzfs"] {
        let directory = format!("{}/testdata/{folder}", env!("CARGO_MANIFEST_DIR"));
        for entry in std::fs::read_dir(directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if let Some(name) = name.strip_suffix(".err") {
                assert!(ERRORS.iter().any(|(known, _)| *known == name), "{name}");
            }
        }
    }
}

#[test]
fn a_listing_becomes_copies() {
    let copies = copies("tank/flocker", LISTING).unwrap();
    let [primary, replica, unstamped] = &copies[..] else {
        panic!("three copies: {copies:?}");
    };
    assert_eq!(primary.name.as_str(), "notes");
    assert_eq!((primary.role, primary.epoch), (Role::Primary, Epoch(3)));
    assert_eq!(primary.size_bytes, Some(209_715_200));
    assert_eq!(primary.mounted_at, Some("/srv/volumes/notes".into()));
    assert_eq!(primary.acknowledged, [Guid(0xab), Guid(0x1f)]);
    let names: Vec<_> = primary.snapshots.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["flocker-2-100", "flocker-3-200"]);
    assert_eq!(primary.snapshots[1].guid, Guid(13_181_285_809_586_712_477));

    assert_eq!((replica.role, replica.epoch), (Role::Replica, Epoch(7)));
    assert_eq!(
        (replica.mounted_at.as_ref(), replica.size_bytes),
        (None, None)
    );

    // The first receive was not stamped: known by its identity alone.
    assert_eq!(unstamped.name.as_str(), unstamped.id.to_string());
    assert_eq!((unstamped.role, unstamped.epoch), (Role::Replica, Epoch(0)));
    assert_eq!(unstamped.snapshots.len(), 1);
}

#[test]
fn a_state_that_is_none_is_named() {
    let text = LISTING.replace("primary@3", "owner@3");
    let message = copies("tank/flocker", &text).unwrap_err().to_string();
    assert!(message.contains("'owner@3'"), "{message}");
    assert!(message.contains("primary@EPOCH"), "{message}");
}

#[test]
fn one_snapshot_is_read() {
    let snapshot = one_snapshot("s", "guid\t42\ncreatetxg\t7\n").unwrap();
    assert_eq!((snapshot.guid, snapshot.createtxg), (Guid(42), 7));
    assert!(one_snapshot("s", "guid\t14.4E\ncreatetxg\t7\n").is_err());
}

#[test]
fn states_and_acknowledgements_round_trip() {
    for role in [Role::Primary, Role::Replica] {
        for wrote in [None, Some(Epoch(11))] {
            let text = state(role, Epoch(12), wrote);
            assert_eq!(parse_state(&text), Some((role, Epoch(12), wrote)), "{text}");
        }
    }
    let guids = [Guid(1), Guid(u64::MAX)];
    assert_eq!(parse_acknowledged(&acknowledged(&guids)), guids);
}

fn openzfs(name: &str) -> String {
    let path = format!("{}/testdata/openzfs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn tokens_and_estimates_are_read() {
    let full = token(&openzfs("token.txt")).unwrap();
    assert_eq!(full.to_name, "pa/v@one");
    assert_eq!(
        (full.to, full.from, full.raw),
        (Guid(0x6b78_2f61_3cbb_5064), None, false)
    );
    let increment = token(&openzfs("token-increment.txt")).unwrap();
    assert_eq!(increment.from, Some(full.to));
    assert_eq!(token(""), None);
    assert_eq!(token("toguid = 0xzz\ntoname = a@b\n"), None);

    assert_eq!(estimate(&openzfs("estimate.txt")), Some(8_416_880));
    assert_eq!(estimate(&openzfs("token-increment.txt")), Some(5_514_832));
    for absurd in ["", "size\t\n", "size\t18446744073709551615\n"] {
        assert_eq!(estimate(absurd), None, "{absurd}");
    }
}

/// The same listing in both forms says the same.
#[test]
fn json_says_what_text_says() {
    let text = copies("pa/flocker", &openzfs("get.txt")).unwrap();
    let json = copies_of_json("pa/flocker", &openzfs("get.json")).unwrap();
    assert_eq!(text, json);
    let [primary, encrypted, partial] = &text[..] else {
        panic!("three copies: {text:?}");
    };
    assert_eq!(primary.name.as_str(), "notes");
    assert_eq!((primary.role, primary.epoch), (Role::Primary, Epoch(3)));
    let bookmarks: Vec<_> = primary.bookmarks.iter().map(|b| b.name.as_str()).collect();
    assert_eq!(bookmarks, ["#flocker-3-100"]);
    assert_eq!(primary.bookmarks[0].guid, primary.snapshots[0].guid);
    assert!(!primary.encrypted && encrypted.encrypted);
    assert!(partial.partial.as_ref().unwrap().starts_with("1-"));
    assert!(copies_of_json("pa/flocker", "{").is_err());
}
