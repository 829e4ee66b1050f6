//! Examines a node: its own word, and what only others can say of it: whether it answers, and
//! how its clock goes.

use flocker_api::{
    ErrorBody,
    doctor::{Diagnosis, DoctorRequest, Finding, PeerAddress},
    name::NodeName,
};

use super::context::Context;
use crate::logic::{reconcile::Seen, report::whole_ms};

/// Clocks that differ by more make logs and certificates puzzling, in ms.
const CLOCK_MS_MAX: f64 = 1_000.0;

/// Has a node of the configuration examined.
pub(crate) async fn examine(context: &Context, node: &NodeName) -> Diagnosis {
    let observed = context.observations.current();
    let peers = observed.nodes.iter().filter_map(|(name, seen)| {
        let status = Seen::ok(seen)?;
        Some(PeerAddress {
            node: name.clone(),
            to: status.replication,
        })
    });
    let request = DoctorRequest {
        peers: peers.collect(),
    };
    let asked_ms = context.clock.now_ms();
    match context.peers.examine(node, &request).await {
        Ok(mut diagnosis) => {
            let answered_ms = context.clock.now_ms();
            let clock = clock(diagnosis.clock_ms, asked_ms, answered_ms);
            diagnosis.findings.push(clock);
            diagnosis
        }
        Err(error) => silent(node, whole_ms(asked_ms), &error),
    }
}

/// The node has read its clock at some time between the two.
#[expect(
    clippy::cast_precision_loss,
    reason = "Unix time in ms is exact for 285,000 years"
)]
fn clock(read_ms: u64, asked_ms: f64, answered_ms: f64) -> Finding {
    let read_ms = read_ms as f64;
    let behind = asked_ms - read_ms;
    let ahead = read_ms - answered_ms;
    let (off, way) = if ahead > behind {
        (ahead, "ahead of")
    } else {
        (behind, "behind")
    };
    if off > CLOCK_MS_MAX {
        return Finding::warn(
            "clock",
            format!("{:.1} s {way} control's", off / 1e3),
            "have both set by NTP; nothing is decided by them, but certificates hold by them",
        );
    }
    Finding::ok("clock", "as control's")
}

fn silent(node: &NodeName, clock_ms: u64, error: &ErrorBody) -> Diagnosis {
    let remedy = "see to its agent and the network; on the node: flocker-storage-agent --doctor";
    Diagnosis {
        node: node.clone(),
        clock_ms,
        findings: vec![Finding::fail("agent", error.message.clone(), remedy)],
    }
}

#[cfg(test)]
mod tests {
    use flocker_api::doctor::Level;

    use super::*;

    #[test]
    fn a_clock_is_right_anywhere_between_question_and_answer() {
        for (read, level, words) in [
            (10_000, Level::Ok, "as control's"),
            (19_000, Level::Ok, "as control's"),
            (21_500, Level::Warn, "1.5 s ahead of control's"),
            (7_000, Level::Warn, "3.0 s behind control's"),
        ] {
            let finding = clock(read, 10_000.0, 20_000.0);
            assert_eq!((finding.level, finding.found.as_str()), (level, words));
        }
    }
}
