//! The store in one redb file. A commit is one redb transaction, synced unless it is lazy.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | `schema` | version of this layout |
//! | `apps`, `primaries` | app | JSON of `AppRecord`, of `Primary` |
//! | `volumes` | volume id | JSON of `VolumeRecord` |
//! | `moves` | move id | JSON of its header |
//! | `journal` | (move id, place) | JSON of one line; only ever appended |
//! | `cordons` | node | nothing: it is there |
//! | `counters` | name | the newest value drawn |

use std::path::Path;

use flocker_api::{
    gate::Token,
    name::{MoveId, VolumeId},
};
use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, StorageBackend, TableDefinition,
    WriteTransaction,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Durability, Store, StoreError};
use crate::logic::{
    migration::{Entry, Header},
    state::{AppRecord, Change, Conflict, Primary, State, check_primary, check_token},
    volumes::VolumeRecord,
};

const SCHEMA: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const APPS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("apps");
const PRIMARIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("primaries");
const VOLUMES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("volumes");
const MOVES: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("moves");
const JOURNAL: TableDefinition<'_, (u128, u64), &[u8]> = TableDefinition::new("journal");
const CORDONS: TableDefinition<'_, &str, ()> = TableDefinition::new("cordons");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

const SCHEMA_KEY: &str = "schema";
const TOKEN_KEY: &str = "pause_token";

/// The store in one redb file.
#[derive(Debug)]
pub struct RedbStore {
    database: Database,
}

impl RedbStore {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// When it cannot be opened (another control may have it), or has another schema.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let open = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Open {
            path: path.to_owned(),
            source,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| open(error.into()))?;
        }
        let database = Database::create(path).map_err(|error| open(error.into()))?;
        Self::prepare(database)
    }

    /// Opens a store on any backend of redb; tests give one that loses what was not synced.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub fn on_backend(backend: impl StorageBackend) -> Result<Self, StoreError> {
        let database = Database::builder().create_with_backend(backend);
        Self::prepare(database.map_err(broken)?)
    }

    fn prepare(database: Database) -> Result<Self, StoreError> {
        let write = database.begin_write().map_err(broken)?;
        let found = {
            let mut meta = write.open_table(META).map_err(broken)?;
            let found = meta.get(SCHEMA_KEY).map_err(broken)?;
            let found = found.map(|found| found.value());
            if found.is_none() {
                meta.insert(SCHEMA_KEY, SCHEMA).map_err(broken)?;
            }
            found.unwrap_or(SCHEMA)
        };
        if found != SCHEMA {
            return Err(StoreError::Schema {
                found,
                expected: SCHEMA,
            });
        }
        // Opening makes them, so that reading need not care whether they are there.
        write.open_table(APPS).map_err(broken)?;
        write.open_table(PRIMARIES).map_err(broken)?;
        write.open_table(VOLUMES).map_err(broken)?;
        write.open_table(MOVES).map_err(broken)?;
        write.open_table(JOURNAL).map_err(broken)?;
        write.open_table(CORDONS).map_err(broken)?;
        write.open_table(COUNTERS).map_err(broken)?;
        write.commit().map_err(broken)?;
        Ok(Self { database })
    }
}

impl Store for RedbStore {
    fn read(&self) -> Result<State, StoreError> {
        let read = self.database.begin_read().map_err(broken)?;
        let mut state = State::default();
        let counters = read.open_table(COUNTERS).map_err(broken)?;
        let token = counters.get(TOKEN_KEY).map_err(broken)?;
        state.token = Token(token.map_or(0, |token| token.value()));
        for row in read
            .open_table(APPS)
            .map_err(broken)?
            .iter()
            .map_err(broken)?
        {
            let (key, value) = row.map_err(broken)?;
            let record: AppRecord = parse("apps", key.value(), value.value())?;
            let name = record.app.name().clone();
            state.apps.insert(name, record.into());
        }
        let primaries = read.open_table(PRIMARIES).map_err(broken)?;
        for row in primaries.iter().map_err(broken)? {
            let (key, value) = row.map_err(broken)?;
            let primary: Primary = parse("primaries", key.value(), value.value())?;
            let app = key
                .value()
                .parse()
                .map_err(|error| unreadable("primaries", key.value(), error))?;
            state.primaries.insert(app, primary);
        }
        let volumes = read.open_table(VOLUMES).map_err(broken)?;
        for row in volumes.iter().map_err(broken)? {
            let (key, value) = row.map_err(broken)?;
            let key = uuid::Uuid::from_u128(key.value()).to_string();
            let record: VolumeRecord = parse("volumes", &key, value.value())?;
            state.volumes.insert(record.id, record.into());
        }
        let cordons = read.open_table(CORDONS).map_err(broken)?;
        for row in cordons.iter().map_err(broken)? {
            let (key, _) = row.map_err(broken)?;
            let node = key.value().parse();
            state
                .cordoned
                .insert(node.map_err(|error| unreadable("cordons", key.value(), error))?);
        }
        let journal = read.open_table(JOURNAL).map_err(broken)?;
        for row in read
            .open_table(MOVES)
            .map_err(broken)?
            .iter()
            .map_err(broken)?
        {
            let (key, value) = row.map_err(broken)?;
            let key = key.value();
            let header: Header = parse(
                "moves",
                &MoveId(uuid::Uuid::from_u128(key)).to_string(),
                value.value(),
            )?;
            let mut entries = Vec::new();
            for line in journal.range((key, 0)..=(key, u64::MAX)).map_err(broken)? {
                let (place, value) = line.map_err(broken)?;
                let place = format!("{}/{}", header.id, place.value().1);
                entries.push(parse::<Entry>("journal", &place, value.value())?);
            }
            state.restore_move(header, entries)?;
        }
        Ok(state)
    }

