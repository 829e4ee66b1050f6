//! Options of a route that an app declares: any of [`Route`]'s, each only if it is named.
//!
//! They are kept as they were written, because "not named" is a value of its own: such an option
//! stays as it stands at an edge. A null names an option and gives it its default.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::route::{Route, RouteKey, UpstreamProtocol};

/// All options there are: the fields of [`Route`] but key, upstreams and `on_move`.
pub const ROUTE_OPTIONS: [&str; 15] = [
    "tls",
    "upstream_tls",
    "balance",
    "health",
    "slow_start_ms",
    "redirect_https",
    "allow_connect",
    "body_bytes_max",
    "error_pages",
    "connections_max",
    "pending_max",
    "send_proxy",
    "allow",
    "deny",
    "upstream_protocol",
];

/// Options by name, in the words of [`Route`]'s JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct RouteOptions(Map<String, Value>);

/// Why something is no option of a route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRouteOption {
    /// There is none of this name.
    #[error("'{name}' is not an option of a route: there are {}", ROUTE_OPTIONS.join(", "))]
    Unknown {
        /// The name.
        name: String,
    },
    /// It cannot have this value.
    #[error("{name} of a route: {reason}")]
    Value {
        /// The option.
        name: String,
        /// What its type has against the value.
        reason: String,
    },
}

/// A field that means nothing for this kind of route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} is for {fits}")]
pub struct Misfit {
    /// The field.
    pub field: &'static str,
    /// What it is for.
    pub fits: &'static str,
}

impl RouteOptions {
    /// Whether none is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names one.
    ///
    /// # Errors
    /// There is no such option, or it cannot have this value.
    pub fn insert(&mut self, name: &str, value: Value) -> Result<(), InvalidRouteOption> {
        if !ROUTE_OPTIONS.contains(&name) {
            return Err(InvalidRouteOption::Unknown {
                name: name.to_owned(),
            });
        }
        let alone = Self(Map::from_iter([(name.to_owned(), value.clone())]));
        let any = RouteKey::Tcp(std::num::NonZeroU16::MIN);
        let route = Route::new(any, Vec::<crate::upstream::Upstream>::new());
        if let Err(error) = alone.merged(&route) {
            return Err(InvalidRouteOption::Value {
                name: name.to_owned(),
                reason: error.to_string(),
            });
        }
        self.0.insert(name.to_owned(), value);
        Ok(())
    }

    /// The route with the options that are named; the others as the route has them.
    #[must_use]
    pub fn apply(&self, route: Route) -> Route {
        if self.is_empty() {
            return route;
        }
        // Each option was read alone, and none depends on another to be read.
        self.merged(&route).unwrap_or(route)
    }

    fn merged(&self, route: &Route) -> Result<Route, serde_json::Error> {
        let mut fields = serde_json::to_value(route)?;
        if let Value::Object(fields) = &mut fields {
            for (name, value) in &self.0 {
                match value {
                    Value::Null => fields.remove(name),
                    value => fields.insert(name.clone(), value.clone()),
                };
            }
        }
        serde_json::from_value(fields)
    }
}

impl TryFrom<Map<String, Value>> for RouteOptions {
    type Error = InvalidRouteOption;

    fn try_from(fields: Map<String, Value>) -> Result<Self, InvalidRouteOption> {
        let mut options = Self::default();
        for (name, value) in fields {
            options.insert(&name, value)?;
        }
        Ok(options)
    }
}

impl From<RouteOptions> for Map<String, Value> {
    fn from(options: RouteOptions) -> Self {
        options.0
    }
}

