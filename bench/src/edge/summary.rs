//! From runs to figures: medians, ranges, ratios and differences within a round.

use super::{
    counts::{Calls, Work},
    figures::{Spread, SubjectFigures, WorkloadFigures},
    measure::{Measured, Mode, Run, Timed},
    subject::Subject,
    workload::Workload,
};

/// What was counted of a subject, where it could be.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    pub(super) calls: Option<Calls>,
    pub(super) work: Option<Work>,
}

/// A cost of a run per unit, in the unit of costs.
struct Costs<'w> {
    workload: &'w Workload,
}

#[expect(clippy::cast_precision_loss, reason = "seconds of a run")]
impl Costs<'_> {
    fn of(&self, seconds: f64, timed: &Timed) -> f64 {
        seconds * self.workload.unit.of_cost().1 / timed.units
    }

    fn proxy(&self, timed: &Timed) -> f64 {
        self.of(timed.window.proxy.ns as f64 / 1e9, timed)
    }

    fn both(&self, timed: &Timed) -> f64 {
        self.of(timed.window.ours_s(), timed)
    }

    fn user(&self, timed: &Timed) -> f64 {
        self.proxy(timed) * timed.window.proxy.user_share()
    }

    fn switches(timed: &Timed) -> f64 {
        let proxy = timed.window.proxy;
        (proxy.voluntary + proxy.involuntary) as f64 / timed.units
    }
}

/// The figures of a workload.
pub(super) fn summarise(
    workload: &Workload,
    subjects: &[Subject],
    measured: &Measured,
    counted: &[Counted],
) -> WorkloadFigures {
    let table = Table {
        costs: Costs { workload },
        measured,
    };
    let mode = measured.mode;
    let has_latency = !workload.is_stream();
    let figures = subjects.iter().zip(counted);
    WorkloadFigures {
        workload: workload.name.to_owned(),
        about: workload.about.to_owned(),
        unit: workload.unit.name().to_owned(),
        cpu_unit: workload.unit.of_cost().0.to_owned(),
        cpu_measured: match mode {
            Mode::Closed => "closed".to_owned(),
            Mode::Rate => "rate".to_owned(),
        },
        rate: (has_latency || mode == Mode::Rate).then_some(measured.rate),
        subjects: figures
            .map(|(subject, counted)| table.row(*subject, counted))
            .collect(),
        ..WorkloadFigures::default()
    }
}

/// A value of a timed run.
type Value<'v> = &'v dyn Fn(&Timed) -> f64;

struct Table<'m> {
    costs: Costs<'m>,
    measured: &'m Measured,
}

