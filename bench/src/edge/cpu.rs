//! What /proc says of processor time, memory and context switches: of a process with all its
//! threads and children, of this program's own threads, and of the machine's cores.
//!
//! Time comes from `schedstat`, in nanoseconds; the split into user and system from `stat`, whose
//! ticks of 10 ms are good enough for a share. The cores' own counters are ticks as well.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

/// Ticks of /proc/stat in a second (USER_HZ, proc(5)): a constant of the x86 and Arm ABI.
const TICKS_PER_SECOND: f64 = 100.0;
/// Flag of a kernel thread in field 9 of /proc/PID/stat (PF_KTHREAD of sched.h).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// What a process has used since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    /// Time on a core, in ns.
    pub(super) ns: u64,
    /// Ticks in user space, and in the kernel.
    pub(super) user: u64,
    pub(super) system: u64,
    /// Context switches: waiting, and being taken off.
    pub(super) voluntary: u64,
    pub(super) involuntary: u64,
}

impl Usage {
    /// Of these processes with all their threads.
    pub(super) fn of(pids: &[u32]) -> Self {
        let mut sum = Self::default();
        for pid in pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if let Some(fields) = fields(&stat) {
                sum.user += fields.user;
                sum.system += fields.system;
            }
            for task in tasks(*pid) {
                let read = |file: &str| fs::read_to_string(format!("{task}/{file}"));
                sum.ns += read("schedstat").map_or(0, |text| on_core(&text));
                let status = read("status").unwrap_or_default();
                sum.voluntary += value(&status, "voluntary_ctxt_switches");
                sum.involuntary += value(&status, "nonvoluntary_ctxt_switches");
            }
        }
        sum
    }

    /// What came since an earlier reading.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            ns: self.ns.saturating_sub(earlier.ns),
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            voluntary: self.voluntary.saturating_sub(earlier.voluntary),
            involuntary: self.involuntary.saturating_sub(earlier.involuntary),
        }
    }

    /// Which share of the time was user space.
    #[expect(clippy::cast_precision_loss, reason = "ticks of seconds")]
    pub(super) fn user_share(self) -> f64 {
        match self.user + self.system {
            0 => 0.0,
            ticks => self.user as f64 / ticks as f64,
        }
    }
}

/// Time on a core of a thread of this program, in ns.
pub(super) fn thread_ns(tid: u32) -> u64 {
    fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).map_or(0, |text| on_core(&text))
}

/// The thread that asks.
pub(super) fn this_thread() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs()
}

/// A process and all that descend from it.
pub(super) fn family(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (pid, fields) in processes() {
        children.entry(fields.parent).or_default().push(pid);
    }
    let mut family = vec![root];
    let mut at = 0;
    while let Some(pid) = family.get(at) {
        family.extend(children.get(pid).into_iter().flatten());
        at += 1;
    }
    family
}

/// What the kernel's threads that serve the network have used, in ns: softirqs that the
/// processes' own calls did not get to.
pub(super) fn kernel_threads_ns() -> u64 {
    let kernel = processes()
        .into_iter()
        .filter(|(_, fields)| fields.flags & KERNEL_THREAD != 0)
        .filter(|(_, fields)| fields.name.starts_with("ksoftirqd"));
    kernel
        .map(|(pid, _)| {
            fs::read_to_string(format!("/proc/{pid}/schedstat")).map_or(0, |text| on_core(&text))
        })
        .sum()
}

/// The cores' counters at a moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Cores {
    /// Of each core: ticks that were not idle, and ticks that the hypervisor took.
    ticks: Vec<(u64, u64)>,
}

