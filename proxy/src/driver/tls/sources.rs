//! Where certificates come from: files that the configuration names, a folder, the admin API.
//!
//! A file that has changed is read again; what is no good leaves the last good one in place
//! and is remembered as its problem. Half of a change, a certificate whose key is not there
//! yet, is such a case and heals with the other half.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use flocker_api::{
    certificate::{CertificateStatus, PutCertificate},
    name::CertificateName,
};
use rustls::crypto::CryptoProvider;

use super::{
    TlsError,
    pem::{PemError, Served, served},
    read,
    store::Store,
};
use crate::config::{TlsConfig, name_of};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sources(BTreeMap<CertificateName, Source>);

#[derive(Debug)]
struct Source {
    origin: Origin,
    served: Served,
    problem: Option<String>,
}

#[derive(Debug)]
enum Origin {
    /// Named by the configuration.
    Configured(Files),
    /// Found in the folder.
    Folder(Files),
    /// Sent by the admin API, and kept in memory alone.
    Sent(PutCertificate),
}

/// A certificate's file and its key's, which may be the same, and beside them an OCSP response,
/// which may be missing.
#[derive(Debug, Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    ocsp: PathBuf,
    stamps: [Stamp; 3],
}

/// What changes when a file does: its number, size and times.
pub(super) type Stamp = Option<(u64, u64, i64, i64)>;

impl Files {
    fn new(certificate: PathBuf, key: PathBuf) -> Self {
        let ocsp = certificate.with_extension("ocsp");
        let mut files = Self {
            certificate,
            key,
            ocsp,
            stamps: [None; 3],
        };
        files.have_changed();
        files
    }

    /// Whether they have changed since this was asked last.
    fn have_changed(&mut self) -> bool {
        let stamps = [&self.certificate, &self.key, &self.ocsp].map(|path| stamp(path));
        std::mem::replace(&mut self.stamps, stamps) != stamps
    }

    fn load(&self, provider: &CryptoProvider) -> Result<Served, TlsError> {
        let (chain, key) = (read(&self.certificate)?, read(&self.key)?);
        let ocsp = match self.ocsp.exists() {
            true => Some(read(&self.ocsp)?),
            false => None,
        };
        served(&chain, &key, ocsp, provider).map_err(|source| TlsError::File {
            path: match source {
                PemError::NoKey => self.key.clone(),
                PemError::Ocsp => self.ocsp.clone(),
                _ => self.certificate.clone(),
            },
            source,
        })
    }
}

pub(super) fn stamp(path: &Path) -> Stamp {
    let of = fs::metadata(path).ok()?;
    Some((of.ino(), of.size(), of.mtime(), of.mtime_nsec()))
}

/// Something that a look at the files has brought.
#[derive(Debug)]
pub(super) enum Reloaded {
    Changed(CertificateName),
    Added(CertificateName),
    Gone(CertificateName),
    Bad(PathBuf, String),
}

impl Reloaded {
    /// Whether something else is to be served.
    pub(super) fn is_change(&self) -> bool {
        !matches!(self, Self::Bad(..))
    }

    pub(super) fn log(&self) {
        match self {
            Self::Changed(name) => tracing::info!(%name, "a certificate has changed"),
            Self::Added(name) => tracing::info!(%name, "a certificate has been added"),
            Self::Gone(name) => tracing::info!(%name, "a certificate is gone"),
            Self::Bad(path, problem) => tracing::error!(
                path = %path.display(),
                problem,
                "a certificate's file is no good: what was served before still is"
            ),
        }
    }
}

impl Sources {
    /// Reads all that the configuration names.
    pub(super) fn load(config: &TlsConfig, provider: &CryptoProvider) -> Result<Self, TlsError> {
        let mut all = Self::default();
        for (name, certificate, key) in &config.certificates {
            let files = Files::new(certificate.clone(), key.clone());
            let served = files.load(provider)?;
            all.add(name, Origin::Configured(files), served)?;
        }
        for (name, files) in folder(config)? {
            let served = files.load(provider)?;
            all.add(&name, Origin::Folder(files), served)?;
        }
        Ok(all)
    }

