//! The state that control must not lose: declared apps, their primaries, moves, counters.
//!
//! [`State::apply`] is the only way in which it changes. It is deterministic, so the store may
//! keep the changes or their outcome, and a control that starts has the same picture as the
//! one that ended. Observations are not part of it: they are asked for again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use flocker_api::{
    app::App,
    control::MoveStep,
    gate::Token,
    name::{AppName, MoveId, NodeName, VolumeId},
    route::RouteKey,
    volume::Epoch,
};
use serde::{Deserialize, Serialize};

use super::{
    migration::{Entry, Header, Move},
    saga::IllegalRecord,
    volumes::VolumeRecord,
};

/// How many ended moves are remembered.
pub const ENDED_MOVES_MAX: usize = 200;

/// Where an app's volumes are writable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Primary {
    /// The node.
    pub node: NodeName,
    /// Their epoch.
    pub epoch: Epoch,
}

/// Whether an app shall be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// It shall run.
    Wanted,
    /// Its container and routes are being removed.
    Deleting,
    /// Only its volumes are left. Deployed again, it finds them.
    Deleted,
}

/// An app as declared, and what control must remember of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppRecord {
    /// As declared, its volumes' ids filled in.
    pub app: App,
    /// Whether it shall be there.
    pub life: Life,
    /// Whether its container must be made anew because the declaration changed.
    #[serde(default)]
    pub changed: bool,
    /// Whether it has been ready once. Until then it waits for the apps that it needs.
    #[serde(default)]
    pub started: bool,
    /// The newest token under which its routes were paused for a change of its container.
    #[serde(default)]
    pub pause: Option<Token>,
    /// Volumes that have been created once. One of these that is missing is a loss, and not
    /// created again.
    #[serde(default)]
    pub made: BTreeSet<VolumeId>,
    /// Keys of routes that are no longer declared and must leave the edges.
    #[serde(default)]
    pub retired: BTreeSet<RouteKey>,
    /// The node to which it shall move once it serves.
    #[serde(default)]
    pub wanted: Option<NodeName>,
    /// Its current or last move.
    #[serde(default)]
    pub last_move: Option<MoveId>,
}

impl AppRecord {
    /// An app that was just declared.
    #[must_use]
    pub fn new(app: App) -> Self {
        Self {
            app,
            life: Life::Wanted,
            changed: false,
            started: false,
            pause: None,
            made: BTreeSet::new(),
            retired: BTreeSet::new(),
            wanted: None,
            last_move: None,
        }
    }
}

/// One change of the state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// An app's record, new or as it shall be from now on.
    PutApp {
        /// The record.
        record: Box<AppRecord>,
    },
    /// The first primary of an app; one that it has stays.
    PlacePrimary {
        /// The app.
        app: AppName,
        /// The primary.
        primary: Primary,
    },
    /// Compare-and-set of an app's primary: the pivot of a move.
    SwapPrimary {
        /// The app.
        app: AppName,
        /// What it must be.
        from: Primary,
        /// What it is from now on.
        to: Primary,
    },
    /// A new move.
    BeginMove {
        /// What it is about.
        header: Box<Header>,
    },
    /// One more line of a move's journal.
    Journal {
        /// The move.
        id: MoveId,
        /// Its place in the journal, from 0.
        sequence: u64,
        /// The line.
        entry: Box<Entry>,
    },
    /// An old move is forgotten.
    ForgetMove {
        /// The move.
        id: MoveId,
    },
    /// The record of a volume that belongs to no app, new or as it is from now on.
    PutVolume {
        /// The record.
        record: Box<VolumeRecord>,
    },
    /// A volume that belongs to no app is no more.
    DropVolume {
        /// The volume.
        id: VolumeId,
    },
    /// A node gets no apps from now on, or may again.
    Cordon {
        /// The node.
        node: NodeName,
        /// Whether it gets none.
        cordoned: bool,
    },
    /// A pause token is drawn: it must be newer than all before it.
    DrawToken {
        /// The token.
        token: Token,
    },
}

/// Why a change cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The app is not known.
    #[error("app '{0}' is not known")]
    NoApp(AppName),
    /// The primary is another than expected.
    #[error("the primary of app '{app}' is not {} at epoch {}", expected.node, expected.epoch)]
    Primary {
        /// The app.
        app: AppName,
        /// What was expected.
        expected: Primary,
        /// What it is.
        found: Option<Primary>,
    },
    /// The app is being moved.
    #[error("app '{app}' is being moved (move {id})")]
    Moving {
        /// The app.
        app: AppName,
        /// The move.
        id: MoveId,
    },
    /// The move is not known.
    #[error("move {0} is not known")]
    NoMove(MoveId),
    /// Someone else has written this line.
    #[error("line {sequence} of the journal of move {id} is not the next one")]
    Sequence {
        /// The move.
        id: MoveId,
        /// The line.
        sequence: u64,
    },
    /// The line does not fit.
    #[error("the journal of move {id} cannot go on so")]
    Record {
        /// The move.
        id: MoveId,
        /// Why.
        source: IllegalRecord<MoveStep>,
    },
    /// A newer token was drawn.
    #[error("pause token {token} is not newer than {newest}")]
    Token {
        /// The token.
        token: Token,
        /// The newest.
        newest: Token,
    },
}

