//! Which app waits for which: before its first start, and while others change or move.
//!
//! Who needs each other in a circle of links waits for none of the circle.

use std::collections::{BTreeMap, BTreeSet};

use flocker_api::{
    app::{App, DependencyCondition},
    container::ContainerState,
    name::AppName,
    route::RouteKey,
};

use super::Observed;
use crate::logic::{
    deploy::{needs, owners},
    state::{AppRecord, Life, State},
};

/// Who needs whom.
#[derive(Debug)]
pub(in crate::logic) struct Order<'s> {
    state: &'s State,
    owners: BTreeMap<RouteKey, AppName>,
}

impl<'s> Order<'s> {
    /// The order of all apps that shall be there.
    pub(in crate::logic) fn new(state: &'s State) -> Self {
        let wanted = state.apps.values();
        let wanted = wanted.filter(|record| record.life == Life::Wanted);
        Self {
            state,
            owners: owners(wanted.map(|record| &record.app)),
        }
    }

    /// The app for whose coming up this one waits before its first start.
    pub(in crate::logic) fn awaited(
        &self,
        observed: &Observed,
        record: &'s AppRecord,
    ) -> Option<&'s AppName> {
        if record.started {
            return None;
        }
        self.first(&record.app, |name, other| {
            let depends = record.app.depends_on.iter();
            let ready = depends
                .filter(|dependency| dependency.app == *name)
                .any(|dependency| dependency.condition == DependencyCondition::Ready);
            let there = self.runs(observed, name) && (other.started || !ready);
            !there
        })
    }

    /// The app that is still to change or to move before this one may.
    pub(in crate::logic) fn unsettled(&self, record: &'s AppRecord) -> Option<&'s AppName> {
        self.first(&record.app, |name, other| {
            other.changed || other.wanted.is_some() || self.state.move_of(name).is_some()
        })
    }

    /// The first of the needed apps of which this holds.
    fn first(
        &self,
        app: &'s App,
        holds: impl Fn(&AppName, &AppRecord) -> bool,
    ) -> Option<&'s AppName> {
        // Not by the borrowed index: what is needed is named by the app itself.
        let depends = app.depends_on.iter().map(|dependency| &dependency.app);
        let links = app.container.links.iter().filter_map(|link| {
            let owner = || {
                let key = format!("tcp:{}", link.remote_port).parse().ok()?;
                let (name, _) = self.state.apps.get_key_value(self.owners.get(&key)?)?;
                Some(name)
            };
            link.to.as_ref().map_or_else(owner, |to| Some(&to.app))
        });
        let mut all = depends.chain(links).filter(|name| *name != app.name());
        all.find(|name| {
            let other = self.state.apps.get(*name);
            let other = other.filter(|other| other.life == Life::Wanted);
            other.is_some_and(|other| holds(name, other) && !self.reaches(name, app.name()))
        })
    }

    /// Whether an app needs another, itself or by others.
    fn reaches(&self, from: &AppName, to: &AppName) -> bool {
        let mut seen = BTreeSet::new();
        let mut left = vec![from];
        while let Some(name) = left.pop() {
            if name == to {
                return true;
            }
            if !seen.insert(name) {
                continue;
            }
            let record = self.state.apps.get(name);
            left.extend(
                record
                    .into_iter()
                    .flat_map(|record| needs(&record.app, &self.owners)),
            );
        }
        false
    }

    fn runs(&self, observed: &Observed, name: &AppName) -> bool {
        let primary = self.state.primaries.get(name);
        let node = primary.and_then(|at| observed.nodes.get(&at.node)?.ok());
        let mut containers = node.into_iter().flat_map(|node| &node.containers);
        containers.any(|one| one.app == *name && one.state == ContainerState::Running)
    }
}
