//! A program's certificate, key and authority: read, kept, read again when they change.

use std::{
    fmt, fs, io,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme, SupportedCipherSuite,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{
    TlsError,
    identity::{Certificate, Identity, Role, not_after},
    wide::Wide,
};

/// The files of a program's `[tls]` table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// Certificates of the authority, PEM; several while it is being replaced.
    pub ca: PathBuf,
    /// The program's own certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

impl Files {
    /// The files of a folder that `flockerctl ca` has made.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            ca: folder.join("ca.pem"),
            certificate: folder.join("certificate.pem"),
            key: folder.join("key.pem"),
        }
    }

    /// Each with the name of its key.
    #[must_use]
    pub fn named(&self) -> [(&'static str, &Path); 3] {
        [
            ("ca", &self.ca),
            ("certificate", &self.certificate),
            ("key", &self.key),
        ]
    }
}

/// Whom a client means to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Exactly this one, wherever it is.
    Named(Identity),
    /// Whoever has this role at this address.
    At(Role, IpAddr),
}

/// A program's credentials. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Credentials {
    inner: Arc<Inner>,
}

struct Inner {
    files: Files,
    current: Mutex<Current>,
}

/// What was read, and how the files looked then.
struct Current {
    seen: Vec<Option<Look>>,
    loaded: Arc<Loaded>,
}

/// How a file looks from outside; a file that was replaced looks different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

struct Loaded {
    roots: Arc<RootCertStore>,
    key: Arc<SingleCertAndKey>,
    certificate: Certificate,
    authority_not_after: i64,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("files", &self.inner.files)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the file that is missing or no good.
    pub fn load(files: Files) -> Result<Self, TlsError> {
        let seen = look(&files);
        let loaded = Arc::new(Loaded::read(&files)?);
        let current = Mutex::new(Current { seen, loaded });
        Ok(Self {
            inner: Arc::new(Inner { files, current }),
        })
    }

    /// The files.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.inner.files
    }

    /// The certificate that new connections use.
    #[must_use]
    pub fn certificate(&self) -> Certificate {
        self.current().certificate.clone()
    }

    /// When the last certificate of the authority ends, Unix time in seconds.
    #[must_use]
    pub fn authority_not_after(&self) -> i64 {
        self.current().authority_not_after
    }

    /// Whom a client has reached over `stream`, if it is whom it meant.
    ///
    /// # Errors
    /// When the other side is somebody else, or will not have us.
    pub async fn connect(
        &self,
        stream: TcpStream,
        expected: &Expected,
    ) -> io::Result<TlsStream<Wide>> {
        let name = match expected {
            Expected::Named(identity) => {
                ServerName::try_from(identity.name.clone()).map_err(io::Error::other)?
            }
            Expected::At(_, address) => ServerName::from(*address),
        };
        let config = self.current().client()?;
        let stream = TlsConnector::from(config)
            .connect(name, Wide::new(stream))
            .await?;
        let stream = TlsStream::from(stream);
        let reached = peer(&stream)?;
        let right = match expected {
            Expected::Named(identity) => reached == *identity,
            Expected::At(role, _) => reached.role == *role,
        };
        if !right {
            let meant = match expected {
                Expected::Named(identity) => identity.to_string(),
                Expected::At(role, address) => format!("{role} at {address}"),
            };
            let reason = format!("it is {reached}; {meant} was meant");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        Ok(stream)
    }

    /// Takes a connection from somebody of these roles.
    ///
    /// # Errors
    /// When it is anybody else.
    pub async fn accept(
        &self,
        stream: TcpStream,
        roles: &'static [Role],
    ) -> io::Result<(TlsStream<Wide>, Identity)> {
        let config = self.current().server(roles)?;
        let stream = TlsAcceptor::from(config).accept(Wide::new(stream)).await?;
        let stream = TlsStream::from(stream);
        let identity = peer(&stream)?;
        Ok((stream, identity))
    }

    /// What holds now: the files' content, if they have changed and are good.
    fn current(&self) -> Arc<Loaded> {
        let files = &self.inner.files;
        let current = self.inner.current.lock();
        let mut current = current.unwrap_or_else(PoisonError::into_inner);
        let seen = look(files);
        if seen != current.seen {
            match Loaded::read(files) {
                Ok(loaded) => {
                    let certificate = &loaded.certificate;
                    tracing::info!(identity = %certificate.identity, not_after = certificate.not_after, "certificates were read again");
                    current.loaded = Arc::new(loaded);
                }
                Err(error) => {
                    let error = crate::error::chain(&error);
                    tracing::warn!(%error, "the new certificates are no good; the old ones stay");
                }
            }
            current.seen = seen;
        }
        Arc::clone(&current.loaded)
    }
}

