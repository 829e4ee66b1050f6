//! The older text form (exposition format 0.0.4) of OpenMetrics text: counters are declared
//! under the name of their samples, and there is no mark of the end.

/// The older form.
pub(super) fn older(text: &str) -> String {
    let counters: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let declared = line
            .strip_prefix("# HELP ")
            .or_else(|| line.strip_prefix("# TYPE "));
        match declared.and_then(|rest| rest.split_once(' ')) {
            Some((name, rest)) if counters.contains(&name) => {
                let word = &line[..7];
                out.push_str(&format!("{word}{name}_total {rest}\n"));
            }
            None if line == "# EOF" => {}
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_declared_as_their_samples_are_called() {
        let new = "# HELP a Some.\n# TYPE a counter\na_total 1\n# HELP b More.\n# TYPE b gauge\nb 2\n# EOF\n";
        let old = "# HELP a_total Some.\n# TYPE a_total counter\na_total 1\n# HELP b More.\n# TYPE b gauge\nb 2\n";
        assert_eq!(older(new), old);
    }
}
