//! TLS on the connections of gateways, out of files that are followed.
//!
//! tonic's own TLS reads its files once. Here every connection takes what they hold when it comes in, and keeps it. Who is
//! refused is logged, since the other side learns little more than that it was. How many are greeted at once, and for how
//! long, is the doorstep's to say (`doorstep.rs`).

use std::io;

use rollcall_trust::tls::{ClientAuthority, ServerFiles};
use rollcall_trust::{Live, TrustError};
use rustls::pki_types::ServerName;
use rustls::{CertificateError, Error, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::config::Tls;
use crate::incoming::Connection;
use crate::refusals::Refusals;

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

/// Makes TLS on a connection. Nothing if that fails.
pub(crate) async fn make(
    connection: Connection,
    acceptor: TlsAcceptor,
    refusals: &Refusals,
) -> Option<Connection> {
    let remote = connection.remote();
    match acceptor.accept(connection).await {
        Ok(stream) => Some(Connection::new(Box::new(stream), remote)),
        Err(error) => {
            match explain(&error) {
                Some(why) => refusals.note(|unsaid| {
                    warn!(%remote, %error, unsaid, "refused a connection: {why}");
                }),
                // Load balancers look whether a port is open, and so do others.
                None => debug!(%remote, %error, "a connection ended before TLS was made"),
            }
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
