//! The gateway's own certificate, which is read again when its files change.
//!
//! New connections get the new certificate within some seconds; connections that are there keep theirs. Files that cannot
//! be used, such as a certificate whose key has not been replaced yet, change nothing: the certificate before stays, and
//! the log says so, once.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

use crate::follow_files;

/// What the gateway shows to its clients at present.
#[derive(Debug)]
pub struct LiveTls {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<ServerConfig>>,
}

/// Files that no certificate can be made of. Messages hold nothing of the key.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {message}, expected {expected}", path.display())]
    Form {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        message: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The two cannot be used together.
    #[error("certificate {} and key {}: {source}", certificate.display(), key.display())]
    Unfit {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}

impl LiveTls {
    /// Reads the files: a chain of certificates, the gateway's own first, and its private key, both PEM.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
        };
        let current = make(certificate, &read(certificate)?, key, &read(key)?)?;
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current: RwLock::new(Arc::new(current)),
        })
    }

    /// What a new connection gets.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Follows the files, without end.
    pub(crate) async fn follow(&self) {
        let mut is_first = true;
        follow_files::follow([&self.certificate, &self.key], |texts| {
            // What was read at start is read once more, which is no news.
            let is_news = !std::mem::take(&mut is_first);
            let made = texts.and_then(|[certificate, key]| {
                make(&self.certificate, &certificate, &self.key, &key).map_err(|error| error.to_string())
            });
            match made {
                Ok(config) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                    if is_news {
                        tracing::info!(path = %self.certificate.display(), "the certificate has changed");
                    }
                }
                Err(error) => tracing::error!(%error, "the certificate stays as it was"),
            }
        })
        .await;
    }
}

fn make(
    certificate_path: &Path,
    certificate: &str,
    key_path: &Path,
    key: &str,
) -> Result<ServerConfig, TlsError> {
    let form =
        |path: &Path, message: String, expected| TlsError::Form { path: path.to_owned(), message, expected };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| form(certificate_path, error.to_string(), "certificates in PEM"))?;
    if chain.is_empty() {
        let message = "it holds no certificate".to_owned();
        return Err(form(certificate_path, message, "certificates in PEM"));
    }
    let private = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| form(key_path, error.to_string(), "a private key in PEM"))?;
    let unfit = |source| TlsError::Unfit {
        certificate: certificate_path.to_owned(),
        key: key_path.to_owned(),
        source,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unfit)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        _folder: tempfile::TempDir,
        certificate: PathBuf,
        key: PathBuf,
    }

    impl Files {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
            let files = Self { _folder: folder, certificate, key };
            files.renew();
            files
        }

        fn renew(&self) {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            std::fs::write(&self.certificate, made.cert.pem()).unwrap();
            std::fs::write(&self.key, made.signing_key.serialize_pem()).unwrap();
        }

        fn load(&self) -> Result<LiveTls, TlsError> {
            LiveTls::load(&self.certificate, &self.key)
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let files = Files::new();
        files.load().unwrap();
        let key = std::fs::read_to_string(&files.key).unwrap();
        Files::renew(&files);
        std::fs::write(&files.key, &key).unwrap();
        let error = files.load().unwrap_err().to_string();
        assert!(error.contains("cert.pem") && error.contains("key.pem"), "{error}");
        std::fs::write(&files.key, "no key").unwrap();
        let error = files.load().unwrap_err().to_string();
        assert!(error.contains("key.pem") && error.ends_with("expected a private key in PEM"), "{error}");
        std::fs::write(&files.certificate, key).unwrap();
        let error = files.load().unwrap_err().to_string();
        assert!(
            error.ends_with("cert.pem: it holds no certificate, expected certificates in PEM"),
            "{error}"
        );
        std::fs::remove_file(&files.certificate).unwrap();
        assert!(files.load().unwrap_err().to_string().contains("cert.pem: No such file"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_certificate_is_taken_and_half_a_one_is_not() {
        let files = Files::new();
        let tls = Arc::new(files.load().unwrap());
        let follows = Arc::clone(&tls);
        tokio::spawn(async move { follows.follow().await });
        let becomes_new = async |before: &Arc<ServerConfig>| {
            for _ in 0..100 {
                tokio::time::sleep(follow_files::INTERVAL).await;
                if !Arc::ptr_eq(&tls.current(), before) {
                    return true;
                }
            }
            false
        };
        // The first look puts what is there in place again.
        assert!(becomes_new(&tls.current()).await);
        let before = tls.current();
        files.renew();
        assert!(becomes_new(&before).await);
        let before = tls.current();
        std::fs::write(&files.certificate, "half").unwrap();
        assert!(!becomes_new(&before).await);
    }
}
