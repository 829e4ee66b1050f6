//! The redb store on a disk that forgets what was not synced, cut off at every write.

use std::{
    io,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use flocker_api::{
    app::App,
    control::MoveStep,
    gate::Token,
    name::{AppName, MoveId},
    volume::Epoch,
};
use flocker_control::{
    driver::store::{Durability, MemoryStore, RedbStore, Store, StoreError},
    logic::{
        migration::{Entry, Header},
        saga::Event,
        state::{AppRecord, Change, Conflict, Primary, State},
    },
};
use redb::StorageBackend;

/// A disk whose power fails after some number of operations.
#[derive(Debug, Clone)]
struct Disk {
    inner: Arc<Mutex<Blocks>>,
    operations_left: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Blocks {
    /// What reads see.
    cached: Vec<u8>,
    /// What survives.
    synced: Vec<u8>,
    /// Written since the last sync: any part of it may have reached the disk.
    dirty: Vec<Range<usize>>,
}

impl Disk {
    fn new(content: Vec<u8>, operations: usize) -> Self {
        let blocks = Blocks {
            cached: content.clone(),
            synced: content,
            dirty: Vec::new(),
        };
        Self {
            inner: Arc::new(Mutex::new(blocks)),
            operations_left: Arc::new(AtomicUsize::new(operations)),
        }
    }

    /// What is found after the power failed: every other unsynced write got through, or none.
    fn after_the_failure(&self, some_got_through: bool) -> Vec<u8> {
        let blocks = self.inner.lock().expect("nobody panics with it");
        let mut found = blocks.synced.clone();
        if some_got_through {
            for range in blocks.dirty.iter().step_by(2) {
                let end = range.end.min(blocks.cached.len());
                if found.len() < end {
                    found.resize(end, 0);
                }
                found[range.start..end].copy_from_slice(&blocks.cached[range.start..end]);
            }
        }
        found
    }

    fn operation(&self) -> Result<(), io::Error> {
        let take = |left: usize| left.checked_sub(1);
        let order = Ordering::Relaxed;
        match self.operations_left.fetch_update(order, order, take) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::other("the power has failed")),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        let blocks = self.inner.lock().expect("nobody panics with it");
        Ok(blocks.cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let blocks = self.inner.lock().expect("nobody panics with it");
        let start = usize::try_from(offset).expect("small");
        out.copy_from_slice(&blocks.cached[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.operation()?;
        let mut blocks = self.inner.lock().expect("nobody panics with it");
        blocks
            .cached
            .resize(usize::try_from(len).expect("small"), 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.operation()?;
        let mut blocks = self.inner.lock().expect("nobody panics with it");
        blocks.synced = blocks.cached.clone();
        blocks.dirty.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.operation()?;
        let mut blocks = self.inner.lock().expect("nobody panics with it");
        let start = usize::try_from(offset).expect("small");
        blocks.cached[start..start + data.len()].copy_from_slice(data);
        blocks.dirty.push(start..start + data.len());
        Ok(())
    }
}

fn notes() -> AppName {
    "notes".parse().expect("a name")
}

fn app() -> App {
    let text = r#"{"container":{"app":"notes","image":"notes"},"volume_sizes":[],"routes":[]}"#;
    serde_json::from_str(text).expect("an app")
}

fn primary(node: &str, epoch: u64) -> Primary {
    Primary {
        node: node.parse().expect("a name"),
        epoch: Epoch(epoch),
    }
}

/// The commits of an app and a move of it past the pivot.
fn commits() -> Vec<Vec<Change>> {
    let id = MoveId(uuid::Uuid::from_u128(9));
    let header = Header {
        id,
        app: app(),
        from: "n1".parse().expect("a name"),
        to: "n2".parse().expect("a name"),
        epoch: Epoch(1),
        started_ms: 1.5,
    };
    let line = |sequence: usize, step, event| Change::Journal {
        id,
        sequence: sequence as u64,
        entry: Box::new(Entry::new(2.5, step, event)),
    };
    let record = Box::new(AppRecord::new(app()));
    let placed = Change::PlacePrimary {
        app: notes(),
        primary: primary("n1", 1),
    };
    let header = Box::new(header);
    let mut commits = vec![
        vec![Change::PutApp { record }, placed],
        vec![
            Change::BeginMove { header },
            line(0, MoveStep::ALL[0], Event::Begun),
        ],
    ];
    for (index, pair) in MoveStep::ALL.windows(2).enumerate() {
        let mut commit = vec![line(2 * index + 1, pair[0], Event::Done)];
        if pair[0] == MoveStep::Prepare {
            commit.push(Change::DrawToken { token: Token(4) });
        }
        if pair[0] == MoveStep::Pivot {
            commit.push(Change::SwapPrimary {
                app: notes(),
                from: primary("n1", 1),
                to: primary("n2", 2),
            });
        }
        commit.push(line(2 * index + 2, pair[1], Event::Begun));
        commits.push(commit);
    }
    commits
}

/// The states after each commit, by the rules alone.
fn states() -> Vec<State> {
    let memory = MemoryStore::default();
    let mut states = vec![State::default()];
    for commit in commits() {
        memory
            .commit(&commit, Durability::Synced)
            .expect("the commits are right");
        states.push(memory.read().expect("memory works"));
    }
    states
}

#[test]
fn what_was_committed_is_read_again() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let states = states();
    for (commit, after) in commits().iter().zip(&states[1..]) {
        let store = RedbStore::open(file.path()).unwrap();
        store.commit(commit, Durability::Synced).unwrap();
        assert_eq!(&store.read().unwrap(), after);
    }
    assert_eq!(
        &RedbStore::open(file.path()).unwrap().read().unwrap(),
        states.last().unwrap()
    );
}

#[test]
fn conditions_are_checked_against_what_is_stored() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let store = RedbStore::open(file.path()).unwrap();
    for commit in commits() {
        store.commit(&commit, Durability::Synced).unwrap();
    }
    let before = store.read().unwrap();
    let swap = Change::SwapPrimary {
        app: notes(),
        from: primary("n1", 1),
        to: primary("n3", 2),
    };
    let token = Change::DrawToken { token: Token(9) };
    // The whole commit is refused, the part that would be right included.
    let error = store
        .commit(&[token, swap], Durability::Synced)
        .unwrap_err();
    assert!(
        matches!(error, StoreError::Conflict(Conflict::Primary { .. })),
        "{error:?}"
    );
    let stale = store
        .commit(&[Change::DrawToken { token: Token(4) }], Durability::Synced)
        .unwrap_err();
    assert!(
        matches!(stale, StoreError::Conflict(Conflict::Token { .. })),
        "{stale:?}"
    );
    let commits = commits();
    let twice = store.commit(&commits[2], Durability::Synced).unwrap_err();
    assert!(
        matches!(twice, StoreError::Conflict(Conflict::Sequence { .. })),
        "{twice:?}"
    );
    assert_eq!(store.read().unwrap(), before);
}

#[test]
fn a_forgotten_move_takes_its_journal_with_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let store = RedbStore::open(file.path()).unwrap();
    for commit in commits() {
        store.commit(&commit, Durability::Synced).unwrap();
    }
    let id = *store.read().unwrap().moves.keys().next().unwrap();
    store
        .commit(&[Change::ForgetMove { id }], Durability::Synced)
        .unwrap();
    assert!(store.read().unwrap().moves.is_empty());
}

#[test]
fn a_second_control_cannot_open_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let _first = RedbStore::open(file.path()).unwrap();
    let error = RedbStore::open(file.path()).unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }), "{error:?}");
}

