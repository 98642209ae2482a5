//! One expected node: its address, its channel, and what was last heard of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rollcall_proto::v1::node_client::NodeClient;
use rollcall_proto::{MAX_MESSAGE_BYTES, Reason, v1};
use thiserror::Error;
use tokio::time::Instant;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::call::{self, CallError};
use super::connect::{self, Dial};
use super::{ClusterSettings, NodeState, NodeView, Scope};
use crate::page::completeness::FailedNode;
use crate::page::share::Expected;

/// Settings that no channel can be made from.
#[derive(Debug, Error)]
pub enum InvalidNode {
    /// The address is not host:port.
    #[error("node {address:?} is not an address, expected host:port: {source}")]
    Address {
        /// As configured.
        address: String,
        /// What tonic says.
        source: tonic::transport::Error,
    },
    /// The TLS material cannot be used.
    #[error("TLS to node {address:?} cannot be set up: {source}")]
    Tls {
        /// As configured.
        address: String,
        /// What tonic says.
        source: tonic::transport::Error,
    },
}

/// What a node may send ahead of the reader in an export, bytes: some two chunks of ordinary rows, so that the node works
/// on the next while one is merged.
const EXPORT_WINDOW: u32 = 512 << 10;

/// The longest name of a node, bytes. Cursors hold it.
const MAX_NAME: usize = 128;

/// An expected node. It stays one, with its last known name, while its agent is away.
#[derive(Debug)]
pub(super) struct Node {
    /// host:port of the agent.
    pub address: String,
    channel: Channel,
    endpoint: Endpoint,
    dial: Arc<dyn Dial>,
    connect_timeout: Duration,
    seen: Mutex<Seen>,
}

/// What was last heard.
#[derive(Debug)]
struct Seen {
    name: Option<String>,
    description: Option<v1::DescribeResponse>,
    state: NodeState,
    last_seen: Option<SystemTime>,
    last_error: Option<String>,
}