    fn add(
        &mut self,
        name: &CertificateName,
        origin: Origin,
        served: Served,
    ) -> Result<(), TlsError> {
        let source = Source {
            origin,
            served,
            problem: None,
        };
        match self.0.insert(name.clone(), source) {
            Some(_) => Err(TlsError::Twice(name.to_string())),
            None => Ok(()),
        }
    }

    /// What is served.
    pub(super) fn store(&self) -> Store {
        Store::of(self.0.values().map(|source| &source.served))
    }

    pub(super) fn status(&self) -> Vec<CertificateStatus> {
        self.0.iter().map(|(name, one)| status(name, one)).collect()
    }

    /// See [`super::Material::put`].
    pub(super) fn put(
        &mut self,
        name: &CertificateName,
        put: &PutCertificate,
        config: &TlsConfig,
        provider: &CryptoProvider,
        now_s: i64,
    ) -> Result<CertificateStatus, TlsError> {
        if let Some(Origin::Configured(_)) = self.0.get(name).map(|one| &one.origin) {
            return Err(TlsError::Configured(name.clone()));
        }
        let refused = |source| TlsError::Refused {
            name: name.clone(),
            source,
        };
        let (chain, key) = (put.certificate.as_bytes(), put.key.as_bytes());
        let good = served(chain, key, None, provider);
        let served = good.and_then(|served| unexpired(served, now_s));
        let served = served.map_err(refused)?;
        let origin = match &config.folder {
            Some(folder) => {
                let path = folder.join(format!("{name}.pem"));
                let both = format!("{}\n{}\n", put.certificate.trim_end(), put.key.trim_end());
                // A response that lies there speaks of the certificate before.
                drop(fs::remove_file(path.with_extension("ocsp")));
                write_secret(&path, both.as_bytes())?;
                Origin::Folder(Files::new(path.clone(), path))
            }
            None => Origin::Sent(put.clone()),
        };
        let source = Source {
            origin,
            served,
            problem: None,
        };
        let answer = status(name, &source);
        self.0.insert(name.clone(), source);
        Ok(answer)
    }

    /// Those that are in memory alone.
    pub(super) fn sent(&self) -> Vec<(CertificateName, PutCertificate)> {
        let all = self.0.iter();
        all.filter_map(|(name, source)| match &source.origin {
            Origin::Sent(put) => Some((name.clone(), put.clone())),
            Origin::Configured(_) | Origin::Folder(_) => None,
        })
        .collect()
    }

    /// See [`super::Material::remove`].
    pub(super) fn remove(&mut self, name: &CertificateName) -> Result<CertificateStatus, TlsError> {
        let source = self.0.get(name);
        let source = source.ok_or_else(|| TlsError::NotFound(name.clone()))?;
        match &source.origin {
            Origin::Configured(_) => return Err(TlsError::Configured(name.clone())),
            Origin::Folder(files) => {
                let mut paths = vec![&files.certificate];
                if files.key != files.certificate {
                    paths.push(&files.key);
                }
                if files.ocsp.exists() {
                    paths.push(&files.ocsp);
                }
                for path in paths {
                    fs::remove_file(path).map_err(|source| TlsError::Io {
                        action: "remove",
                        path: path.clone(),
                        source,
                    })?;
                }
            }
            Origin::Sent(_) => {}
        }
        let answer = status(name, source);
        self.0.remove(name);
        Ok(answer)
    }