impl Route {
    /// The first of its fields that its kind of route has no use for.
    #[must_use]
    pub fn misfit(&self) -> Option<Misfit> {
        let in_clear = matches!(self.key, RouteKey::Http(..));
        let is_http = match self.key {
            RouteKey::Tcp(_) | RouteKey::Link(_) => false,
            RouteKey::Http(..) => true,
            RouteKey::Https(..) => !self.tls.is_passthrough(),
        };
        let whole_host = is_http && self.key.prefix().is_empty();
        let is_h2 = self.upstream_protocol == UpstreamProtocol::H2;
        let of_http = "routes of HTTP";
        let rules = [
            (
                "redirect_https",
                self.redirect_https.is_some() && !in_clear,
                "http routes",
            ),
            (
                "allow_connect",
                self.allow_connect && !whole_host,
                "routes of HTTP without a path",
            ),
            (
                "body_bytes_max",
                self.body_bytes_max.is_some() && !is_http,
                of_http,
            ),
            (
                "error_pages",
                self.error_pages.is_some() && !is_http,
                of_http,
            ),
            ("upstream_protocol", is_h2 && !is_http, of_http),
        ];
        let found = rules.into_iter().find(|(_, is_misfit, _)| *is_misfit);
        found.map(|(field, _, fits)| Misfit { field, fits })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn route(key: &str) -> Route {
        let upstream: std::net::SocketAddr = "10.0.0.1:80".parse().unwrap();
        Route::new(key.parse().unwrap(), [upstream])
    }

    fn options(value: Value) -> RouteOptions {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn every_field_of_a_route_is_an_option_but_three() {
        let error = serde_json::from_value::<Route>(json!({"no_such_field": 1})).unwrap_err();
        let message = error.to_string();
        let named: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
        let (fixed, options) = named.split_at(3);
        assert_eq!(fixed, ["key", "upstreams", "on_move"], "{message}");
        assert_eq!(options, ROUTE_OPTIONS, "{message}");
    }

    #[test]
    fn what_is_not_named_stays_as_it_is() {
        let mut found = route("http:a.b");
        found.balance = crate::upstream::Balance::Source;
        found.slow_start_ms = 7;
        let named = options(json!({"connections_max": 3, "slow_start_ms": null}));
        let applied = named.apply(found.clone());
        assert_eq!((applied.connections_max, applied.slow_start_ms), (3, 0));
        assert_eq!(applied.balance, found.balance);
        assert_eq!(RouteOptions::default().apply(found.clone()), found);
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let refused = |value: Value| {
            let read: Result<RouteOptions, _> = serde_json::from_value(value);
            read.unwrap_err().to_string()
        };
        assert!(refused(json!({"balanse": "source"})).contains("there are tls, upstream_tls"));
        assert!(refused(json!({"upstreams": []})).contains("not an option"));
        let wrong = refused(json!({"health": {"kind": "tcp", "rise": 0}}));
        assert!(wrong.contains("health of a route"), "{wrong}");
    }

    #[test]
    fn a_route_knows_what_it_has_no_use_for() {
        let misfit = |key: &str, value: Value| {
            let route = options(value).apply(route(key));
            route.misfit().map(|misfit| misfit.field)
        };
        assert_eq!(
            misfit("tcp:1", json!({"body_bytes_max": 1})),
            Some("body_bytes_max")
        );
        assert_eq!(misfit("http:a", json!({"body_bytes_max": 1})), None);
        let terminated = json!({"tls": {"terminate": {}}, "body_bytes_max": 1});
        assert_eq!(misfit("https:a", terminated), None);
        let both = json!({"upstream_protocol": "h2", "send_proxy": "v2"});
        assert_eq!(misfit("http:a", both.clone()), None);
        assert_eq!(misfit("tcp:1", both), Some("upstream_protocol"));
        assert_eq!(
            misfit("https:a", json!({"redirect_https": true})),
            Some("redirect_https")
        );
        assert_eq!(
            misfit("http:a/b", json!({"allow_connect": true})),
            Some("allow_connect")
        );
        let plain = misfit("http:a", json!({"tls": {"terminate": {}}}));
        assert_eq!(plain, None, "the table says so, as it always has");
    }
}
