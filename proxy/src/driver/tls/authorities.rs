//! Those whose signatures are believed, with what they have revoked: from files that the
//! configuration names, from the folder (`NAME.ca`, lists in it or in `NAME.crl`), from the
//! admin API.
//!
//! What handshakes use is an immutable snapshot with a number that goes up with each change, by
//! which workers know that what they have made of it is old. A file that is no good leaves the
//! last good one in place, as with certificates.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use flocker_api::{
    authority::{AuthorityStatus, PutAuthority},
    name::AuthorityName,
};
use rustls::{
    RootCertStore,
    client::WebPkiServerVerifier,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::{
    PemError, TlsError, pem, read,
    sources::{Stamp, stamp, write_secret},
};
use crate::config::{AuthorityFiles, TlsConfig};

/// What the file of an authority is called in the folder.
const EXTENSION: &str = "ca";
/// Lists beside it.
const CRL_EXTENSION: &str = "crl";

/// See the module.
#[derive(Debug)]
pub(super) struct Authorities {
    named: ArcSwap<BTreeMap<AuthorityName, Arc<Authority>>>,
    version: AtomicU64,
    sources: Mutex<BTreeMap<AuthorityName, Source>>,
    system: OnceLock<Arc<RootCertStore>>,
    provider: Arc<CryptoProvider>,
}

/// One of them, read.
#[derive(Debug)]
pub(super) struct Authority {
    roots: Arc<RootCertStore>,
    crls: Vec<CertificateRevocationListDer<'static>>,
    /// What tells it from others, its lists included: who resumes is not looked at again.
    pub(super) identity: Vec<u8>,
    subjects: Vec<String>,
    not_after_s: i64,
    revoked: usize,
    crl_until_s: Option<i64>,
}

#[derive(Debug)]
struct Source {
    origin: Origin,
    good: Arc<Authority>,
    problem: Option<String>,
}

#[derive(Debug)]
enum Origin {
    Configured(Watched),
    Folder(Watched),
    Sent(PutAuthority),
}

/// Files with what they were like when they were read.
#[derive(Debug)]
struct Watched {
    files: AuthorityFiles,
    stamps: [Stamp; 2],
}

impl Watched {
    fn new(files: AuthorityFiles) -> Self {
        let stamps = stamps(&files);
        Self { files, stamps }
    }

    fn have_changed(&mut self) -> bool {
        let stamps = stamps(&self.files);
        std::mem::replace(&mut self.stamps, stamps) != stamps
    }

    fn load(&self, provider: &Arc<CryptoProvider>) -> Result<Authority, TlsError> {
        let certificates = read(&self.files.certificates)?;
        let crls = self.files.crls.as_deref().map(read).transpose()?;
        Authority::read(&certificates, crls.as_deref(), provider).map_err(|source| TlsError::File {
            path: match (&source, &self.files.crls) {
                (PemError::Crl(_), Some(path)) => path.clone(),
                _ => self.files.certificates.clone(),
            },
            source,
        })
    }
}

fn stamps(files: &AuthorityFiles) -> [Stamp; 2] {
    let crls = files.crls.as_deref().and_then(stamp);
    [stamp(&files.certificates), crls]
}

impl Authority {
    /// From PEM; lists may stand among the certificates, too.
    fn read(
        text: &[u8],
        crls: Option<&[u8]>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, PemError> {
        let mut one = Self {
            roots: Arc::new(RootCertStore::empty()),
            crls: Vec::new(),
            identity: Vec::new(),
            subjects: Vec::new(),
            not_after_s: i64::MAX,
            revoked: 0,
            crl_until_s: None,
        };
        let mut roots = RootCertStore::empty();
        for (at, certificate) in pem::certificates(text)?.into_iter().enumerate() {
            let bad = || PemError::Certificate { number: at + 1 };
            let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|_| bad())?;
            one.subjects.push(parsed.subject().to_string());
            let not_after_s = parsed.validity().not_after.timestamp();
            one.not_after_s = one.not_after_s.min(not_after_s);
            one.identity.extend_from_slice(&certificate);
            roots.add(certificate).map_err(|_| bad())?;
        }
        one.roots = Arc::new(roots);
        for text in [Some(text), crls].into_iter().flatten() {
            for crl in CertificateRevocationListDer::pem_slice_iter(text) {
                one.add_crl(crl.map_err(|error| PemError::Crl(error.to_string()))?)?;
            }
        }
        if crls.is_some() && one.crls.is_empty() {
            return Err(PemError::Crl("there is none in PEM in it".to_owned()));
        }
        // What the verifier has against them is known now, not at the first handshake.
        let verifier = one.client_verifier(provider, true);
        verifier.map_err(|error| PemError::Crl(error.to_string()))?;
        Ok(one)
    }

    fn add_crl(&mut self, crl: CertificateRevocationListDer<'static>) -> Result<(), PemError> {
        let (_, parsed) = CertificateRevocationList::from_der(&crl)
            .map_err(|error| PemError::Crl(error.to_string()))?;
        self.revoked += parsed.iter_revoked_certificates().count();
        let until_s = parsed.next_update().map(|at| at.timestamp());
        self.crl_until_s = [self.crl_until_s, until_s].into_iter().flatten().min();
        self.identity.extend_from_slice(&crl);
        self.crls.push(crl);
        Ok(())
    }

    /// Judges clients.
    pub(super) fn client_verifier(
        &self,
        provider: &Arc<CryptoProvider>,
        required: bool,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let (roots, provider) = (Arc::clone(&self.roots), Arc::clone(provider));
        let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
            .with_crls(self.crls.iter().cloned());
        if !required {
            verifier = verifier.allow_unauthenticated();
        }
        if !self.crls.is_empty() {
            verifier = verifier.enforce_revocation_expiration();
        }
        let verifier = verifier.build();
        verifier.map_err(|error| TlsError::Rustls(error.to_string()))
    }

    /// Judges upstreams.
    pub(super) fn server_verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
        let (roots, provider) = (Arc::clone(&self.roots), Arc::clone(provider));
        let mut verifier = WebPkiServerVerifier::builder_with_provider(roots, provider)
            .with_crls(self.crls.iter().cloned());
        if !self.crls.is_empty() {
            verifier = verifier.enforce_revocation_expiration();
        }
        let verifier = verifier.build();
        verifier.map_err(|error| TlsError::Rustls(error.to_string()))
    }
}