impl Cores {
    pub(super) fn now() -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// Lines `cpuN user nice system idle iowait irq softirq steal ...` (proc_stat(5)).
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| {
            let rest = line.strip_prefix("cpu")?;
            let mut words = rest.split_ascii_whitespace();
            // The first line is the sum of all, and has no number.
            rest.starts_with(|first: char| first.is_ascii_digit())
                .then(|| words.next())??;
            let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
            let [user, nice, system, _, _, irq, softirq, steal, ..] = numbers[..] else {
                return None;
            };
            Some((user + nice + system + irq + softirq, steal))
        });
        Self {
            ticks: lines.collect(),
        }
    }

    /// Seconds that these cores were busy since, and that the hypervisor took.
    #[expect(clippy::cast_precision_loss, reason = "ticks of seconds")]
    pub(super) fn since(&self, earlier: &Self, cores: &[usize]) -> (f64, f64) {
        let mut sums = (0, 0);
        for core in cores {
            if let (Some(now), Some(then)) = (self.ticks.get(*core), earlier.ticks.get(*core)) {
                sums.0 += now.0.saturating_sub(then.0);
                sums.1 += now.1.saturating_sub(then.1);
            }
        }
        let seconds = |ticks: u64| ticks as f64 / TICKS_PER_SECOND;
        (seconds(sums.0), seconds(sums.1))
    }
}

/// Memory of these processes that is theirs alone, in bytes: `Pss` shares out what is mapped by
/// several; `anon` is what they allocated.
pub(super) fn memory(pids: &[u32]) -> Memory {
    let mut sum = Memory::default();
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        sum.pss += value(&text, "Pss") * 1024;
        sum.anon += value(&text, "Pss_Anon") * 1024;
    }
    sum
}

/// See [`memory`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) pss: u64,
    pub(super) anon: u64,
}

/// A reading of everything that a timed window needs.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) at: Instant,
    pub(super) proxy: Usage,
    pub(super) load_ns: u64,
    pub(super) origin_ns: u64,
    pub(super) kernel_ns: u64,
    pub(super) cores: Cores,
}

/// The time between two readings.
#[derive(Debug, Clone)]
pub(super) struct Window {
    pub(super) elapsed: Duration,
    pub(super) proxy: Usage,
    pub(super) load_ns: u64,
    pub(super) origin_ns: u64,
    pub(super) kernel_ns: u64,
    /// Seconds that both cores were busy, by their own counters.
    pub(super) busy_s: f64,
    /// Seconds that the hypervisor took from both.
    pub(super) stolen_s: f64,
}

impl Reading {
    pub(super) fn until(&self, later: &Self, cores: &[usize]) -> Window {
        let (busy_s, stolen_s) = later.cores.since(&self.cores, cores);
        Window {
            elapsed: later.at - self.at,
            proxy: later.proxy.since(self.proxy),
            load_ns: later.load_ns.saturating_sub(self.load_ns),
            origin_ns: later.origin_ns.saturating_sub(self.origin_ns),
            kernel_ns: later.kernel_ns.saturating_sub(self.kernel_ns),
            busy_s,
            stolen_s,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds of a short run")]
impl Window {
    /// Time on cores of all that takes part, in s.
    pub(super) fn ours_s(&self) -> f64 {
        (self.proxy.ns + self.load_ns + self.origin_ns + self.kernel_ns) as f64 / 1e9
    }

    /// Share of its core that the proxy was on.
    pub(super) fn proxy_share(&self) -> f64 {
        self.proxy.ns as f64 / 1e9 / self.elapsed.as_secs_f64()
    }

    /// Share of their core that generator and origin were on.
    pub(super) fn load_share(&self) -> f64 {
        (self.load_ns + self.origin_ns) as f64 / 1e9 / self.elapsed.as_secs_f64()
    }

    /// Seconds of both cores that others used, as a share of one core. The cores count in
    /// ticks: a short run knows it to some percent only.
    pub(super) fn foreign_share(&self) -> f64 {
        (self.busy_s - self.ours_s()).max(0.0) / self.elapsed.as_secs_f64()
    }

    /// Seconds that the hypervisor took, as a share of one core.
    pub(super) fn stolen_share(&self) -> f64 {
        self.stolen_s / self.elapsed.as_secs_f64()
    }
}

/// What is needed of /proc/PID/stat.
#[derive(Debug, PartialEq, Eq)]
struct Fields {
    name: String,
    parent: u32,
    flags: u64,
    user: u64,
    system: u64,
}

/// The command in parentheses may hold anything, parentheses too: fields are counted from the
/// last `)` (proc_pid_stat(5)).
fn fields(stat: &str) -> Option<Fields> {
    let (before, rest) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| words.get(field - 3)?.parse::<u64>().ok();
    Some(Fields {
        name: name.to_owned(),
        parent: u32::try_from(number(4)?).ok()?,
        flags: number(9)?,
        user: number(14)?,
        system: number(15)?,
    })
}

fn processes() -> Vec<(u32, Fields)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, fields(&stat)?))
        })
        .collect()
}

