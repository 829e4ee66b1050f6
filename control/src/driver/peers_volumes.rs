//! The agents' verbs for operators, typed: jobs, snapshots, the trash.

use std::time::Duration;

use flocker_api::{
    ErrorBody, ErrorCode,
    name::{JobId, NodeName, VolumeId},
    stream::{Download, Pieces},
    work::{JobRequest, JobStatus, SnapshotDetail, Trashed},
};

use super::peers::{Method, Peers, agent};

type Answer<T> = Result<T, ErrorBody>;

impl Peers {
    /// Begins a job, and waits for its end for a while.
    ///
    /// # Errors
    /// The agent's, or why there is no answer; so for all methods.
    pub async fn begin_job(
        &self,
        node: &NodeName,
        request: &JobRequest,
        wait: Duration,
    ) -> Answer<JobStatus> {
        let path = format!("/v1/jobs?wait_ms={}", wait.as_millis());
        let deadline = wait + self.limits.work;
        self.post(agent(node), path, request, deadline).await
    }

    /// A job, once it has ended or after a while.
    ///
    /// # Errors
    /// As [`Self::begin_job`].
    pub async fn job(&self, node: &NodeName, id: JobId, wait: Duration) -> Answer<JobStatus> {
        let path = format!("/v1/jobs/{id}?wait_ms={}", wait.as_millis());
        let deadline = wait + self.limits.call;
        self.send(agent(node), Method::Get, path, &(), deadline)
            .await
    }

    /// All jobs of a node, newest first.
    ///
    /// # Errors
    /// As [`Self::begin_job`].
    pub async fn jobs(&self, node: &NodeName) -> Answer<Vec<JobStatus>> {
        self.ask(agent(node), "/v1/jobs").await
    }

    /// Tells a job to end.
    ///
    /// # Errors
    /// As [`Self::begin_job`].
    pub async fn cancel_job(&self, node: &NodeName, id: JobId) -> Answer<JobStatus> {
        let path = format!("/v1/jobs/{id}");
        self.send(agent(node), Method::Delete, path, &(), self.limits.work)
            .await
    }

    /// The snapshots of a node's copy.
    ///
    /// # Errors
    /// As [`Self::begin_job`].
    pub async fn snapshots(&self, node: &NodeName, id: VolumeId) -> Answer<Vec<SnapshotDetail>> {
        let path = format!("/v1/volumes/{id}/snapshots");
        self.send(agent(node), Method::Get, path, &(), self.limits.work)
            .await
    }

    /// Asks a node for an archive, which has to begin soon.
    ///
    /// # Errors
    /// As [`Self::begin_job`].
    pub async fn download(&self, node: &NodeName, path: String) -> Answer<Download> {
        let deadline = self.limits.work;
        self.wire.download(agent(node), path, deadline).await
    }

    /// Sends a node an archive, as long as that takes.
    ///
    /// # Errors
    /// As [`Self::begin_job`].
    pub async fn upload(&self, node: &NodeName, path: String, pieces: Pieces) -> Answer<JobStatus> {
        let answer = self.wire.upload(agent(node), path, pieces).await?;
        serde_json::from_value(answer).map_err(|error| {
            let message = format!("cannot read what node {node} answered: {error}");
            ErrorBody::new(ErrorCode::Internal, message)
        })
    }

    /// What is in a node's trash.
    ///
    /// # Errors
    /// As [`Self::begin_job`].
    pub async fn trash(&self, node: &NodeName) -> Answer<Vec<Trashed>> {
        self.ask(agent(node), "/v1/trash").await
    }
}
