//! Rollback and restore: where an app uses the volume it is stopped meanwhile, and the reconciler
//! starts it again once it is let go.

use std::sync::Arc;

use flocker_api::{
    ErrorBody, ErrorCode,
    name::{NodeName, VolumeName},
    work::{JobState, NodeJob, Work, called, is_named},
};
use serde_json::Value;

use super::{
    Known, Order, WAIT,
    archive::{Wanted, body, relay},
    errands::{About, Errand},
};
use crate::{
    driver::{
        context::Claim,
        control::{CLAIM_WAIT, Control},
    },
    error::Refusal,
    logic::{state::Life, volumes::meant},
};

/// What a restore brings, from where, and what it becomes.
#[derive(Debug, Clone)]
pub(super) struct Restore {
    pub(super) from: NodeName,
    pub(super) snapshot: Option<String>,
    pub(super) name: Option<VolumeName>,
    pub(super) stop_app: bool,
}

impl Control {
    fn about(known: &Known, verb: &'static str, by: &str) -> About {
        About {
            verb,
            node: known.node.clone(),
            volume: known.id,
            name: known.name.clone(),
            by: by.to_owned(),
        }
    }

    /// Refuses where an app uses the volume and may not be stopped.
    fn check_app(known: &Known, stop_app: bool) -> Result<(), Refusal> {
        match &known.app {
            Some((app, life)) if *life != Life::Deleted && !stop_app => Err(Refusal::VolumeInUse {
                volume: known.name.clone(),
                app: app.clone(),
                what: "with --stop-app it is stopped meanwhile and started again",
            }),
            _ => Ok(()),
        }
    }

    /// Stops the app that uses a volume, if one does; it is started again when the claim is let go.
    async fn stop_app(&self, known: &Known) -> Result<Option<Claim>, Refusal> {
        let context = self.context();
        let Some((app, _)) = known
            .app
            .as_ref()
            .filter(|(_, life)| *life != Life::Deleted)
        else {
            return Ok(None);
        };
        let claim = context.claims.take_within(app, CLAIM_WAIT).await;
        let claim = claim.ok_or_else(|| Refusal::AppBusy(app.clone()))?;
        let state = context.ledger.state();
        let record = state.apps.get(app);
        let record = record.ok_or_else(|| Refusal::UnknownApp(app.clone()))?;
        let spec = &record.app.container;
        let stopped = context.peers.stop(&known.node, spec, known.epoch).await;
        match stopped {
            // It was never made, or is gone.
            Err(error) if error.code == ErrorCode::NotFound => {}
            Err(error) => return Err(Refusal::Agent(error)),
            Ok(_) => {}
        }
        Ok(Some(claim))
    }

    /// Has a node do something while nobody uses the volume; as long as it takes.
    async fn alone(
        &self,
        known: &Known,
        by: &str,
        work: Work,
        errand: &Errand,
    ) -> Result<Value, Refusal> {
        let _stopped = self.stop_app(known).await?;
        let mut job = self
            .begin(&known.node, Order::of(known, by, work))
            .await?
            .job;
        while job.state == JobState::Running {
            errand.progress(job.progress);
            let asked = self.context().peers.job(&known.node, job.id, WAIT).await;
            job = asked.map_err(Refusal::Agent)?;
        }
        match job.error {
            Some(error) => Err(Refusal::Agent(error)),
            None => Ok(job.result),
        }
    }

    pub(super) async fn roll_back(
        self: &Arc<Self>,
        known: &Known,
        to: String,
        stop_app: bool,
        by: &str,
    ) -> Result<NodeJob, Refusal> {
        Self::check_app(known, stop_app)?;
        let context = self.context();
        let errand = context
            .errands
            .begin(Self::about(known, "rollback", by), &context.clock);
        let (control, known, by) = (Arc::clone(self), known.clone(), by.to_owned());
        let (running, telling) = (errand.clone(), errand.clone());
        self.spawn(async move {
            let work = Work::RollBack { to };
            let done = async {
                control
                    .alone(&known, &by, work, &telling)
                    .await
                    .map_err(body)
            };
            running.run(done).await;
        });
        answered(&errand).await
    }