/// The whole state. Cheap to clone: what did not change is shared.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Apps by name.
    pub apps: BTreeMap<AppName, Arc<AppRecord>>,
    /// Primaries by app.
    pub primaries: BTreeMap<AppName, Primary>,
    /// Moves by identity.
    pub moves: BTreeMap<MoveId, Arc<Move>>,
    /// Volumes that belong to no app, by identity.
    pub volumes: BTreeMap<VolumeId, Arc<VolumeRecord>>,
    /// Nodes that get no apps.
    pub cordoned: BTreeSet<NodeName>,
    /// The newest pause token.
    pub token: Token,
}

impl State {
    /// Makes one change.
    ///
    /// # Errors
    /// When the change contradicts the state; then nothing has changed.
    pub fn apply(&mut self, change: &Change) -> Result<(), Conflict> {
        match change {
            Change::PutApp { record } => {
                let name = record.app.name().clone();
                self.apps.insert(name, Arc::new(AppRecord::clone(record)));
            }
            Change::PlacePrimary { app, primary } => {
                let primaries = self.primaries.entry(app.clone());
                primaries.or_insert_with(|| primary.clone());
            }
            Change::SwapPrimary { app, from, to } => {
                check_primary(app, from, self.primaries.get(app))?;
                self.primaries.insert(app.clone(), to.clone());
            }
            Change::BeginMove { header } => self.begin_move(header)?,
            Change::Journal {
                id,
                sequence,
                entry,
            } => self.journal(*id, *sequence, entry)?,
            Change::ForgetMove { id } => {
                self.moves.remove(id);
            }
            Change::PutVolume { record } => {
                let record = Arc::new(VolumeRecord::clone(record));
                self.volumes.insert(record.id, record);
            }
            Change::DropVolume { id } => {
                self.volumes.remove(id);
            }
            Change::Cordon { node, cordoned } => {
                match cordoned {
                    true => self.cordoned.insert(node.clone()),
                    false => self.cordoned.remove(node),
                };
            }
            Change::DrawToken { token } => {
                check_token(*token, self.token)?;
                self.token = *token;
            }
        }
        Ok(())
    }

    /// The unfinished move of an app, if there is one.
    #[must_use]
    pub fn move_of(&self, app: &AppName) -> Option<&Arc<Move>> {
        let id = self.apps.get(app)?.last_move?;
        self.moves.get(&id).filter(|found| !found.is_ended())
    }

    /// Moves that are not ended.
    pub fn unfinished(&self) -> impl Iterator<Item = &Arc<Move>> {
        self.moves.values().filter(|found| !found.is_ended())
    }

    /// Ended moves beyond [`ENDED_MOVES_MAX`], oldest first, that no app points to.
    #[must_use]
    pub fn forgettable(&self) -> Vec<MoveId> {
        let last: BTreeSet<_> = self.apps.values().filter_map(|app| app.last_move).collect();
        let ended = self.moves.values().filter(|found| found.is_ended());
        let mut ended: Vec<_> = ended.map(|found| found.header()).collect();
        ended.sort_by(|a, b| b.started_ms.total_cmp(&a.started_ms));
        let old = ended
            .into_iter()
            .skip(ENDED_MOVES_MAX)
            .map(|header| header.id);
        old.filter(|id| !last.contains(id)).collect()
    }

    /// Puts back a move that was stored, with its journal.
    ///
    /// # Errors
    /// When the journal is none that a move could have written.
    pub fn restore_move(&mut self, header: Header, journal: Vec<Entry>) -> Result<(), Conflict> {
        let id = header.id;
        let mut restored = Move::new(header);
        for entry in journal {
            restored
                .apply(entry)
                .map_err(|source| Conflict::Record { id, source })?;
        }
        self.moves.insert(id, Arc::new(restored));
        Ok(())
    }

    fn begin_move(&mut self, header: &Header) -> Result<(), Conflict> {
        let name = header.app.name();
        let Some(record) = self.apps.get(name) else {
            return Err(Conflict::NoApp(name.clone()));
        };
        if let Some(other) = self.move_of(name) {
            return Err(Conflict::Moving {
                app: name.clone(),
                id: other.header().id,
            });
        }
        let from = Primary {
            node: header.from.clone(),
            epoch: header.epoch,
        };
        check_primary(name, &from, self.primaries.get(name))?;
        let mut record = AppRecord::clone(record);
        record.last_move = Some(header.id);
        record.wanted = None;
        self.apps.insert(name.clone(), Arc::new(record));
        self.moves
            .insert(header.id, Arc::new(Move::new(header.clone())));
        Ok(())
    }

    fn journal(&mut self, id: MoveId, sequence: u64, entry: &Entry) -> Result<(), Conflict> {
        let found = self.moves.get_mut(&id).ok_or(Conflict::NoMove(id))?;
        if u64::try_from(found.journal().len()) != Ok(sequence) {
            return Err(Conflict::Sequence { id, sequence });
        }
        Arc::make_mut(found)
            .apply(entry.clone())
            .map_err(|source| Conflict::Record { id, source })
    }
}

/// The compare of the compare-and-set.
///
/// # Errors
/// When the primary is another than expected.
pub fn check_primary(
    app: &AppName,
    expected: &Primary,
    found: Option<&Primary>,
) -> Result<(), Conflict> {
    if found == Some(expected) {
        return Ok(());
    }
    Err(Conflict::Primary {
        app: app.clone(),
        expected: expected.clone(),
        found: found.cloned(),
    })
}

/// Whether a token may be drawn.
///
/// # Errors
/// When one as new was drawn before.
pub fn check_token(token: Token, newest: Token) -> Result<(), Conflict> {
    if token > newest {
        return Ok(());
    }
    Err(Conflict::Token { token, newest })
}

#[cfg(test)]
mod tests;
