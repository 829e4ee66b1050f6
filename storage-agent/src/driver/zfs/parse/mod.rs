//! What `zfs` and `zpool` print, as values. Pure; tested on captured output.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::ExitStatus,
};

use flocker_api::{
    name::VolumeId,
    volume::{Epoch, Guid, Role, Snapshot},
    work::Trash,
};

use serde::Deserialize;

use crate::{driver::storage::LocalCopy, error::VolumeError, logic::resume::Token};

/// Why a command failed, by its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    NotFound,
    Exists,
    /// The copy was modified since its newest snapshot.
    Touched,
    /// The newest snapshot of the copy is not the base of the stream.
    WrongBase,
    /// The stream ended early.
    Truncated,
    /// The stream is damaged.
    Corrupt,
    Busy,
    NoSpace,
    /// The sender lacks the base or the snapshot.
    NoSource,
    MoreRecent,
    /// There is no half-received stream to abort.
    NothingPartial,
    Mounted,
    NotMounted,
    Other,
}

/// Texts by which failures are told, the more special ones first.
const TEXTS: &[(&str, Failure)] = &[
    ("has been modified", Failure::Touched),
    ("does not\nmatch incremental source", Failure::WrongBase),
    ("does not match incremental source", Failure::WrongBase),
    ("must specify -F to overwrite it", Failure::WrongBase),
    ("destination has snapshots", Failure::WrongBase),
    ("checksum mismatch or incomplete stream", Failure::Truncated),
    ("(checksum mismatch)", Failure::Corrupt),
    ("bad magic number", Failure::Corrupt),
    ("invalid backup stream", Failure::Truncated),
    ("failed to read from stream", Failure::Truncated),
    ("incomplete stream", Failure::Truncated),
    ("out of space", Failure::NoSpace),
    ("space quota exceeded", Failure::NoSpace),
    ("No space left on device", Failure::NoSpace),
    ("more recent snapshots exist", Failure::MoreRecent),
    ("clones of previous snapshots exist", Failure::MoreRecent),
    ("incremental source (", Failure::NoSource),
    ("incremental source 0x", Failure::NoSource),
    ("could not send", Failure::NoSource),
    ("cannot resume send", Failure::NoSource),
    ("any resumable receive state", Failure::NothingPartial),
    ("has dependent clones", Failure::Busy),
    ("filesystem already mounted", Failure::Mounted),
    ("not currently mounted", Failure::NotMounted),
    ("partially-complete state", Failure::Busy),
    ("is busy", Failure::Busy),
    ("it's being held", Failure::Busy),
    ("destination already exists", Failure::Exists),
    ("dataset already exists", Failure::Exists),
    ("dataset does not exist", Failure::NotFound),
    ("no such pool", Failure::NotFound),
];

/// Tells a failure by what was printed.
pub(super) fn classify(stderr: &str) -> Failure {
    TEXTS
        .iter()
        .find(|(text, _)| stderr.contains(text))
        .map_or(Failure::Other, |(_, failure)| *failure)
}

impl Failure {
    /// The error that a failed command becomes.
    pub(super) fn error(self, line: &str, text: &str, status: ExitStatus) -> VolumeError {
        if let Some(signal) = status.signal() {
            return VolumeError::Killed(format!("'{line}' (signal {signal})"));
        }
        let said = if text.is_empty() {
            format!("'{line}' failed with {status}")
        } else {
            format!("'{line}' failed: {text}")
        };
        match self {
            Self::NoSpace => VolumeError::NoSpace(said),
            Self::Busy => VolumeError::StorageBusy(said),
            Self::Truncated | Self::Corrupt => VolumeError::Damaged(said),
            _ => VolumeError::Command(said),
        }
    }
}

/// What a listing asks for where the file system has it, besides [`PROPERTIES`].
pub(super) const MORE_PROPERTIES: &str = ",encryption,receive_resume_token";

/// The properties that a listing asks for.
pub(super) const PROPERTIES: &str = "guid,createtxg,type,used,mounted,mountpoint,refquota,\
     flocker:name,flocker:state,flocker:acknowledged,flocker:replication,origin,\
     flocker:trash";

/// Role, epoch, and the epoch under which it was last a primary, in one property, so that they
/// change together or not at all: `primary@3`, `replica@4`, `replica@4,wrote@3`.
pub(super) fn state(role: Role, epoch: Epoch, wrote: Option<Epoch>) -> String {
    let wrote = wrote.map_or_else(String::new, |epoch| format!(",wrote@{epoch}"));
    format!("{role}@{epoch}{wrote}")
}

fn parse_state(text: &str) -> Option<(Role, Epoch, Option<Epoch>)> {
    let (text, wrote) = match text.split_once(",wrote@") {
        Some((text, wrote)) => (text, Some(Epoch(wrote.parse().ok()?))),
        None => (text, None),
    };
    let (role, epoch) = text.split_once('@')?;
    let role = match role {
        "primary" => Role::Primary,
        "replica" => Role::Replica,
        _ => return None,
    };
    Some((role, Epoch(epoch.parse().ok()?), wrote))
}