fn tasks(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"));
    let entries = entries.into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.path().to_str().map(str::to_owned))
        .collect()
}

/// The first number of a schedstat: time on a core, in ns.
fn on_core(text: &str) -> u64 {
    let first = text.split_ascii_whitespace().next();
    first.and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The number of the line `KEY: number`.
fn value(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == key)
        .and_then(|(_, rest)| rest.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  9 9 9 9 9 9 9 9 0 0\n\
        cpu0 100 10 50 1000 7 3 4 20 0 0\n\
        cpu1 200 0 60 900 0 0 5 0 0 0\nintr 1 2 3\n";

    #[test]
    fn the_cores_counters_are_read_each_by_itself() {
        let then = Cores::parse(STAT);
        assert_eq!(then.ticks, [(167, 20), (265, 0)]);
        let now = Cores::parse(&STAT.replace("cpu0 100", "cpu0 150"));
        assert_eq!(now.since(&then, &[0, 1]), (0.5, 0.0));
        assert_eq!(now.since(&then, &[1]), (0.0, 0.0));
        assert_eq!(now.since(&then, &[7]), (0.0, 0.0), "no such core");
    }

    #[test]
    fn a_stat_line_with_a_hostile_name_is_read() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 2097216 1 2 3 4 11 22 7 8 20 0 1 0 5 9 0";
        let read = fields(line).unwrap();
        assert_eq!(read.name, "a) b (c");
        assert_eq!((read.parent, read.user, read.system), (1, 11, 22));
        assert_ne!(read.flags & KERNEL_THREAD, 0);
        assert_eq!(fields("7 (sh"), None);
    }

    #[test]
    fn values_are_found_by_their_whole_key() {
        let text = "Rss:  10 kB\nPss_Anon:  3 kB\nPss:   7 kB\n";
        assert_eq!((value(text, "Pss"), value(text, "Pss_Anon")), (7, 3));
        assert_eq!(value(text, "Swap"), 0);
        assert_eq!(on_core("123 45 6\n"), 123);
    }

    #[test]
    fn this_process_has_used_time_and_memory_and_is_its_own_family() {
        let own = std::process::id();
        let mut sum = 0u64;
        for number in 0..20_000_000u64 {
            sum = std::hint::black_box(sum.wrapping_add(number));
        }
        let usage = Usage::of(&[own]);
        assert!(usage.ns > 1_000_000, "{usage:?} {sum}");
        assert!(thread_ns(this_thread()) > 1_000_000);
        assert!(memory(&[own]).pss > 100_000);
        assert_eq!(family(own).first(), Some(&own));
    }

    #[test]
    fn what_others_used_is_what_is_left_of_the_cores() {
        let window = Window {
            elapsed: Duration::from_secs(2),
            proxy: Usage {
                ns: 1_000_000_000,
                user: 25,
                system: 75,
                ..Usage::default()
            },
            load_ns: 500_000_000,
            origin_ns: 250_000_000,
            kernel_ns: 50_000_000,
            busy_s: 2.0,
            stolen_s: 0.1,
        };
        assert!((window.foreign_share() - 0.1).abs() < 1e-9);
        assert!((window.proxy_share() - 0.5).abs() < 1e-9);
        assert!((window.load_share() - 0.375).abs() < 1e-9);
        assert!((window.stolen_share() - 0.05).abs() < 1e-9);
        assert!((window.proxy.user_share() - 0.25).abs() < 1e-9);
    }
}
