//! Listeners: from a setting to an open door.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rmqtt::net::{Builder, Listener};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::warn;

use super::StartError;
use super::settings::{Authentication, EmbeddedSettings, ListenerSettings, TlsSettings, Transport};
use crate::broker::tcp_info;

/// A listener as it runs.
#[derive(Debug)]
pub(super) struct Door {
    /// With the port it really has.
    pub(super) address: SocketAddr,
    pub(super) zone: String,
    /// Whether the peer of the socket is the client, and not a proxy.
    pub(super) direct: bool,
}

/// Listens at a configured address.
pub(super) fn bind(settings: &EmbeddedSettings, listener: &ListenerSettings) -> Result<Listener, StartError> {
    let refused =
        |error: rmqtt::Error| StartError::Listen { address: listener.address, reason: format!("{error:#}") };
    let path = |path: &Path| path.display().to_string();
    let tls = listener.tls.as_ref().map(|tls| (path(&tls.cert), path(&tls.key)));
    let mut builder = Builder::new()
        .name(format!("{}/{}", settings.node_name, listener.zone))
        .laddr(listener.address)
        .reuseaddr(Some(true))
        .nodelay(true)
        .allow_anonymous(matches!(settings.authentication, Authentication::Anonymous))
        .max_inflight(settings.max_inflight)
        .max_mqueue_len(settings.max_mqueue as usize)
        .max_subscriptions(settings.max_subscriptions as usize)
        .max_packet_size(settings.max_packet_size)
        .session_expiry_interval(Duration::from_secs(settings.session_expiry_secs.into()))
        .max_session_expiry_interval(Duration::from_secs(settings.max_session_expiry_secs.into()))
        // As the standard has it: messages do not age unless their publisher says so, and are sent again only
        // after a reconnect.
        .message_expiry_interval(Duration::ZERO)
        .message_retry_interval(Duration::ZERO)
        .proxy_protocol(listener.proxy_protocol)
        // The header is awaited before the next connection is accepted.
        .proxy_protocol_timeout(Duration::from_secs(1));
    if let Some((cert, key)) = &tls {
        builder = builder.tls_cert(Some(cert.as_str())).tls_key(Some(key.as_str()));
    }
    let mut bound = builder.clone().bind().map_err(refused)?;
    // The broker names a listener by its configured address, so it must know the port it got for port 0.
    let address = bound.local_addr().map_err(refused)?;
    bound.cfg = Arc::new(builder.laddr(address));
    let unusable = |error: rmqtt::Error| {
        let (cert, key) = tls.clone().unwrap_or_default();
        StartError::Tls { cert, key, reason: format!("{error:#}") }
    };
    match (listener.protocol, &tls) {
        (Transport::Tcp, None) => bound.tcp().map_err(refused),
        (Transport::Tcp, Some(_)) => bound.tls().map_err(unusable),
        (Transport::WebSocket, None) => bound.ws().map_err(refused),
        (Transport::WebSocket, Some(_)) => bound.wss().map_err(unusable),
    }
}

/// Whether a server could be made of certificate and key.
pub(super) fn check_tls(tls: &TlsSettings) -> Result<(), StartError> {
    let unusable = |reason: String| StartError::Tls {
        cert: tls.cert.display().to_string(),
        key: tls.key.display().to_string(),
        reason,
    };
    let chain = CertificateDer::pem_file_iter(&tls.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(format!("certificate: {error}")))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| unusable(format!("key: {error}")))?;
    let server = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    server.map(drop).map_err(|error| unusable(error.to_string()))
}

/// Whether the kernel tells bytes and segments of connections.
pub(super) fn kernel_counts(door: &Door) -> bool {
    match tcp_info::established(door.address, &[]) {
        Ok(_) => true,
        Err(error) => {
            warn!(%error, "the kernel does not tell bytes and segments of connections; they will be unknown");
            false
        }
    }
}
