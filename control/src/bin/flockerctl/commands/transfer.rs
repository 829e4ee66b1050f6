//! `route export` and `route import`: whole tables as files, one route a line.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Read, Write},
    path::Path,
    time::Duration,
};

use flocker_api::{
    ErrorBody, ErrorCode,
    edge::RouteTable,
    route::{Operation, Route, RouteKey, Transaction},
};
use serde_json::json;

use super::route::{RouteCli, report};
use crate::{
    args_edge::{Export, Import},
    edges::Answer,
    failure::{Failure, Verdict},
    human,
};

/// Longest wait for a table of a million routes, or for a transaction of as many.
const DEADLINE: Duration = Duration::from_secs(300);
/// Lines of a difference that are shown.
const SHOWN: usize = 40;

type Routes = BTreeMap<RouteKey, Route>;

/// `flockerctl route export`
pub(crate) async fn export(cli: &RouteCli<'_>, args: Export) -> Result<Verdict, Failure> {
    let answers = cli.edges.tables_within(DEADLINE).await?;
    if answers.iter().any(|answer| answer.error().is_some()) || answers.is_empty() {
        return Ok(report(cli.out, &answers));
    }
    let tables: Vec<Routes> = answers.iter().filter_map(Answer::ok).map(routes).collect();
    let Some(first) = tables.first() else {
        return Ok(Verdict::Failed);
    };
    if tables.iter().any(|table| table != first) {
        let message = "the edges do not have the same routes; name one with --edge";
        return Err(ErrorBody::new(ErrorCode::Precondition, message).into());
    }
    if args.file.as_os_str() == "-" {
        write(first, BufWriter::new(io::stdout().lock()))?;
        return Ok(Verdict::Done);
    }
    // A file that is there stays whole until the new one is.
    let mut fresh = args.file.clone().into_os_string();
    fresh.push(".new");
    write(first, BufWriter::new(File::create(&fresh)?))?;
    std::fs::rename(&fresh, &args.file)?;
    let routes = human::plural(first.len(), "route");
    cli.out
        .remark(&format!("{routes} written to {}", args.file.display()));
    Ok(Verdict::Done)
}

fn routes(table: &RouteTable) -> Routes {
    let routes = table.routes.iter();
    routes
        .map(|status| (status.route.key.clone(), status.route.clone()))
        .collect()
}

fn write(routes: &Routes, mut to: impl Write) -> io::Result<()> {
    to.write_all(b"[")?;
    for (at, route) in routes.values().enumerate() {
        to.write_all(if at == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut to, route)?;
    }
    to.write_all(b"\n]\n")?;
    to.flush()
}

/// `flockerctl route import`
pub(crate) async fn import(cli: &RouteCli<'_>, args: Import) -> Result<Verdict, Failure> {
    let wanted = read(&args.file)?;
    let answers = cli.edges.tables_within(DEADLINE).await?;
    if answers.iter().any(|answer| answer.error().is_some()) || answers.is_empty() {
        return Ok(report(cli.out, &answers));
    }
    let tables: Vec<Routes> = answers.iter().filter_map(Answer::ok).map(routes).collect();
    let difference = Difference::new(&tables, wanted, args.prune);
    if !cli.out.json {
        cli.out.text(&difference.text())?;
    }
    if args.dry_run || difference.operations.is_empty() {
        if cli.out.json {
            cli.out.json(&difference.json())?;
        }
        return Ok(Verdict::Done);
    }
    // A change that somebody makes meanwhile is not overwritten unseen: one edge refuses it by
    // its generation; several have each their own.
    let against = match answers.as_slice() {
        [one] => one.ok().map(|table| table.generation),
        _ => None,
    };
    let lines = difference.json();
    let transaction = Transaction {
        against,
        operations: difference.operations,
    };
    let replies = cli.edges.transact_within(&transaction, DEADLINE).await?;
    if cli.out.json {
        cli.out
            .json(&json!({ "difference": lines, "edges": replies }))?;
    } else {
        for (edge, reply) in replies
            .iter()
            .filter_map(|answer| Some((&answer.edge, answer.ok()?)))
        {
            cli.out
                .line(&format!("done on {edge} (generation {})", reply.generation))?;
        }
    }
    Ok(report(cli.out, &replies))
}

