//! What each action of a move asks of the edges: all of them at once, each acknowledged.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use flocker_api::{
    ErrorBody, ErrorCode,
    app::{AppRoute, OnBusy},
    control::{EdgeOutcome, MoveStep},
    gate::{
        HoldLimits, HoldReport, PauseRequest, QuiesceReply, QuiesceRequest, ResumeReply,
        ResumeRequest, Retarget, SwitchRequest, Token,
    },
    name::EdgeName,
    route::{Operation, RouteKey, Transaction},
};
use futures_util::future::join_all;

use super::{Executor, Outcome};
use crate::{
    driver::peers::Peers,
    logic::{
        migration::{Facts, Hold, Move},
        reconcile::wanted,
    },
};

impl Executor<'_> {
    /// What stands against pausing the app's routes.
    pub(super) async fn edge_problems(&self, the_move: &Move) -> Vec<String> {
        let peers = &self.context.peers;
        let asked = peers.on_all_edges(|edge| async move {
            let keys = self.keys_at(&edge, the_move);
            let routes = keys.iter().map(|key| peers.route(&edge, key));
            join_all(routes)
                .await
                .into_iter()
                .collect::<Result<Vec<_>, _>>()
                .map(drop)
        });
        let failed = asked.await.into_iter().filter_map(|outcome| {
            let error = outcome.result.err()?;
            Some(format!("edge {}: {}", outcome.edge, error.message))
        });
        failed.collect()
    }

    /// The keys of the app's routes that an edge has: links only one edge of each node has.
    fn keys_at(&self, edge: &EdgeName, the_move: &Move) -> Vec<RouteKey> {
        let routes = self.routes_at(edge, the_move);
        routes.map(|route| route.key.clone()).collect()
    }

    fn routes_at<'m>(
        &self,
        edge: &EdgeName,
        the_move: &'m Move,
    ) -> impl Iterator<Item = &'m AppRoute> {
        let links = self.context.topology.provides_links(edge);
        let routes = the_move.header().app.routes.iter();
        routes.filter(move |route| links || !matches!(route.key, RouteKey::Link(_)))
    }

    /// Pauses the routes on all edges, then waits until nothing is in flight.
    pub(super) async fn pause_routes(&self, the_move: &Move) -> Result<Outcome, ErrorBody> {
        let app = &the_move.header().app;
        if app.routes.is_empty() {
            return Ok(Outcome::said("no routes"));
        }
        let mut token = token_of(the_move)?;
        let mut paused = self.pause_all(the_move, token).await;
        if let Some(newer) = newer_token(&paused) {
            token = self.newer_token(newer).await?;
            paused = self.pause_all(the_move, token).await;
        }
        let paused_at_ms = all(paused)?.into_iter().reduce(f64::min);
        let busy = self.quiesce_all(the_move, token).await?;
        let mut detail = format!("on {} edges", self.context.peers.edges().len());
        if !busy.is_empty() {
            if app.move_policy.on_busy == OnBusy::Abort {
                return Err(still_busy(the_move, &busy));
            }
            detail.push_str("; these will fail: ");
            detail.push_str(&busy.join(", "));
        }
        let facts = Facts {
            token: Some(token),
            paused_at_ms,
            ..Facts::default()
        };
        Ok(Outcome { detail, facts })
    }

    /// Answers when each edge was paused.
    async fn pause_all(&self, the_move: &Move, token: Token) -> Vec<EdgeOutcome<f64>> {
        let left = the_move
            .hold_ends_ms()
            .map_or(0.0, |ends| ends - self.now_ms());
        let hold = Duration::try_from_secs_f64(left / 1e3).unwrap_or(Duration::ZERO);
        let request = |keys| PauseRequest {
            token: Some(token),
            keys,
            limits: HoldLimits {
                // What a crash of control has used up of the hold is not granted again.
                hold_ms: u64::try_from(hold.as_millis()).unwrap_or(u64::MAX).max(1),
                ..HoldLimits::default()
            },
        };
        let peers = &self.context.peers;
        let pause = |edge: EdgeName| async move {
            let keys = self.keys_at(&edge, the_move);
            if !keys.is_empty() {
                peers.pause(&edge, &request(keys)).await?;
            }
            Ok(self.now_ms())
        };
        peers.on_all_edges(pause).await
    }

    /// Draws a token newer than the one that an edge knows, and remembers it before its use.
    async fn newer_token(&self, newer: Token) -> Result<Token, ErrorBody> {
        let drawn = self.context.ledger.draw_token(newer).await;
        let token = drawn.map_err(|error| ErrorBody::from_error(ErrorCode::Internal, &error))?;
        let facts = Facts {
            token: Some(token),
            ..Facts::default()
        };
        self.note(MoveStep::Pause, "an edge knew a newer token", facts)
            .await?;
        Ok(token)
    }

    /// Waits until nothing is in flight on any edge; answers with what still is when the
    /// policy's time has passed.
    async fn quiesce_all(&self, the_move: &Move, token: Token) -> Result<Vec<String>, ErrorBody> {
        let app = &the_move.header().app;
        let request = |keys| QuiesceRequest {
            token,
            keys,
            deadline_ms: app.move_policy.quiesce_ms,
        };
        let peers = &self.context.peers;
        let quiesced = peers.on_all_edges(|edge| async move {
            match self.keys_at(&edge, the_move) {
                keys if keys.is_empty() => Ok(QuiesceReply::Quiesced { closed: 0 }),
                keys => peers.quiesce(&edge, &request(keys)).await,
            }
        });
        let mut busy = Vec::new();
        for EdgeOutcome { edge, result } in quiesced.await {
            match result.map_err(|error| at_edge(&edge, error))? {
                QuiesceReply::Quiesced { .. } => {}
                QuiesceReply::Busy { in_flight } => busy.extend(
                    in_flight
                        .iter()
                        .map(|left| format!("{} on {} at edge {edge}", left.count, left.key)),
                ),
                QuiesceReply::Ended => {
                    let message =
                        format!("edge {edge}: the pause ended while it was being quiesced");
                    return Err(ErrorBody::new(ErrorCode::NotPaused, message));
                }
            }
        }
        Ok(busy)
    }

    /// Leads the routes of all edges to the target and lets the parked go. An edge that does
    /// not answer gets its routes from the reconciler; its pause lapses by itself.
    pub(super) async fn switch_routes(&self, the_move: &Move) -> Result<Outcome, ErrorBody> {
        if the_move.header().app.routes.is_empty() {
            return Ok(Outcome::said("no routes"));
        }
        let token = token_of(the_move)?;
        let target = target_of(the_move)?;
        let retarget = |route: &AppRoute| Retarget {
            key: route.key.clone(),
            upstreams: vec![SocketAddr::new(target, route.port).into()],
        };
        let peers = &self.context.peers;
        let switched = peers.on_all_edges(|edge| async move {
            let routes: Vec<_> = self.routes_at(&edge, the_move).collect();
            if routes.is_empty() {
                return Ok(None);
            }
            let request = &SwitchRequest {
                token,
                changes: routes.iter().copied().map(retarget).collect(),
                resume: true,
            };
            let mut switched = peers.switch(&edge, request).await;
            if switched
                .as_ref()
                .is_err_and(|error| error.code.is_transient())
            {
                switched = peers.switch(&edge, request).await;
            }
            match switched {
                Ok(reply) => Ok(Some(reply)),
                // The pause has lapsed, or the edge was started anew, or an earlier attempt
                // did it: what counts is where the routes lead.
                Err(error) if !error.code.is_transient() => {
                    lead_by_force(peers, &edge, &routes, target)
                        .await
                        .map(|()| None)
                }
                Err(error) => Err(error),
            }
        });
        Ok(self.hold_outcome(the_move, switched.await))
    }

    /// Lets the parked go to where the routes lead. A gate that is no longer ours is left
    /// alone; one that cannot be reached lapses by itself.
    pub(super) async fn resume_routes(&self, the_move: &Move) -> Outcome {
        let Some(token) = the_move.facts().token else {
            return Outcome::said("no routes");
        };
        let peers = &self.context.peers;
        let resumed = peers.on_all_edges(|edge| async move {
            let keys = self.keys_at(&edge, the_move);
            if keys.is_empty() {
                return Ok(None);
            }
            let request = &ResumeRequest { token, keys };
            match peers.resume(&edge, request).await {
                Ok(reply) => Ok(Some(reply)),
                Err(error) if error.code.is_transient() => {
                    peers.resume(&edge, request).await.map(Some)
                }
                Err(error) => match error.code {
                    ErrorCode::NotPaused | ErrorCode::NotFound | ErrorCode::StaleToken => Ok(None),
                    _ => Err(error),
                },
            }
        });
        self.hold_outcome(the_move, resumed.await)
    }

    fn hold_outcome(
        &self,
        the_move: &Move,
        outcomes: Vec<EdgeOutcome<Option<ResumeReply>>>,
    ) -> Outcome {
        let edges = outcomes.len();
        let mut reports = Vec::new();
        let mut missing = Vec::new();
        for EdgeOutcome { edge, result } in outcomes {
            match result {
                Ok(reply) => reports.extend(reply.into_iter().flat_map(|reply| reply.holds)),
                Err(error) => missing.push(format!("edge {edge}: {}", error.message)),
            }
        }
        let mut detail = format!("{} of {edges} edges", edges - missing.len());
        if !missing.is_empty() {
            detail.push_str("; the reconciler brings the routes later: ");
            detail.push_str(&missing.join("; "));
        }
        // An attempt after the one that counted has nothing to report.
        let hold = (!reports.is_empty())
            .then(|| sum(&reports))
            .or_else(|| the_move.facts().hold);
        Outcome {
            detail,
            facts: Facts {
                hold,
                ..Facts::default()
            },
        }
    }
}

