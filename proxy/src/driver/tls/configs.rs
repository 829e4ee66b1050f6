//! What a handshake is made with, by the terms of a route.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use flocker_api::{
    name::AuthorityName,
    route::UpstreamProtocol,
    termination::{ClientCertificate, Terminate, TlsVersion},
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::CertificateDer,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::{TLS12, TLS13},
};

use super::{Material, PemError, TlsError, pem, read, store::Resolver, tickets::Ticketer};

/// What is spoken with clients, in the order in which it is liked.
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];
/// Sessions with upstreams that one worker remembers under the same terms.
const UPSTREAM_SESSIONS: usize = 256;

/// Those whose signatures are believed, by name.
#[derive(Debug)]
pub(super) struct Authorities {
    named: BTreeMap<AuthorityName, Authority>,
    system: OnceLock<Arc<RootCertStore>>,
}

#[derive(Debug)]
struct Authority {
    roots: Arc<RootCertStore>,
    /// What tells it from others.
    identity: Vec<u8>,
}

impl Authorities {
    pub(super) fn load(files: &BTreeMap<AuthorityName, PathBuf>) -> Result<Self, TlsError> {
        let mut named = BTreeMap::new();
        for (name, path) in files {
            let bad = |source| TlsError::File {
                path: path.clone(),
                source,
            };
            let certificates = pem::certificates(&read(path)?).map_err(bad)?;
            let mut roots = RootCertStore::empty();
            let mut identity = Vec::new();
            for (at, certificate) in certificates.into_iter().enumerate() {
                identity.extend_from_slice(&certificate);
                let number = at + 1;
                roots
                    .add(certificate)
                    .map_err(|_| bad(PemError::Certificate { number }))?;
            }
            let roots = Arc::new(roots);
            named.insert(name.clone(), Authority { roots, identity });
        }
        Ok(Self {
            named,
            system: OnceLock::new(),
        })
    }

    pub(super) fn has(&self, name: &AuthorityName) -> bool {
        self.named.contains_key(name)
    }

    fn find(&self, name: &AuthorityName) -> Result<&Authority, TlsError> {
        let found = self.named.get(name);
        found.ok_or_else(|| TlsError::Rustls(format!("there is no authority {name}")))
    }

    /// Those that the system trusts; read from its files when first asked for.
    pub(super) fn system(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let roots = self.system.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            let found: Vec<CertificateDer<'static>> =
                rustls_native_certs::load_native_certs().certs;
            roots.add_parsable_certificates(found);
            Arc::new(roots)
        });
        match roots.is_empty() {
            true => Err(TlsError::NoRoots),
            false => Ok(Arc::clone(roots)),
        }
    }
}

/// The configurations that one worker has made, kept because connections under the same terms
/// share them; sessions with upstreams are remembered in them.
#[derive(Debug)]
pub struct Configs {
    material: Arc<Material>,
    servers: HashMap<Terminate, Arc<ServerConfig>>,
    /// By the authority, or the system's, and what is asked for.
    clients: HashMap<(Option<AuthorityName>, UpstreamProtocol), Arc<ClientConfig>>,
}

impl Configs {
    /// None yet.
    #[must_use]
    pub fn new(material: Arc<Material>) -> Self {
        Self {
            material,
            servers: HashMap::new(),
            clients: HashMap::new(),
        }
    }

    /// For the clients of routes with these terms.
    ///
    /// # Errors
    /// The terms cannot be kept.
    pub fn server(&mut self, terms: &Terminate) -> Result<Arc<ServerConfig>, TlsError> {
        if let Some(config) = self.servers.get(terms) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.material.server(terms)?);
        self.servers.insert(terms.clone(), Arc::clone(&config));
        Ok(config)
    }

    /// For upstreams whose certificates this authority has signed, or one of the system's.
    ///
    /// # Errors
    /// There is no such authority.
    pub fn client(
        &mut self,
        ca: Option<&AuthorityName>,
        protocol: UpstreamProtocol,
    ) -> Result<Arc<ClientConfig>, TlsError> {
        let terms = (ca.cloned(), protocol);
        if let Some(config) = self.clients.get(&terms) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.material.client(ca, protocol)?);
        self.clients.insert(terms, Arc::clone(&config));
        Ok(config)
    }
}

impl Material {
    fn server(&self, terms: &Terminate) -> Result<ServerConfig, TlsError> {
        let versions: &[&SupportedProtocolVersion] = match terms.min_version {
            TlsVersion::V1_2 => &[&TLS13, &TLS12],
            TlsVersion::V1_3 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)?;
        let authority = terms.client_ca.as_ref();
        let authority = authority
            .map(|name| self.authorities.find(name))
            .transpose()?;
        let builder = match (terms.client_certificate, authority) {
            (ClientCertificate::None, _) => builder.with_no_client_auth(),
            (_, None) => return Err(TlsError::NoRoots),
            (asked, Some(authority)) => {
                let roots = Arc::clone(&authority.roots);
                let provider = Arc::clone(&self.provider);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = match asked {
                    ClientCertificate::Request => verifier.allow_unauthenticated(),
                    _ => verifier,
                };
                let verifier = verifier.build();
                let verifier = verifier.map_err(|error| TlsError::Rustls(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(Resolver(Arc::clone(&self.store))));
        config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
        // Tickets alone: what is kept on one edge would be of no use on the next.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let mut identity = format!("{terms:?}").into_bytes();
        identity.extend(authority.iter().flat_map(|one| one.identity.iter()));
        config.ticketer = Arc::new(Ticketer::new(
            Arc::clone(&self.tickets),
            &identity,
            self.lifetime(),
        ));
        Ok(config)
    }

    fn client(
        &self,
        ca: Option<&AuthorityName>,
        protocol: UpstreamProtocol,
    ) -> Result<ClientConfig, TlsError> {
        let roots = match ca {
            Some(name) => Arc::clone(&self.authorities.find(name)?.roots),
            None => self.authorities.system()?,
        };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::in_memory_sessions(UPSTREAM_SESSIONS);
        config.alpn_protocols = vec![match protocol {
            UpstreamProtocol::Http1 => b"http/1.1".to_vec(),
            UpstreamProtocol::H2 => b"h2".to_vec(),
        }];
        Ok(config)
    }

    fn lifetime(&self) -> Duration {
        self.config.ticket_lifetime
    }
}
