//! How fast the parked are let go at a resume.
//!
//! All at once they would overrun an app that has just started: its accept queue (often no
//! longer than 128, as measured with `ss -lnt`) overflows, and whose SYN was dropped waits a second for the next
//! (RFC 6298, section 2.1), far longer than the pause. So only so many are let go as keeps what
//! is in flight within a window. The window grows, for a large app's sake; and a few, ever more,
//! go at each turn whatever is in flight, because opaque sessions and slow requests do not end.

use std::time::Duration;

/// Time between two turns.
pub const TURN: Duration = Duration::from_millis(2);
/// So many go at the first turn.
const FIRST: usize = 16;
/// In flight at most, to begin with: four edges together stay below a queue of 128.
const WINDOW: usize = 24;
/// So many go at each turn in any case, to begin with.
const LEAST: usize = 1;
/// After so many turns both are twice as large.
const TURNS_TO_DOUBLE: u32 = 25;

/// The pace of one resume.
#[derive(Debug, Clone)]
pub struct Pace {
    window: usize,
    least: usize,
    turns: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            window: WINDOW,
            least: LEAST,
            turns: 0,
        }
    }
}

impl Pace {
    /// How many may go at this turn, with so many in flight.
    pub fn turn(&mut self, in_flight: u64) -> usize {
        self.turns += 1;
        if self.turns == 1 {
            return FIRST;
        }
        if self.turns.is_multiple_of(TURNS_TO_DOUBLE) {
            self.window = self.window.saturating_mul(2);
            self.least = self.least.saturating_mul(2);
        }
        let in_flight = usize::try_from(in_flight).unwrap_or(usize::MAX);
        self.window.saturating_sub(in_flight).max(self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns until `parked` are gone, and the most that were in flight. At each turn `finish`
    /// of those in flight end.
    fn run(mut parked: usize, finish: usize) -> (u32, usize) {
        let mut pace = Pace::default();
        let (mut turns, mut in_flight, mut most) = (0, 0_usize, 0);
        while parked > 0 {
            let go = pace.turn(in_flight as u64).min(parked);
            parked -= go;
            in_flight += go;
            most = most.max(in_flight);
            in_flight = in_flight.saturating_sub(finish);
            turns += 1;
        }
        (turns, most)
    }

    #[test]
    fn a_quick_app_is_never_asked_for_more_than_the_window() {
        let (turns, most) = run(200, WINDOW);
        assert!(turns <= 10, "{turns} turns");
        assert_eq!(most, WINDOW);
    }

    #[test]
    fn an_app_that_answers_nothing_yet_is_met_by_few() {
        let mut pace = Pace::default();
        let mut in_flight = 0;
        for _ in 0..10 {
            in_flight += pace.turn(in_flight as u64);
        }
        assert!(in_flight <= 32, "{in_flight} within 20 ms");
    }

    #[test]
    fn sessions_that_never_end_are_all_let_go_within_a_second() {
        let (turns, most) = run(10_000, 0);
        assert_eq!(most, 10_000);
        assert!(TURN * turns < Duration::from_secs(1), "{turns} turns");
    }

    #[test]
    fn the_window_grows_so_that_a_flood_ends() {
        let (turns, _) = run(1_000_000, usize::MAX);
        assert!(TURN * turns < Duration::from_secs(1), "{turns} turns");
    }
}
