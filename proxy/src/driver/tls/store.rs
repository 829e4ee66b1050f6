//! The certificates that are served: an immutable snapshot, looked up by server name.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use flocker_api::host::HostPattern;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::pem::Served;
use crate::logic::host::Host;

/// See the module. A lookup takes no lock.
#[derive(Debug, Default)]
pub(super) struct Store {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows the star.
    below: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl Store {
    /// Of these; where several name a server, the client's algorithms decide, then their order.
    pub(super) fn of<'s>(all: impl Iterator<Item = &'s Served>) -> Self {
        let mut store = Self::default();
        for served in all {
            for host in &served.hosts {
                let (map, name) = match host {
                    HostPattern::Exact(name) => (&mut store.exact, name),
                    HostPattern::Wildcard(name) => (&mut store.below, name),
                };
                let list = map.entry(name.as_str().to_owned()).or_default();
                list.push(Arc::clone(&served.certified));
            }
        }
        store
    }

    /// The certificates that name a server: those of its own name, else of the wildcard one
    /// label up.
    fn find(&self, host: &str) -> &[Arc<CertifiedKey>] {
        let exact = self.exact.get(host);
        let below = || self.below.get(host.split_once('.')?.1);
        exact.or_else(below).map_or(&[], Vec::as_slice)
    }
}

/// Gives a connection the certificate of the server that its client asks for, or none: there
/// is no default.
#[derive(Debug)]
pub(super) struct Resolver(pub(super) Arc<ArcSwap<Store>>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = Host::normalise(hello.server_name()?).ok()?;
        let store = self.0.load();
        let found = store.find(host.as_str());
        let schemes = hello.signature_schemes();
        let fits = |one: &&Arc<CertifiedKey>| one.key.choose_scheme(schemes).is_some();
        found.iter().find(fits).or_else(|| found.first()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::tls::tests::served;

    #[test]
    fn an_exact_name_goes_before_a_wildcard_which_stands_for_one_label() {
        let (exact, wild) = (served(&["a.example.com"]), served(&["*.example.com"]));
        let store = Store::of([&wild, &exact].into_iter());
        let is = |host: &str, one: &Served| {
            let found = store.find(host);
            found.len() == 1 && Arc::ptr_eq(&found[0], &one.certified)
        };
        assert!(is("a.example.com", &exact));
        assert!(is("b.example.com", &wild));
        for host in ["example.com", "a.b.example.com", "other.org", "com"] {
            assert!(store.find(host).is_empty(), "{host}");
        }
    }
}
