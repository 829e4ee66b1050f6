//! Reading the configuration again: routes, limits and the access log follow it at once, the
//! rest counts after an upgrade. A file that is wrong changes nothing.

use flocker_api::{ErrorBody, ErrorCode, edge::ReloadReply, route::Operation};

use super::Life;
use crate::config::Config;

/// Beginnings of keys that count only after an upgrade or a restart: what they are about was
/// made at the start.
const LATER: [&str; 17] = [
    "name",
    "workers",
    "user",
    "group",
    "listen.",
    "clients.",
    "admin.",
    "tls.",
    "error_pages",
    "limits.pipes",
    "limits.session_rate",
    "limits.sessions_per_client",
    "limits.upstream_idle",
    "limits.tcp_keep_alive_ms",
    "limits.tcp_user_timeout_ms",
    "limits.resolve_interval_ms",
    "limits.metrics_routes",
];

impl Life {
    pub(super) fn reload(&mut self) -> Result<ReloadReply, ErrorBody> {
        self.notify.reloading();
        let reloaded = self.reload_file();
        match &reloaded {
            Ok(reply) if reply.changes.is_empty() && reply.later.is_empty() => {
                tracing::info!("configuration read again: nothing has changed");
            }
            Ok(reply) => {
                for change in &reply.changes {
                    tracing::info!("configuration: {change}");
                }
                for change in &reply.later {
                    tracing::warn!("configuration: {change}: counts after an upgrade only");
                }
            }
            Err(error) => {
                tracing::error!(error = error.message, "configuration: the old one is kept");
            }
        }
        self.notify.ready("serving");
        reloaded
    }

    fn reload_file(&mut self) -> Result<ReloadReply, ErrorBody> {
        let config = Config::load(&self.config_path)
            .map_err(|error| ErrorBody::from_error(ErrorCode::InvalidRequest, &error))?;
        let (generation, operations) = self.edge.follow_file(&config.routes)?;
        let mut reply = ReloadReply {
            generation,
            changes: operations.iter().map(route_line).collect(),
            later: Vec::new(),
        };
        for (key, change) in self.config.changed_keys(&config) {
            match LATER.iter().any(|later| key.starts_with(later)) {
                true => reply.later.push(change),
                false => reply.changes.push(change),
            }
        }
        self.edge.set_limits(&config);
        self.config = config;
        Ok(reply)
    }
}

fn route_line(operation: &Operation) -> String {
    match operation {
        Operation::Remove { key } => format!("- route {key}"),
        Operation::Add { route } | Operation::Set { route } | Operation::Put { route } => {
            let upstreams: Vec<String> = route.upstreams.iter().map(ToString::to_string).collect();
            format!("+ route {} to {}", route.key, upstreams.join(", "))
        }
        // Never what two files differ by.
        Operation::Drain { key, .. } => format!("route {key}: drained"),
    }
}
