//! What must agree within a route, and between the routes of a host.
#![warn(clippy::indexing_slicing)]

use flocker_api::route::{Operation, Route, RouteKey, UpstreamProtocol};

use super::{
    RouteTable, TransactionError,
    shards::{Kind, Probe, site_of},
};

/// What must agree within a route, upstreams apart.
pub(super) fn check_route(route: &Route) -> Result<(), TransactionError> {
    let key = &route.key;
    let in_clear = matches!(key, RouteKey::Http(..));
    let is_http = match key {
        RouteKey::Tcp(_) => false,
        RouteKey::Http(..) => true,
        RouteKey::Https(..) => !route.tls.is_passthrough(),
    };
    let misfit = |field, fits| {
        let key = key.clone();
        Err(TransactionError::Misfit { key, field, fits })
    };
    if !is_http && !key.prefix().is_empty() {
        return Err(TransactionError::PathOfPassthrough(key.clone()));
    }
    if route.redirect_https.is_some() && !in_clear {
        return misfit("redirect_https", "http routes");
    }
    if route.allow_connect && !(is_http && key.prefix().is_empty()) {
        return misfit("allow_connect", "routes of HTTP without a path");
    }
    if route.body_bytes_max.is_some() && !is_http {
        return misfit("body_bytes_max", "routes of HTTP");
    }
    if route.error_pages.is_some() && !is_http {
        return misfit("error_pages", "routes of HTTP");
    }
    if route.upstream_protocol != UpstreamProtocol::Http1 && !is_http {
        return misfit("upstream_protocol", "routes of HTTP");
    }
    // Such a header speaks of one client; a shared connection serves many.
    if route.upstream_protocol == UpstreamProtocol::H2 && route.send_proxy.is_some() {
        return misfit("send_proxy", "upstreams that speak HTTP/1.1");
    }
    Ok(())
}

/// TLS is agreed upon before a path is known: whatever is below a path of an `https:` host needs
/// a route of the whole host that says how.
pub(super) fn check_sites<G: Clone>(
    after: &RouteTable<G>,
    operations: &[Operation],
) -> Result<(), TransactionError> {
    for operation in operations {
        let key = operation.key();
        let Some((kind @ (Kind::Https | Kind::HttpsBelow), host, prefix)) = site_of(key) else {
            continue;
        };
        let below = match prefix.is_root() {
            true => after.sites.find(Probe::site(kind, host, "")).is_some(),
            false => after.get(key).is_some(),
        };
        let whole = match kind {
            Kind::Https => after.lookup_https(host, ""),
            _ => after.lookup_site(kind, host, ""),
        };
        let own = after.get(key).filter(|_| !prefix.is_root());
        let fits = whole.is_some_and(|whole| {
            let tls = &whole.route.tls;
            // A request on a connection of other terms would be misdirected.
            !tls.is_passthrough() && own.is_none_or(|own| own.route.tls == *tls)
        });
        if below && !fits {
            return Err(TransactionError::NoTermination(key.clone()));
        }
    }
    Ok(())
}