fn token_of(the_move: &Move) -> Result<Token, ErrorBody> {
    let message = "the journal has no pause token";
    let token = the_move.facts().token;
    token.ok_or_else(|| ErrorBody::new(ErrorCode::Internal, message))
}

/// The address that the app has at the target.
fn target_of(the_move: &Move) -> Result<IpAddr, ErrorBody> {
    let unknown = || {
        let message = format!("the address of {} is not known", the_move.header().to);
        ErrorBody::new(ErrorCode::Internal, message)
    };
    let target = the_move.facts().target.as_ref();
    target.map(|target| target.apps).ok_or_else(unknown)
}

/// Leads routes of an edge to an address, whatever their gates are; options that the app does
/// not declare stay as they stand there.
async fn lead_by_force(
    peers: &Peers,
    edge: &EdgeName,
    routes: &[&AppRoute],
    address: IpAddr,
) -> Result<(), ErrorBody> {
    let mut operations = Vec::new();
    for route in routes {
        let found = match peers.route(edge, &route.key).await {
            Ok(found) => Some(found.route),
            Err(error) if error.code == ErrorCode::NotFound => None,
            Err(error) => return Err(error),
        };
        let route = wanted(route, address, found.as_ref());
        operations.push(Operation::Put { route });
    }
    let transaction = Transaction {
        against: None,
        operations,
    };
    peers.transact(edge, &transaction).await.map(drop)
}