impl Table<'_> {
    fn row(&self, subject: Subject, counted: &Counted) -> SubjectFigures {
        let costs = &self.costs;
        let mode = self.measured.mode;
        let own = |run: &&Run| run.subject == subject && run.mode == mode;
        let refused = self.measured.refused.iter();
        let refused = refused
            .filter(|(of, _)| *of == subject)
            .map(|(_, reason)| reason.clone());
        let mut row = SubjectFigures {
            name: subject.name().to_owned(),
            both_cores_cpu_per_unit: self.of(subject, mode, &|timed| costs.both(timed)),
            runs: u32::try_from(self.measured.runs.iter().filter(own).count()).unwrap_or(u32::MAX),
            refused: refused.collect(),
            ..SubjectFigures::default()
        };
        let has_latency = !costs.workload.is_stream();
        if has_latency {
            row.p99_us = self.of(subject, Mode::Rate, &|timed| timed.latency_us[1]);
        }
        if subject == Subject::Direct {
            return row;
        }
        row.cpu_per_unit = self.of(subject, mode, &|timed| costs.proxy(timed));
        row.user_per_unit = self.of(subject, mode, &|timed| costs.user(timed));
        row.system_per_unit = self.of(subject, mode, &|timed| {
            costs.proxy(timed) - costs.user(timed)
        });
        if mode == Mode::Closed {
            row.cpu_per_unit_at_rate = self.of(subject, Mode::Rate, &|timed| costs.proxy(timed));
        }
        row.context_switches_per_unit = self.of(subject, mode, &Costs::switches);
        if let Some(work) = counted.work {
            row.instructions_per_unit = Some(Spread::exactly(work.instructions));
            let allocations = Spread::exactly(work.allocations);
            row.more
                .insert("allocations_per_unit".to_owned(), allocations);
        }
        if let Some(calls) = &counted.calls {
            row.syscalls_per_unit = Some(Spread::exactly(calls.all));
            row.syscalls.clone_from(&calls.kinds);
        }
        if has_latency {
            row.p50_added_us = self.added(subject, 0);
            row.p99_added_us = self.added(subject, 1);
            row.p999_added_us = self.added(subject, 2);
        }
        if subject != Subject::Flocker {
            row.ratio = self.ratio(subject, &|timed| costs.proxy(timed));
            row.both_cores_ratio = self.ratio(subject, &|timed| costs.both(timed));
        }
        row
    }

    fn of(&self, subject: Subject, mode: Mode, value: Value<'_>) -> Option<Spread> {
        let runs = self.measured.runs.iter();
        let runs = runs.filter(|run| run.subject == subject && run.mode == mode);
        Spread::of(&runs.map(|run| value(&run.timed)).collect::<Vec<_>>())
    }

    /// A value of two subjects in the same round, put together.
    fn pairs(
        &self,
        [first, second]: [Subject; 2],
        mode: Mode,
        value: Value<'_>,
        join: fn(f64, f64) -> f64,
    ) -> Option<Spread> {
        let runs = &self.measured.runs;
        let of = |subject: Subject| {
            runs.iter()
                .filter(move |run| run.subject == subject && run.mode == mode)
        };
        let joined = of(first).filter_map(|run| {
            let other = of(second).find(|other| other.round == run.round)?;
            Some(join(value(&run.timed), value(&other.timed)))
        });
        Spread::of(&joined.collect::<Vec<_>>())
    }

    fn added(&self, subject: Subject, quantile: usize) -> Option<Spread> {
        let value = |timed: &Timed| timed.latency_us[quantile];
        self.pairs(
            [subject, Subject::Direct],
            Mode::Rate,
            &value,
            |one, direct| one - direct,
        )
    }

    fn ratio(&self, peer: Subject, value: Value<'_>) -> Option<Spread> {
        let mode = self.measured.mode;
        self.pairs([Subject::Flocker, peer], mode, value, |flocker, peer| {
            flocker / peer
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::edge::cpu::{Usage, Window};

    fn run(round: u32, subject: Subject, proxy_ns: u64, p99_us: f64) -> Run {
        let window = Window {
            elapsed: Duration::from_secs(1),
            proxy: Usage {
                ns: proxy_ns,
                user: 1,
                system: 3,
                ..Usage::default()
            },
            load_ns: 1_000,
            origin_ns: 0,
            kernel_ns: 0,
            busy_s: 0.0,
            stolen_s: 0.0,
        };
        let timed = Timed::example(window, 10.0, [1.0, p99_us, 9.0]);
        Run {
            round,
            subject,
            mode: Mode::Rate,
            timed,
        }
    }

    #[test]
    fn ratios_and_differences_are_of_the_same_round() {
        let workload = Workload::of("connect").unwrap();
        let subjects = [Subject::Flocker, Subject::Haproxy, Subject::Direct];
        // The second round was twice as slow for everybody; haproxy has no third one.
        let measured = Measured {
            mode: Mode::Rate,
            rate: 100.0,
            runs: vec![
                run(0, Subject::Flocker, 80_000, 50.0),
                run(0, Subject::Haproxy, 100_000, 60.0),
                run(0, Subject::Direct, 0, 20.0),
                run(1, Subject::Flocker, 160_000, 150.0),
                run(1, Subject::Haproxy, 200_000, 160.0),
                run(1, Subject::Direct, 0, 120.0),
                run(2, Subject::Flocker, 900_000, 50.0),
            ],
            refused: vec![(Subject::Haproxy, "round 3: disturbed".to_owned())],
        };
        let counted = vec![Counted::default(); 3];
        let figures = summarise(workload, &subjects, &measured, &counted);
        let [flocker, haproxy, direct] = &figures.subjects[..] else {
            panic!("{figures:?}")
        };
        assert_eq!(haproxy.ratio, Some(Spread::exactly(0.8)));
        assert_eq!(flocker.ratio, None);
        assert_eq!(flocker.p99_added_us, Some(Spread::exactly(30.0)));
        assert_eq!(haproxy.p99_added_us, Some(Spread::exactly(40.0)));
        assert_eq!(
            (flocker.runs, haproxy.runs, haproxy.refused.len()),
            (3, 2, 1)
        );
        let cpu = haproxy.cpu_per_unit.unwrap();
        assert!(
            (cpu.min - 10.0).abs() < 1e-9 && (cpu.max - 20.0).abs() < 1e-9,
            "{cpu:?}"
        );
        assert!((haproxy.user_per_unit.unwrap().min - 2.5).abs() < 1e-9);
        assert_eq!(direct.cpu_per_unit, None, "there is no proxy");
        assert!(direct.both_cores_cpu_per_unit.is_some());
    }
}
