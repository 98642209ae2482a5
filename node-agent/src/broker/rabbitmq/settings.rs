//! Where the management API is, and as whom to ask it.

use std::net::SocketAddr;
use std::path::PathBuf;

use rollcall_trust::{Live, TrustError};
use rustls::ServerConfig;
use serde::Deserialize;
use thiserror::Error;

use crate::broker::http::check_url;
use crate::broker::polled::check_common;
use crate::front;

/// The most rows of one page that the API gives.
const MAX_PAGE: usize = 500;

/// Settings of the adapter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RabbitmqSettings {
    /// The management API, such as `http://127.0.0.1:15672`.
    pub url: String,
    /// A RabbitMQ user with the tag `administrator`, or `monitoring` if nobody is to be kicked.
    pub username: String,
    /// A file whose first line is its password. There is no start without one.
    pub password_file: Option<PathBuf>,
    /// Authorities to trust, for https; PEM.
    pub tls_ca: Option<PathBuf>,
    /// The node of the RabbitMQ cluster whose clients to report; `None`: the one that answers.
    pub node: Option<String>,
    /// From one look at all clients to the next, milliseconds, 100 to 3,600,000.
    pub poll_interval_ms: u64,
    /// How long one answer may take, milliseconds, 100 to 60,000.
    pub timeout_ms: u64,
    /// Rows of one page of a list, 1 to 500: smaller ones are answered sooner, and there are more of them.
    pub page_size: usize,
    /// Where the agent takes MQTT clients itself, to count what passes. Default: they connect to RabbitMQ.
    pub front: Option<FrontSettings>,
}

/// The counting front before RabbitMQ's MQTT listener, which must expect the PROXY protocol (`mqtt.proxy_protocol`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontSettings {
    /// Where MQTT clients connect.
    pub listen: SocketAddr,
    /// RabbitMQ's MQTT listener.
    pub forward: SocketAddr,
    /// The certificate chain of the agent's side, PEM; with it clients must speak TLS.
    pub tls_cert: Option<PathBuf>,
    /// Its private key.
    pub tls_key: Option<PathBuf>,
}

impl Default for RabbitmqSettings {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:15672".to_owned(),
            username: "guest".to_owned(),
            password_file: None,
            tls_ca: None,
            node: None,
            poll_interval_ms: 2_000,
            timeout_ms: 5_000,
            page_size: MAX_PAGE,
            front: None,
        }
    }
}

impl RabbitmqSettings {
    /// Whether they can be used; if not, which key, its value and what was expected.
    ///
    /// # Errors
    /// For the operator.
    pub fn check(&self) -> Result<(), String> {
        check_url(&self.url, self.tls_ca.is_some())
            .map_err(|error| format!("url is {:?}, {error}", self.url))?;
        if self.password_file.is_none() {
            return Err("password_file is missing, expected a file with the password of username".to_owned());
        }
        if self.username.is_empty() || self.username.contains(':') {
            return Err(format!("username is {:?}, expected a name without a colon", self.username));
        }
        if self.node.as_deref().is_some_and(|node| !node.contains('@')) {
            return Err(format!(
                "node is {:?}, expected a name such as rabbit@host",
                self.node.as_deref().unwrap_or_default()
            ));
        }
        if let Some(front) = &self.front {
            front.check()?;
        }
        check_common(self.poll_interval_ms, self.timeout_ms, self.page_size, MAX_PAGE)
    }
}

impl FrontSettings {
    fn check(&self) -> Result<(), String> {
        if self.listen == self.forward {
            return Err(format!(
                "front.listen and front.forward are both {}, expected two addresses",
                self.listen
            ));
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => {
                Err("front.tls_key is missing, expected a file with the key of front.tls_cert".to_owned())
            }
            (None, Some(_)) => {
                Err("front.tls_cert is missing, expected a file with the certificate of front.tls_key"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }

    /// The agent's side of TLS, if it is to have one.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub(super) fn tls(&self) -> Result<Option<Live<ServerConfig>>, StartError> {
        let Some((cert, key)) = self.tls_cert.as_ref().zip(self.tls_key.as_ref()) else { return Ok(None) };
        let unusable = |error: TrustError| StartError::File {
            key: "front.tls_cert",
            path: cert.clone(),
            reason: error.to_string(),
        };
        front::tls(cert, key).map(Some).map_err(unusable)
    }
}

/// Why the adapter does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A setting makes no sense.
    #[error("[rabbitmq] {0}")]
    Settings(String),
    /// The front's address cannot be listened on.
    #[error("[rabbitmq] front.listen = {address}: {reason}")]
    Listen {
        /// The address of the configuration.
        address: SocketAddr,
        /// What the system says.
        reason: String,
    },
    /// A file cannot be used.
    #[error("[rabbitmq] {key} = {}: {reason}", path.display())]
    File {
        /// The setting that names it.
        key: &'static str,
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}
