//! Where the server is, and as whom to ask it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::broker::http::{check_url, client_tls};
use crate::broker::polled::check_common;
use crate::broker::secret::Secret;

/// The most connections of one page that the server gives unless it is told otherwise.
const MAX_PAGE: usize = 1_024;

/// Settings of the adapter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatsSettings {
    /// The monitoring endpoint, such as `http://127.0.0.1:8222`.
    pub url: String,
    /// The name that the server must have; `None`: any.
    pub server_name: Option<String>,
    /// Where NATS clients connect, for the logins.
    pub client_address: String,
    /// Where MQTT clients connect, for kicks; `None`: where the server says, which must be on loopback or this network.
    pub mqtt_address: Option<String>,
    /// Authorities to trust, PEM; with it all of these are spoken to by TLS.
    pub tls_ca: Option<PathBuf>,
    /// A login of the system account: changes show at once.
    pub system: Option<NatsLogin>,
    /// A login of each account whose clients have sessions or are to be kicked.
    pub accounts: Vec<NatsAccount>,
    /// From one look at all clients to the next, milliseconds, 100 to 3,600,000.
    pub poll_interval_ms: u64,
    /// How long one answer may take, milliseconds, 100 to 60,000.
    pub timeout_ms: u64,
    /// Connections of one page of a list, 1 to 1,024: smaller ones are answered sooner, and there are more of them.
    pub page_size: usize,
}

/// A user of the server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsLogin {
    /// Its name.
    pub username: String,
    /// A file whose first line is its password.
    pub password_file: PathBuf,
}

/// A user of an account, for NATS and for MQTT.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsAccount {
    /// The account; `$G` of a server without accounts.
    pub name: String,
    /// The user's name.
    pub username: String,
    /// A file whose first line is its password.
    pub password_file: PathBuf,
}

impl Default for NatsSettings {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8222".to_owned(),
            server_name: None,
            client_address: "127.0.0.1:4222".to_owned(),
            mqtt_address: None,
            tls_ca: None,
            system: None,
            accounts: Vec::new(),
            poll_interval_ms: 2_000,
            timeout_ms: 5_000,
            page_size: MAX_PAGE,
        }
    }
}

/// What stands in the files that the settings name.
pub(super) struct Files {
    pub(super) ca: Option<Vec<u8>>,
    pub(super) system: Option<Secret>,
    /// In the order of the accounts.
    pub(super) accounts: Vec<Secret>,
}

impl NatsSettings {
    /// Whether they can be used; if not, which key, its value and what was expected.
    ///
    /// # Errors
    /// For the operator.
    pub fn check(&self) -> Result<(), String> {
        check_url(&self.url, self.tls_ca.is_some())
            .map_err(|error| format!("url is {:?}, {error}", self.url))?;
        let addresses =
            [("client_address", Some(&self.client_address)), ("mqtt_address", self.mqtt_address.as_ref())];
        for (key, address) in addresses {
            if let Some(address) = address.filter(|address| host(address).is_none()) {
                return Err(format!("{key} is {address:?}, expected host and port, such as 127.0.0.1:4222"));
            }
        }
        let mut names: Vec<&str> = self.accounts.iter().map(|account| account.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("accounts name {:?} twice, expected one login of each", twice[0]));
        }
        check_common(self.poll_interval_ms, self.timeout_ms, self.page_size, MAX_PAGE)
    }

    pub(super) fn read(&self) -> Result<Files, StartError> {
        self.check().map_err(StartError::Settings)?;
        let secret =
            |path: &Path| Secret::read(path).map_err(|error| file("password_file", path, error.to_string()));
        let ca = match &self.tls_ca {
            None => None,
            Some(path) => Some(std::fs::read(path).map_err(|error| file("tls_ca", path, error.to_string()))?),
        };
        client_tls(ca.as_deref())
            .map_err(|reason| file("tls_ca", self.tls_ca.as_deref().unwrap_or(Path::new("")), reason))?;
        Ok(Files {
            ca,
            system: self.system.as_ref().map(|login| secret(&login.password_file)).transpose()?,
            accounts: self
                .accounts
                .iter()
                .map(|account| secret(&account.password_file))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// The host of an address with a port, without the brackets of IPv6.
pub(super) fn host(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then_some(host)
}

fn file(key: &'static str, path: &Path, reason: String) -> StartError {
    StartError::File { key, path: path.to_owned(), reason }
}

/// Why the adapter does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A setting makes no sense.
    #[error("[nats] {0}")]
    Settings(String),
    /// A file cannot be used.
    #[error("[nats] {key} = {}: {reason}", path.display())]
    File {
        /// The setting that names it.
        key: &'static str,
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}
