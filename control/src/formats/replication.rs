//! `x-flocker.replication`: where else an app's volumes are kept.

use flocker_api::{
    name::NodeName,
    replication::{GRID_MAX, INTERVAL_MS_MIN, KEEP_MAX, Keep, Period, ReplicationPolicy},
};

use super::{
    keys,
    reader::Reader,
    yaml::{Mark, Node},
};

const NODE: &str = "the name of a node";

impl Reader<'_> {
    /// Reads the block.
    pub(super) fn replication(
        &mut self,
        node: &Node,
        at: Mark,
        path: &str,
    ) -> Option<ReplicationPolicy> {
        const NODES: &str = "a list of nodes that keep a copy";
        let fields = self.fields(node, at, path, keys::REPLICATION)?;
        let nodes = self.required(&fields, path, "nodes", NODES);
        let nodes = nodes.and_then(|node| self.nodes(node, &format!("{path}.nodes")));
        let interval = self.required(&fields, path, "interval", "a duration of 1s or more");
        let interval = interval
            .and_then(|node| self.duration_ms(node, &format!("{path}.interval"), INTERVAL_MS_MIN));
        let mut keep = Keep::default();
        if let Some(node) = fields.get("keep") {
            keep.last = self.count(node, &format!("{path}.keep"))?;
        }
        if let Some(node) = fields.get("grid") {
            keep.grid = self.grid(node, &format!("{path}.grid"))?;
        }
        Some(ReplicationPolicy {
            nodes: nodes?,
            interval_ms: interval?,
            keep,
        })
    }

    fn nodes(&mut self, node: &Node, path: &str) -> Option<Vec<NodeName>> {
        let items = self.list(node, path, "names of nodes")?;
        let mut nodes = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let name: NodeName = self.parsed(item, &path, NODE)?;
            if nodes.contains(&name) {
                self.bad(item, &path, "each node once");
                return None;
            }
            nodes.push(name);
        }
        if nodes.is_empty() {
            self.bad(node, path, "at least one node");
            return None;
        }
        Some(nodes)
    }

    fn grid(&mut self, node: &Node, path: &str) -> Option<Vec<Period>> {
        const EVERY: &str = "the length of a period, such as 1h";
        const COUNT: &str = "how many periods";
        let items = self.list(node, path, "mappings {every: DURATION, count: NUMBER}")?;
        if items.len() > GRID_MAX {
            self.bad(node, path, &format!("a list of at most {GRID_MAX}"));
            return None;
        }
        let mut grid = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let fields = self.fields(item, item.at, &path, keys::GRID)?;
            let every = self.required(&fields, &path, "every", EVERY);
            let every = every
                .and_then(|node| self.duration_ms(node, &format!("{path}.every"), INTERVAL_MS_MIN));
            let count = self.required(&fields, &path, "count", COUNT);
            let count = count.and_then(|node| self.count(node, &format!("{path}.count")));
            grid.push(Period {
                every_ms: every?,
                count: count?,
            });
        }
        Some(grid)
    }

    fn count(&mut self, node: &Node, path: &str) -> Option<u32> {
        let expected = format!("an integer from 1 to {KEEP_MAX}");
        let count = self.integer(node, path, 1..=u64::from(KEEP_MAX), &expected)?;
        u32::try_from(count).ok()
    }
}
