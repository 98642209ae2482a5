//! The effective settings as `check-config` prints them: TOML that can be used as a configuration file.
//!
//! There are no secrets among them: keys and passwords stand in files, and only their paths here.

use std::fmt;
use std::path::Path;

#[cfg(feature = "embedded")]
use super::EmbeddedSettings;
use super::{BrokerConfig, BrokerKind, Config, LogFormat};
#[cfg(feature = "embedded")]
use crate::broker::embedded::{Authentication, ListenerSettings, TlsSettings, Transport};
#[cfg(feature = "nats")]
use crate::broker::nats::{NatsAccount, NatsLogin, NatsSettings};
#[cfg(feature = "rabbitmq")]
use crate::broker::rabbitmq::{FrontSettings, RabbitmqSettings};

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.broker.kind();
        // Taken apart by name, so that no setting is forgotten here.
        let Self {
            node_name,
            listen,
            metrics_listen,
            broker,
            tls,
            token_file,
            insecure,
            drain_timeout,
            max_calls,
            max_connections,
            max_wrong_tokens,
            log,
        } = self;
        writeln!(f, "node_name = {}", text(node_name))?;
        writeln!(f, "listen = \"{listen}\"")?;
        if let Some(address) = metrics_listen {
            writeln!(f, "metrics_listen = \"{address}\"")?;
        }
        writeln!(f, "insecure = {insecure}")?;
        if let Some(token_file) = token_file {
            writeln!(f, "token_file = {}", path(token_file))?;
        }
        if let Some(kind) = kind {
            writeln!(f, "broker = \"{kind}\"")?;
        }
        writeln!(f, "drain_timeout_secs = {}", drain_timeout.as_secs())?;
        writeln!(f, "max_calls = {max_calls}")?;
        writeln!(f, "max_connections = {max_connections}")?;
        writeln!(f, "max_wrong_tokens = {max_wrong_tokens}")?;
        writeln!(f, "\n[log]\nformat = \"{}\"\nfilter = {}", log.format, text(&log.filter))?;
        if let Some(tls) = tls {
            writeln!(f, "\n[tls]\ncert = {}\nkey = {}", path(&tls.cert), path(&tls.key))?;
            if let Some(client_ca) = &tls.client_ca {
                writeln!(f, "client_ca = {}", path(client_ca))?;
            }
            if !tls.client_names.is_empty() {
                writeln!(f, "client_names = {}", toml::Value::from(tls.client_names.clone()))?;
            }
        }
        match broker {
            #[cfg(feature = "embedded")]
            BrokerConfig::Embedded(settings) => embedded(f, settings),
            BrokerConfig::File { path: table } => writeln!(f, "\n[file]\npath = {}", path(table)),
            #[cfg(feature = "nats")]
            BrokerConfig::Nats(settings) => nats(f, settings),
            #[cfg(feature = "rabbitmq")]
            BrokerConfig::Rabbitmq(settings) => rabbitmq(f, settings),
            BrokerConfig::Synthetic { clients, seed, churn } => {
                writeln!(f, "\n[synthetic]\nclients = {clients}\nseed = {seed}\nchurn = {churn}")
            }
            BrokerConfig::Host => Ok(()),
        }
    }
}

#[cfg(feature = "embedded")]
fn embedded(f: &mut fmt::Formatter<'_>, settings: &EmbeddedSettings) -> fmt::Result {
    let EmbeddedSettings {
        node_name: _,
        listeners,
        authentication,
        max_inflight,
        max_mqueue,
        max_subscriptions,
        max_sessions,
        max_packet_size,
        session_expiry_secs,
        max_session_expiry_secs,
        max_retained,
        counting_front,
        resync_secs,
    } = settings;
    writeln!(f, "\n[embedded]")?;
    match authentication {
        Authentication::Anonymous => writeln!(f, "authentication = \"anonymous\"")?,
        Authentication::PasswordFile(file) => {
            writeln!(f, "authentication = {{ password_file = {} }}", path(file))?;
        }
    }
    writeln!(f, "max_inflight = {max_inflight}")?;
    for (key, value) in [
        ("max_mqueue", max_mqueue),
        ("max_subscriptions", max_subscriptions),
        ("max_sessions", max_sessions),
        ("max_packet_size", max_packet_size),
        ("session_expiry_secs", session_expiry_secs),
        ("max_session_expiry_secs", max_session_expiry_secs),
        ("max_retained", max_retained),
        ("resync_secs", resync_secs),
    ] {
        writeln!(f, "{key} = {value}")?;
    }
    writeln!(f, "counting_front = {counting_front}")?;
    for ListenerSettings { protocol, address, tls, zone, proxy_protocol } in listeners {
        let protocol = match protocol {
            Transport::Tcp => "tcp",
            Transport::WebSocket => "websocket",
        };
        writeln!(f, "\n[[embedded.listeners]]\nprotocol = \"{protocol}\"\naddress = \"{address}\"")?;
        writeln!(f, "zone = {}\nproxy_protocol = {proxy_protocol}", text(zone))?;
        if let Some(TlsSettings { cert, key }) = tls {
            writeln!(f, "tls = {{ cert = {}, key = {} }}", path(cert), path(key))?;
        }
    }
    Ok(())
}

