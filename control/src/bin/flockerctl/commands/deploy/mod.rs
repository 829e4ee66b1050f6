//! `deploy`: files to a plan, the plan shown and agreed to, carried out, and followed until
//! every app serves.

mod plan;
mod progress;
mod sources;

use std::io::{self, BufRead, IsTerminal};

use flocker_api::{
    ErrorBody, ErrorCode,
    control::{DeployReply, DeployRequest},
};
use flocker_control::formats::{self, Sources};

use super::{Cli, DEADLINE};
use crate::{
    args,
    failure::{Failure, Verdict},
    output::Output,
};

/// `flockerctl deploy`
pub(crate) async fn run(cli: &Cli<'_>, args: &args::Deploy) -> Result<Verdict, Failure> {
    let sources = sources::read(&args.files)?;
    formats::parse(&sources)
        .map_err(|errors| Failure::Files(errors.iter().map(ToString::to_string).collect()))?;
    let mut request = request(sources, args);
    request.dry_run = true;
    let planned = post(cli, &request).await?;
    let nothing = planned.changes.is_empty();
    if !cli.out.json {
        cli.out.text(&plan::text(cli.out, &planned))?;
    }
    if args.dry_run {
        if cli.out.json {
            cli.out.json(&planned)?;
        }
        return Ok(if nothing {
            Verdict::Done
        } else {
            Verdict::Failed
        });
    }
    if !nothing && !args.yes && !agreed(cli.out)? {
        cli.out.line("nothing is done")?;
        return Ok(Verdict::Failed);
    }
    request.dry_run = false;
    request.against = Some(planned.version);
    let reply = post(cli, &request).await?;
    if args.wait.no_wait {
        if cli.out.json {
            cli.out.json(&reply)?;
        }
        return Ok(Verdict::Done);
    }
    progress::until_serving(cli, &reply, args.wait.timeout).await
}

fn request(sources: Sources, args: &args::Deploy) -> DeployRequest {
    DeployRequest {
        files: sources.files,
        env_files: sources.env_files,
        variables: sources.variables,
        node: args.node.clone(),
        prune: args.prune,
        dry_run: false,
        against: None,
    }
}

async fn post(cli: &Cli<'_>, request: &DeployRequest) -> Result<DeployReply, Failure> {
    let reply: Result<DeployReply, ErrorBody> =
        cli.control.post("/v2/deploy", request, DEADLINE).await;
    reply.map_err(|error| match error.code {
        // What only control can know of the files, such as which nodes there are.
        ErrorCode::InvalidRequest => {
            Failure::Files(error.message.lines().map(str::to_owned).collect())
        }
        _ => error.into(),
    })
}

/// Asks whoever sits at the terminal.
fn agreed(out: &Output) -> Result<bool, Failure> {
    let stdin = io::stdin();
    if out.json || !stdin.is_terminal() || !io::stdout().is_terminal() {
        let reason = "nobody can be asked whether to go on: give --yes, or --dry-run to only plan";
        return Err(Failure::Usage(reason.to_owned()));
    }
    out.text("Carry it out? [y/N] ")?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}
