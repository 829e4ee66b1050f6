//! `healthcheck`: by its command one knows that a service is ready, and later that it is well.

use flocker_api::container::{HealthCheck, Probe};

use super::super::{
    error::Problem,
    keys,
    reader::{Fields, Reader},
    yaml::{Node, Value},
};

/// What Docker takes where a file says nothing.
const INTERVAL_MS: u64 = 30_000;
const TIMEOUT_MS: u64 = 30_000;
const RETRIES: u64 = 3;

impl Reader<'_> {
    /// The check, and the probe that it comes to while a service starts: it has failed to when
    /// Docker would call it unhealthy, after its start period and so many failed checks as may be.
    pub(super) fn healthcheck(
        &mut self,
        fields: &Fields<'_>,
        path: &str,
    ) -> Option<(Probe, HealthCheck)> {
        const RETRIES_EXPECTED: &str = "an integer from 1 to 1000";
        let (node, at) = (fields.get("healthcheck")?, fields.at("healthcheck"));
        let path = format!("{path}.healthcheck");
        let fields = self.fields(node, at, &path, keys::HEALTHCHECK)?;
        let mut duration = |key: &str, min_ms: u64, otherwise: u64| {
            let path = format!("{path}.{key}");
            let found = fields.get(key);
            found.map_or(Some(otherwise), |node| {
                self.duration_ms(node, &path, min_ms)
            })
        };
        let interval_ms = duration("interval", 1, INTERVAL_MS);
        let timeout_ms = duration("timeout", 1, TIMEOUT_MS);
        let start_ms = duration("start_period", 0, 0);
        let retries = fields.get("retries").map_or(Some(RETRIES), |node| {
            self.loose_integer(node, &format!("{path}.retries"), 1..=1000, RETRIES_EXPECTED)
        });
        let disabled = fields.get("disable").and_then(|node| {
            let words = [("true", true), ("false", false)];
            self.flag(node, &format!("{path}.disable"), &words)
        });
        if disabled == Some(true) {
            if fields.get("test").is_some() {
                let problem = Problem::Refused {
                    path,
                    reason: "it is disabled and has a 'test'; leave one of them out".to_owned(),
                };
                self.note(at, problem);
            }
            return None;
        }
        const TEST: &str = "[CMD, PROGRAM, ARGUMENT], [CMD-SHELL, COMMAND], [NONE], or a command \
                            for the shell as one text";
        let node = self.required(&fields, &path, "test", TEST)?;
        let command = self.check_command(node, &format!("{path}.test"), TEST)?;
        let check = HealthCheck {
            command: command.clone(),
            interval_ms: interval_ms?,
            timeout_ms: timeout_ms?,
            retries: u32::try_from(retries?).ok()?,
            start_period_ms: start_ms?,
        };
        let each_ms = check.interval_ms.saturating_add(check.timeout_ms);
        let checks_ms = each_ms.saturating_mul(u64::from(check.retries));
        let probe = Probe::Exec {
            command,
            timeout_ms: check.start_period_ms.saturating_add(checks_ms),
        };
        Some((probe, check))
    }

    /// The command of a check; `None` for `NONE` too.
    fn check_command(&mut self, node: &Node, path: &str, expected: &str) -> Option<Vec<String>> {
        let shell = |text: &str| ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
        if let Value::Scalar(_) = &node.value {
            return self.text(node, path, expected).map(shell);
        }
        let words = self.command(node, path)?;
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["NONE"] => None,
            ["CMD-SHELL", text] => Some(shell(text)),
            ["CMD", _, ..] => Some(words[1..].to_vec()),
            _ => {
                self.bad(node, path, expected);
                None
            }
        }
    }
}
