//! Certificates as `rollcall-gateway dev-certs` makes them, and a client that trusts their authority.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use crate::process::run;

/// A folder of certificates of one authority, which is `ca.pem`.
#[derive(Debug)]
pub struct Certs {
    /// Where they are.
    pub folder: TempDir,
}

impl Certs {
    /// For an agent, or another server, at 127.0.0.1 (`agent-127.0.0.1.pem`, `.key`), and for a gateway there (`gateway.`,
    /// `https.`).
    ///
    /// # Panics
    /// If they cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let certs = Self::none();
        certs.make(&["--agent", "127.0.0.1", "--gateway", "127.0.0.1,localhost"]);
        certs
    }

    /// A folder without any.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn none() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder for certificates") }
    }

    /// Makes more of them and gives what the program said.
    ///
    /// # Panics
    /// If they cannot be made.
    pub fn make(&self, hosts: &[&str]) -> String {
        let dir = self.folder.path().to_str().expect("a path in UTF-8");
        let (status, out, err) = run("rollcall-gateway", &[&["dev-certs", "--dir", dir], hosts].concat());
        assert!(status.success(), "{err}");
        out
    }

    /// Where a file of this name is.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same, as text.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

impl Default for Certs {
    fn default() -> Self {
        Self::new()
    }
}

/// Speaks TLS over a connection to this address, to whoever has a certificate of the authority in the file.
///
/// # Errors
/// If the address cannot be spoken to.
///
/// # Panics
/// If the file holds no authority.
pub fn over_tls(
    ca: &Path,
    address: SocketAddr,
    connection: TcpStream,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(ca).expect("an authority in PEM");
    roots.add(authority).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
    let tls = ClientConnection::new(Arc::new(config), address.ip().into()).map_err(io::Error::other)?;
    Ok(StreamOwned::new(tls, connection))
}
