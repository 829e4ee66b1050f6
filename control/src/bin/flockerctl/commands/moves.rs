//! `move` and `moves`: begin a move, follow it, look at old ones.
#![expect(clippy::disallowed_methods, reason = "waits have a limit")]

use std::{
    io,
    time::{Duration, Instant},
};

use flocker_api::{
    ErrorBody, ErrorCode,
    control::{MoveRequest, MoveState, MoveStatus},
    name::MoveId,
};
use serde_json::json;

use super::{
    Cli, DEADLINE, explain,
    live::{self, Show},
    now_ms,
};
use crate::{
    args::{self, MovesVerb},
    failure::{Failure, Verdict},
    human,
    output::Output,
};

/// How long control may keep one question about a move.
const LONG_POLL: Duration = Duration::from_secs(10);
/// Longest wait of `moves show --follow`.
const FOLLOW_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// `flockerctl move`
pub(crate) async fn start(cli: &Cli<'_>, args: &args::Move) -> Result<Verdict, Failure> {
    if let Some(id) = &args.abort {
        return abort(cli, id, args.wait.timeout).await;
    }
    // The arguments' own rules see to it that both are there.
    let (Some(app), Some(to)) = (args.app.clone(), args.to.clone()) else {
        return Err(Failure::Usage("an app and --to NODE are needed".to_owned()));
    };
    let request = MoveRequest { app, to };
    if args.explain {
        return explain::run(cli, &request).await;
    }
    let status: MoveStatus = cli.control.post("/v2/moves", &request, DEADLINE).await?;
    if !args.wait.no_wait {
        return follow(cli, status, args.wait.timeout).await;
    }
    if cli.out.json {
        cli.out.json(&status)?;
    } else {
        cli.out.line(&live::title(cli.out, &status))?;
        let hint = format!("flockerctl moves show {} --follow", status.id);
        cli.out
            .line(&format!("  it has begun; follow it with: {hint}"))?;
    }
    Ok(Verdict::Done)
}

/// `flockerctl moves`
pub(crate) async fn run(cli: &Cli<'_>, args: &args::Moves) -> Result<Verdict, Failure> {
    match &args.verb {
        None | Some(MovesVerb::Ls) => list(cli).await,
        Some(MovesVerb::Show { id, follow }) => show(cli, id, *follow).await,
    }
}

async fn list(cli: &Cli<'_>) -> Result<Verdict, Failure> {
    let moves: Vec<MoveStatus> = cli.control.get("/v2/moves", DEADLINE).await?;
    if cli.out.json {
        cli.out.json(&moves)?;
    } else if moves.is_empty() {
        cli.out.line("no moves yet")?;
    } else {
        cli.out.text(&table(cli.out, &moves, now_ms()))?;
    }
    Ok(Verdict::Done)
}

async fn show(cli: &Cli<'_>, id: &str, follow_it: bool) -> Result<Verdict, Failure> {
    let id = find(cli, id).await?;
    let path = format!("/v2/moves/{id}");
    let status: MoveStatus = cli.control.get(&path, DEADLINE).await?;
    if follow_it {
        return follow(cli, status, FOLLOW_MAX).await;
    }
    if cli.out.json {
        cli.out.json(&status)?;
    } else {
        cli.out.text(&details(cli.out, &status))?;
    }
    Ok(Verdict::Done)
}

/// Gives a move up and follows it back.
async fn abort(cli: &Cli<'_>, id: &str, timeout: Duration) -> Result<Verdict, Failure> {
    let id = find(cli, id).await?;
    let path = format!("/v2/moves/{id}/abort");
    let status: MoveStatus = cli.control.post(&path, &json!({}), DEADLINE).await?;
    let status = until_ended(cli, status, timeout).await?;
    let undone = status
        .as_ref()
        .is_some_and(|one| one.state == MoveState::Undone);
    match status {
        Some(status) if cli.out.json => cli.out.json(&status)?,
        Some(status) => cli.out.text(&live::summary(cli.out, &status))?,
        None => cli.out.remark("it is still on its way back"),
    }
    Ok(if undone {
        Verdict::Done
    } else {
        Verdict::Failed
    })
}

/// The move whose id begins so.
async fn find(cli: &Cli<'_>, text: &str) -> Result<MoveId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let moves: Vec<MoveStatus> = cli.control.get("/v2/moves", DEADLINE).await?;
    let matching: Vec<&MoveStatus> = moves
        .iter()
        .filter(|status| status.id.to_string().starts_with(text))
        .collect();
    match matching[..] {
        [one] => Ok(one.id),
        [] => {
            let message = format!("no move has an id that begins with '{text}'");
            Err(ErrorBody::new(ErrorCode::NotFound, message).into())
        }
        _ => {
            let message = format!(
                "{} moves have ids that begin with '{text}'; write more of it",
                matching.len()
            );
            Err(Failure::Usage(message))
        }
    }
}

