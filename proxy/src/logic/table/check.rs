//! What must agree within a route, and between the routes of a host.
#![warn(clippy::indexing_slicing)]

use flocker_api::{
    options::Misfit,
    route::{Operation, Route, RouteKey},
};

use super::{
    RouteTable, TransactionError,
    shards::{Kind, Probe, site_of},
};

/// What must agree within a route, upstreams apart.
pub(super) fn check_route(route: &Route) -> Result<(), TransactionError> {
    let key = &route.key;
    let opaque = match key {
        RouteKey::Tcp(_) | RouteKey::Link(_) => true,
        RouteKey::Http(..) => false,
        RouteKey::Https(..) => route.tls.is_passthrough(),
    };
    if opaque && !key.prefix().is_empty() {
        return Err(TransactionError::PathOfPassthrough(key.clone()));
    }
    match route.misfit() {
        Some(Misfit { field, fits }) => Err(TransactionError::Misfit {
            key: key.clone(),
            field,
            fits,
        }),
        None => Ok(()),
    }
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
