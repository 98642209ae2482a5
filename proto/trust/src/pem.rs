//! Certificates and keys out of PEM texts.

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::TrustError;
use crate::follow::Text;

fn form(of: &Text, message: impl Into<String>, expected: &'static str) -> TrustError {
    TrustError::Form { path: of.path.clone(), message: message.into(), expected }
}

/// At least one certificate.
pub(crate) fn certificates(of: &Text) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    const EXPECTED: &str = "certificates in PEM";
    let chain = CertificateDer::pem_slice_iter(of.text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| form(of, error.to_string(), EXPECTED))?;
    if chain.is_empty() {
        return Err(form(of, "it holds no certificate", EXPECTED));
    }
    Ok(chain)
}

/// A private key.
pub(crate) fn key(of: &Text) -> Result<PrivateKeyDer<'static>, TrustError> {
    PrivateKeyDer::from_pem_slice(of.text.as_bytes())
        .map_err(|error| form(of, error.to_string(), "a private key in PEM"))
}

/// Authorities to be trusted.
pub(crate) fn authorities(of: &Text) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(of)? {
        roots
            .add(certificate)
            .map_err(|error| form(of, error.to_string(), "certificates of authorities in PEM"))?;
    }
    Ok(roots)
}
