//! One edge, asked directly, or all of them, asked through control: the same questions and
//! the same form of answers.

use std::time::Duration;

use flocker_api::{
    ErrorBody, ErrorCode,
    client::Client,
    control::{EdgeOutcome, FanOut},
    edge::{EdgeStatus, RouteStatus, RouteTable, TransactionReply},
    gate::{
        PauseReply, PauseRequest, QuiesceReply, QuiesceRequest, ResumeReply, ResumeRequest,
        SwitchRequest, Token,
    },
    route::{RouteKey, Transaction},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::commands::DEADLINE;

/// Longest wait for an edge's name.
const NAME_DEADLINE: Duration = Duration::from_secs(2);

/// An edge's answer. In JSON: `{"edge": "n1-a", "ok": ...}` or `{"edge": "n1-a", "error": ...}`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Answer<T> {
    /// Its name, or its endpoint when it was asked directly.
    pub(crate) edge: String,
    #[serde(flatten)]
    pub(crate) result: Outcome<T>,
}

/// What an edge answered.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome<T> {
    Ok(T),
    Error(ErrorBody),
}

impl<T> Answer<T> {
    pub(crate) fn new(edge: String, result: Result<T, ErrorBody>) -> Self {
        let result = match result {
            Ok(answer) => Outcome::Ok(answer),
            Err(error) => Outcome::Error(error),
        };
        Self { edge, result }
    }

    /// The answer, if it is none but an error.
    pub(crate) fn ok(&self) -> Option<&T> {
        match &self.result {
            Outcome::Ok(answer) => Some(answer),
            Outcome::Error(_) => None,
        }
    }

    /// The error, if it is one.
    pub(crate) fn error(&self) -> Option<&ErrorBody> {
        match &self.result {
            Outcome::Ok(_) => None,
            Outcome::Error(error) => Some(error),
        }
    }
}

impl<T> From<EdgeOutcome<T>> for Answer<T> {
    fn from(outcome: EdgeOutcome<T>) -> Self {
        Self::new(outcome.edge.to_string(), outcome.result)
    }
}

/// Whom to ask.
#[derive(Debug, Clone)]
pub(crate) enum Edges {
    /// One edge, without any control service; with its name, or else its endpoint.
    One(Client, String),
    /// All edges, through control.
    All(Client),
}

impl Edges {
    /// One edge; it is asked for its name, because endpoints are long and tell less.
    pub(crate) async fn one(edge: Client) -> Self {
        let status: Result<EdgeStatus, _> = edge.get("/v1/status", NAME_DEADLINE).await;
        let name = match status {
            Ok(status) => status.name.to_string(),
            // Whatever is asked for next says what is wrong.
            Err(_) => edge.endpoint().to_string(),
        };
        Self::One(edge, name)
    }

    /// Their tables.
    pub(crate) async fn tables(&self) -> Result<Vec<Answer<RouteTable>>, ErrorBody> {
        self.tables_within(DEADLINE).await
    }

    /// The same where they may be large.
    pub(crate) async fn tables_within(
        &self,
        deadline: Duration,
    ) -> Result<Vec<Answer<RouteTable>>, ErrorBody> {
        match self {
            Self::One(edge, name) => {
                let table = edge.get("/v1/routes", deadline).await;
                Ok(vec![Answer::new(name.clone(), table)])
            }
            Self::All(control) => {
                let tables: Vec<EdgeOutcome<_>> = control.get("/v2/routes", deadline).await?;
                Ok(tables.into_iter().map(Answer::from).collect())
            }
        }
    }

    /// One route of theirs.
    pub(crate) async fn route(
        &self,
        key: &RouteKey,
    ) -> Result<Vec<Answer<RouteStatus>>, ErrorBody> {
        if let Self::One(edge, name) = self {
            let route = edge
                .get(&format!("/v1/routes/{}", key.in_url()), DEADLINE)
                .await;
            return Ok(vec![Answer::new(name.clone(), route)]);
        }
        let pick = |answer: Answer<RouteTable>| {
            let route = match answer.result {
                Outcome::Ok(table) => {
                    let mut routes = table.routes.into_iter();
                    let found = routes.find(|status| status.route.key == *key);
                    let message = format!("it has no route {key}");
                    found.ok_or_else(|| ErrorBody::new(ErrorCode::NotFound, message))
                }
                Outcome::Error(error) => Err(error),
            };
            Answer::new(answer.edge, route)
        };
        Ok(self.tables().await?.into_iter().map(pick).collect())
    }

    /// Changes their tables.
    pub(crate) async fn transact(
        &self,
        change: &Transaction,
    ) -> Result<Vec<Answer<TransactionReply>>, ErrorBody> {
        self.transact_within(change, DEADLINE).await
    }

    /// The same where it may be large.
    pub(crate) async fn transact_within(
        &self,
        change: &Transaction,
        deadline: Duration,
    ) -> Result<Vec<Answer<TransactionReply>>, ErrorBody> {
        match self {
            Self::One(edge, name) => {
                let reply = edge.post("/v1/routes", change, deadline).await;
                Ok(vec![Answer::new(name.clone(), reply)])
            }
            Self::All(control) => {
                let replies: Vec<EdgeOutcome<_>> =
                    control.post("/v2/routes", change, deadline).await?;
                Ok(replies.into_iter().map(Answer::from).collect())
            }
        }
    }

    /// Pauses routes; the token is there unless the one edge has refused.
    pub(crate) async fn pause(
        &self,
        request: &PauseRequest,
    ) -> Result<(Option<Token>, Vec<Answer<PauseReply>>), ErrorBody> {
        match self {
            Self::One(..) => {
                let answers: Vec<Answer<PauseReply>> =
                    self.gate("pause", request, DEADLINE).await?;
                let token = answers.iter().find_map(Answer::ok).map(|reply| reply.token);
                Ok((token, answers))
            }
            Self::All(control) => {
                let path = "/v2/gates/pause";
                let fan_out: FanOut<_> = control.post(path, request, DEADLINE).await?;
                let answers = fan_out.edges.into_iter().map(Answer::from).collect();
                Ok((Some(fan_out.token), answers))
            }
        }
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn quiesce(
        &self,
        request: &QuiesceRequest,
    ) -> Result<Vec<Answer<QuiesceReply>>, ErrorBody> {
        let deadline = DEADLINE + Duration::from_millis(request.deadline_ms);
        self.gate("quiesce", request, deadline).await
    }

    /// Retargets paused routes and resumes them.
    pub(crate) async fn switch(
        &self,
        request: &SwitchRequest,
    ) -> Result<Vec<Answer<ResumeReply>>, ErrorBody> {
        self.gate("switch", request, DEADLINE).await
    }

    /// Resumes paused routes.
    pub(crate) async fn resume(
        &self,
        request: &ResumeRequest,
    ) -> Result<Vec<Answer<ResumeReply>>, ErrorBody> {
        self.gate("resume", request, DEADLINE).await
    }

    async fn gate<Q, A>(
        &self,
        verb: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<Vec<Answer<A>>, ErrorBody>
    where
        Q: Serialize + Sync,
        A: DeserializeOwned,
    {
        match self {
            Self::One(edge, name) => {
                let path = format!("/v1/gates/{verb}");
                let reply = edge.post(&path, request, deadline).await;
                Ok(vec![Answer::new(name.clone(), reply)])
            }
            Self::All(control) => {
                let path = format!("/v2/gates/{verb}");
                let fan_out: FanOut<A> = control.post(&path, request, deadline).await?;
                Ok(fan_out.edges.into_iter().map(Answer::from).collect())
            }
        }
    }
}
