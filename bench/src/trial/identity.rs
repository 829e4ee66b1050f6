//! A certificate for a proxy under trial, and clients that trust nothing else.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tempfile::TempDir;

/// A certificate that signs itself; its files go with the value.
pub(crate) struct Identity {
    folder: TempDir,
    trust: Arc<ClientConfig>,
}

impl Identity {
    /// For this host.
    pub(crate) fn of(host: &str) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([host.to_owned()])
            .context("cannot make a certificate")?;
        let folder = tempfile::tempdir().context("no temporary directory")?;
        let write = |name: &str, text: String| {
            fs::write(folder.path().join(name), text).context("cannot write a certificate")
        };
        write("certificate.pem", made.cert.pem())?;
        write("key.pem", made.signing_key.serialize_pem())?;
        write(
            "both.pem",
            made.cert.pem() + &made.signing_key.serialize_pem(),
        )?;
        let mut roots = RootCertStore::empty();
        roots
            .add(made.cert.der().clone())
            .context("cannot trust a certificate")?;
        let trust = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("no version of TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            folder,
            trust: Arc::new(trust),
        })
    }

    /// Its place in the edge's configuration.
    pub(crate) fn config(&self) -> String {
        format!(
            "[tls]\ncertificates = [{{ certificate = \"{}\", key = \"{}\" }}]\n",
            self.file("certificate.pem").display(),
            self.file("key.pem").display()
        )
    }

    /// What its clients trust.
    pub(crate) fn trust(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.trust)
    }

    /// Where `certificate.pem`, `key.pem`, and `both.pem` with the two are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(name)
    }
}
