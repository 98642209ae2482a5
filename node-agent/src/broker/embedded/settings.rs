//! What an operator can set about the embedded broker. Only what the broker really honours is here.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;

use serde::Deserialize;

/// How to run the embedded broker.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddedSettings {
    /// The node's name, for log lines. Not a key of the configuration file: the agent has it already.
    #[serde(skip)]
    pub node_name: String,
    /// Where MQTT clients connect; at least one. Default: TCP on 127.0.0.1:1883 in zone `external`.
    pub listeners: Vec<ListenerSettings>,
    /// Who may connect. Default: everybody.
    pub authentication: Authentication,
    /// QoS 1 and 2 messages on their way to one client at a time, 1 to 65535; an MQTT 5 client may ask for
    /// less. It is also how many QoS 2 messages one client may have under way to the broker: an MQTT 3 client
    /// cannot learn this limit and is disconnected when it goes beyond, so it should not be below what client
    /// libraries use (20 to 100). Default: 100.
    pub max_inflight: NonZeroU16,
    /// Messages that wait for one session, at the most; at least 1. When it is full, the oldest message gives
    /// way to a QoS 1 or 2 message, and a QoS 0 message is dropped. Default: 1000.
    pub max_mqueue: u32,
    /// Subscriptions of one session; 0 = no limit. Default: 0.
    pub max_subscriptions: u32,
    /// Sessions of this node, with and without a connection; 0 = no limit. Default: 0.
    pub max_sessions: u32,
    /// The largest packet a client may send, bytes; 0 = what MQTT allows, 256 MiB. Default: 1 MiB.
    pub max_packet_size: u32,
    /// How long an MQTT 3 session without Clean Session outlives its connection, seconds. (An MQTT 5 client
    /// says so itself.) Default: 7200.
    pub session_expiry_secs: u32,
    /// Upper bound on the lifetime of any session after its connection, seconds; 0 = no limit. Default: 0.
    pub max_session_expiry_secs: u32,
    /// Topics that keep a retained message, at the most; 0 turns retained messages off. Default: 100,000.
    pub max_retained: u32,
    /// Whether clients come in by the agent's counting front, which makes more figures known, and tells MQTT 5 clients
    /// why they are kicked. It holds for listeners of plain MQTT, with and without TLS, that no proxy stands before.
    /// A client takes three descriptors then. Default: false.
    pub counting_front: bool,
    /// How often the agent's view is compared with the broker as a whole, seconds, at least 1. Between two
    /// comparisons it follows the broker's events. Default: 30.
    pub resync_secs: u32,
}

impl Default for EmbeddedSettings {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            listeners: vec![ListenerSettings::default()],
            authentication: Authentication::default(),
            max_inflight: NonZeroU16::new(100).unwrap_or(NonZeroU16::MIN),
            max_mqueue: 1000,
            max_subscriptions: 0,
            max_sessions: 0,
            max_packet_size: 1024 * 1024,
            session_expiry_secs: 7200,
            max_session_expiry_secs: 0,
            max_retained: 100_000,
            counting_front: false,
            resync_secs: 30,
        }
    }
}

/// One address that MQTT clients connect to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerSettings {
    /// What MQTT is carried in. Default: `tcp`.
    pub protocol: Transport,
    /// Address and port; port 0 takes a free one. `[::]` takes IPv4 clients too. Default: 127.0.0.1:1883.
    pub address: SocketAddr,
    /// Certificate and key; with them the listener speaks TLS, and WebSocket becomes secure WebSocket.
    /// Default: none.
    pub tls: Option<TlsSettings>,
    /// Name reported as the zone of clients that come in here. Default: `external`.
    pub zone: String,
    /// Whether a proxy in front announces each client by the PROXY protocol, version 1 or 2. Every connection
    /// must then begin with it, so never set this where clients can connect directly: they could claim any
    /// address, and one that says nothing holds up the others for a second. Bytes and segments of such clients
    /// are unknown. Default: false.
    pub proxy_protocol: bool,
}

impl EmbeddedSettings {
    /// Whether clients of this listener pass the counting front.
    pub(super) fn is_counted(&self, listener: &ListenerSettings) -> bool {
        self.counting_front && listener.protocol == Transport::Tcp && !listener.proxy_protocol
    }
}

