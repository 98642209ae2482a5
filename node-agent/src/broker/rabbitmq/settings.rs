//! Where the management API is, and as whom to ask it.

use std::path::PathBuf;

use serde::Deserialize;
use thiserror::Error;

use crate::broker::http::check_url;
use crate::broker::polled::check_times;

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
        check_times(self.poll_interval_ms, self.timeout_ms)
    }
}

/// Why the adapter does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A setting makes no sense.
    #[error("[rabbitmq] {0}")]
    Settings(String),
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
