//! Archives through control: from the node that has a copy to whoever asks, from whoever has one
//! to a node, and from node to node. Control passes pieces on and keeps none.

use std::io;

use flocker_api::{
    ErrorBody,
    name::{JobId, NodeName, VolumeId, VolumeName},
    stream::{Download, Pieces},
    volume::Epoch,
    work::{JobProgress, JobStatus, NodeJob},
};
use tokio::sync::mpsc;

use super::{Errand, Known, find};
use crate::{
    driver::control::Control,
    error::Refusal,
    logic::{
        state::{Change, State},
        volumes::VolumeRecord,
    },
};

/// Pieces that wait between a node that sends and one that receives.
const QUEUE: usize = 4;

/// What an archive is to be of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) node: Option<NodeName>,
    pub(crate) snapshot: Option<String>,
    pub(crate) since: Option<String>,
    pub(crate) by: String,
}

/// A text as a part of a query (RFC 3986, section 2.1).
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

impl Control {
    /// An archive of a volume, as it is made.
    ///
    /// # Errors
    /// When there is no such volume, or the node refuses.
    pub(crate) async fn send_archive(
        &self,
        name: &VolumeName,
        wanted: &Wanted,
    ) -> Result<Download, Refusal> {
        let known = self.known_volume(name)?;
        let node = wanted.node.as_ref().unwrap_or(&known.node);
        self.check_node(node)?;
        self.archive_of(&known, node, wanted).await
    }

    pub(super) async fn archive_of(
        &self,
        known: &Known,
        node: &NodeName,
        wanted: &Wanted,
    ) -> Result<Download, Refusal> {
        let mut path = format!(
            "/v1/volumes/{}/archive?job={}&by={}",
            known.id,
            JobId::random(),
            encoded(&wanted.by)
        );
        for (key, value) in [("snapshot", &wanted.snapshot), ("since", &wanted.since)] {
            if let Some(value) = value {
                path.push_str(&format!("&{key}={}", encoded(value)));
            }
        }
        let download = self.context().peers.download(node, path).await;
        download.map_err(Refusal::Agent)
    }

    /// Takes an archive into a new volume at a node, or an increment into one that is there.
    ///
    /// # Errors
    /// When the name is taken by what an app declares, or the node refuses.
    pub(crate) async fn receive_archive(
        &self,
        name: &VolumeName,
        node: Option<&NodeName>,
        by: &str,
        pieces: Pieces,
    ) -> Result<NodeJob, Refusal> {
        let state = self.context().ledger.state();
        if let Some(known) = find(&state, name) {
            if let Some((app, _)) = known.app {
                return Err(Refusal::VolumeInUse {
                    volume: name.clone(),
                    app,
                    what: "receive it as another one",
                });
            }
            if let Some(node) = node.filter(|node| **node != known.node) {
                tracing::debug!(%node, "an increment goes where its base is");
                return Err(Refusal::VolumeExists {
                    name: name.clone(),
                    node: known.node,
                });
            }
            let job = self.take_at(&known.node, known.id, name, known.epoch, by, pieces);
            return job.await;
        }
        let nodes = &self.context().topology.nodes;
        let node = match (node, nodes.keys().next()) {
            (Some(node), _) => node.clone(),
            (None, Some(only)) if nodes.len() == 1 => only.clone(),
            (None, _) => {
                let message = "say on which node the new volume shall be (node)";
                return Err(Refusal::Malformed(message.to_owned()));
            }
        };
        self.check_node(&node)?;
        self.take_new(&node, name, by, pieces)
            .await
            .map(|(_, job)| job)
    }

    /// Takes an archive into a new volume that belongs to no app.
    pub(super) async fn take_new(
        &self,
        node: &NodeName,
        name: &VolumeName,
        by: &str,
        pieces: Pieces,
    ) -> Result<(VolumeId, NodeJob), Refusal> {
        let record = VolumeRecord {
            id: VolumeId::random(),
            name: name.clone(),
            node: node.clone(),
            epoch: Epoch(1),
            size_bytes: None,
            replication: None,
            trashed_until_ms: None,
        };
        let id = record.id;
        self.put_new(record).await?;
        let job = self.take_at(node, id, name, Epoch(1), by, pieces).await;
        match job {
            Ok(job) => Ok((id, job)),
            Err(error) => {
                let drop_it = |_: &State| Ok::<_, Refusal>(vec![Change::DropVolume { id }]);
                self.context().ledger.transact(drop_it).await?;
                Err(error)
            }
        }
    }

    async fn take_at(
        &self,
        node: &NodeName,
        id: VolumeId,
        name: &VolumeName,
        epoch: Epoch,
        by: &str,
        pieces: Pieces,
    ) -> Result<NodeJob, Refusal> {
        let (job, by) = (JobId::random(), encoded(by));
        let path = format!("/v1/archives?job={job}&by={by}&volume={id}&name={name}&epoch={epoch}");
        let uploaded = self.context().peers.upload(node, path, pieces).await;
        let job: JobStatus = uploaded.map_err(Refusal::Agent)?;
        match job.error {
            Some(error) => Err(Refusal::Agent(error)),
            None => Ok(NodeJob {
                node: node.clone(),
                job,
            }),
        }
    }
}

/// Passes an archive on, and tells how far it is.
pub(super) fn relay(mut from: Download, errand: Option<Errand>) -> Pieces {
    let (sender, pieces) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut bytes = 0;
        let begun = tokio::time::Instant::now();
        loop {
            let piece = match from.next().await {
                Ok(Some(piece)) => Ok(piece),
                Ok(None) => return,
                Err(error) => Err(io::Error::other(error)),
            };
            let broken = piece.is_err();
            bytes += piece.as_ref().map_or(0, |piece| piece.len() as u64);
            if let Some(errand) = &errand {
                let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                errand.progress(Some(JobProgress {
                    bytes,
                    bytes_expected: None,
                    bytes_per_second: bytes.saturating_mul(1_000) / ms.max(1),
                    eta_ms: None,
                }));
            }
            if sender.send(piece).await.is_err() || broken {
                return;
            }
        }
    });
    pieces
}

/// What went wrong, for an errand.
pub(super) fn body(refusal: Refusal) -> ErrorBody {
    refusal.into()
}
