//! TLS on the connections of gateways, out of files that are followed.
//!
//! tonic's own TLS reads its files once. Here every connection takes what they hold when it comes in, and keeps it. Up to
//! [`MOST_HANDSHAKES`] go on at once, each for [`HANDSHAKE`] at the most, so who is slow holds up nobody. Who is refused
//! is logged, since the other side learns little more than that it was.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _, future};
use rollcall_trust::tls::{ClientAuthority, ServerFiles};
use rollcall_trust::{Live, TrustError};
use rustls::pki_types::ServerName;
use rustls::{CertificateError, Error, ServerConfig};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::config::Tls;
use crate::incoming::Connection;
use crate::refusals::Refusals;

/// Connections that are being greeted at once; more wait their turn.
const MOST_HANDSHAKES: usize = 1024;

/// How long a greeting may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Reads the files of the configuration.
///
/// # Errors
/// One cannot be used.
pub(crate) fn load(tls: &Tls) -> Result<Live<ServerConfig>, TrustError> {
    let names = tls.client_names.iter().map(|name| {
        let name = ServerName::try_from(name.as_str()).map_err(|_| TrustError::Form {
            path: name.into(),
            message: "it cannot stand in a certificate".to_owned(),
            expected: "a name or address in client_names",
        });
        name.map(|name| name.to_owned())
    });
    let names = names.collect::<Result<_, _>>()?;
    let clients = tls.client_ca.clone().map(|ca| ClientAuthority { ca, names });
    let files = ServerFiles {
        what: "the agent's certificate and gateways' authorities",
        certificate: tls.cert.clone(),
        key: tls.key.clone(),
        clients,
        protocols: &[b"h2"],
    };
    files.load()
}

/// The connections on which TLS has been made.
pub(crate) fn secured(
    incoming: impl Stream<Item = Connection> + Send,
    files: Arc<Live<ServerConfig>>,
) -> impl Stream<Item = Connection> + Send {
    let refusals = Arc::new(Refusals::default());
    incoming
        .map(move |connection| greet(connection, TlsAcceptor::from(files.current()), Arc::clone(&refusals)))
        .buffer_unordered(MOST_HANDSHAKES)
        .filter_map(future::ready)
}

async fn greet(connection: Connection, acceptor: TlsAcceptor, refusals: Arc<Refusals>) -> Option<Connection> {
    let remote = connection.remote();
    match timeout(HANDSHAKE, acceptor.accept(connection)).await {
        Ok(Ok(stream)) => Some(Connection::new(Box::new(stream), remote)),
        Ok(Err(error)) => {
            match explain(&error) {
                Some(why) => refusals.note(|unsaid| {
                    warn!(%remote, %error, unsaid, "refused a connection: {why}");
                }),
                // Load balancers look whether a port is open, and so do others.
                None => debug!(%remote, %error, "a connection ended before TLS was made"),
            }
            None
        }
        Err(_) => {
            debug!(%remote, "a connection did not make TLS in time");
            None
        }
    }
}

/// What an operator is told of a refusal; nothing of a connection that only broke.
fn explain(error: &io::Error) -> Option<&'static str> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match error {
        Error::NoCertificatesPresented => {
            "the gateway shows no certificate, expected one of an authority in client_ca"
        }
        Error::InvalidCertificate(problem) => match problem {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the gateway's certificate is of no authority in client_ca"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the gateway's certificate has expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the gateway's certificate is not valid yet; compare the clocks"
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "the gateway's certificate is not one for clients"
            }
            CertificateError::ApplicationVerificationFailure => {
                "the gateway's certificate carries none of client_names"
            }
            _ => "the gateway's certificate cannot be used",
        },
        Error::AlertReceived(_) => "the gateway does not trust the agent's certificate",
        Error::InvalidMessage(_) => "the other side does not speak TLS",
        _ => "TLS could not be made",
    })
}
