//! `ports` and `expose`: at which ports edges listen for a service, and it itself.

use std::ops::RangeInclusive;

use flocker_api::{
    app::AppRoute,
    options::RouteOptions,
    route::{OnMove, RouteKey},
};

use super::{
    super::{
        declared::PlacedRoute,
        error::Problem,
        keys,
        reader::{Fields, Reader},
        yaml::{Mark, Node, Value},
    },
    Dialect,
};

const SHORT: &str = "\"PUBLISHED:TARGET\", such as \"8080:80\" or \"8000-8010:8000-8010\": the \
                     port at which edges listen, and the one at which the app does";
const FIG: &str = "\"PUBLISHED:TARGET\", such as \"8080:80\"";
/// Most ports of one range.
const RANGE_MAX: u16 = 1000;

impl Reader<'_> {
    /// Routes of `ports`, and the ports of `expose`.
    pub(super) fn service_ports(
        &mut self,
        fields: &Fields<'_>,
        path: &str,
        dialect: Dialect,
    ) -> (Vec<PlacedRoute>, Vec<u16>) {
        let mut routes = Vec::new();
        if let Some(node) = fields.get("ports") {
            let path = format!("{path}.ports");
            let items = self.list(node, &path, SHORT).unwrap_or_default();
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                match (&item.value, dialect) {
                    (Value::Map(_), Dialect::Compose) => {
                        routes.extend(self.long_port(item, &path));
                    }
                    _ => routes.extend(self.short_port(item, &path, dialect)),
                }
            }
        }
        let mut exposed = Vec::new();
        if let Some(node) = fields.get("expose") {
            let path = format!("{path}.expose");
            let what = "ports, such as \"5432\"";
            for (index, item) in self
                .list(node, &path, what)
                .unwrap_or_default()
                .iter()
                .enumerate()
            {
                exposed.extend(self.exposed(item, &format!("{path}[{index}]")));
            }
        }
        (routes, exposed)
    }

    fn exposed(&mut self, item: &Node, path: &str) -> Vec<u16> {
        const EXPECTED: &str = "a port from 1 to 65535, or a range such as \"3000-3005\"";
        let Some(text) = self.word_or_number(item, path, EXPECTED) else {
            return Vec::new();
        };
        let text = text.strip_suffix("/tcp").unwrap_or(text);
        match range(text) {
            Some(ports) => ports.collect(),
            None => {
                self.bad(item, path, EXPECTED);
                Vec::new()
            }
        }
    }

    fn short_port(&mut self, item: &Node, path: &str, dialect: Dialect) -> Vec<PlacedRoute> {
        let expected = if dialect == Dialect::Fig { FIG } else { SHORT };
        let Some(text) = self.word_or_number(item, path, expected) else {
            return Vec::new();
        };
        let (text, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
        if protocol != "tcp" {
            self.not_tcp(item.at, path, protocol);
            return Vec::new();
        }
        let parts: Vec<&str> = text.rsplitn(3, ':').collect();
        match parts[..] {
            [target, published] => {
                let pairs = range(published).zip(range(target));
                let pairs = pairs.filter(|(a, b)| a.len() == b.len());
                // Fig had no ranges.
                let pairs = pairs.filter(|(a, _)| dialect == Dialect::Compose || a.len() == 1);
                if let Some((published, target)) = pairs {
                    let pairs = published.zip(target);
                    return pairs
                        .map(|(external, port)| placed(item.at, external, port))
                        .collect();
                }
                self.bad(item, path, expected);
            }
            [target] if range(target).is_some() => {
                let problem = Problem::Unsupported {
                    path: path.to_owned(),
                    what: "a port that is drawn when the app starts".to_owned(),
                    instead: "say at which port edges shall listen, \"8080:80\", or use 'expose' \
                              if only other apps connect",
                };
                self.note(item.at, problem);
            }
            [_, _, _] => {
                let problem = Problem::Unsupported {
                    path: path.to_owned(),
                    what: "an address to listen at".to_owned(),
                    instead: "leave it out: edges listen at the addresses that they are given",
                };
                self.note(item.at, problem);
            }
            _ => self.bad(item, path, expected),
        }
        Vec::new()
    }

    fn long_port(&mut self, item: &Node, path: &str) -> Option<PlacedRoute> {
        const PORT: &str = "a port: an integer from 1 to 65535";
        let fields = self.fields(item, item.at, path, keys::SERVICE_PORT)?;
        let mut port = |key: &'static str, what: &str| {
            let node = self.required(&fields, path, key, what)?;
            let port = self.loose_integer(node, &format!("{path}.{key}"), 1..=65_535, PORT)?;
            u16::try_from(port).ok()
        };
        let target = port("target", "the port at which the app listens");
        let published = port("published", "the port at which edges listen for it");
        if let Some(node) = fields.get("protocol") {
            let path = format!("{path}.protocol");
            match self.text(node, &path, "tcp") {
                Some("tcp") | None => {}
                Some(other) => self.not_tcp(node.at, &path, other),
            }
        }
        if let Some(node) = fields.get("mode") {
            self.word(node, &format!("{path}.mode"), &[("ingress", ())]);
        }
        Some(placed(item.at, published?, target?))
    }

    fn not_tcp(&mut self, at: Mark, path: &str, protocol: &str) {
        let problem = Problem::Unsupported {
            path: path.to_owned(),
            what: format!("the protocol '{protocol}'"),
            instead: "edges carry tcp; leave the port out",
        };
        self.note(at, problem);
    }
}

fn placed(at: Mark, external: u16, port: u16) -> PlacedRoute {
    // A range begins at 1.
    let external = std::num::NonZeroU16::new(external).unwrap_or(std::num::NonZeroU16::MIN);
    PlacedRoute {
        at,
        route: AppRoute {
            options: RouteOptions::default(),
            key: RouteKey::Tcp(external),
            port,
            on_move: OnMove::default(),
        },
    }
}

/// `80` or `8000-8010`, 1 being the lowest.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let port = |text: &str| text.parse().ok().filter(|port| digits(text) && *port > 0);
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    (first <= last && last - first < RANGE_MAX).then_some(first..=last)
}
