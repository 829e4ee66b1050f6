//! Waiting for an unmount that has been answered and still goes on.
//!
//! `zfs unmount` of zfs-fuse may end before the kernel has let go of the file system; until
//! then a mount or a destroy of the same dataset is answered with "busy". Nobody tells when it
//! is over, so it is tried again for a while: at short intervals, as somebody may be waiting at
//! a paused gate.

use std::time::Duration;

use super::{
    command::{CommandError, run},
    parse::Failure,
};

/// Pause after the first attempt that was refused; each one after it is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Pauses in all. What is busy for longer, somebody uses.
const PAUSES_MAX: Duration = Duration::from_millis(1_500);

/// The pauses between attempts.
fn pauses() -> impl Iterator<Item = Duration> {
    let mut paused = Duration::ZERO;
    std::iter::successors(Some(PAUSE_MIN), |pause| Some(*pause * 2)).map_while(move |pause| {
        let left = PAUSES_MAX - paused;
        paused += pause.min(left);
        (!left.is_zero()).then_some(pause.min(left))
    })
}

/// Runs `zfs` until it answers otherwise than busy, or has been busy for too long.
///
/// # Errors
/// Those of the last attempt.
pub(super) async fn zfs_patiently(arguments: &[&str]) -> Result<String, CommandError> {
    for pause in pauses() {
        match run("zfs", arguments).await {
            Err(error) if error.failure == Failure::Busy => tokio::time::sleep(pause).await,
            ended => return ended,
        }
    }
    run("zfs", arguments).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_attempts_are_close_together_and_the_last_is_in_time() {
        let pauses: Vec<Duration> = pauses().collect();
        assert_eq!(pauses[..2], [PAUSE_MIN, PAUSE_MIN * 2]);
        assert_eq!(pauses.iter().sum::<Duration>(), PAUSES_MAX);
        assert!(pauses.len() <= 8, "{pauses:?}");
    }
}
