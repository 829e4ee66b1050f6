//! What a handshake is made with, by the terms of a route.

use std::{collections::HashMap, sync::Arc, time::Duration};

use flocker_api::{
    name::AuthorityName,
    route::UpstreamProtocol,
    termination::{ClientCertificate, Terminate, TlsVersion},
};
use rustls::{
    ClientConfig, ServerConfig, SupportedProtocolVersion,
    server::NoServerSessionStorage,
    version::{TLS12, TLS13},
};

use super::{Material, TlsError, store::Resolver, tickets::Ticketer};

/// What is spoken with clients, in the order in which it is liked.
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];
/// Sessions with upstreams that one worker remembers under the same terms.
const UPSTREAM_SESSIONS: usize = 256;

/// The configurations that one worker has made, kept because connections under the same terms
/// share them; sessions with upstreams are remembered in them.
#[derive(Debug)]
pub struct Configs {
    material: Arc<Material>,
    servers: HashMap<Terminate, Arc<ServerConfig>>,
    /// By the authority, or the system's, and what is asked for.
    clients: HashMap<(Option<AuthorityName>, UpstreamProtocol), Arc<ClientConfig>>,
    /// Of the authorities, when these were made.
    version: u64,
}

impl Configs {
    /// None yet.
    #[must_use]
    pub fn new(material: Arc<Material>) -> Self {
        Self {
            version: material.authorities.version(),
            material,
            servers: HashMap::new(),
            clients: HashMap::new(),
        }
    }

    /// Forgets what was made of authorities that have changed.
    fn keep_up(&mut self) {
        let version = self.material.authorities.version();
        if std::mem::replace(&mut self.version, version) != version {
            self.servers
                .retain(|terms, _| terms.client_certificate == ClientCertificate::None);
            self.clients.retain(|(ca, _), _| ca.is_none());
        }
    }

    /// For the clients of routes with these terms.
    ///
    /// # Errors
    /// The terms cannot be kept.
    pub fn server(&mut self, terms: &Terminate) -> Result<Arc<ServerConfig>, TlsError> {
        self.keep_up();
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
        self.keep_up();
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
        let builder = match (&terms.client_certificate, &authority) {
            (ClientCertificate::None, _) => builder.with_no_client_auth(),
            (_, None) => return Err(TlsError::NoRoots),
            (asked, Some(authority)) => {
                let required = *asked == ClientCertificate::Require;
                let verifier = authority.client_verifier(&self.provider, required)?;
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
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13, &TLS12])?;
        let builder = match ca {
            Some(name) => {
                let verifier = self.authorities.find(name)?;
                builder.with_webpki_verifier(verifier.server_verifier(&self.provider)?)
            }
            None => builder.with_root_certificates(self.authorities.system()?),
        };
        let mut config = builder.with_no_client_auth();
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
