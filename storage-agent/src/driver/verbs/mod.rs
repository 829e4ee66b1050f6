//! What operators do with the volumes of a node: the verbs of `flocker_api::work`, each under the
//! same lock as everything else that is done with a volume.
//!
//! | module | duty |
//! | --- | --- |
//! | `simple` | snapshots, limits, clones |
//! | `turn` | rollback and restore, and what they would lose |
//! | `archive` | volumes to a file or a pipe, and back |
//! | `trash` | destruction with a grace |
//! | `scan` | a tree of files as sums |
//! | `digest` | what is in a snapshot, read at low priority |

pub(crate) mod archive;
mod digest;
mod scan;
mod simple;
pub(crate) mod trash;
mod turn;

use flocker_api::{
    ErrorBody, ErrorCode,
    work::{JobRequest, Work},
};
use serde::Serialize;
use serde_json::Value;

use super::{containers::Containers, jobs::Job, volumes::Volumes};

/// Does what a job is for, once nobody is in its way.
pub(crate) async fn run(
    containers: Containers,
    request: JobRequest,
    job: Job,
) -> Result<Value, ErrorBody> {
    let (_, _, _, _, volumes) = containers.parts();
    let (id, epoch) = (request.volume, request.epoch);
    match request.work {
        Work::Clone { .. } => containers.fence().permit()?,
        Work::RollBack { .. } | Work::Replace { .. } => {
            containers.fence().permit()?;
            let work = volumes.carry_out(request, &job);
            return containers.without_users(id, epoch, work).await;
        }
        Work::Trash { .. } | Work::Destroy => {
            let work = volumes.carry_out(request, &job);
            return containers.without_users(id, epoch, work).await;
        }
        _ => {}
    }
    volumes.carry_out(request, &job).await
}

impl Volumes {
    /// Does what operators ask for, as no job: whether an app uses the volume is not looked at.
    ///
    /// # Errors
    /// Those of the verb.
    pub async fn work(&self, request: JobRequest) -> Result<Value, ErrorBody> {
        let job = Job::of(&request);
        self.carry_out(request, &job).await
    }

    async fn carry_out(&self, request: JobRequest, job: &Job) -> Result<Value, ErrorBody> {
        let (id, epoch) = (request.volume, request.epoch);
        match request.work {
            Work::Snapshot { name } => value(self.operator_snapshot(id, epoch, &name).await?),
            Work::DestroySnapshot { name } => value(self.remove_snapshot(id, epoch, &name).await?),
            Work::Resize { size_bytes } => value(self.resize(id, epoch, size_bytes).await?),
            Work::Clone {
                from,
                id: new,
                name,
            } => {
                let cloned = self.clone_volume(id, epoch, from.as_deref(), new, name);
                value(cloned.await?)
            }
            Work::Preview { to } => value(self.preview(id, epoch, &to, job).await?),
            Work::RollBack { to } => value(self.turn_back(id, epoch, &to, job).await?),
            Work::Replace { with } => value(self.replace(id, epoch, with, job).await?),
            Work::Trash { grace_ms } => value(self.trash(id, epoch, grace_ms, job).await?),
            Work::Undelete { name } => value(self.undelete(id, epoch, name).await?),
            Work::Destroy => value(self.purge(id, epoch).await?),
            Work::Digest {
                guid,
                sample,
                seed,
                list,
            } => value(self.digest(id, guid, sample, seed, &list, job).await?),
        }
    }
}

fn value<T: Serialize>(answer: T) -> Result<Value, ErrorBody> {
    serde_json::to_value(answer).map_err(|error| {
        let message = format!("the answer cannot be written: {error}");
        ErrorBody::new(ErrorCode::Internal, message)
    })
}
