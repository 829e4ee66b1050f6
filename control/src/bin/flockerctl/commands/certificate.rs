//! `edge certificate`, `edge authority` and `edge tickets`: TLS material of one edge, or of all
//! that control knows.

use std::{fs, io::Read, path::Path};

use flocker_api::{
    ErrorBody,
    authority::{AuthorityList, AuthorityStatus, PutAuthority},
    certificate::{
        CertificateList, CertificateStatus, PutCertificate, PutTicketKey, TicketKey, TicketKeys,
    },
    client::{Client, Endpoint},
    control::ClusterStatus,
};
use futures_util::future::join_all;
use serde::{Serialize, de::DeserializeOwned};

use super::{Cli, DEADLINE, now_ms, route::report};
use crate::{
    args_tls::{Authority, AuthorityVerb, Certificate, CertificateVerb, Tickets, TicketsVerb},
    edges::Answer,
    failure::{Failure, Verdict},
};

/// A certificate is nearly over when it is valid for fewer days than this.
const SOON_DAYS: i64 = 14;
/// Seconds of a day.
const DAY_S: i64 = 24 * 60 * 60;

/// `flockerctl edge certificate`
pub(crate) async fn run(cli: &Cli<'_>, args: Certificate) -> Result<Verdict, Failure> {
    match args.verb {
        CertificateVerb::Ls => list_certificates(cli).await,
        CertificateVerb::Set {
            name,
            certificate,
            key,
        } => {
            let put = PutCertificate {
                certificate: read(&certificate)?,
                key: read(&key)?,
            };
            let path = format!("/v1/certificates/{name}");
            let answers: Vec<Answer<CertificateStatus>> = each(cli, async |edge: Client| {
                edge.put(&path, &put, DEADLINE).await
            })
            .await?;
            done(cli, &answers, |status| {
                format!("{name} serves {}", status.hosts.join(", "))
            })
        }
        CertificateVerb::Rm { name } => {
            let path = format!("/v1/certificates/{name}");
            let answers: Vec<Answer<CertificateStatus>> = each(cli, async |edge: Client| {
                edge.delete(&path, &(), DEADLINE).await
            })
            .await?;
            done(cli, &answers, |_| format!("{name} removed"))
        }
    }
}

/// `flockerctl edge authority`
pub(crate) async fn authorities(cli: &Cli<'_>, args: Authority) -> Result<Verdict, Failure> {
    match args.verb {
        AuthorityVerb::Ls => list_authorities(cli).await,
        AuthorityVerb::Set {
            name,
            certificates,
            crls,
        } => {
            let put = PutAuthority {
                certificates: read(&certificates)?,
                crls: crls.as_deref().map(read).transpose()?,
            };
            let path = format!("/v1/authorities/{name}");
            let answers: Vec<Answer<AuthorityStatus>> = each(cli, async |edge: Client| {
                edge.put(&path, &put, DEADLINE).await
            })
            .await?;
            done(cli, &answers, |status| {
                let revoked = status.revoked;
                format!(
                    "{name} is {}, revoked: {revoked}",
                    status.subjects.join("; ")
                )
            })
        }
        AuthorityVerb::Rm { name } => {
            let path = format!("/v1/authorities/{name}");
            let answers: Vec<Answer<AuthorityStatus>> = each(cli, async |edge: Client| {
                edge.delete(&path, &(), DEADLINE).await
            })
            .await?;
            done(cli, &answers, |_| format!("{name} removed"))
        }
    }
}

async fn list_authorities(cli: &Cli<'_>) -> Result<Verdict, Failure> {
    let table = Table {
        path: "/v1/authorities",
        header: &[
            "EDGE", "NAME", "SUBJECTS", "EXPIRES", "REVOKED", "FROM", "PROBLEM",
        ],
        none: "no authorities",
    };
    let cells = |one: &AuthorityStatus, now_s| {
        let lists = match one.crl_until_s {
            Some(until_s) => format!("{}, until {}", one.revoked, expiry(until_s, now_s)),
            None if one.crls > 0 => one.revoked.to_string(),
            None => "-".to_owned(),
        };
        vec![
            one.name.to_string(),
            one.subjects.join("; "),
            expiry(one.not_after_s, now_s),
            lists,
            from(one.file.as_deref()),
            one.problem.clone().unwrap_or_default(),
        ]
    };
    list(cli, &table, |list: &AuthorityList| &list.authorities, cells).await
}

async fn list_certificates(cli: &Cli<'_>) -> Result<Verdict, Failure> {
    let table = Table {
        path: "/v1/certificates",
        header: &[
            "EDGE", "NAME", "HOSTS", "EXPIRES", "OCSP", "FROM", "PROBLEM",
        ],
        none: "no certificates",
    };
    let cells = |one: &CertificateStatus, now_s| {
        vec![
            one.name.to_string(),
            one.hosts.join(", "),
            expiry(one.not_after_s, now_s),
            if one.stapled { "yes" } else { "no" }.to_owned(),
            from(one.file.as_deref()),
            one.problem.clone().unwrap_or_default(),
        ]
    };
    list(
        cli,
        &table,
        |list: &CertificateList| &list.certificates,
        cells,
    )
    .await
}