    /// See [`super::Material::refresh`].
    pub(super) fn refresh(
        &mut self,
        config: &TlsConfig,
        provider: &CryptoProvider,
        now_s: i64,
    ) -> Vec<Reloaded> {
        let mut news = Vec::new();
        for (name, source) in &mut self.0 {
            let (Origin::Configured(files) | Origin::Folder(files)) = &mut source.origin else {
                continue;
            };
            if !files.have_changed() {
                continue;
            }
            let path = files.certificate.clone();
            let good = files.load(provider).and_then(|served| {
                unexpired(served, now_s).map_err(|source| TlsError::File {
                    path: path.clone(),
                    source,
                })
            });
            match good {
                Ok(served) => {
                    source.served = served;
                    source.problem = None;
                    news.push(Reloaded::Changed(name.clone()));
                }
                Err(error) => {
                    let problem = flocker_api::error::chain(&error);
                    source.problem = Some(problem.clone());
                    news.push(Reloaded::Bad(path, problem));
                }
            }
        }
        self.refresh_folder(config, provider, &mut news);
        news
    }

    /// Files that have come to the folder, and those that have gone from it.
    fn refresh_folder(
        &mut self,
        config: &TlsConfig,
        provider: &CryptoProvider,
        news: &mut Vec<Reloaded>,
    ) {
        let found = match folder(config) {
            Ok(found) => found,
            Err(error) => {
                let path = config.folder.clone().unwrap_or_default();
                // Told again each time: it is still so.
                return news.push(Reloaded::Bad(path, flocker_api::error::chain(&error)));
            }
        };
        let here: HashSet<_> = found.iter().map(|(name, _)| name.clone()).collect();
        self.0.retain(|name, source| {
            let stays = !matches!(source.origin, Origin::Folder(_)) || here.contains(name);
            if !stays {
                news.push(Reloaded::Gone(name.clone()));
            }
            stays
        });
        for (name, files) in found {
            if self.0.contains_key(&name) {
                continue;
            }
            match files.load(provider) {
                Ok(served) => {
                    let source = Source {
                        origin: Origin::Folder(files),
                        served,
                        problem: None,
                    };
                    self.0.insert(name.clone(), source);
                    news.push(Reloaded::Added(name));
                }
                // It may be half written; the next look will tell.
                Err(error) => news.push(Reloaded::Bad(
                    files.certificate,
                    flocker_api::error::chain(&error),
                )),
            }
        }
    }
}

fn unexpired(served: Served, now_s: i64) -> Result<Served, PemError> {
    match served.valid_s.1 < now_s {
        true => Err(PemError::Expired),
        false => Ok(served),
    }
}

fn status(name: &CertificateName, source: &Source) -> CertificateStatus {
    let served = &source.served;
    CertificateStatus {
        name: name.clone(),
        hosts: served.hosts.iter().map(ToString::to_string).collect(),
        issuer: served.issuer.clone(),
        not_before_s: served.valid_s.0,
        not_after_s: served.valid_s.1,
        stapled: served.certified.ocsp.is_some(),
        file: match &source.origin {
            Origin::Configured(files) | Origin::Folder(files) => Some(files.certificate.clone()),
            Origin::Sent(_) => None,
        },
        problem: source.problem.clone(),
    }
}

/// The certificates of the folder: `NAME.pem`, with the key in it or in `NAME.key`.
fn folder(config: &TlsConfig) -> Result<Vec<(CertificateName, Files)>, TlsError> {
    let Some(folder) = &config.folder else {
        return Ok(Vec::new());
    };
    let failed = |source: io::Error| TlsError::Io {
        action: "list",
        path: folder.clone(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "pem") {
            let key = path.with_extension("key");
            let key = match key.exists() {
                true => key,
                false => path.clone(),
            };
            let name = name_of(&path).map_err(TlsError::Name)?;
            found.push((name, Files::new(path, key)));
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

/// Replaces a file as a whole; only its owner may read it.
pub(super) fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), TlsError> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}.new", std::process::id()));
    let fresh = PathBuf::from(fresh);
    let write = || {
        // What a crash has left of the last time.
        drop(fs::remove_file(&fresh));
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().map_err(|source| TlsError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}
