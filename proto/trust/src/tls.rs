//! TLS out of files: what a server shows and asks for, and what a client trusts and shows.
//!
//! Sessions are not resumed between gateway and agent: a resumed session would be let in without a look at its
//! certificate, which may have expired since; and connections are few and last long.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};

use crate::follow::Text;
use crate::{Live, TrustError, pem};

/// A server's files, PEM.
#[derive(Clone, Debug)]
pub struct ServerFiles {
    /// Names it in the log, such as `the gateway's certificate`.
    pub what: &'static str,
    /// Its certificate chain, its own certificate first.
    pub certificate: PathBuf,
    /// The private key of that.
    pub key: PathBuf,
    /// Whose certificates clients must show; without, they are asked for none.
    pub clients: Option<ClientAuthority>,
    /// The protocols it speaks, as ALPN names them, the preferred first.
    pub protocols: &'static [&'static [u8]],
}

/// Whom a server lets in.
#[derive(Clone, Debug)]
pub struct ClientAuthority {
    /// The certificates of the authorities that sign clients' certificates, PEM.
    pub ca: PathBuf,
    /// Names of which a client's certificate must carry one; empty: any will do.
    pub names: Vec<ServerName<'static>>,
}

/// A client's files, PEM.
#[derive(Clone, Debug)]
pub struct ClientFiles {
    /// Names them in the log, such as `the certificates towards agents`.
    pub what: &'static str,
    /// The certificates of the authorities that sign servers' certificates.
    pub ca: PathBuf,
    /// Its own certificate chain and the key of that, for servers that ask for them.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// As of [`ServerFiles`].
    pub protocols: &'static [&'static [u8]],
}

// === impl ServerFiles ===

impl ServerFiles {
    /// Reads the files. Connections take what is current when they come in, and keep it.
    ///
    /// # Errors
    /// [`TrustError`]
    pub fn load(self) -> Result<Live<ServerConfig>, TrustError> {
        let mut paths = vec![self.certificate.clone(), self.key.clone()];
        paths.extend(self.clients.as_ref().map(|clients| clients.ca.clone()));
        let names = self.clients.map(|clients| clients.names).unwrap_or_default();
        let protocols = self.protocols;
        Live::load(self.what, paths, move |texts| server(texts, &names, protocols))
    }
}

