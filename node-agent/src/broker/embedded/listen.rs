//! Listeners: from a setting to an open door.
//!
//! The broker reads a certificate when it opens a listener, and offers no way to hand it another. So a listener with TLS is
//! closed and opened again when its files have changed; who connects in between is refused, as at a restart, but
//! nobody who is in notices. Decided against: two listeners on one address for that moment (`SO_REUSEPORT`), with which a
//! second agent on the address by mistake would go unnoticed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rmqtt::context::ServerContext;
use rmqtt::net::{Builder, Listener};
use rmqtt::server::MqttServer;
use rollcall_trust::Live;
use rustls::ServerConfig;
use tokio::time::sleep;
use tracing::{error, warn};

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
    /// Of one that makes TLS itself.
    pub(super) secured: Option<Secured>,
}

/// How to open a listener with TLS again.
pub(super) struct Secured {
    settings: EmbeddedSettings,
    /// With the port it really has.
    listener: ListenerSettings,
    files: Live<ServerConfig>,
}

/// How long to wait before a listener that could not be opened again is tried once more.
const AGAIN: Duration = Duration::from_secs(1);

/// Listens at a configured address, for the broker's listener of this number.
pub(super) fn open(
    settings: &EmbeddedSettings,
    number: u16,
    listener: &ListenerSettings,
) -> Result<Opening, StartError> {
    let door = |address| Door { address, zone: listener.zone.clone(), direct: !listener.proxy_protocol };
    if !settings.is_counted(listener) {
        let files = listener.tls.as_ref().map(certificate).transpose()?;
        let bound = bind(settings, listener)?;
        let address = bound.cfg.laddr;
        let secured = files.map(|files| Secured {
            settings: settings.clone(),
            listener: ListenerSettings { address, ..listener.clone() },
            files,
        });
        return Ok(Opening { door: door(address), listener: bound, entrance: None, secured });
    }
    let behind = ListenerSettings { address: BEHIND, tls: None, proxy_protocol: true, ..listener.clone() };
    let bound = bind(settings, &behind)?;
    let tls = listener.tls.as_ref().map(certificate).transpose()?;
    let entrance = Entrance::bind(number, listener.address, tls, bound.cfg.laddr)
        .map_err(|error| StartError::Listen { address: listener.address, reason: error.to_string() })?;
    Ok(Opening { door: door(entrance.address()), listener: bound, entrance: Some(entrance), secured: None })
}

/// Lets clients in by a listener, without end.
pub(super) async fn serve(scx: ServerContext, number: u16, mut listener: Listener, secured: Option<Secured>) {
    let run = |listener| {
        // It does not take a number twice.
        scx.listen_cfgs.remove(&number);
        MqttServer::new(scx.clone()).listener_by_id(listener, number).build().run()
    };
    let Some(Secured { settings, listener: again, files }) = secured else {
        // It has no end but that of the task.
        let _ = run(listener).await;
        return;
    };
    let renew = async {
        let mut renewals = files.renewals();
        loop {
            tokio::select! {
                _ = run(listener) => return,
                // `files` has it sent.
                _ = renewals.changed() => {}
            }
            listener = loop {
                match bind(&settings, &again) {
                    Ok(listener) => break listener,
                    Err(error) => error!(%error, "a listener with a new certificate cannot be opened yet"),
                }
                sleep(AGAIN).await;
            };
        }
    };
    tokio::select! {
        () = renew => {}
        () = files.follow() => {}
    }
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

/// The side of TLS with certificate and key that clients see.
pub(super) fn certificate(tls: &TlsSettings) -> Result<Live<ServerConfig>, StartError> {
    front::tls(&tls.cert, &tls.key).map_err(|error| StartError::Tls {
        cert: tls.cert.display().to_string(),
        key: tls.key.display().to_string(),
        reason: error.to_string(),
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