fn read(path: &Path) -> Result<Routes, Failure> {
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => io::stdin().lock().read_to_string(&mut text),
        false => File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
    };
    let wrong = |reason: String| Failure::Usage(format!("{}: {reason}", path.display()));
    read.map_err(|error| wrong(error.to_string()))?;
    let list: Vec<Route> = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let mut routes = Routes::new();
    for route in list {
        let key = route.key.clone();
        if routes.insert(key.clone(), route).is_some() {
            return Err(wrong(format!("route {key} is there twice")));
        }
    }
    Ok(routes)
}

/// What would change, on whichever edge.
struct Difference {
    operations: Vec<Operation>,
    lines: Vec<String>,
    added: usize,
    changed: usize,
    removed: usize,
}

impl Difference {
    fn new(tables: &[Routes], wanted: Routes, prune: bool) -> Self {
        let mut all = Self {
            operations: Vec::new(),
            lines: Vec::new(),
            added: 0,
            changed: 0,
            removed: 0,
        };
        if prune {
            let first = tables.first().into_iter().flat_map(Routes::keys);
            // What only some have cannot be removed from all in one transaction.
            let everywhere = first.filter(|key| tables.iter().all(|table| table.contains_key(key)));
            for key in everywhere.filter(|key| !wanted.contains_key(key)) {
                all.removed += 1;
                all.lines.push(format!("- {key}"));
                all.operations.push(Operation::Remove { key: key.clone() });
            }
        }
        for (key, route) in wanted {
            if tables.iter().all(|table| table.get(&key) == Some(&route)) {
                continue;
            }
            match tables.iter().find_map(|table| table.get(&key)) {
                Some(was) => {
                    all.changed += 1;
                    all.lines.push(format!("- {}", line(was)));
                }
                None => all.added += 1,
            }
            all.lines.push(format!("+ {}", line(&route)));
            all.operations.push(Operation::Put { route });
        }
        all
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for line in self.lines.iter().take(SHOWN) {
            text.push_str(line);
            text.push('\n');
        }
        if self.lines.len() > SHOWN {
            text.push_str(&format!(
                "... and {} lines more\n",
                self.lines.len() - SHOWN
            ));
        }
        text.push_str(&format!(
            "{} added, {} changed, {} removed\n",
            self.added, self.changed, self.removed
        ));
        text
    }

    fn json(&self) -> serde_json::Value {
        json!({ "added": self.added, "changed": self.changed, "removed": self.removed })
    }
}

fn line(route: &Route) -> String {
    serde_json::to_string(route).unwrap_or_else(|_| route.key.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn routes(of: &[(&str, &str)]) -> Routes {
        of.iter()
            .map(|(key, to)| {
                let key: RouteKey = key.parse().unwrap();
                let to: SocketAddr = to.parse().unwrap();
                (key.clone(), Route::new(key, [to]))
            })
            .collect()
    }

    #[test]
    fn a_difference_is_what_any_edge_lacks_and_prunes_what_all_have() {
        let here = routes(&[
            ("tcp:1", "10.0.0.1:1"),
            ("tcp:2", "10.0.0.1:2"),
            ("tcp:9", "10.0.0.1:9"),
        ]);
        let there = routes(&[
            ("tcp:1", "10.0.0.1:1"),
            ("tcp:9", "10.0.0.1:9"),
            ("tcp:8", "10.0.0.1:8"),
        ]);
        let wanted = routes(&[
            ("tcp:1", "10.0.0.1:1"),
            ("tcp:2", "10.0.0.1:2"),
            ("tcp:3", "10.0.0.1:3"),
        ]);
        let tables = [here, there];
        let kept = Difference::new(&tables, wanted.clone(), false);
        assert_eq!((kept.added, kept.changed, kept.removed), (1, 1, 0));
        let pruned = Difference::new(&tables, wanted, true);
        assert_eq!((pruned.added, pruned.changed, pruned.removed), (1, 1, 1));
        let keys: Vec<String> = pruned
            .operations
            .iter()
            .map(|operation| operation.key().to_string())
            .collect();
        assert_eq!(keys, ["tcp:9", "tcp:2", "tcp:3"]);
    }

    #[test]
    fn what_is_written_can_be_read_again() {
        let all = routes(&[("http:a.demo", "10.0.0.1:80"), ("tcp:5432", "[::1]:5432")]);
        let mut text = Vec::new();
        write(&all, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.lines().count(), 4);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &text).unwrap();
        assert_eq!(read(file.path()).unwrap(), all);
        std::fs::write(file.path(), text.replace("tcp:5432", "http:a.demo")).unwrap();
        let error = read(file.path()).unwrap_err().to_string();
        assert!(error.contains("http:a.demo is there twice"), "{error}");
    }
}