fn server(
    texts: &[Text],
    names: &[ServerName<'static>],
    protocols: &[&[u8]],
) -> Result<ServerConfig, TrustError> {
    let [certificate, key, clients @ ..] = texts else { unreachable!("two files at least are read") };
    let unfit = unfit(certificate, key);
    let (chain, private) = (pem::certificates(certificate)?, pem::key(key)?);
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(&unfit)?;
    let builder = match clients.first() {
        None => builder.with_no_client_auth(),
        Some(ca) => builder.with_client_cert_verifier(verifier(ca, names)?),
    };
    let mut config = builder.with_single_cert(chain, private).map_err(&unfit)?;
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    if !clients.is_empty() {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

fn verifier(ca: &Text, names: &[ServerName<'static>]) -> Result<Arc<dyn ClientCertVerifier>, TrustError> {
    let roots = Arc::new(pem::authorities(ca)?);
    let inner = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
    let inner = inner.map_err(|error| TrustError::Form {
        path: ca.path.clone(),
        message: error.to_string(),
        expected: "certificates of authorities in PEM",
    })?;
    if names.is_empty() {
        return Ok(inner);
    }
    Ok(Arc::new(Named { inner, names: names.to_vec() }))
}

/// Lets in clients whose certificate carries one of some names, of those that another lets in.
#[derive(Debug)]
struct Named {
    inner: Arc<dyn ClientCertVerifier>,
    names: Vec<ServerName<'static>>,
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if self.names.iter().any(|name| verify_server_name(&certificate, name).is_ok()) {
            return Ok(verified);
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

// === impl ClientFiles ===

impl ClientFiles {
    /// Reads the files. Connections take what is current when they are made, and keep it.
    ///
    /// # Errors
    /// [`TrustError`]
    pub fn load(self) -> Result<Live<ClientConfig>, TrustError> {
        let mut paths = vec![self.ca];
        paths.extend(self.identity.into_iter().flat_map(|(certificate, key)| [certificate, key]));
        let protocols = self.protocols;
        Live::load(self.what, paths, move |texts| client(texts, protocols))
    }
}

fn client(texts: &[Text], protocols: &[&[u8]]) -> Result<ClientConfig, TrustError> {
    let [ca, identity @ ..] = texts else { unreachable!("one file at least is read") };
    let roots = pem::authorities(ca)?;
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| TrustError::Form {
        path: ca.path.clone(),
        message: error.to_string(),
        expected: "a provider of TLS",
    })?;
    let builder = builder.with_root_certificates(roots);
    let mut config = match identity {
        [certificate, key] => builder
            .with_client_auth_cert(pem::certificates(certificate)?, pem::key(key)?)
            .map_err(unfit(certificate, key))?,
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn unfit(certificate: &Text, key: &Text) -> impl Fn(Error) -> TrustError {
    let (certificate, key) = (certificate.path.clone(), key.path.clone());
    move |source| TrustError::Unfit { certificate: certificate.clone(), key: key.clone(), source }
}

/// One that is chosen here, since a program may hold several.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustls::{ClientConnection, HandshakeKind, ServerConnection};

    use super::*;
    use crate::follow;

    struct Files {
        folder: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let files = Self { folder: tempfile::tempdir().unwrap() };
            files.renew();
            files
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.path(name), text).unwrap();
        }

        fn renew(&self) {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            self.write("cert.pem", &made.cert.pem());
            self.write("key.pem", &made.signing_key.serialize_pem());
        }

        fn server(&self, ca: Option<&Path>) -> Result<Live<ServerConfig>, TrustError> {
            let clients = ca.map(|ca| ClientAuthority { ca: ca.to_owned(), names: Vec::new() });
            let (certificate, key) = (self.path("cert.pem"), self.path("key.pem"));
            ServerFiles { what: "the certificate", certificate, key, clients, protocols: &[b"h2"] }.load()
        }

        fn client(&self) -> Result<Live<ClientConfig>, TrustError> {
            let identity = Some((self.path("cert.pem"), self.path("key.pem")));
            ClientFiles { what: "the certificate", ca: self.path("cert.pem"), identity, protocols: &[b"h2"] }
                .load()
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named_and_nothing_of_them_is_shown() {
        let files = Files::new();
        files.server(Some(&files.path("cert.pem"))).unwrap();
        files.client().unwrap();
        let key = std::fs::read_to_string(files.path("key.pem")).unwrap();
        let errors = || {
            [files.server(None).err().unwrap(), files.client().err().unwrap()].map(|error| error.to_string())
        };
        files.renew();
        files.write("key.pem", &key);
        for error in errors() {
            assert!(error.contains("cert.pem") && error.contains("key.pem"), "{error}");
        }
        files.write("key.pem", "no key");
        for error in errors() {
            assert!(error.contains("key.pem") && error.ends_with("expected a private key in PEM"), "{error}");
        }
        files.write("cert.pem", &key);
        for error in errors() {
            assert!(
                error.ends_with("cert.pem: it holds no certificate, expected certificates in PEM"),
                "{error}"
            );
        }
        std::fs::remove_file(files.path("cert.pem")).unwrap();
        for error in errors() {
            assert!(error.starts_with("cannot read ") && error.contains("cert.pem: No such file"), "{error}");
        }
        files.renew();
        files.write("ca.pem", &key);
        let error = files.server(Some(&files.path("ca.pem"))).err().unwrap().to_string();
        assert!(error.ends_with("ca.pem: it holds no certificate, expected certificates in PEM"), "{error}");
    }

    /// How the second of two connections was made, by a client that would resume the first.
    fn second_handshake(files: &Files, ca: Option<&Path>) -> Option<HandshakeKind> {
        let mut client = (*files.client().unwrap().current()).clone();
        client.resumption = Resumption::in_memory_sessions(8);
        let (client, server) = (Arc::new(client), files.server(ca).unwrap().current());
        let connect = || {
            let name = ServerName::try_from("localhost").unwrap();
            let mut client = ClientConnection::new(Arc::clone(&client), name).unwrap();
            let mut server = ServerConnection::new(Arc::clone(&server)).unwrap();
            for _ in 0..4 {
                let mut wire = Vec::new();
                while client.wants_write() {
                    client.write_tls(&mut wire).unwrap();
                }
                server.read_tls(&mut &wire[..]).unwrap();
                server.process_new_packets().unwrap();
                wire.clear();
                while server.wants_write() {
                    server.write_tls(&mut wire).unwrap();
                }
                client.read_tls(&mut &wire[..]).unwrap();
                client.process_new_packets().unwrap();
            }
            client.handshake_kind()
        };
        connect();
        connect()
    }

    #[test]
    fn who_has_to_show_a_certificate_shows_it_every_time() {
        let files = Files::new();
        assert_eq!(second_handshake(&files, Some(&files.path("cert.pem"))), Some(HandshakeKind::Full));
        assert_eq!(second_handshake(&files, None), Some(HandshakeKind::Resumed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_certificate_is_taken_and_half_a_one_is_not() {
        let files = Files::new();
        let live = Arc::new(files.server(None).unwrap());
        let follows = Arc::clone(&live);
        tokio::spawn(async move { follows.follow().await });
        let becomes_new = async |before: &Arc<ServerConfig>| {
            for _ in 0..100 {
                tokio::time::sleep(follow::INTERVAL).await;
                if !Arc::ptr_eq(&live.current(), before) {
                    return true;
                }
            }
            false
        };
        // The first look puts what is there in place again.
        assert!(becomes_new(&live.current()).await);
        let before = live.current();
        let renewals = live.renewals();
        assert_eq!(*renewals.borrow(), 0, "the first look is no change");
        files.renew();
        assert!(becomes_new(&before).await);
        assert_eq!(*renewals.borrow(), 1);
        let before = live.current();
        files.write("cert.pem", "half");
        assert!(!becomes_new(&before).await);
        assert_eq!(*renewals.borrow(), 1);
    }
}
