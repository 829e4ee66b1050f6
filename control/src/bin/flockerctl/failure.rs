//! Errors and exit codes: 0 done, 1 failed, 2 wrong arguments or files.

use std::{io, process::ExitCode};

use flocker_api::{ErrorBody, ErrorCode};
use serde_json::json;

use crate::{human, output::Output};

/// How a command ended that has shown its result already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As wished.
    Done,
    /// Not as wished; what was shown says why.
    Failed,
    /// A command was run elsewhere and ended with this code, which becomes ours.
    Ended(u8),
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A service refused or could not be asked.
    #[error("{0}")]
    Service(#[from] ErrorBody),
    /// What the user gave is wrong.
    #[error("{0}")]
    Usage(String),
    /// What the user's files say is wrong; each line begins with its place.
    #[error("{}", .0.join("\n"))]
    Files(Vec<String>),
    /// What was shown could not be written, or the like.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reports a failure and says with which code to exit.
pub(crate) fn exit_code(result: Result<Verdict, Failure>, output: &Output) -> ExitCode {
    let failure = match result {
        Ok(Verdict::Done) => return ExitCode::SUCCESS,
        Ok(Verdict::Failed) => return ExitCode::from(1),
        Ok(Verdict::Ended(code)) => return ExitCode::from(code),
        // Whoever reads us has seen enough: `flockerctl route ls | head -1`.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(failure) => failure,
    };
    if output.json {
        let body = match &failure {
            Failure::Service(body) => body.clone(),
            Failure::Usage(_) | Failure::Files(_) => {
                ErrorBody::new(ErrorCode::InvalidRequest, failure.to_string())
            }
            Failure::Io(error) => ErrorBody::new(ErrorCode::Internal, error.to_string()),
        };
        output.complain_json(&json!({ "error": body }));
    } else if let Failure::Files(errors) = &failure {
        // Editors find the place only where it begins the line.
        for error in errors {
            output.remark(error);
        }
        let count = human::plural(errors.len(), "error");
        output.complain(&format!("{count} in the files; nothing is deployed"));
    } else {
        output.complain(&failure.to_string());
    }
    ExitCode::from(match failure {
        Failure::Usage(_) | Failure::Files(_) => 2,
        Failure::Service(_) | Failure::Io(_) => 1,
    })
}
