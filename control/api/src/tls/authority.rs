//! The cluster's authority: makes certificates and writes their files.
//!
//! A folder holds `ca.pem` and `ca-key.pem`; whoever has the latter can be anybody, so it need not
//! and should not be on any node. Every certificate gets a folder of its own with `ca.pem`,
//! `certificate.pem` and `key.pem`, which is what is copied to its program.

use std::{
    fs, io,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::{Files, Identity};

/// How much earlier than it is made a certificate holds: clocks differ.
const SKEW: Duration = Duration::from_secs(3600);

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// What would be written is there.
    #[error("{0} is there already")]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot {action} {path}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody may be called that.
    #[error("'{0}' cannot be in a certificate: letters, digits, '-', '_' and '.' make a name")]
    Name(String),
    /// The authority's files are no good, or a certificate cannot be made.
    #[error("{what}")]
    Make {
        /// Of what.
        what: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::AlreadyExists => AuthorityError::Exists(path),
        _ => AuthorityError::Io {
            action,
            path,
            source,
        },
    }
}

fn make(what: &str) -> impl FnOnce(rcgen::Error) -> AuthorityError {
    let what = what.to_owned();
    move |source| AuthorityError::Make { what, source }
}

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// Whom a certificate is for, and how long it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Whose it is; the name is also the DNS name under which others reach it.
    pub identity: Identity,
    /// Addresses at which it is reached.
    pub addresses: Vec<IpAddr>,
    /// From when.
    pub now: SystemTime,
    /// For how long.
    pub validity: Duration,
}

/// What to do with files that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leave them and fail.
    Keep,
    /// Put new ones in their place.
    Replace,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes an authority in a folder, where none may be.
    ///
    /// # Errors
    /// When one is there, or the files cannot be written.
    pub fn create(
        folder: &Path,
        now: SystemTime,
        validity: Duration,
    ) -> Result<Self, AuthorityError> {
        make_folder(folder)?;
        let key = KeyPair::generate().map_err(make("the authority's key"))?;
        let mut params = CertificateParams::default();
        // Two authorities of one name could not be told apart while one replaces the other.
        let id: String = params.key_identifier(&key)[..6]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        params.distinguished_name = common_name(&format!("Flocker cluster authority {id}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = span(now, validity);
        let what = "the authority's certificate";
        let pem = params.self_signed(&key).map_err(make(what))?.pem();
        write(
            &folder.join("ca-key.pem"),
            &key.serialize_pem(),
            Existing::Keep,
        )?;
        write(&folder.join("ca.pem"), &pem, Existing::Keep)?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    /// Opens the authority of a folder.
    ///
    /// # Errors
    /// When there is none, or its files are no good.
    pub fn open(folder: &Path) -> Result<Self, AuthorityError> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(io_error("read", &path))
        };
        let (pem, key) = (read("ca.pem")?, read("ca-key.pem")?);
        let key = KeyPair::from_pem(&key).map_err(make("ca-key.pem holds no key"))?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key);
        Ok(Self {
            issuer: issuer.map_err(make("ca.pem holds no certificate"))?,
            pem,
        })
    }

    /// Makes a certificate with a new key and writes it, its key and the authority's
    /// certificate into a folder. A program that uses this folder takes the new files at its
    /// next connection.
    ///
    /// # Errors
    /// When files are there that shall be kept, or cannot be written.
    pub fn issue(
        &self,
        order: &Order,
        folder: &Path,
        existing: Existing,
    ) -> Result<Files, AuthorityError> {
        let identity = &order.identity;
        if identity.uri().parse::<Identity>().is_err() {
            return Err(AuthorityError::Name(identity.name.clone()));
        }
        let name = || AuthorityError::Name(identity.name.clone());
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&identity.to_string());
        params.subject_alt_names = vec![
            SanType::DnsName(identity.name.as_str().try_into().map_err(|_| name())?),
            SanType::URI(identity.uri().as_str().try_into().map_err(|_| name())?),
        ];
        let addresses = order.addresses.iter().copied().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = span(order.now, order.validity);
        let key = KeyPair::generate().map_err(make("a key"))?;
        let certificate = params.signed_by(&key, &self.issuer);
        let certificate = certificate.map_err(make("a certificate"))?;
        make_folder(folder)?;
        let files = Files::in_folder(folder);
        if existing == Existing::Keep
            && let Some(there) = [&files.key, &files.certificate]
                .into_iter()
                .find(|f| f.exists())
        {
            return Err(AuthorityError::Exists(there.clone()));
        }
        write(&files.key, &key.serialize_pem(), existing)?;
        write(&files.ca, &self.pem, Existing::Replace)?;
        write(&files.certificate, &certificate.pem(), existing)?;
        Ok(files)
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn span<T>(now: SystemTime, validity: Duration) -> (T, T)
where
    T: From<SystemTime>,
{
    let now = now.max(UNIX_EPOCH + SKEW);
    (T::from(now - SKEW), T::from(now + validity))
}

fn make_folder(folder: &Path) -> Result<(), AuthorityError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(folder).map_err(io_error("create", folder))
}

/// Writes a file that only its owner reads: whole, or not at all.
fn write(path: &Path, text: &str, existing: Existing) -> Result<(), AuthorityError> {
    let create = |path: &Path| -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    match existing {
        Existing::Keep => create(path).map_err(io_error("write", path)),
        Existing::Replace => {
            let mut next = path.as_os_str().to_owned();
            next.push(".next");
            let next = PathBuf::from(next);
            // Left by one that was cut off.
            drop(fs::remove_file(&next));
            create(&next).map_err(io_error("write", &next))?;
            fs::rename(&next, path).map_err(io_error("write", path))
        }
    }
}
