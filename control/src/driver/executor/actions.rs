//! What each action of a move asks of the agents. Each can be repeated.

use std::time::Duration;

use flocker_api::{
    ErrorBody, ErrorCode,
    agent::{NodeStatus, PreflightRequest, ReplicateReply, ReplicateRequest, StartReply},
    app::App,
    container::ContainerState,
    control::{MoveStep, RoundStatus},
    name::{NodeName, VolumeId},
    volume::{Epoch, Role},
};
use futures_util::future::{join, join_all, try_join_all};
use tokio::time::Instant;

use super::{Executor, Outcome};
use crate::logic::{
    convergence::{Round, Verdict, judge},
    migration::{Action, Entry, Facts, Move, NodeAddresses},
    saga::Event,
};

impl Executor<'_> {
    pub(super) async fn act(&self, the_move: &Move, action: Action) -> Result<Outcome, ErrorBody> {
        match action {
            Action::CheckBothSides => self.check_both_sides(the_move).await,
            Action::CopyAhead => self.copy_ahead(the_move).await,
            Action::PrepareTarget => self.prepare_target(the_move).await,
            Action::PauseRoutes => self.pause_routes(the_move).await,
            Action::StopSource => self.stop_source(the_move).await,
            Action::SendFinalDelta => self.send_final_delta(the_move).await,
            // Its compare-and-set is part of the commit that records it.
            Action::SwapPrimary => Ok(Outcome::default()),
            Action::PromoteTarget => self.promote_target(the_move).await,
            Action::StartTarget => {
                let header = the_move.header();
                let reply = self
                    .start(&header.app, &header.to, the_move.next_epoch())
                    .await?;
                Ok(started(&reply))
            }
            Action::SwitchRoutes => self.switch_routes(the_move).await,
            Action::TidySource => Ok(self.tidy_source(the_move).await),
            Action::RemoveAtTarget => Ok(self.remove_at_target(the_move).await),
            Action::ResumeRoutes => {
                let header = the_move.header();
                self.start(&header.app, &header.from, header.epoch).await?;
                Ok(self.resume_routes(the_move).await)
            }
            Action::StartSource => {
                let header = the_move.header();
                self.start(&header.app, &header.from, header.epoch).await?;
                Ok(Outcome::said(format!("runs on {} again", header.from)))
            }
        }
    }

    /// Everything that can be known to fail, before anything changes.
    async fn check_both_sides(&self, the_move: &Move) -> Result<Outcome, ErrorBody> {
        let header = the_move.header();
        let peers = &self.context.peers;
        let (source, target) = join(
            peers.node_status(&header.from),
            peers.node_status(&header.to),
        )
        .await;
        let (source, target) = (source?, target?);
        let mut problems = source_problems(the_move, &source);
        for problem in [&target.storage.problem, &target.runtime.problem] {
            let on_target = |problem: &String| format!("node {}: {problem}", header.to);
            problems.extend(problem.as_ref().map(on_target));
        }
        let request = PreflightRequest {
            container: header.app.container.clone(),
            volume_bytes: volumes_of(&source, &header.app)
                .map(|volume| volume.used_bytes)
                .sum(),
            epoch: header.epoch,
            look_only: false,
        };
        let (reply, edges) = join(
            peers.preflight(&header.to, &request),
            self.edge_problems(the_move),
        )
        .await;
        problems.extend(reply?.problems);
        problems.extend(edges);
        if !problems.is_empty() {
            return Err(ErrorBody::new(ErrorCode::Precondition, problems.join("; ")));
        }
        let facts = Facts {
            source: Some(addresses(&source)),
            target: Some(addresses(&target)),
            ..Facts::default()
        };
        Ok(Outcome {
            detail: format!("{} and {} edges are ready", header.to, peers.edges().len()),
            facts,
        })
    }

    /// Sends the volumes while the app serves, until the last delta is small.
    async fn copy_ahead(&self, the_move: &Move) -> Result<Outcome, ErrorBody> {
        let policy = &the_move.header().app.move_policy;
        if the_move.header().app.container.volumes.is_empty() {
            return Ok(Outcome::said("no volumes"));
        }
        let mut rounds = Vec::<Round>::new();
        let mut last_started = None;
        loop {
            let started = Instant::now();
            let status = self.round(the_move, rounds.len() + 1).await?;
            rounds.push(Round {
                bytes: status.bytes,
                took: started.elapsed(),
                since_last: last_started.map(|last| started - last),
            });
            last_started = Some(started);
            let detail = describe(rounds.len(), &status);
            self.note(MoveStep::Precopy, &detail, one_round(status))
                .await?;
            match judge(&rounds, policy) {
                Verdict::Again => {}
                Verdict::Enough { estimate } => {
                    let detail = format!(
                        "{} rounds, the last delta will take about {} ms",
                        rounds.len(),
                        estimate.as_millis()
                    );
                    return Ok(Outcome::said(detail));
                }
                Verdict::GiveUp { estimate } => {
                    return Err(writes_too_fast(the_move, rounds.len(), estimate));
                }
            }
        }
    }

    /// One round: all volumes at once, their progress shown.
    async fn round(&self, the_move: &Move, number: usize) -> Result<RoundStatus, ErrorBody> {
        let header = the_move.header();
        let sent = self.replicate(the_move, Direction::ToTarget);
        tokio::pin!(sent);
        loop {
            tokio::select! {
                replies = &mut sent => return Ok(sum(&replies?)),
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
            let volumes = header.app.container.volumes.iter();
            let asked = volumes.map(|mount| self.context.peers.volume(&header.from, mount.volume));
            let transfers = join_all(asked).await.into_iter().flatten();
            let bytes: u64 = transfers
                .filter_map(|volume| volume.transfer)
                .map(|t| t.bytes)
                .sum();
            let detail = format!("round {number}, {} sent so far", mebibytes(bytes));
            self.context.progress.doing(self.id, detail);
        }
    }

    /// Makes the container at the target and runs the pre-stop hook; then one more round, so
    /// that what both took does not become part of the pause.
    async fn prepare_target(&self, the_move: &Move) -> Result<Outcome, ErrorBody> {
        let header = the_move.header();
        let (peers, spec) = (&self.context.peers, &header.app.container);
        let hook = async {
            match spec.pre_stop {
                Some(_) => peers
                    .pre_stop(&header.from, &spec.app, header.epoch)
                    .await
                    .map(drop),
                None => Ok(()),
            }
        };
        let make = peers.create_container(&header.to, spec, the_move.next_epoch());
        let (made, hooked) = join(make, hook).await;
        made?;
        hooked?;
        let mut detail = format!("container made on {}", header.to);
        if spec.pre_stop.is_some() {
            detail.push_str(", pre-stop hook run");
        }
        if spec.volumes.is_empty() {
            return Ok(Outcome::said(detail));
        }
        let number = the_move.facts().rounds.len() + 1;
        let status = self.round(the_move, number).await?;
        detail.push_str(", ");
        detail.push_str(&describe(number, &status));
        Ok(Outcome {
            detail,
            facts: one_round(status),
        })
    }

    async fn stop_source(&self, the_move: &Move) -> Result<Outcome, ErrorBody> {
        let header = the_move.header();
        let spec = &header.app.container;
        let reply = self
            .context
            .peers
            .stop(&header.from, spec, header.epoch)
            .await?;
        let detail = match (reply.killed, reply.exit_code) {
            (true, _) => format!("killed after its grace of {} ms", spec.stop.grace_ms),
            (false, Some(code)) => format!("exited with {code}"),
            (false, None) => "gone, its exit code is not known".to_owned(),
        };
        let facts = Facts {
            app_stop_ms: Some(milliseconds(reply.stopped_us)),
            ..Facts::default()
        };
        Ok(Outcome { detail, facts })
    }

    async fn send_final_delta(&self, the_move: &Move) -> Result<Outcome, ErrorBody> {
        let status = sum(&self.replicate(the_move, Direction::ToTarget).await?);
        let detail = format!(
            "{} in {:.0} ms",
            mebibytes(status.bytes),
            status.snapshot_ms + status.transfer_ms
        );
        let facts = Facts {
            final_delta: Some(status),
            ..Facts::default()
        };
        Ok(Outcome { detail, facts })
    }

    async fn promote_target(&self, the_move: &Move) -> Result<Outcome, ErrorBody> {
        let header = the_move.header();
        let epoch = the_move.next_epoch();
        self.promote(&header.app, &header.to, epoch).await?;
        Ok(Outcome::said(format!("epoch {epoch}")))
    }

    async fn promote(&self, app: &App, node: &NodeName, epoch: Epoch) -> Result<(), ErrorBody> {
        let volumes = app.container.volumes.iter();
        let promoted = volumes.map(|mount| self.context.peers.promote(node, mount.volume, epoch));
        try_join_all(promoted).await.map(drop)
    }

    /// Starts a container. What a restart of the node has undone since it was prepared, a
    /// mount or the container itself, is done again first.
    async fn start(
        &self,
        app: &App,
        node: &NodeName,
        epoch: Epoch,
    ) -> Result<StartReply, ErrorBody> {
        let (peers, spec) = (&self.context.peers, &app.container);
        let first = match peers.start(node, spec, epoch).await {
            Ok(reply) => return Ok(reply),
            Err(error) => error,
        };
        match first.code {
            ErrorCode::NotPrimary => self.promote(app, node, epoch).await?,
            ErrorCode::NotFound => {
                peers.create_container(node, spec, epoch).await.map(drop)?;
            }
            _ => return Err(first),
        }
        peers.start(node, spec, epoch).await
    }

    /// The old side becomes a replica. What does not work here is left to the reconciler,
    /// which sees it and does the same: the app serves, and the move is over.
    async fn tidy_source(&self, the_move: &Move) -> Outcome {
        let header = the_move.header();
        let epoch = the_move.next_epoch();
        let peers = &self.context.peers;
        let old_side = async {
            peers
                .remove_container(&header.from, header.app.name(), epoch)
                .await?;
            let volumes = header.app.container.volumes.iter();
            let demoted = volumes.map(|mount| peers.demote(&header.from, mount.volume, epoch));
            try_join_all(demoted).await
        };
        if let Err(error) = old_side.await {
            return Outcome::said(format!(
                "left to the reconciler: {} on {}: {}",
                header.app.name(),
                header.from,
                error.message
            ));
        }
        match self.replicate(the_move, Direction::ToSource).await {
            Ok(_) => Outcome::said(format!("the copy on {} is a replica now", header.from)),
            Err(error) => Outcome::said(format!(
                "the copy on {} is a replica that lags behind: {}",
                header.from, error.message
            )),
        }
    }

    /// A container that cannot be removed now is removed by the reconciler when it is seen.
    async fn remove_at_target(&self, the_move: &Move) -> Outcome {
        let header = the_move.header();
        let peers = &self.context.peers;
        let removed = peers.remove_container(&header.to, header.app.name(), the_move.next_epoch());
        match removed.await {
            Ok(_) => Outcome::said(format!("removed on {}", header.to)),
            Err(error) => Outcome::said(format!("left to the reconciler: {}", error.message)),
        }
    }

    async fn replicate(
        &self,
        the_move: &Move,
        direction: Direction,
    ) -> Result<Vec<ReplicateReply>, ErrorBody> {
        let header = the_move.header();
        let (sender, receiver, address, epoch) = match direction {
            Direction::ToTarget => (
                &header.from,
                &header.to,
                the_move.facts().target,
                header.epoch,
            ),
            Direction::ToSource => (
                &header.to,
                &header.from,
                the_move.facts().source,
                the_move.next_epoch(),
            ),
        };
        let Some(address) = address else {
            let message = format!("the replication address of {receiver} is not known");
            return Err(ErrorBody::new(ErrorCode::Internal, message));
        };
        let request = ReplicateRequest {
            peer: receiver.clone(),
            to: address.replication,
            epoch,
        };
        let volumes = header.app.container.volumes.iter();
        let sent =
            volumes.map(|mount| self.context.peers.replicate(sender, mount.volume, &request));
        try_join_all(sent).await
    }

    /// Records something that a running step found.
    pub(super) async fn note(
        &self,
        step: MoveStep,
        detail: &str,
        facts: Facts,
    ) -> Result<(), ErrorBody> {
        let entry = Entry::new(self.now_ms(), step, Event::Noted).with(detail, facts);
        let noted = self.record(entry).await;
        noted.map_err(|error| ErrorBody::from_error(ErrorCode::Internal, &error))?;
        self.context.progress.doing(self.id, detail);
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    ToTarget,
    ToSource,
}

/// What is not as a move needs it at the source.
fn source_problems(the_move: &Move, source: &NodeStatus) -> Vec<String> {
    let header = the_move.header();
    let (app, node) = (header.app.name(), &header.from);
    let mut problems = Vec::new();
    for mount in &header.app.container.volumes {
        let found = source
            .volumes
            .iter()
            .find(|volume| volume.id == mount.volume);
        match found {
            None => problems.push(format!("volume '{}' is not on node {node}", mount.name)),
            Some(volume) if volume.role != Role::Primary || volume.epoch != header.epoch => {
                problems.push(format!(
                    "volume '{}' on node {node} is {} at epoch {}, not primary at epoch {}",
                    mount.name, volume.role, volume.epoch, header.epoch
                ));
            }
            Some(_) => {}
        }
    }
    let container = source
        .containers
        .iter()
        .find(|container| container.app == *app);
    if !container.is_some_and(|container| container.state == ContainerState::Running) {
        problems.push(format!("app '{app}' does not run on node {node}"));
    }
    problems
}

fn volumes_of<'a>(
    node: &'a NodeStatus,
    app: &'a App,
) -> impl Iterator<Item = &'a flocker_api::volume::VolumeStatus> {
    let wanted = |id: VolumeId| app.container.volumes.iter().any(|mount| mount.volume == id);
    node.volumes.iter().filter(move |volume| wanted(volume.id))
}