fn look(files: &Files) -> Vec<Option<Look>> {
    let look = |path: &Path| {
        let meta = fs::metadata(path).ok()?;
        Some(Look {
            inode: meta.ino(),
            size: meta.size(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    };
    files.named().map(|(_, path)| look(path)).to_vec()
}

/// Who is at the other end of a connection that stands.
fn peer(stream: &TlsStream<Wide>) -> io::Result<Identity> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let (_, connection) = stream.get_ref();
    let certificate = connection
        .peer_certificates()
        .and_then(<[CertificateDer<'_>]>::first)
        .ok_or_else(|| invalid("it has no certificate".to_owned()))?;
    let certificate = Certificate::read(certificate).map_err(invalid)?;
    Ok(certificate.identity)
}

fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    // The quicker one first, where both sides have it; all of them are good ones.
    let is_aes_128 = |suite: &SupportedCipherSuite| suite.suite() == TLS13_AES_128_GCM_SHA256;
    provider
        .cipher_suites
        .sort_by_key(|suite| !is_aes_128(suite));
    Arc::new(provider)
}

impl Loaded {
    fn read(files: &Files) -> Result<Self, TlsError> {
        let content = |path: &Path, reason: String| TlsError::Content {
            path: path.to_owned(),
            reason,
        };
        let mut roots = RootCertStore::empty();
        let mut authority_not_after = i64::MIN;
        for authority in certificates(&files.ca)? {
            let until = not_after(&authority).map_err(|reason| content(&files.ca, reason))?;
            authority_not_after = authority_not_after.max(until);
            let added = roots.add(authority);
            added.map_err(|error| content(&files.ca, error.to_string()))?;
        }
        let chain = certificates(&files.certificate)?;
        let certificate =
            Certificate::read(&chain[0]).map_err(|reason| content(&files.certificate, reason))?;
        let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
            .map_err(|error| content(&files.key, format!("it holds no private key: {error}")))?;
        let pair = |source| TlsError::Pair {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            source,
        };
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(pair)?;
        Ok(Self {
            roots: Arc::new(roots),
            key: Arc::new(SingleCertAndKey::from(key)),
            certificate,
            authority_not_after,
        })
    }

    fn client(&self) -> io::Result<Arc<ClientConfig>> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_cert_resolver(Arc::clone(&self.key) as _);
        Ok(Arc::new(config))
    }

    fn server(&self, roles: &'static [Role]) -> io::Result<Arc<ServerConfig>> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), provider())
                .build()
                .map_err(io::Error::other)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .with_client_cert_verifier(Arc::new(OfRoles { verifier, roles }))
            .with_cert_resolver(Arc::clone(&self.key) as _);
        // A resumed session would outlive the check of its certificate.
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The certificates of a file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let reason = match found {
        Ok(found) if !found.is_empty() => return Ok(found),
        Ok(_) => "it holds no certificate in PEM form".to_owned(),
        Err(error) => format!("it is not in PEM form: {error}"),
    };
    Err(TlsError::Content {
        path: path.to_owned(),
        reason,
    })
}

/// Takes clients of some roles only, after all that is usually checked.
#[derive(Debug)]
struct OfRoles {
    verifier: Arc<dyn ClientCertVerifier>,
    roles: &'static [Role],
}

impl ClientCertVerifier for OfRoles {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .verifier
            .verify_client_cert(end_entity, intermediates, now)?;
        match Certificate::read(end_entity) {
            Ok(certificate) if self.roles.contains(&certificate.identity.role) => Ok(verified),
            // The client hears "access denied" (RFC 8446, 6.2).
            _ => Err(rustls::CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