/// A list that edges have.
struct Table {
    /// Where an edge has it.
    path: &'static str,
    /// The first column is the edge's.
    header: &'static [&'static str],
    /// What is said where it is empty.
    none: &'static str,
}

/// What there is on the edges that have answered, as a table or in a word.
async fn list<A, E>(
    cli: &Cli<'_>,
    table: &Table,
    entries: impl Fn(&A) -> &Vec<E>,
    cells: impl Fn(&E, i64) -> Vec<String>,
) -> Result<Verdict, Failure>
where
    A: DeserializeOwned + Serialize,
{
    let answers: Vec<Answer<A>> = each(cli, async |edge: Client| {
        edge.get(table.path, DEADLINE).await
    })
    .await?;
    if cli.out.json {
        cli.out.json(&answers)?;
        return Ok(report(cli.out, &answers));
    }
    let now_s = i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX);
    let mut rows = Vec::new();
    for answer in &answers {
        for one in answer.ok().into_iter().flat_map(&entries) {
            let mut row = vec![answer.edge.clone()];
            row.extend(cells(one, now_s));
            rows.push(row);
        }
    }
    if !rows.is_empty() {
        cli.out.text(&cli.out.table(table.header, rows))?;
    } else if answers.iter().any(|answer| answer.ok().is_some()) {
        cli.out.line(table.none)?;
    }
    Ok(report(cli.out, &answers))
}

/// Where something comes from.
fn from(file: Option<&Path>) -> String {
    file.map_or_else(
        || "set, until it stops".to_owned(),
        |file| file.display().to_string(),
    )
}

/// `flockerctl edge tickets`
pub(crate) async fn tickets(cli: &Cli<'_>, args: Tickets) -> Result<Verdict, Failure> {
    let TicketsVerb::Rotate = args.verb;
    let mut key = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    let put = PutTicketKey {
        key: TicketKey(key),
    };
    let answers: Vec<Answer<TicketKeys>> = each(cli, async |edge: Client| {
        edge.put("/v1/tickets", &put, DEADLINE).await
    })
    .await?;
    done(cli, &answers, |keys| {
        let before = keys.previous.as_ref();
        let before = before.map_or_else(String::new, |key| format!(", before it {key}"));
        format!("tickets are sealed with key {}{before}", keys.current)
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))
}

/// Asks the one edge, or all that control knows, each at its own admin API: private keys pass
/// through nobody else.
async fn each<A>(
    cli: &Cli<'_>,
    ask: impl AsyncFn(Client) -> Result<A, ErrorBody>,
) -> Result<Vec<Answer<A>>, Failure> {
    let edges = match &cli.edge {
        Some(endpoint) => vec![(endpoint.to_string(), Ok(cli.one_edge()))],
        None => {
            let status: ClusterStatus = cli.control.get("/v2/status", DEADLINE).await?;
            let known = status.edges.into_iter().map(|edge| {
                let endpoint: Result<Endpoint, _> = edge.admin.parse();
                let client = endpoint.map(|endpoint| cli.edge_at(endpoint));
                (edge.name.to_string(), client)
            });
            known.collect()
        }
    };
    let ask = &ask;
    let asked = edges.into_iter().map(|(name, edge)| async move {
        let result = match edge {
            Ok(edge) => ask(edge).await,
            Err(error) => {
                let code = flocker_api::ErrorCode::InvalidRequest;
                Err(ErrorBody::from_error(code, &error))
            }
        };
        Answer::new(name, result)
    });
    Ok(join_all(asked).await)
}

fn done<A: Serialize>(
    cli: &Cli<'_>,
    answers: &[Answer<A>],
    say: impl Fn(&A) -> String,
) -> Result<Verdict, Failure> {
    if cli.out.json {
        cli.out.json(&answers)?;
    } else {
        for answer in answers {
            if let Some(ok) = answer.ok() {
                cli.out.line(&format!("{}: {}", answer.edge, say(ok)))?;
            }
        }
    }
    Ok(report(cli.out, answers))
}

/// The day on which a certificate ends, and how far that is where it is near.
fn expiry(not_after_s: i64, now_s: i64) -> String {
    let day = jiff::Timestamp::from_second(not_after_s)
        .map_or_else(|_| "never".to_owned(), |at| at.strftime("%F").to_string());
    let days = (not_after_s - now_s).div_euclid(DAY_S);
    match days {
        _ if not_after_s < now_s => format!("{day} (expired)"),
        0 => format!("{day} (today)"),
        1..SOON_DAYS => format!("{day} (in {days} d)"),
        _ => day,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_to_expire_says_so() {
        let now_s = 1_780_000_000;
        for (after_s, expected) in [
            (-1, "2026-05-28 (expired)"),
            (3_600, "2026-05-28 (today)"),
            (3 * DAY_S, "2026-05-31 (in 3 d)"),
            (400 * DAY_S, "2027-07-02"),
        ] {
            assert_eq!(expiry(now_s + after_s, now_s), expected);
        }
    }
}