impl Authorities {
    /// Reads all that the configuration names.
    pub(super) fn load(
        config: &TlsConfig,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let all = Self {
            named: ArcSwap::default(),
            version: AtomicU64::new(0),
            sources: Mutex::default(),
            system: OnceLock::new(),
            provider: Arc::clone(provider),
        };
        let mut sources = all.sources();
        for (name, files) in &config.authorities {
            let watched = Watched::new(files.clone());
            let good = Arc::new(watched.load(provider)?);
            let origin = Origin::Configured(watched);
            sources.insert(name.clone(), Source::new(origin, good));
        }
        for (name, watched) in folder(config)? {
            if sources.contains_key(&name) {
                return Err(TlsError::Twice(name.to_string()));
            }
            let good = Arc::new(watched.load(provider)?);
            sources.insert(name, Source::new(Origin::Folder(watched), good));
        }
        all.publish(&sources);
        drop(sources);
        Ok(all)
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<AuthorityName, Source>> {
        // What a panic has interrupted is replaced as a whole or not at all.
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, sources: &BTreeMap<AuthorityName, Source>) {
        let good =
            |(name, source): (&AuthorityName, &Source)| (name.clone(), Arc::clone(&source.good));
        self.named
            .store(Arc::new(sources.iter().map(good).collect()));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Goes up with each change.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn has(&self, name: &AuthorityName) -> bool {
        self.named.load().contains_key(name)
    }

    pub(super) fn find(&self, name: &AuthorityName) -> Result<Arc<Authority>, TlsError> {
        let found = self.named.load().get(name).cloned();
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

    pub(super) fn status(&self, now_s: i64) -> Vec<AuthorityStatus> {
        let sources = self.sources();
        let all = sources.iter();
        all.map(|(name, source)| source.status(name, now_s))
            .collect()
    }

    /// See [`super::Material::put_authority`].
    pub(super) fn put(
        &self,
        name: &AuthorityName,
        put: &PutAuthority,
        config: &TlsConfig,
        now_s: i64,
    ) -> Result<AuthorityStatus, TlsError> {
        let mut sources = self.sources();
        if let Some(Origin::Configured(_)) = sources.get(name).map(|one| &one.origin) {
            return Err(TlsError::ConfiguredAuthority(name.clone()));
        }
        let crls = put.crls.as_deref().map(str::as_bytes);
        let good = Authority::read(put.certificates.as_bytes(), crls, &self.provider);
        let good = Arc::new(good.map_err(|source| TlsError::RefusedAuthority {
            name: name.clone(),
            source,
        })?);
        let origin = match &config.folder {
            Some(folder) => {
                let path = folder.join(format!("{name}.{EXTENSION}"));
                let crls = put.crls.as_deref().unwrap_or_default();
                let both = format!("{}\n{}\n", put.certificates.trim_end(), crls.trim_end());
                write_secret(&path, both.as_bytes())?;
                // What lay beside it would be read with it.
                drop(std::fs::remove_file(path.with_extension(CRL_EXTENSION)));
                Origin::Folder(Watched::new(AuthorityFiles {
                    certificates: path,
                    crls: None,
                }))
            }
            None => Origin::Sent(put.clone()),
        };
        let source = Source::new(origin, good);
        let status = source.status(name, now_s);
        sources.insert(name.clone(), source);
        self.publish(&sources);
        Ok(status)
    }

    /// See [`super::Material::remove_authority`].
    pub(super) fn remove(
        &self,
        name: &AuthorityName,
        now_s: i64,
    ) -> Result<AuthorityStatus, TlsError> {
        let mut sources = self.sources();
        let source = sources.get(name);
        let source = source.ok_or_else(|| TlsError::NoAuthority(name.clone()))?;
        match &source.origin {
            Origin::Configured(_) => return Err(TlsError::ConfiguredAuthority(name.clone())),
            Origin::Folder(watched) => {
                let files = &watched.files;
                for path in [Some(&files.certificates), files.crls.as_ref()] {
                    let Some(path) = path else { continue };
                    std::fs::remove_file(path).map_err(|source| TlsError::Io {
                        action: "remove",
                        path: path.clone(),
                        source,
                    })?;
                }
            }
            Origin::Sent(_) => {}
        }
        let status = source.status(name, now_s);
        sources.remove(name);
        self.publish(&sources);
        Ok(status)
    }

    /// Those that are in memory alone.
    pub(super) fn sent(&self) -> Vec<(AuthorityName, PutAuthority)> {
        let sources = self.sources();
        let sent = sources
            .iter()
            .filter_map(|(name, source)| match &source.origin {
                Origin::Sent(put) => Some((name.clone(), put.clone())),
                Origin::Configured(_) | Origin::Folder(_) => None,
            });
        sent.collect()
    }

    /// Looks whether files have changed.
    pub(super) fn refresh(&self, config: &TlsConfig) {
        let mut sources = self.sources();
        let mut changed = false;
        for (name, source) in sources.iter_mut() {
            let (Origin::Configured(watched) | Origin::Folder(watched)) = &mut source.origin else {
                continue;
            };
            if !watched.have_changed() {
                continue;
            }
            match watched.load(&self.provider) {
                Ok(good) => {
                    tracing::info!(%name, revoked = good.revoked, "an authority has changed");
                    (source.good, source.problem) = (Arc::new(good), None);
                    changed = true;
                }
                Err(error) => {
                    let problem = flocker_api::error::chain(&error);
                    tracing::error!(
                        %name,
                        problem,
                        "an authority's file is no good: what counted before still does"
                    );
                    source.problem = Some(problem);
                }
            }
        }
        changed |= self.refresh_folder(&mut sources, config);
        if changed {
            self.publish(&sources);
        }
    }

    /// Files that have come to the folder, and those that have gone from it.
    fn refresh_folder(
        &self,
        sources: &mut BTreeMap<AuthorityName, Source>,
        config: &TlsConfig,
    ) -> bool {
        // Why it cannot be listed, the look at certificates has said.
        let Ok(found) = folder(config) else {
            return false;
        };
        let here: HashSet<_> = found.iter().map(|(name, _)| name.clone()).collect();
        let before = sources.len();
        sources.retain(|name, source| {
            let stays = !matches!(source.origin, Origin::Folder(_)) || here.contains(name);
            if !stays {
                tracing::info!(%name, "an authority is gone");
            }
            stays
        });
        let mut changed = sources.len() != before;
        for (name, watched) in found {
            let known = match sources.get(&name).map(|source| &source.origin) {
                // A list that has come to lie beside it is another set of files.
                Some(Origin::Folder(known)) => known.files.crls == watched.files.crls,
                Some(_) => true,
                None => false,
            };
            if known {
                continue;
            }
            match watched.load(&self.provider) {
                Ok(good) => {
                    tracing::info!(%name, revoked = good.revoked, "an authority has been added");
                    let source = Source::new(Origin::Folder(watched), Arc::new(good));
                    sources.insert(name, source);
                    changed = true;
                }
                Err(error) => {
                    let problem = flocker_api::error::chain(&error);
                    tracing::error!(%name, problem, "an authority's file is no good");
                }
            }
        }
        changed
    }
}

impl Source {
    fn new(origin: Origin, good: Arc<Authority>) -> Self {
        Self {
            origin,
            good,
            problem: None,
        }
    }

    fn status(&self, name: &AuthorityName, now_s: i64) -> AuthorityStatus {
        let good = &self.good;
        let is_over = good.crl_until_s.is_some_and(|until_s| until_s < now_s);
        let over = is_over.then(|| "a list of revoked certificates has run out".to_owned());
        AuthorityStatus {
            name: name.clone(),
            subjects: good.subjects.clone(),
            not_after_s: good.not_after_s,
            crls: good.crls.len(),
            revoked: good.revoked,
            crl_until_s: good.crl_until_s,
            file: match &self.origin {
                Origin::Configured(watched) | Origin::Folder(watched) => {
                    Some(watched.files.certificates.clone())
                }
                Origin::Sent(_) => None,
            },
            problem: self.problem.clone().or(over),
        }
    }
}

/// The authorities of the folder.
fn folder(config: &TlsConfig) -> Result<Vec<(AuthorityName, Watched)>, TlsError> {
    let Some(folder) = &config.folder else {
        return Ok(Vec::new());
    };
    let failed = |source| TlsError::Io {
        action: "list",
        path: folder.clone(),
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|found| found != EXTENSION) {
            continue;
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let name = stem.to_lowercase().parse().map_err(|error| {
            let error: flocker_api::name::InvalidName = error;
            TlsError::Name(format!(
                "{} makes no name: {}",
                path.display(),
                error.reason
            ))
        })?;
        let crls: PathBuf = path.with_extension(CRL_EXTENSION);
        let files = AuthorityFiles {
            crls: crls.exists().then_some(crls),
            certificates: path,
        };
        found.push((name, Watched::new(files)));
    }
    Ok(found)
}
