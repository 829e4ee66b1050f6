//! Questions about moves beside the moves themselves: what one would take, and giving one up.

use flocker_api::{
    agent::PreflightRequest,
    control::{MoveRequest, MoveStatus},
    explain::MoveExplanation,
    name::MoveId,
};

use super::{control::Control, executor};
use crate::{
    error::Refusal,
    logic::{
        explain::{self, Known},
        links,
        reconcile::Seen,
        state::State,
    },
};

impl Control {
    /// Gives a move up: it is undone from where it is. Answers once that is written down.
    ///
    /// # Errors
    /// There is none of this identity, it is over, or it is past its pivot.
    pub async fn abort_move(&self, id: MoveId) -> Result<MoveStatus, Refusal> {
        let context = self.context();
        let now_ms = context.clock.now_ms();
        let decide = |state: &State| {
            let the_move = state.moves.get(&id).ok_or(Refusal::UnknownMove(id))?;
            let header = the_move.header();
            let app = header.app.name().clone();
            if the_move.is_ended() {
                return Err(Refusal::MoveEnded { id, app });
            }
            if the_move.saga().is_past_pivot() {
                let to = header.to.clone();
                return Err(Refusal::PastPivot { id, app, to });
            }
            let entry = the_move.abort(now_ms);
            Ok(executor::journal(the_move, entry.into_iter().collect()).collect())
        };
        let state = context.ledger.transact(decide).await?;
        context.progress.advanced(id);
        let the_move = state.moves.get(&id).ok_or(Refusal::UnknownMove(id))?;
        Ok(self.show(the_move))
    }

    /// Says what a move would do and take. Changes nothing.
    ///
    /// # Errors
    /// There is no such app or node, or the app is there already.
    pub async fn explain_move(&self, request: &MoveRequest) -> Result<MoveExplanation, Refusal> {
        let context = self.context();
        let state = context.ledger.state();
        let (name, to) = (&request.app, &request.to);
        let from = self.check_move(&state, name, to)?;
        let (Some(record), Some(primary)) = (state.apps.get(name), state.primaries.get(name))
        else {
            return Err(Refusal::UnknownApp(name.clone()));
        };
        let app = links::with_links(&state, &record.app);
        let observed = context.observations.current();
        let source = observed.nodes.get(&from).and_then(Seen::ok);
        let volumes = source.iter().flat_map(|node| &node.volumes);
        let ours = volumes.filter(|volume| {
            let mut mounts = app.container.volumes.iter();
            mounts.any(|mount| mount.volume == volume.id)
        });
        let request = PreflightRequest {
            container: app.container.clone(),
            volume_bytes: ours.map(|volume| volume.used_bytes).sum(),
            epoch: primary.epoch,
            look_only: true,
        };
        let problems = match context.peers.preflight(to, &request).await {
            Ok(reply) => reply.problems,
            Err(error) => vec![error.message],
        };
        Ok(explain::explain(Known {
            app: &app,
            from: &from,
            to,
            source,
            moves: &self.moves(),
            edges: context.peers.edges().len(),
            problems,
        }))
    }
}