/// Reads `zfs get -Hp -r -o name,property,value,source` of [`PROPERTIES`] on `PARENT` or one
/// dataset below it. Datasets whose name is no UUID are not ours.
///
/// A copy without a state is one whose first receive ended without being stamped: a replica
/// at epoch 0 that is named by its identity until its sender calls again.
pub(super) fn copies(parent: &str, text: &str) -> Result<Vec<LocalCopy>, VolumeError> {
    let mut order = Vec::new();
    let mut rows: HashMap<&str, Row<'_>> = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split('\t');
        let (Some(name), Some(property), Some(value)) =
            (fields.next(), fields.next(), fields.next())
        else {
            return Err(unreadable(line));
        };
        let row = rows.entry(name).or_insert_with(|| {
            order.push(name);
            HashMap::new()
        });
        row.insert(property, (value, fields.next().unwrap_or_default()));
    }
    copies_of(parent, &order, &rows)
}

/// The same of `zfs get -j -p -r`.
pub(super) fn copies_of_json(parent: &str, text: &str) -> Result<Vec<LocalCopy>, VolumeError> {
    let listing: Listing<'_> =
        serde_json::from_str(text).map_err(|error| unreadable(&error.to_string()))?;
    let sources: HashMap<_, _> = [("LOCAL", "local"), ("RECEIVED", "received")].into();
    let (mut order, mut rows) = (Vec::new(), HashMap::new());
    for (name, dataset) in &listing.datasets {
        let row: Row<'_> = dataset
            .properties
            .iter()
            .map(|(property, found)| {
                let source = sources
                    .get(&*found.source.kind)
                    .copied()
                    .unwrap_or_default();
                (&**property, (&*found.value, source))
            })
            .collect();
        order.push(&**name);
        rows.insert(&**name, row);
    }
    copies_of(parent, &order, &rows)
}

/// What `zfs get -j` prints, as far as it matters. In the order of names, which puts a dataset
/// before its snapshots and bookmarks.
#[derive(Deserialize)]
struct Listing<'a> {
    #[serde(borrow, default)]
    datasets: BTreeMap<Cow<'a, str>, Dataset<'a>>,
}

#[derive(Deserialize)]
struct Dataset<'a> {
    #[serde(borrow)]
    properties: BTreeMap<Cow<'a, str>, Property<'a>>,
}

#[derive(Deserialize)]
struct Property<'a> {
    #[serde(borrow)]
    value: Cow<'a, str>,
    #[serde(borrow)]
    source: Source<'a>,
}

#[derive(Deserialize)]
struct Source<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

fn copies_of(
    parent: &str,
    order: &[&str],
    rows: &HashMap<&str, Row<'_>>,
) -> Result<Vec<LocalCopy>, VolumeError> {
    let mut copies: Vec<LocalCopy> = Vec::new();
    for name in order {
        let Some(rest) = name.strip_prefix(parent).and_then(|n| n.strip_prefix('/')) else {
            continue;
        };
        let (id, part) = match rest.find(['@', '#']) {
            Some(at) => (&rest[..at], Some(&rest[at..])),
            None => (rest, None),
        };
        let Ok(id) = id.parse::<VolumeId>() else {
            continue;
        };
        let row = &rows[name];
        let Some(part) = part else {
            copies.push(copy(id, row)?);
            continue;
        };
        let Some(copy) = copies.iter_mut().find(|c| c.id == id) else {
            continue;
        };
        match part.strip_prefix('@') {
            Some(name) => copy.snapshots.push(snapshot(name, row)?),
            // A bookmark keeps its mark, by which `zfs send -i` tells it too.
            None => copy.bookmarks.push(snapshot(part, row)?),
        }
    }
    for copy in &mut copies {
        copy.snapshots.sort_by_key(|s| s.createtxg);
    }
    Ok(copies)
}

type Row<'a> = HashMap<&'a str, (&'a str, &'a str)>;

