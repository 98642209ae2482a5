//! TLS to the agents, over whatever way connections are opened, and what its failures ask an operator to do.
//!
//! tonic's own TLS reads its files once. Here every connection takes what the files hold when it is made, and keeps it.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, Error};
use tokio_rustls::TlsConnector;

use super::NodeTls;
use super::connect::Dial;
use crate::byte_stream::BoxedStream;

/// Opens connections with TLS on them.
pub(super) struct TlsDial {
    under: Arc<dyn Dial>,
    tls: NodeTls,
}

impl TlsDial {
    pub(super) fn over(under: Arc<dyn Dial>, tls: NodeTls) -> Self {
        Self { under, tls }
    }
}

impl fmt::Debug for TlsDial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsDial").field(&self.under).finish()
    }
}

impl Dial for TlsDial {
    fn dial(&self, address: &str) -> BoxFuture<'static, io::Result<BoxedStream>> {
        let name = self.tls.domain.clone().map_or_else(|| host(address), Ok);
        let connector = TlsConnector::from(self.tls.files.current());
        let dialing = self.under.dial(address);
        Box::pin(async move {
            let name = name?;
            let stream = connector.connect(name, dialing.await?).await.map_err(of_handshake)?;
            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                return Err(io::Error::other(
                    "who answers there does not offer HTTP/2 over TLS, so it is no agent",
                ));
            }
            Ok(Box::new(stream) as BoxedStream)
        })
    }
}

/// A connection that the network or the other side ended before TLS stood, which may be for want of TLS there.
fn of_handshake(error: io::Error) -> io::Error {
    match error.get_ref() {
        Some(inner) if inner.is::<Error>() => error,
        _ => io::Error::new(error.kind(), format!("the TLS handshake failed, is there TLS? ({error})")),
    }
}

/// The name that the certificate of an agent at host:port must carry.
fn host(address: &str) -> io::Result<ServerName<'static>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = ServerName::try_from(host).map_err(|_| {
        let message = format!("{host:?} cannot be the name in a certificate: give node-domain");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })?;
    Ok(name.to_owned())
}

/// What an operator is told of a connection that failed.
pub(super) fn explain(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => explain_tls(error),
        None => {
            // The innermost says most: "Connection refused" rather than "tcp connect error".
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text = cause.to_string();
                source = cause.source();
            }
            text
        }
    }
}

fn explain_tls(error: &Error) -> String {
    use AlertDescription as Alert;
    use CertificateError as Certificate;
    match error {
        Error::InvalidCertificate(problem) => match problem {
            Certificate::UnknownIssuer | Certificate::BadSignature => {
                "the agent's certificate is of no authority in node-ca".to_owned()
            }
            Certificate::Expired | Certificate::ExpiredContext { .. } => {
                format!("the agent's certificate has expired: renew it ({error})")
            }
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                format!("the agent's certificate is not valid yet: compare the clocks ({error})")
            }
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                format!(
                    "the agent's certificate is for another name: give node-domain, or renew it ({error})"
                )
            }
            Certificate::InvalidPurpose | Certificate::InvalidPurposeContext { .. } => {
                "the agent's certificate is not one for servers".to_owned()
            }
            _ => error.to_string(),
        },
        // What the agent says when it refuses; in TLS 1.3 the connection counts as made by then.
        Error::AlertReceived(alert) => match alert {
            Alert::CertificateRequired => {
                "the agent asks for a certificate: give node-cert and node-key".to_owned()
            }
            Alert::UnknownCA | Alert::DecryptError | Alert::BadCertificate => {
                "the agent refuses node-cert, which is of no authority in its client_ca".to_owned()
            }
            Alert::CertificateExpired => {
                "the agent refuses node-cert, which has expired: renew it".to_owned()
            }
            Alert::AccessDenied => {
                "the agent refuses node-cert, which has none of its client_names".to_owned()
            }
            Alert::CertificateUnknown | Alert::UnsupportedCertificate => {
                "the agent refuses node-cert, which is not one for clients".to_owned()
            }
            _ => format!("the agent refuses the connection: {error}"),
        },
        Error::InvalidMessage(_) => {
            format!("who answers there does not speak TLS, but node-ca is given ({error})")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_to_be_shown_is_the_host_of_the_address() {
        for (address, name) in
            [("10.0.0.1:7", "10.0.0.1"), ("[::1]:7", "::1"), ("Node-1.example:7", "Node-1.example")]
        {
            assert_eq!(host(address).unwrap(), ServerName::try_from(name).unwrap(), "{address}");
        }
        assert!(host("-x:7").unwrap_err().to_string().contains("node-domain"));
    }

    #[test]
    fn failures_say_what_to_do() {
        let of = |error: Error| explain(&io::Error::new(io::ErrorKind::InvalidData, error));
        assert!(
            of(Error::AlertReceived(AlertDescription::CertificateRequired))
                .contains("node-cert and node-key")
        );
        assert!(
            of(Error::InvalidCertificate(CertificateError::UnknownIssuer))
                .contains("no authority in node-ca")
        );
        let plain = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(explain(&plain), plain.to_string());
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(
            explain(&of_handshake(reset)),
            "the TLS handshake failed, is there TLS? (connection reset)"
        );
        let told = io::Error::other(Error::AlertReceived(AlertDescription::CertificateRequired));
        assert!(explain(&of_handshake(told)).contains("node-cert and node-key"));
    }
}