    fn commit(&self, changes: &[Change], durability: Durability) -> Result<(), StoreError> {
        // Dropping the transaction on an error aborts it.
        let mut write = self.database.begin_write().map_err(broken)?;
        if durability == Durability::Lazy {
            let durability = redb::Durability::None;
            write.set_durability(durability).map_err(broken)?;
        }
        for change in changes {
            write_change(&write, change)?;
        }
        write.commit().map_err(broken)
    }
}

fn cordon(write: &WriteTransaction, node: &str, cordoned: bool) -> Result<(), StoreError> {
    let mut cordons = write.open_table(CORDONS).map_err(broken)?;
    let changed = match cordoned {
        true => cordons.insert(node, ()).map(drop),
        false => cordons.remove(node).map(drop),
    };
    changed.map_err(broken)
}

fn write_change(write: &WriteTransaction, change: &Change) -> Result<(), StoreError> {
    match change {
        Change::PutApp { record } => {
            let mut apps = write.open_table(APPS).map_err(broken)?;
            let row = json(record)?;
            apps.insert(record.app.name().as_str(), row.as_slice())
                .map_err(broken)?;
        }
        Change::PlacePrimary { app, primary } => {
            let mut primaries = write.open_table(PRIMARIES).map_err(broken)?;
            if primaries.get(app.as_str()).map_err(broken)?.is_none() {
                primaries
                    .insert(app.as_str(), json(primary)?.as_slice())
                    .map_err(broken)?;
            }
        }
        Change::SwapPrimary { app, from, to } => {
            let mut primaries = write.open_table(PRIMARIES).map_err(broken)?;
            let found = match primaries.get(app.as_str()).map_err(broken)? {
                Some(row) => Some(parse::<Primary>("primaries", app.as_str(), row.value())?),
                None => None,
            };
            check_primary(app, from, found.as_ref())?;
            primaries
                .insert(app.as_str(), json(to)?.as_slice())
                .map_err(broken)?;
        }
        Change::BeginMove { header } => begin_move(write, header)?,
        Change::Cordon { node, cordoned } => cordon(write, node.as_str(), *cordoned)?,
        Change::Journal {
            id,
            sequence,
            entry,
        } => {
            let mut journal = write.open_table(JOURNAL).map_err(broken)?;
            let key = (id.0.as_u128(), *sequence);
            let taken = journal
                .insert(key, json(entry)?.as_slice())
                .map_err(broken)?;
            if taken.is_some() {
                let (id, sequence) = (*id, *sequence);
                return Err(Conflict::Sequence { id, sequence }.into());
            }
        }
        Change::ForgetMove { id } => {
            let id = id.0.as_u128();
            write
                .open_table(MOVES)
                .map_err(broken)?
                .remove(id)
                .map_err(broken)?;
            let mut journal = write.open_table(JOURNAL).map_err(broken)?;
            journal
                .retain_in((id, 0)..=(id, u64::MAX), |_, _| false)
                .map_err(broken)?;
        }
        Change::PutVolume { record } => write_volume(write, record.id, Some(record))?,
        Change::DropVolume { id } => write_volume(write, *id, None)?,
        Change::DrawToken { token } => {
            let mut counters = write.open_table(COUNTERS).map_err(broken)?;
            let newest = counters
                .get(TOKEN_KEY)
                .map_err(broken)?
                .map_or(0, |row| row.value());
            check_token(*token, Token(newest))?;
            counters.insert(TOKEN_KEY, token.0).map_err(broken)?;
        }
    }
    Ok(())
}

fn write_volume(
    write: &WriteTransaction,
    id: VolumeId,
    record: Option<&VolumeRecord>,
) -> Result<(), StoreError> {
    let mut volumes = write.open_table(VOLUMES).map_err(broken)?;
    let key = id.0.as_u128();
    match record {
        Some(record) => volumes.insert(key, json(record)?.as_slice()),
        None => volumes.remove(key),
    }
    .map(drop)
    .map_err(broken)
}

/// A move and the app that now points to it.
fn begin_move(write: &WriteTransaction, header: &Header) -> Result<(), StoreError> {
    let name = header.app.name();
    let mut apps = write.open_table(APPS).map_err(broken)?;
    let mut record = match apps.get(name.as_str()).map_err(broken)? {
        Some(row) => parse::<AppRecord>("apps", name.as_str(), row.value())?,
        None => return Err(Conflict::NoApp(name.clone()).into()),
    };
    record.last_move = Some(header.id);
    record.wanted = None;
    apps.insert(name.as_str(), json(&record)?.as_slice())
        .map_err(broken)?;
    let mut moves = write.open_table(MOVES).map_err(broken)?;
    moves
        .insert(header.id.0.as_u128(), json(header)?.as_slice())
        .map_err(broken)?;
    Ok(())
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(broken)
}

fn parse<T: DeserializeOwned>(table: &'static str, key: &str, row: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(row).map_err(|error| unreadable(table, key, error))
}

fn unreadable(
    table: &'static str,
    key: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Row {
        table,
        key: key.to_owned(),
        source: source.into(),
    }
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Storage(error.into())
}
