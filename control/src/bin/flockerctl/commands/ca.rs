//! `ca`: certificates of the cluster. Needs no service: only the authority's folder.

#![expect(clippy::disallowed_methods, reason = "certificates hold from now on")]

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use flocker_api::{
    error::chain,
    tls::{
        Credentials, Files, Identity, Role, TlsError,
        authority::{Authority, AuthorityError, Existing, Order},
    },
};
use serde::Serialize;

use crate::{
    args_nodes::{Ca, CaVerb, Terms},
    commands::now_ms,
    failure::{Failure, Verdict},
    human,
    output::Output,
};

/// A certificate, as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    identity: Identity,
    folder: PathBuf,
    /// Unix time, in seconds.
    not_after: i64,
}

/// `flockerctl ca`
pub(crate) fn run(out: &Output, args: Ca) -> Result<Verdict, Failure> {
    let dir = args.dir;
    match args.verb {
        CaVerb::Init { days } => init(out, &dir, days),
        CaVerb::Node(issue) => make(out, &dir, Role::Node, issue.name, issue.terms),
        CaVerb::Edge(issue) => make(out, &dir, Role::Edge, issue.name, issue.terms),
        CaVerb::Control { name, issue } => make(out, &dir, Role::Control, name, issue),
        CaVerb::Operator { name, issue } => make(out, &dir, Role::Operator, name, issue),
        CaVerb::Ls => list(out, &dir),
    }
}

fn init(out: &Output, dir: &Path, days: u32) -> Result<Verdict, Failure> {
    Authority::create(dir, SystemTime::now(), span(days)).map_err(|error| failure(&error))?;
    if out.json {
        out.json(&serde_json::json!({ "folder": dir }))?;
    } else {
        let path = dir.display();
        out.line(&format!(
            "{path} holds the authority; keep {path}/ca-key.pem to yourself"
        ))?;
    }
    Ok(Verdict::Done)
}

fn make(
    out: &Output,
    dir: &Path,
    role: Role,
    name: String,
    terms: Terms,
) -> Result<Verdict, Failure> {
    if terms.address.is_empty() && role != Role::Operator {
        let message = format!("a {role} is reached at addresses: add --address IP");
        return Err(Failure::Usage(message));
    }
    let authority = Authority::open(dir).map_err(|error| failure(&error))?;
    let folder = terms
        .out
        .unwrap_or_else(|| dir.join(format!("{role}-{name}")));
    let order = Order {
        identity: Identity::new(role, name),
        addresses: terms.address,
        now: SystemTime::now(),
        validity: span(terms.days),
    };
    let existing = match terms.renew {
        true => Existing::Replace,
        false => Existing::Keep,
    };
    authority
        .issue(&order, &folder, existing)
        .map_err(|error| failure(&error))?;
    let shown = read(&folder).map_err(|error| Failure::Usage(chain(&error)))?;
    if out.json {
        out.json(&shown)?;
    } else {
        let until = human::in_days(now_s(), shown.not_after);
        let (identity, folder) = (&shown.identity, folder.display());
        out.line(&format!(
            "{folder} holds the certificate of {identity}; it ends {until}"
        ))?;
    }
    Ok(Verdict::Done)
}

fn list(out: &Output, dir: &Path) -> Result<Verdict, Failure> {
    let cannot =
        |error: std::io::Error| Failure::Usage(format!("cannot read {}: {error}", dir.display()));
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.join("certificate.pem").is_file() {
            folders.push(path);
        }
    }
    folders.sort();
    let read = folders.iter().map(|folder| read(folder));
    let shown: Vec<Shown> = read
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::Usage(chain(&error)))?;
    if out.json {
        out.json(&shown)?;
        return Ok(Verdict::Done);
    }
    let rows = shown.iter().map(|one| {
        vec![
            one.identity.role.to_string(),
            one.identity.name.clone(),
            human::in_days(now_s(), one.not_after),
            one.folder.display().to_string(),
        ]
    });
    out.text(&out.table(&["ROLE", "NAME", "ENDS", "FOLDER"], rows.collect()))?;
    Ok(Verdict::Done)
}

fn read(folder: &Path) -> Result<Shown, TlsError> {
    let certificate = Credentials::load(Files::in_folder(folder))?.certificate();
    Ok(Shown {
        identity: certificate.identity,
        folder: folder.to_owned(),
        not_after: certificate.not_after,
    })
}

fn failure(error: &AuthorityError) -> Failure {
    let remedy = match error {
        AuthorityError::Exists(path) if path.ends_with("ca-key.pem") => {
            "; an authority is made once"
        }
        AuthorityError::Exists(_) => "; --renew puts a new one in its place",
        AuthorityError::Io { action: "read", .. } => "; 'flockerctl ca init' makes an authority",
        _ => "",
    };
    Failure::Usage(format!("{}{remedy}", chain(error)))
}

fn span(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * 86_400)
}

fn now_s() -> i64 {
    i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX)
}
