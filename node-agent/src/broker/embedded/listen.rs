//! Listeners: from a setting to an open door.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rmqtt::net::{Builder, Listener};
use rustls::ServerConfig;
use tracing::warn;

use super::StartError;
use super::settings::{Authentication, EmbeddedSettings, ListenerSettings, TlsSettings, Transport};
use crate::broker::tcp_info;
use crate::front::{self, BACKLOG, Entrance};

/// Where the broker listens for the front.
const BEHIND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A listener as it runs.
#[derive(Debug)]
pub(super) struct Door {
    /// With the port it really has.
    pub(super) address: SocketAddr,
    pub(super) zone: String,
    /// Whether the peer of the socket is the client, and not a proxy.
    pub(super) direct: bool,
}

/// A listener that nobody is let in by yet.
pub(super) struct Opening {
    pub(super) door: Door,
    /// The broker's own: where clients connect, or behind the front.
    pub(super) listener: Listener,
    pub(super) entrance: Option<Entrance>,
}

/// Listens at a configured address, for the broker's listener of this number.
pub(super) fn open(
    settings: &EmbeddedSettings,
    number: u16,
    listener: &ListenerSettings,
) -> Result<Opening, StartError> {
    let door = |address| Door { address, zone: listener.zone.clone(), direct: !listener.proxy_protocol };
    if !settings.is_counted(listener) {
        let bound = bind(settings, listener)?;
        return Ok(Opening { door: door(bound.cfg.laddr), listener: bound, entrance: None });
    }
    let behind = ListenerSettings { address: BEHIND, tls: None, proxy_protocol: true, ..listener.clone() };
    let bound = bind(settings, &behind)?;
    let tls = listener.tls.as_ref().map(server_config).transpose()?;
    let entrance = Entrance::bind(number, listener.address, tls, bound.cfg.laddr)
        .map_err(|error| StartError::Listen { address: listener.address, reason: error.to_string() })?;
    Ok(Opening { door: door(entrance.address()), listener: bound, entrance: Some(entrance) })
}

fn bind(settings: &EmbeddedSettings, listener: &ListenerSettings) -> Result<Listener, StartError> {
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
    builder.backlog = BACKLOG.into();
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

/// A server's side of TLS with certificate and key.
pub(super) fn server_config(tls: &TlsSettings) -> Result<ServerConfig, StartError> {
    front::server_config(&tls.cert, &tls.key).map_err(|reason| StartError::Tls {
        cert: tls.cert.display().to_string(),
        key: tls.key.display().to_string(),
        reason,
    })
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
