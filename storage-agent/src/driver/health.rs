//! Runs the health checks of apps, again and again, and says what they found.
//!
//! Nothing is restarted for it and no route changes: a check that fails because the machine is
//! busy would else make it busier. It is shown, and people decide.

use std::{
    sync::Weak,
    time::{Duration, Instant},
};

use flocker_api::{
    container::{Health, HealthCheck},
    name::AppName,
};

use super::containers::{Containers, Inner};

/// Longest part of what a check said that is shown.
const REASON_CHARS_MAX: usize = 200;

/// Examines an app for as long as it is watched over.
pub(super) async fn examine(
    inner: Weak<Inner>,
    app: AppName,
    check: HealthCheck,
    mut started: Instant,
) {
    let interval = Duration::from_millis(check.interval_ms);
    let limit = Duration::from_millis(check.timeout_ms);
    let mut failures = 0;
    loop {
        tokio::time::sleep(interval).await;
        let Some(containers) = inner.upgrade().map(|inner| Containers { inner }) else {
            return;
        };
        let run = containers.hook(&app, &check.command, limit).await;
        let trouble = match run {
            Ok(output) if output.exit_code == 0 => None,
            Ok(output) => Some(format!(
                "ended with {}: {}",
                output.exit_code,
                output.text().trim_end()
            )),
            Err(error) => Some(flocker_api::error::chain(&error)),
        };
        containers.found_health(&app, |since| {
            // Started again meanwhile: what went before counts no more.
            if since != started {
                (started, failures) = (since, 0);
            }
            judge(&check, &mut failures, trouble, since.elapsed())
        });
    }
}

/// What one more run means; `None` where it means nothing yet.
fn judge(
    check: &HealthCheck,
    failures: &mut u32,
    trouble: Option<String>,
    ran: Duration,
) -> Option<Health> {
    let Some(reason) = trouble else {
        *failures = 0;
        return Some(Health::Well);
    };
    if ran < Duration::from_millis(check.start_period_ms) {
        return None;
    }
    *failures += 1;
    (*failures >= check.retries).then(|| Health::Unwell {
        failures: *failures,
        reason: reason.chars().take(REASON_CHARS_MAX).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_failures_in_a_row_are_unwell_and_one_success_is_well() {
        let check = HealthCheck {
            command: vec!["true".to_owned()],
            interval_ms: 1,
            timeout_ms: 1,
            retries: 2,
            start_period_ms: 1_000,
        };
        let mut failures = 0;
        let mut run = |ok: bool, ran_s| {
            let trouble = (!ok).then(|| "no".to_owned());
            judge(&check, &mut failures, trouble, Duration::from_secs(ran_s))
        };
        assert_eq!(run(false, 0), None, "the start period");
        assert_eq!(run(false, 1), None, "the first failure");
        let unwell = Health::Unwell {
            failures: 2,
            reason: "no".to_owned(),
        };
        assert_eq!(run(false, 1), Some(unwell));
        assert_eq!(run(true, 1), Some(Health::Well));
        assert_eq!(run(false, 1), None, "counted anew");
    }
}
