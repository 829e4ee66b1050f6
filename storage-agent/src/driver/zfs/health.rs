//! Whether the pool is well, in its own words (`zpool status -x`).
//!
//! Agents are asked how they are every second, and a pool does not fall ill that often: what it
//! said is good for a while.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Zfs, command::run};

/// How long a pool's word is good.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// What the pool said last.
#[derive(Debug, Default)]
pub(super) struct Health {
    said: Mutex<Option<(Instant, Option<String>)>>,
}

impl Zfs {
    /// What is wrong with the pool, if anything is.
    pub(super) async fn pool_trouble(&self) -> Option<String> {
        let known = || {
            self.health
                .said
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some((at, said)) = &*known()
            && at.elapsed() < GOOD_FOR
        {
            return said.clone();
        }
        let pool = self.parent.split('/').next().unwrap_or_default();
        let said = match run("zpool", &["status", "-x", pool]).await {
            Ok(text) => trouble(pool, &text),
            Err(error) => Some(error.error.to_string()),
        };
        *known() = Some((Instant::now(), said.clone()));
        said
    }
}

/// Reads `zpool status -x POOL`: one line where all is well, else the pool's state, in which way
/// it is not well, and what would help.
fn trouble(pool: &str, text: &str) -> Option<String> {
    if text.contains("is healthy") || text.contains("all pools are healthy") {
        return None;
    }
    let part = |name: &str| {
        let mut lines = text
            .lines()
            .skip_while(|line| !line.trim_start().starts_with(name));
        let first = lines.next()?.trim_start().strip_prefix(name)?.trim();
        // What does not fit a line goes on after a tab.
        let more = lines
            .take_while(|line| line.starts_with('\t'))
            .map(str::trim);
        let words: Vec<_> = std::iter::once(first).chain(more).collect();
        Some(words.join(" "))
    };
    let state = part("state:").unwrap_or_else(|| "not well".to_owned());
    let mut told = format!("pool {pool} is {state}");
    for part in [part("status:"), part("action:")].into_iter().flatten() {
        told.push_str(": ");
        told.push_str(part.trim_end_matches('.'));
    }
    Some(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_is_well_says_so() {
        assert_eq!(trouble("tank", "pool 'tank' is healthy\n"), None);
        assert_eq!(trouble("tank", "all pools are healthy\n"), None);
    }

    #[test]
    fn one_that_is_not_says_what_would_help() {
        // zfs-fuse 0.7.0, a mirror of which one half was taken away.
        let text = "  pool: tank\n state: DEGRADED\nstatus: One or more devices has been taken \
                    offline by the administrator.\n\tSufficient replicas exist for the pool to \
                    continue functioning in a\n\tdegraded state.\naction: Online the device using \
                    'zpool online' or replace the device with\n\t'zpool replace'.\n scrub: none \
                    requested\nconfig:\n\n\tNAME STATE\n\ttank DEGRADED\n";
        let told = trouble("tank", text).unwrap();
        assert_eq!(
            told,
            "pool tank is DEGRADED: One or more devices has been taken offline by the \
             administrator. Sufficient replicas exist for the pool to continue functioning in a \
             degraded state: Online the device using 'zpool online' or replace the device with \
             'zpool replace'"
        );
    }

    #[test]
    fn what_cannot_be_read_is_no_health() {
        assert_eq!(
            trouble("tank", "?").as_deref(),
            Some("pool tank is not well")
        );
    }
}