fn copy(id: VolumeId, row: &Row<'_>) -> Result<LocalCopy, VolumeError> {
    // User properties are inherited; only the dataset's own count.
    let own = |property: &str| {
        row.get(property)
            .filter(|(value, source)| *value != "-" && *source == "local")
            .map(|(value, _)| *value)
    };
    let set = |property: &str| {
        let value = row.get(property).map(|(value, _)| *value);
        value.filter(|value| !matches!(*value, "-" | ""))
    };
    let name = own("flocker:name").map_or_else(|| id.to_string(), str::to_owned);
    let (role, epoch, wrote) = match own("flocker:state") {
        Some(text) => parse_state(text).ok_or_else(|| {
            VolumeError::Command(format!(
                "volume {id} has flocker:state '{text}'; primary@EPOCH or replica@EPOCH would be right"
            ))
        })?,
        None => (Role::Replica, Epoch(0), None),
    };
    let mounted = row.get("mounted").is_some_and(|(value, _)| *value == "yes");
    Ok(LocalCopy {
        id,
        name: name
            .parse()
            .map_err(|error| VolumeError::Command(format!("volume {id}: {error}")))?,
        role,
        epoch,
        wrote,
        size_bytes: Some(number(row, "refquota")?).filter(|bytes| *bytes > 0),
        used_bytes: number(row, "used")?,
        mounted_at: row
            .get("mountpoint")
            .filter(|_| mounted)
            .map(|(path, _)| PathBuf::from(path)),
        snapshots: Vec::new(),
        bookmarks: Vec::new(),
        encrypted: set("encryption").is_some_and(|value| value != "off"),
        partial: set("receive_resume_token").map(str::to_owned),
        acknowledged: own("flocker:acknowledged")
            .map(parse_acknowledged)
            .unwrap_or_default(),
        // One that cannot be read counts as none: control says it again.
        replication: own("flocker:replication").and_then(|text| serde_json::from_str(text).ok()),
        trash: own("flocker:trash").map(parse_trash),
        origin: set("origin").and_then(parse_origin),
    })
}

/// What cannot be read is in the trash all the same, for good.
fn parse_trash(text: &str) -> Trash {
    serde_json::from_str(text).unwrap_or_else(|_| Trash {
        at_ms: 0,
        until_ms: u64::MAX,
        by: "unknown".to_owned(),
    })
}

/// `POOL/flocker/UUID@SNAPSHOT`; the origin of what is no volume of ours is none that matters.
fn parse_origin(text: &str) -> Option<(VolumeId, String)> {
    let (dataset, snapshot) = text.split_once('@')?;
    let id = dataset.rsplit('/').next()?.parse().ok()?;
    Some((id, snapshot.to_owned()))
}

/// Reads `zfs get -Hp -o name,property,value` of snapshots: `creation`, `used`, `referenced`.
pub(super) fn costs(text: &str) -> HashMap<String, [u64; 3]> {
    let mut costs: HashMap<String, [u64; 3]> = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split('\t');
        let (Some(name), Some(property), Some(value)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let at = match property {
            "creation" => 0,
            "used" => 1,
            "referenced" => 2,
            _ => continue,
        };
        let Some((_, snapshot)) = name.split_once('@') else {
            continue;
        };
        costs.entry(snapshot.to_owned()).or_default()[at] = value.parse().unwrap_or_default();
    }
    costs
}

fn snapshot(name: &str, row: &Row<'_>) -> Result<Snapshot, VolumeError> {
    Ok(Snapshot {
        name: name.to_owned(),
        guid: Guid(number(row, "guid")?),
        createtxg: number(row, "createtxg")?,
    })
}

fn number(row: &Row<'_>, property: &str) -> Result<u64, VolumeError> {
    let text = row.get(property).map_or("", |(value, _)| *value);
    if matches!(text, "none" | "-") {
        return Ok(0);
    }
    text.parse()
        .map_err(|_| unreadable(&format!("{property} = '{text}'")))
}

fn unreadable(what: &str) -> VolumeError {
    VolumeError::Command(format!("cannot read what zfs printed: {what}"))
}

/// What peers have acknowledged, as the property keeps it.
pub(super) fn acknowledged(guids: &[Guid]) -> String {
    guids
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn parse_acknowledged(text: &str) -> Vec<Guid> {
    text.split(',')
        .filter_map(|guid| u64::from_str_radix(guid, 16).ok().map(Guid))
        .collect()
}

/// Reads the guid and createtxg of one snapshot: `zfs get -Hp -o property,value`.
pub(super) fn one_snapshot(name: &str, text: &str) -> Result<Snapshot, VolumeError> {
    let row: Row<'_> = text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(property, value)| (property, (value, "")))
        .collect();
    snapshot(name, &row)
}

/// Bytes of the stream that `zfs send -nP` speaks of. Some versions have printed absurd numbers;
/// those count as none.
pub(super) fn estimate(text: &str) -> Option<u64> {
    let last = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("size"))?;
    let bytes = last.trim().parse().ok()?;
    (bytes < 1 << 60).then_some(bytes)
}

/// What `zfs send -nvP -t` tells of a token.
pub(super) fn token(text: &str) -> Option<Token> {
    let field = |name: &str| {
        text.lines().find_map(|line| {
            let value = line.trim().strip_prefix(name)?;
            value.strip_prefix(" = ")
        })
    };
    let number =
        |name| field(name).map(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16));
    Some(Token {
        to_name: field("toname")?.to_owned(),
        to: Guid(number("toguid")?.ok()?),
        from: number("fromguid").transpose().ok()?.map(Guid),
        raw: field("rawok").is_some(),
    })
}

#[cfg(test)]
mod tests;