    pub(super) async fn restore(
        self: &Arc<Self>,
        known: &Known,
        restore: Restore,
        by: &str,
    ) -> Result<NodeJob, Refusal> {
        self.check_node(&restore.from)?;
        if restore.from == known.node {
            let node = &restore.from;
            let message = format!(
                "node '{node}' has the primary itself; 'volume rollback' and 'volume clone' are for that"
            );
            return Err(Refusal::Malformed(message));
        }
        if restore.name.is_none() {
            Self::check_app(known, restore.stop_app)?;
        }
        self.look_at([&restore.from, &known.node]).await;
        let copies = self.report_volume(known.clone()).copies;
        let of = |node: &NodeName| {
            let copy = copies.iter().find(|copy| copy.node == *node);
            copy.map(|copy| copy.volume.snapshots.as_slice())
                .unwrap_or_default()
        };
        let theirs = of(&restore.from);
        let wanted = match &restore.snapshot {
            None => theirs.last(),
            Some(name) => theirs.iter().find(|s| is_named(s, name)),
        };
        let Some(wanted) = wanted.cloned() else {
            let name = restore.snapshot.as_deref().unwrap_or("any");
            let hint = meant(name, theirs.iter().map(|s| called(&s.name)));
            let hint = hint.map_or_else(String::new, |name| format!("; did you mean '{name}'?"));
            let message = format!(
                "the copy of volume '{}' on {} has no snapshot '{name}'{hint}",
                known.name, restore.from
            );
            return Err(Refusal::Agent(ErrorBody::new(ErrorCode::NotFound, message)));
        };
        let here = of(&known.node).iter().find(|s| s.guid == wanted.guid);
        if let (None, Some(here)) = (&restore.name, here) {
            // Nothing needs to be sent.
            let to = here.name.clone();
            return self.roll_back(known, to, restore.stop_app, by).await;
        }
        let context = self.context();
        let errand = context
            .errands
            .begin(Self::about(known, "restore", by), &context.clock);
        let (control, known, by) = (Arc::clone(self), known.clone(), by.to_owned());
        let (running, telling) = (errand.clone(), errand.clone());
        let restore = Restore {
            snapshot: Some(wanted.name),
            ..restore
        };
        self.spawn(async move {
            let bringing = control.bring(&known, restore, &by, &telling);
            running.run(async { bringing.await.map_err(body) }).await;
        });
        answered(&errand).await
    }

    /// Brings a snapshot of another node here as a volume of its own, and makes it the volume's
    /// state unless it is to stay one.
    async fn bring(
        &self,
        known: &Known,
        restore: Restore,
        by: &str,
        errand: &Errand,
    ) -> Result<Value, Refusal> {
        let wanted = Wanted {
            node: None,
            snapshot: restore.snapshot,
            since: None,
            by: by.to_owned(),
        };
        let archive = self.archive_of(known, &restore.from, &wanted).await?;
        let pieces = relay(archive, Some(errand.clone()));
        let name = match &restore.name {
            Some(name) => name.clone(),
            None => temporary_name(known)?,
        };
        let (id, job) = self.take_new(&known.node, &name, by, pieces).await?;
        if restore.name.is_some() {
            self.look_at([&known.node]).await;
            return Ok(job.job.result);
        }
        let replaced = self
            .alone(known, by, Work::Replace { with: id }, errand)
            .await;
        if replaced.is_err() {
            // It is of no use to anybody.
            let order = Order {
                volume: id,
                epoch: flocker_api::volume::Epoch(1),
                by: by.to_owned(),
                work: Work::Destroy,
            };
            if let Err(error) = self.through(&known.node, order).await {
                tracing::warn!(volume = %name, %error, "what was brought stays");
                return replaced;
            }
        }
        let forget = vec![crate::logic::state::Change::DropVolume { id }];
        self.context().ledger.commit(forget).await?;
        self.look_at([&known.node]).await;
        replaced
    }
}

/// The errand; what failed at once is an error.
async fn answered(errand: &Errand) -> Result<NodeJob, Refusal> {
    let job = errand.ended(WAIT).await;
    match &job.job.error {
        Some(error) => Err(Refusal::Agent(error.clone())),
        None => Ok(job),
    }
}

fn temporary_name(known: &Known) -> Result<VolumeName, Refusal> {
    let name = format!("restoring-{}", known.id);
    name.parse()
        .map_err(|error| Refusal::Malformed(format!("'{name}': {error}")))
}