#[test]
fn a_file_that_is_no_store_is_refused_and_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        "no store at all, but long enough to look like something",
    )
    .unwrap();
    let error = RedbStore::open(file.path()).unwrap_err().to_string();
    assert!(error.starts_with("cannot open the store /"), "{error}");
}

/// Every third commit is lazy.
fn durability_of(index: usize) -> Durability {
    if index % 3 == 1 {
        Durability::Lazy
    } else {
        Durability::Synced
    }
}

/// The power fails after each operation in turn: what is found is the state after the last
/// synced commit that was acknowledged, or after one that came later; never less, never half.
#[test]
fn a_power_failure_at_every_write_loses_nothing_acknowledged() {
    let states = states();
    let empty = Disk::new(Vec::new(), usize::MAX);
    drop(RedbStore::on_backend(empty.clone()).unwrap());
    let prepared = empty.after_the_failure(false);
    let mut failures = 0;
    for operations in 0.. {
        let disk = Disk::new(prepared.clone(), operations);
        let (mut acknowledged, mut synced) = (0, 0);
        let mut all = false;
        if let Ok(store) = RedbStore::on_backend(disk.clone()) {
            for (index, commit) in commits().into_iter().enumerate() {
                let durability = durability_of(index);
                if store.commit(&commit, durability).is_err() {
                    break;
                }
                acknowledged += 1;
                if durability == Durability::Synced {
                    synced = acknowledged;
                }
            }
            all = acknowledged == states.len() - 1;
        }
        for some_got_through in [false, true] {
            let found = Disk::new(disk.after_the_failure(some_got_through), usize::MAX);
            let found = RedbStore::on_backend(found).unwrap().read().unwrap();
            let candidates = &states[synced..states.len().min(acknowledged + 2)];
            assert!(
                candidates.contains(&found),
                "operation {operations}, {some_got_through}"
            );
        }
        if all {
            break;
        }
        failures += 1;
    }
    assert!(failures > 3 * states.len(), "{failures} failures");
}