#[cfg(feature = "nats")]
fn nats(f: &mut fmt::Formatter<'_>, settings: &NatsSettings) -> fmt::Result {
    let NatsSettings {
        url,
        server_name,
        client_address,
        mqtt_address,
        tls_ca,
        system,
        accounts,
        poll_interval_ms,
        timeout_ms,
        page_size,
    } = settings;
    writeln!(f, "\n[nats]\nurl = {}\nclient_address = {}", text(url), text(client_address))?;
    for (key, value) in [("server_name", server_name), ("mqtt_address", mqtt_address)] {
        if let Some(value) = value {
            writeln!(f, "{key} = {}", text(value))?;
        }
    }
    if let Some(file) = tls_ca {
        writeln!(f, "tls_ca = {}", path(file))?;
    }
    polled(f, *poll_interval_ms, *timeout_ms, *page_size)?;
    if let Some(NatsLogin { username, password_file }) = system {
        writeln!(f, "\n[nats.system]\nusername = {}", text(username))?;
        writeln!(f, "password_file = {}", path(password_file))?;
    }
    for NatsAccount { name, username, password_file } in accounts {
        writeln!(f, "\n[[nats.accounts]]\nname = {}\nusername = {}", text(name), text(username))?;
        writeln!(f, "password_file = {}", path(password_file))?;
    }
    Ok(())
}

#[cfg(feature = "rabbitmq")]
fn rabbitmq(f: &mut fmt::Formatter<'_>, settings: &RabbitmqSettings) -> fmt::Result {
    let RabbitmqSettings {
        url,
        username,
        password_file,
        tls_ca,
        node,
        poll_interval_ms,
        timeout_ms,
        page_size,
        front,
    } = settings;
    writeln!(f, "\n[rabbitmq]\nurl = {}\nusername = {}", text(url), text(username))?;
    for (key, file) in [("password_file", password_file), ("tls_ca", tls_ca)] {
        if let Some(file) = file {
            writeln!(f, "{key} = {}", path(file))?;
        }
    }
    if let Some(node) = node {
        writeln!(f, "node = {}", text(node))?;
    }
    polled(f, *poll_interval_ms, *timeout_ms, *page_size)?;
    if let Some(FrontSettings { listen, forward, tls_cert, tls_key }) = front {
        writeln!(f, "\n[rabbitmq.front]\nlisten = \"{listen}\"\nforward = \"{forward}\"")?;
        for (key, file) in [("tls_cert", tls_cert), ("tls_key", tls_key)] {
            if let Some(file) = file {
                writeln!(f, "{key} = {}", path(file))?;
            }
        }
    }
    Ok(())
}

/// What the settings of all brokers that are polled have in common.
#[cfg(feature = "polled")]
fn polled(f: &mut fmt::Formatter<'_>, interval_ms: u64, timeout_ms: u64, page_size: usize) -> fmt::Result {
    writeln!(f, "poll_interval_ms = {interval_ms}\ntimeout_ms = {timeout_ms}\npage_size = {page_size}")
}

fn path(path: &Path) -> String {
    text(&path.display().to_string())
}

/// As a TOML string, escaped where need be.
fn text(text: &str) -> String {
    toml::Value::from(text).to_string()
}

impl BrokerConfig {
    /// Which broker.
    #[must_use]
    pub fn kind(&self) -> Option<BrokerKind> {
        match self {
            #[cfg(feature = "embedded")]
            Self::Embedded(_) => Some(BrokerKind::Embedded),
            Self::File { .. } => Some(BrokerKind::File),
            #[cfg(feature = "nats")]
            Self::Nats(_) => Some(BrokerKind::Nats),
            #[cfg(feature = "rabbitmq")]
            Self::Rabbitmq(_) => Some(BrokerKind::Rabbitmq),
            Self::Synthetic { .. } => Some(BrokerKind::Synthetic),
            Self::Host => None,
        }
    }
}

impl fmt::Display for BrokerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedded => "embedded",
            Self::File => "file",
            Self::Nats => "nats",
            Self::Rabbitmq => "rabbitmq",
            Self::Synthetic => "synthetic",
        })
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}