/// The newest token that an edge has refused ours for.
fn newer_token(outcomes: &[EdgeOutcome<f64>]) -> Option<Token> {
    let errors = outcomes
        .iter()
        .filter_map(|outcome| outcome.result.as_ref().err());
    errors.filter_map(stale_token).max()
}

/// The token in the details of a `stale_token`.
pub(crate) fn stale_token(error: &ErrorBody) -> Option<Token> {
    if error.code != ErrorCode::StaleToken {
        return None;
    }
    let token = error.details.get("current")?;
    token.as_u64().map(Token)
}

fn all<T>(outcomes: Vec<EdgeOutcome<T>>) -> Result<Vec<T>, ErrorBody> {
    let results = outcomes.into_iter().map(|outcome| {
        let EdgeOutcome { edge, result } = outcome;
        result.map_err(|error| at_edge(&edge, error))
    });
    results.collect()
}

fn at_edge(edge: &EdgeName, mut error: ErrorBody) -> ErrorBody {
    error.message = format!("edge {edge}: {}", error.message);
    error
}

fn still_busy(the_move: &Move, busy: &[String]) -> ErrorBody {
    let policy = &the_move.header().app.move_policy;
    let message = format!(
        "after {} ms requests are still in flight: {}; try again, raise move.quiesce, or set \
         move.on_busy to proceed, which lets them fail",
        policy.quiesce_ms,
        busy.join(", ")
    );
    ErrorBody::new(ErrorCode::Busy, message)
}

fn sum(reports: &[HoldReport]) -> Hold {
    let longest = |time: fn(&HoldReport) -> u64| {
        let microseconds = reports.iter().map(time).max().unwrap_or(0);
        Duration::from_micros(microseconds).as_secs_f64() * 1e3
    };
    let total = |count: fn(&HoldReport) -> u64| reports.iter().map(count).sum();
    Hold {
        pause_ms: longest(|report| report.paused_us),
        longest_wait_ms: longest(|report| report.longest_wait_us),
        held: total(|report| report.released + report.refused + report.client_gone),
        refused: total(|report| report.refused),
    }
}