/// Shows a move until it has ended; the verdict is the move's.
async fn follow(cli: &Cli<'_>, status: MoveStatus, timeout: Duration) -> Result<Verdict, Failure> {
    let id = status.id;
    let waited = tokio::select! {
        waited = until_ended(cli, status, timeout) => waited?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            None
        }
    };
    let Some(status) = waited else {
        cli.out.remark(&format!(
            "the move goes on; follow it with: flockerctl moves show {id} --follow, give it up \
             with: flockerctl move --abort {id}"
        ));
        return Ok(Verdict::Failed);
    };
    if cli.out.json {
        cli.out.json(&status)?;
    } else {
        cli.out.text(&live::summary(cli.out, &status))?;
    }
    let done = status.state == MoveState::Done;
    Ok(if done { Verdict::Done } else { Verdict::Failed })
}

/// The move as it ended; `None` when it has not in time.
async fn until_ended(
    cli: &Cli<'_>,
    mut status: MoveStatus,
    timeout: Duration,
) -> Result<Option<MoveStatus>, Failure> {
    let deadline = Instant::now() + timeout;
    let mut show = Show::new(cli.out);
    let mut trouble = None;
    loop {
        show.update(&status)?;
        if has_ended(&status) {
            return Ok(Some(status));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        match next_revision(cli, &mut show, &status, left.min(LONG_POLL)).await? {
            Ok(next) => {
                status = next;
                trouble = None;
            }
            // Control may be restarting: it takes up its moves where they were.
            Err(error) if error.code.is_transient() => {
                if trouble.as_ref() != Some(&error.message) {
                    show.trouble(&format!("{}; asking again", error.message))?;
                    trouble = Some(error.message);
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Asks for a newer state of the move, and lets time be seen to pass meanwhile.
async fn next_revision(
    cli: &Cli<'_>,
    show: &mut Show<'_>,
    status: &MoveStatus,
    wait: Duration,
) -> io::Result<Result<MoveStatus, ErrorBody>> {
    let (id, after, wait_ms) = (status.id, status.revision, wait.as_millis());
    let path = format!("/v2/moves/{id}?after={after}&wait_ms={wait_ms}");
    let asked = cli.control.get::<MoveStatus>(&path, wait + DEADLINE);
    tokio::pin!(asked);
    let since = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            answer = &mut asked => return Ok(answer),
            _ = ticks.tick() => show.tick(status, since.elapsed()),
        }
    }
}

fn has_ended(status: &MoveStatus) -> bool {
    match status.state {
        MoveState::Running | MoveState::Undoing => false,
        MoveState::Done | MoveState::Undone | MoveState::Stuck => true,
    }
}

fn word(state: MoveState) -> &'static str {
    match state {
        MoveState::Running => "running",
        MoveState::Undoing => "undoing",
        MoveState::Done => "done",
        MoveState::Undone => "undone",
        MoveState::Stuck => "stuck",
    }
}

fn table(out: &Output, moves: &[MoveStatus], now_ms: u64) -> String {
    let rows = moves.iter().map(|status| {
        let ended = status.ended_ms.unwrap_or(now_ms);
        vec![
            status.id.to_string().chars().take(8).collect(),
            status.app.to_string(),
            format!("{} -> {}", status.from, status.to),
            word(status.state).to_owned(),
            human::age(now_ms, status.started_ms),
            human::whole_ms(ended.saturating_sub(status.started_ms)),
            status.pause_ms.map_or_else(|| "-".to_owned(), human::ms),
            status.reason.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    });
    let header = [
        "MOVE", "APP", "NODES", "STATE", "AGE", "TOOK", "PAUSE", "REASON",
    ];
    out.table(&header, rows.collect())
}

fn details(out: &Output, status: &MoveStatus) -> String {
    let mut text = live::title(out, status);
    text.push('\n');
    for step in &status.steps {
        text.push_str(&live::step_line(out, step, step.elapsed_ms));
        text.push('\n');
    }
    if !status.rounds.is_empty() {
        text.push_str("  rounds\n");
    }
    for (index, round) in status.rounds.iter().enumerate() {
        text.push_str(&live::round_line(index + 1, round));
        text.push('\n');
    }
    text.push_str(&live::summary(out, status));
    text
}