fn addresses(node: &NodeStatus) -> NodeAddresses {
    NodeAddresses {
        apps: node.address,
        replication: node.replication,
    }
}

fn started(reply: &StartReply) -> Outcome {
    let ready_ms = milliseconds(reply.ready_us);
    Outcome {
        detail: format!("ready after {ready_ms:.0} ms"),
        facts: Facts {
            app_start_ms: Some(ready_ms),
            ..Facts::default()
        },
    }
}

/// The volumes of a round went side by side: bytes add up, of the times the longest counts.
fn sum(replies: &[ReplicateReply]) -> RoundStatus {
    let longest = |time: fn(&ReplicateReply) -> u64| {
        milliseconds(replies.iter().map(time).max().unwrap_or(0))
    };
    RoundStatus {
        bytes: replies.iter().map(|reply| reply.bytes).sum(),
        snapshot_ms: longest(|reply| reply.snapshot_us),
        transfer_ms: longest(|reply| reply.transfer_us),
        full: replies.iter().any(|reply| reply.full),
    }
}

fn one_round(status: RoundStatus) -> Facts {
    Facts {
        rounds: vec![status],
        ..Facts::default()
    }
}

fn describe(number: usize, round: &RoundStatus) -> String {
    let took = round.snapshot_ms + round.transfer_ms;
    format!("round {number}, {} in {took:.0} ms", mebibytes(round.bytes))
}

fn writes_too_fast(the_move: &Move, rounds: usize, estimate: Duration) -> ErrorBody {
    let header = the_move.header();
    let message = format!(
        "after {rounds} rounds the last delta of app '{}' to node {} would still take about {} \
         ms, above move.final_delta_max of {} ms: it writes faster than can be sent; try again \
         when it writes less, or raise the limit",
        header.app.name(),
        header.to,
        estimate.as_millis(),
        header.app.move_policy.final_delta_ms_max
    );
    ErrorBody::new(ErrorCode::Busy, message)
}

fn milliseconds(microseconds: u64) -> f64 {
    Duration::from_micros(microseconds).as_secs_f64() * 1e3
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