fn stub(channel: Channel) -> NodeClient<Channel> {
    NodeClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

impl Node {
    /// Makes the node's one channel. It connects when first used and again whenever it is used after it broke, so
    /// the probe that runs every few seconds is the background reconnect.
    pub(super) fn new(
        address: &str,
        settings: &ClusterSettings,
        dial: Arc<dyn Dial>,
    ) -> Result<Self, InvalidNode> {
        let scheme = if settings.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(|source| InvalidNode::Address { address: address.to_owned(), source })?
            // Without pings a channel into a healed partition stays dead until TCP gives up, minutes later.
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(3))
            .keep_alive_while_idle(true);
        if let Some(tls) = &settings.tls {
            let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca_pem));
            if let Some(domain) = &tls.domain {
                config = config.domain_name(domain);
            }
            if let Some((certificate, key)) = &tls.identity_pem {
                config = config.identity(Identity::from_pem(certificate, key));
            }
            endpoint = endpoint
                .tls_config(config)
                .map_err(|source| InvalidNode::Tls { address: address.to_owned(), source })?;
        }
        Ok(Self {
            address: address.to_owned(),
            channel: connect::channel(&endpoint, address, &dial, settings.connect_timeout),
            endpoint,
            dial,
            connect_timeout: settings.connect_timeout,
            seen: Mutex::new(Seen {
                name: None,
                description: None,
                state: NodeState::Unknown,
                last_seen: None,
                last_error: None,
            }),
        })
    }

    /// The node's stub; clones share the channel.
    pub(super) fn client(&self) -> NodeClient<Channel> {
        stub(self.channel())
    }

    /// The node's one channel; clones share it.
    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A stub with a connection of its own, for a call that is read slowly: what it leaves unread would take up the
    /// window that all calls of the shared connection have together.
    pub(super) fn export_client(&self) -> NodeClient<Channel> {
        let endpoint = self.endpoint.clone();
        let endpoint =
            endpoint.initial_stream_window_size(EXPORT_WINDOW).initial_connection_window_size(EXPORT_WINDOW);
        stub(connect::channel(&endpoint, &self.address, &self.dial, self.connect_timeout))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // What was last heard is whole at every moment, so a panic elsewhere does not spoil it.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name its agent told last.
    pub(super) fn name(&self) -> Option<String> {
        self.seen().name.clone()
    }

    /// The name, or the address until one was told.
    pub(super) fn label(&self) -> String {
        self.name().unwrap_or_else(|| self.address.clone())
    }

    /// How an answer that lacks this node names it.
    pub(super) fn failed(&self, reason: Reason) -> FailedNode {
        FailedNode { node: self.label(), reason }
    }

    /// What a list can expect of it.
    pub(super) fn expected(&self) -> Expected {
        let seen = self.seen();
        Expected {
            count: seen.description.as_ref().map(|description| description.clients),
            answers: seen.state != NodeState::Unavailable,
        }
    }

    pub(super) fn view(&self) -> NodeView {
        let seen = self.seen();
        NodeView {
            address: self.address.clone(),
            description: seen.description.clone(),
            state: seen.state,
            last_seen: seen.last_seen,
            last_error: seen.last_error.clone(),
        }
    }

    /// Takes in the identity that an answer came with, and gives it back if it is one that the request is about:
    /// behind an address may be another node than the last time.
    pub(super) fn identified(
        &self,
        identity: Option<v1::Identity>,
        scope: &Scope,
    ) -> Result<v1::Identity, CallError> {
        let identity = identity.unwrap_or_default();
        let name = &identity.name;
        if name.is_empty() {
            return Err(CallError::protocol("the answer names no node"));
        }
        if name.len() > MAX_NAME {
            return Err(CallError::protocol(format!(
                "a node name of {} bytes, expected at most {MAX_NAME}",
                name.len()
            )));
        }
        let mut seen = self.seen();
        if seen.name.as_ref() != Some(name) {
            if let Some(old) = &seen.name {
                tracing::warn!(address = %self.address, %old, %name, "node changed its name");
            }
            seen.name = Some(name.clone());
        }
        match scope {
            Scope::Only(names) if !names.contains(name) => {
                Err(CallError::protocol(format!("the node at {} is {name:?} now", self.address)))
            }
            _ => Ok(identity),
        }
    }

    /// Notes how a call ended. A node that says why it refuses is there, and a call that ran out of time says as much
    /// about the time its caller gave it as about the node; whether a node is too slow, the probes decide.
    pub(super) fn note<T>(&self, outcome: &Result<T, CallError>) {
        let label = self.label();
        let mut seen = self.seen();
        match outcome {
            Ok(_) => {
                seen.last_seen = Some(SystemTime::now());
                if seen.state != NodeState::Connected && seen.state != NodeState::Draining {
                    tracing::info!(node = %label, address = %self.address, "node answers");
                    seen.state = NodeState::Connected;
                    seen.last_error = None;
                }
            }
            Err(error) if error.failed_precondition => {}
            Err(error)
                if error.reason == Reason::Timeout || error.told && error.reason != Reason::Draining =>
            {
                tracing::debug!(node = %label, address = %self.address, %error, "call failed");
            }
            Err(error) => note_failure(&mut seen, &label, &self.address, error),
        }
    }

    fn note_probe<T>(&self, outcome: &Result<T, CallError>) {
        match outcome {
            Ok(_) => self.note(outcome),
            Err(error) => {
                let label = self.label();
                note_failure(&mut self.seen(), &label, &self.address, error);
            }
        }
    }

    /// Asks the agent who it is and how it fares.
    pub(super) async fn probe(&self, until: Instant) -> Result<(), CallError> {
        let outcome = call::by(until, async {
            let request = call::request(v1::DescribeRequest {}, until);
            Ok(self.client().describe(request).await?.into_inner())
        })
        .await
        .and_then(|description| {
            self.identified(description.identity.clone(), &Scope::All)?;
            Ok(description)
        });
        self.note_probe(&outcome);
        let description = outcome?;
        let mut seen = self.seen();
        seen.state = if description.draining { NodeState::Draining } else { NodeState::Connected };
        seen.description = Some(description);
        seen.last_error = None;
        Ok(())
    }
}

fn note_failure(seen: &mut Seen, label: &str, address: &str, error: &CallError) {
    let state = match error.reason {
        Reason::Draining => NodeState::Draining,
        Reason::Overloaded => seen.state,
        Reason::Unreachable | Reason::Timeout | Reason::Protocol => NodeState::Unavailable,
    };
    if seen.state != state {
        tracing::warn!(node = %label, %address, %error, "node does not answer");
    }
    seen.state = state;
    seen.last_error = Some(error.to_string());
}