impl Default for ListenerSettings {
    fn default() -> Self {
        Self {
            protocol: Transport::Tcp,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1883)),
            tls: None,
            zone: "external".to_owned(),
            proxy_protocol: false,
        }
    }
}

/// What MQTT is carried in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// MQTT directly in the TCP (or TLS) stream.
    #[default]
    Tcp,
    /// MQTT in binary WebSocket messages, subprotocol `mqtt` (or `mqttv3.1`), any path.
    WebSocket,
}

/// A listener's certificate.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// PEM file with the certificate chain, the listener's own certificate first.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// Who may connect: `"anonymous"`, or `{ password_file = "PATH" }`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Authentication {
    /// Everybody; user names are taken as they come, passwords are not looked at.
    #[default]
    Anonymous,
    /// Whoever has a user name and password of this file; see
    /// [`PasswordFile`](super::passwords::PasswordFile). Read once, at start.
    PasswordFile(PathBuf),
}

impl EmbeddedSettings {
    /// Whether the values make sense, as far as that can be said without touching files or network.
    ///
    /// # Errors
    /// Key, value and what was expected, for the operator.
    pub fn check(&self) -> Result<(), String> {
        if self.listeners.is_empty() {
            return Err("listeners is empty, expected at least one".to_owned());
        }
        if u16::try_from(self.listeners.len()).is_err() {
            return Err(format!("{} listeners, expected at most {}", self.listeners.len(), u16::MAX));
        }
        if self.max_mqueue == 0 {
            return Err("max_mqueue is 0, expected at least 1".to_owned());
        }
        if self.resync_secs == 0 {
            return Err("resync_secs is 0, expected at least 1".to_owned());
        }
        if let Some(listener) = self.listeners.iter().find(|listener| listener.zone.is_empty()) {
            return Err(format!("zone of listener {} is empty, expected a name", listener.address));
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            let taken = |other: &ListenerSettings| other.address == listener.address;
            if listener.address.port() != 0 && self.listeners[..index].iter().any(taken) {
                return Err(format!("listener address {} stands twice", listener.address));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_configuration_reads_as_written() {
        let settings: EmbeddedSettings = toml::from_str(
            r#"
            max_inflight = 7
            max_mqueue = 8
            session_expiry_secs = 60
            counting_front = true
            authentication = { password_file = "users" }
            [[listeners]]
            address = "127.0.0.1:0"
            [[listeners]]
            protocol = "websocket"
            address = "[::1]:8084"
            zone = "internal"
            proxy_protocol = true
            tls = { cert = "c.pem", key = "k.pem" }
            "#,
        )
        .unwrap();
        assert_eq!(settings.max_inflight.get(), 7);
        assert_eq!(settings.max_mqueue, 8);
        assert_eq!(settings.session_expiry_secs, 60);
        assert_eq!(settings.resync_secs, 30);
        assert!(settings.counting_front && !EmbeddedSettings::default().counting_front);
        assert!(
            matches!(&settings.authentication, Authentication::PasswordFile(path) if path.ends_with("users"))
        );
        assert_eq!(settings.listeners[0].zone, "external");
        assert_eq!(settings.listeners[1].protocol, Transport::WebSocket);
        assert!(settings.listeners[1].proxy_protocol && settings.listeners[1].tls.is_some());
        settings.check().unwrap();
        EmbeddedSettings::default().check().unwrap();
    }

    #[test]
    fn unknown_keys_and_senseless_values_are_refused() {
        for text in
            ["max_inflght = 1", "max_inflight = 0", "[[listeners]]\nprotocol = \"quic\"", "node_name = \"x\""]
        {
            assert!(toml::from_str::<EmbeddedSettings>(text).is_err(), "{text}");
        }
        for (text, named) in [
            ("listeners = []", "listeners"),
            ("max_mqueue = 0", "max_mqueue"),
            ("resync_secs = 0", "resync_secs"),
            ("[[listeners]]\nzone = \"\"", "zone"),
            ("[[listeners]]\n[[listeners]]", "127.0.0.1:1883"),
        ] {
            let message = toml::from_str::<EmbeddedSettings>(text).unwrap().check().unwrap_err();
            assert!(message.contains(named), "{text}: {message}");
        }
    }
}
