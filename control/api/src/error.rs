//! Error codes, the body in which they travel, and their one HTTP status table.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What kind of error it is, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is malformed or names something impossible.
    InvalidRequest,
    /// What the request names does not exist.
    NotFound,
    /// What the request would make exists.
    AlreadyExists,
    /// Another generation of the route table is current; `details` has it.
    StaleGeneration,
    /// What was planned on has changed since; `details` has the version that is current.
    StalePlan,
    /// A newer token holds the gate; `details` has it.
    StaleToken,
    /// The gate is not paused, or not by this token.
    NotPaused,
    /// The volume has a newer epoch; `details` has it.
    StaleEpoch,
    /// The volume is not writable on this node.
    NotPrimary,
    /// Both sides have what the other lacks; `details` has the evidence.
    Diverged,
    /// Something else is being done with the same thing; try again later.
    Busy,
    /// An address, port or image that is needed is taken or missing.
    Precondition,
    /// No space is left.
    NoSpace,
    /// A peer does not answer.
    Unavailable,
    /// It took longer than its deadline.
    Timeout,
    /// This build, node or file system cannot do it.
    Unsupported,
    /// The fault is ours or the machine's.
    Internal,
}

impl ErrorCode {
    /// The HTTP status with which it travels.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::NotFound => 404,
            Self::AlreadyExists
            | Self::StaleGeneration
            | Self::StalePlan
            | Self::StaleToken
            | Self::NotPaused
            | Self::StaleEpoch
            | Self::NotPrimary
            | Self::Diverged
            | Self::Busy => 409,
            Self::Precondition => 412,
            Self::Internal => 500,
            Self::Unsupported => 501,
            Self::Unavailable => 503,
            Self::Timeout => 504,
            Self::NoSpace => 507,
        }
    }

    /// Whether the same request may succeed later without anyone's help.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Busy | Self::Unavailable | Self::Timeout)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match serde_json::to_value(self) {
            Ok(Value::String(text)) => f.pad(&text),
            _ => Err(fmt::Error),
        }
    }
}

/// An error as it travels between programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorBody {
    /// For programs.
    pub code: ErrorCode,
    /// For people: names the thing, its place and what would be right.
    pub message: String,
    /// Evidence, by code.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

impl ErrorBody {
    /// An error without details.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Value::Null,
        }
    }

    /// An error made of an error of ours: its whole chain becomes the message.
    #[must_use]
    pub fn from_error(code: ErrorCode, error: &dyn std::error::Error) -> Self {
        Self::new(code, chain(error))
    }

    /// The same with evidence.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }
}

/// An error and its causes, joined by `: `.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_travel_as_snake_case() {
        let body = ErrorBody::new(ErrorCode::StaleGeneration, "generation 3 is current");
        let text = serde_json::to_string(&body).unwrap();
        assert_eq!(
            text,
            r#"{"code":"stale_generation","message":"generation 3 is current"}"#
        );
        assert_eq!(serde_json::from_str::<ErrorBody>(&text).unwrap(), body);
        assert_eq!(ErrorCode::StaleGeneration.to_string(), "stale_generation");
    }
}
