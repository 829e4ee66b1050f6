//! Values to places: latency on a logarithmic axis, time on a linear one.

/// The axis of latencies, the same for all panels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Latency {
    /// Decades of microseconds at bottom and top.
    bottom: f64,
    top: f64,
}

impl Latency {
    /// An axis that shows all of some latencies in us: from a whole decade to a third of one.
    pub(super) fn covering(latencies_us: impl Iterator<Item = u64>) -> Self {
        let (least, most) = latencies_us.fold((u64::MAX, 0), |(least, most), us| {
            (least.min(us.max(1)), most.max(us))
        });
        if most == 0 {
            return Self {
                bottom: 2.0,
                top: 6.0,
            };
        }
        // Nothing under 0.1 ms is worth the space.
        let bottom = decade(least).floor().max(2.0);
        let top = ((decade(most) * 3.0 + 0.3).ceil() / 3.0).max(bottom + 1.0);
        Self { bottom, top }
    }

    /// Where a latency is: 0 at the bottom, 1 at the top.
    pub(super) fn place(&self, us: u64) -> f64 {
        ((decade(us) - self.bottom) / (self.top - self.bottom)).clamp(0.0, 1.0)
    }

    /// The decades' lines: place and label.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        (2..=9_u32)
            .map(|decade| 10_u64.pow(decade))
            .filter(|us| (self.bottom..=self.top).contains(&decade(*us)))
            .map(|us| (self.place(us), label(us)))
            .collect()
    }
}

fn decade(us: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a place in a drawing")]
    let us = us.max(1) as f64;
    us.log10()
}

fn label(us: u64) -> String {
    match us {
        1_000_000.. => format!("{} s", us / 1_000_000),
        1000.. => format!("{} ms", us / 1000),
        _ => format!("0.{} ms", us / 100),
    }
}

/// The axis of time of one panel, in s since the move began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Time {
    /// Left end.
    pub(super) from: f64,
    /// Right end.
    pub(super) to: f64,
}

impl Time {
    /// Where a moment is: 0 at the left, 1 at the right.
    pub(super) fn place(&self, seconds: f64) -> f64 {
        ((seconds - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }

    /// Lines at round seconds: place and label.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let span = self.to - self.from;
        let steps = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0];
        let step = steps
            .into_iter()
            .find(|step| span / step <= 12.0)
            .unwrap_or(120.0);
        let mut ticks = Vec::new();
        let mut at = (self.from / step).ceil() * step;
        while at <= self.to + 1e-9 {
            let shown = if at.abs() < 1e-9 { 0.0 } else { at };
            let decimals = usize::from(step < 1.0);
            ticks.push((self.place(at), format!("{shown:.decimals$} s")));
            at += step;
        }
        ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_covers_what_it_is_given() {
        let axis = Latency::covering([350, 1_000, 640_000].into_iter());
        assert!(axis.place(350) > 0.0 && axis.place(640_000) < 1.0);
        assert!(axis.place(640_000) > 0.9, "space is not wasted: {axis:?}");
        let labels: Vec<String> = axis.ticks().into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels, ["0.1 ms", "1 ms", "10 ms", "100 ms", "1 s"]);
    }

    #[test]
    fn no_request_at_all_still_gives_an_axis() {
        let axis = Latency::covering(std::iter::empty());
        assert_eq!(axis.ticks().len(), 5);
        assert!(axis.place(0) <= f64::EPSILON);
    }

    #[test]
    fn time_is_marked_at_round_seconds() {
        let time = Time {
            from: -1.0,
            to: 4.3,
        };
        let labels: Vec<String> = time.ticks().into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels.first().map(String::as_str), Some("-1.0 s"));
        assert!(
            labels.contains(&"0.0 s".to_owned()) && labels.len() <= 12,
            "{labels:?}"
        );
    }
}
