//! Where a run took place: numbers mean nothing without it.

use std::fs;

use serde::Serialize;

/// Facts of the machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cpus: usize,
    /// What they call themselves.
    pub cpu_model: String,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// The kernel.
    pub kernel: String,
    /// The distribution.
    pub system: String,
    /// Version of Flocker.
    pub flocker: &'static str,
    /// Whether Flocker's programs were built with optimisations.
    pub optimised: bool,
}

impl Machine {
    /// This machine. What it does not say is left empty.
    #[must_use]
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        Self {
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            cpu_model: value(&cpus, "model name", ':').to_owned(),
            memory_mib: kib(value(&memory, "MemTotal", ':')) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: value(&read("/etc/os-release"), "PRETTY_NAME", '=')
                .trim_matches('"')
                .to_owned(),
            flocker: env!("CARGO_PKG_VERSION"),
            optimised: !cfg!(debug_assertions),
        }
    }
}

/// The value of the first line `KEY<separator>VALUE`.
fn value<'t>(text: &'t str, key: &str, separator: char) -> &'t str {
    text.lines()
        .filter_map(|line| line.split_once(separator))
        .find(|(name, _)| name.trim() == key)
        .map_or("", |(_, value)| value.trim())
}

fn kib(text: &str) -> u64 {
    let digits = text.split(' ').next().unwrap_or("");
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_the_kernel_writes_them() {
        let text = "processor\t: 0\nmodel name\t: Xeon: big\nmodel name\t: other\n";
        assert_eq!(value(text, "model name", ':'), "Xeon: big");
        assert_eq!(value(text, "absent", ':'), "");
        assert_eq!(kib(value("MemTotal:    2048 kB\n", "MemTotal", ':')), 2048);
    }

    #[test]
    fn this_machine_has_processors_and_memory() {
        let machine = Machine::this();
        assert!(machine.cpus > 0 && machine.memory_mib > 0, "{machine:?}");
    }
}
