//! The paths of the management API and what is read of their answers.
//!
//! Lists come in pages, except that of bindings, which the API gives as a whole or by virtual host, whatever page is asked
//! for. It writes some keys twice (`client_properties`), so only the columns that are needed are asked for.
//!
//! Connections of other protocols are left out here, by `protocol`: the API can filter a list by the connection's name and
//! by nothing else. Decided against: filtering by the listener's port at the end of that name, because behind a proxy it is
//! what the PROXY header says.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::settings::{RabbitmqSettings, StartError};
use crate::broker::BrokerError;
use crate::broker::http::{HttpClient, HttpError, encode};
use crate::broker::secret::Secret;

/// Pages of one list: more is a list without end.
const MAX_PAGES: usize = 20_000;

/// What stands before a client id in the name of its queues.
const QUEUE_PREFIX: &str = "mqtt-subscription-";

/// What stands behind it.
const QUEUE_SUFFIXES: [&str; 2] = ["qos0", "qos1"];

pub(super) struct Api {
    http: HttpClient,
    page_size: usize,
}

/// Who answers.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Overview {
    pub(super) node: String,
    pub(super) rabbitmq_version: String,
    #[serde(default)]
    pub(super) listeners: Vec<Listener>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Listener {
    pub(super) node: String,
    pub(super) protocol: String,
    pub(super) ip_address: String,
    pub(super) port: u16,
}

#[derive(Debug, Deserialize)]
struct NodeState {
    running: bool,
}

/// One connection, of whatever protocol. Figures come with the first statistics, some seconds after its begin.
#[derive(Debug, Deserialize)]
pub(super) struct Connection {
    pub(super) name: String,
    pub(super) node: Option<String>,
    #[serde(default)]
    pub(super) vhost: String,
    pub(super) user: Option<String>,
    pub(super) protocol: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    peer_host: Option<String>,
    peer_port: Option<u16>,
    pub(super) connected_at: Option<i64>,
    #[serde(default)]
    variable_map: Maybe<VariableMap>,
    pub(super) recv_oct: Option<u64>,
    pub(super) recv_cnt: Option<u64>,
    pub(super) send_oct: Option<u64>,
    pub(super) send_cnt: Option<u64>,
    pub(super) reductions: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct VariableMap {
    client_id: Option<String>,
}

/// A queue of a client.
#[derive(Debug, Deserialize)]
pub(super) struct Queue {
    pub(super) name: String,
    #[serde(default)]
    pub(super) vhost: String,
    pub(super) node: Option<String>,
    #[serde(default)]
    pub(super) durable: bool,
    #[serde(default)]
    pub(super) auto_delete: bool,
    #[serde(default)]
    arguments: Maybe<Arguments>,
    pub(super) consumers: Option<u64>,
    pub(super) messages_ready: Option<u64>,
    pub(super) messages_unacknowledged: Option<u64>,
    /// Only of a queue that is asked for by name.
    #[serde(default)]
    consumer_details: Vec<Consumer>,
}

/// A channel of a connection; one of MQTT has two, as a rule.
#[derive(Debug, Deserialize)]
struct Channel {
    #[serde(default)]
    name: String,
    #[serde(default)]
    connection_details: Maybe<ConnectionName>,
    #[serde(default)]
    message_stats: Maybe<MessageStats>,
    prefetch_count: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
struct MessageStats {
    publish: Option<u64>,
    deliver: Option<u64>,
    deliver_no_ack: Option<u64>,
}

/// What the channels of one connection say together. Statistics leave out what has not happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Channels {
    pub(super) published: u64,
    pub(super) delivered: u64,
    pub(super) prefetch_count: Option<u64>,
}

/// A queue's binding to an exchange.
#[derive(Debug, Deserialize)]
pub(super) struct Binding {
    pub(super) source: String,
    pub(super) destination: String,
}

/// An object: the API writes an empty one as an empty list.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Maybe<T> {
    Some(T),
    None(serde::de::IgnoredAny),
}

impl<T> Default for Maybe<T> {
    fn default() -> Self {
        Self::None(serde::de::IgnoredAny)
    }
}

impl<T> Maybe<T> {
    fn as_ref(&self) -> Option<&T> {
        match self {
            Self::Some(some) => Some(some),
            Self::None(_) => None,
        }
    }
}

#[derive(Debug, Deserialize)]
struct Arguments {
    #[serde(rename = "x-expires")]
    expires: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Consumer {
    #[serde(default)]
    channel_details: Maybe<ConnectionName>,
}

#[derive(Debug, Deserialize)]
struct ConnectionName {
    #[serde(alias = "connection_name")]
    name: Option<String>,
}

#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    page_count: usize,
    items: Vec<T>,
}

/// A list, and whether it came in more than one piece, so that a row may have slipped through between two.
pub(super) struct Listed<T> {
    pub(super) rows: Vec<T>,
    pub(super) is_in_pieces: bool,
}

const CONNECTION: &str =
    "name,node,vhost,user,protocol,host,port,peer_host,peer_port,connected_at,variable_map";
const TRAFFIC: &str = "name,vhost,recv_oct,recv_cnt,send_oct,send_cnt,reductions";
const QUEUE: &str =
    "name,vhost,node,durable,auto_delete,arguments,consumers,messages_ready,messages_unacknowledged";
const CHANNEL: &str = "name,connection_details.name,prefetch_count,message_stats.publish,message_stats.deliver,message_stats.deliver_no_ack";

impl Api {
    pub(super) fn open(settings: &RabbitmqSettings) -> Result<Self, StartError> {
        settings.check().map_err(StartError::Settings)?;
        let file = |key, path: &std::path::Path, reason: String| StartError::File {
            key,
            path: path.to_owned(),
            reason,
        };
        let ca = match &settings.tls_ca {
            None => None,
            Some(path) => Some(std::fs::read(path).map_err(|error| file("tls_ca", path, error.to_string()))?),
        };
        let Some(path) = &settings.password_file else {
            return Err(StartError::Settings("password_file is missing".to_owned()));
        };
        let password = Secret::read(path).map_err(|error| file("password_file", path, error.to_string()))?;
        let login = Some((settings.username.as_str(), &password));
        let within = Duration::from_millis(settings.timeout_ms);
        let http =
            HttpClient::new(&settings.url, ca.as_deref(), login, within).map_err(|reason| match &settings
                .tls_ca
            {
                Some(path) => file("tls_ca", path, reason),
                None => StartError::Settings(reason),
            })?;
        Ok(Self { http, page_size: settings.page_size })
    }

    pub(super) async fn overview(&self) -> Result<Overview, BrokerError> {
        self.http.get("/api/overview?columns=node,rabbitmq_version,listeners").await.map_err(explain)
    }

    /// Whether a node runs; `None` for one that is not of this cluster.
    pub(super) async fn is_running(&self, node: &str) -> Result<Option<bool>, BrokerError> {
        let path = format!("/api/nodes/{}?columns=name,running", encode(node));
        let state: Option<NodeState> = self.http.find(&path).await.map_err(explain)?;
        Ok(state.map(|state| state.running))
    }

    pub(super) async fn connections(&self) -> Result<Listed<Connection>, BrokerError> {
        self.list("/api/connections", "", CONNECTION).await
    }

    pub(super) async fn traffic(&self) -> Result<Listed<Connection>, BrokerError> {
        self.list("/api/connections", "", TRAFFIC).await
    }

    pub(super) async fn connection(&self, name: &str) -> Result<Option<Connection>, BrokerError> {
        let path = format!("/api/connections/{}?columns={CONNECTION},{TRAFFIC}", encode(name));
        self.http.find(&path).await.map_err(explain)
    }

    pub(super) async fn close(&self, name: &str) -> Result<bool, BrokerError> {
        self.http.delete(&format!("/api/connections/{}", encode(name))).await.map_err(explain)
    }

    /// The queues of all clients, once each.
    pub(super) async fn queues(&self) -> Result<Listed<Queue>, BrokerError> {
        let mut listed = self.list("/api/queues", &format!("&name={QUEUE_PREFIX}"), QUEUE).await?;
        if listed.is_in_pieces {
            // One that moves to a later page while they are read is in both.
            let mut known = HashSet::with_capacity(listed.rows.len());
            listed.rows.retain(|queue: &Queue| known.insert((queue.vhost.clone(), queue.name.clone())));
        }
        Ok(listed)
    }

    pub(super) async fn queue(&self, vhost: &str, name: &str) -> Result<Option<Queue>, BrokerError> {
        let path = format!("/api/queues/{}/{}?columns={QUEUE},consumer_details", encode(vhost), encode(name));
        self.http.find(&path).await.map_err(explain)
    }

    /// Deletes a queue; with `unless_used` only if nobody consumes from it. False if it is not there.
    pub(super) async fn delete_queue(
        &self,
        vhost: &str,
        name: &str,
        unless_used: bool,
    ) -> Result<bool, BrokerError> {
        let condition = if unless_used { "?if-unused=true" } else { "" };
        let path = format!("/api/queues/{}/{}{condition}", encode(vhost), encode(name));
        match self.http.delete(&path).await {
            // What is used is refused as a bad request.
            Err(HttpError::Status { status, .. }) if unless_used && status == 400 => Ok(false),
            deleted => deleted.map_err(explain),
        }
    }

    pub(super) async fn queue_bindings(&self, vhost: &str, name: &str) -> Result<Vec<Binding>, BrokerError> {
        let path = format!("/api/queues/{}/{}/bindings", encode(vhost), encode(name));
        self.http.get(&path).await.map_err(explain)
    }

    /// All bindings of a virtual host.
    pub(super) async fn bindings(&self, vhost: &str) -> Result<Vec<Binding>, BrokerError> {
        let path = format!("/api/bindings/{}?columns=source,destination", encode(vhost));
        self.http.get(&path).await.map_err(explain)
    }

    /// What the channels of a connection say; `None` while there is none.
    pub(super) async fn connection_channels(&self, name: &str) -> Result<Option<Channels>, BrokerError> {
        let path = format!("/api/connections/{}/channels?columns={CHANNEL}", encode(name));
        let channels: Option<Vec<Channel>> = self.http.find(&path).await.map_err(explain)?;
        let channels = channels.unwrap_or_default();
        Ok((!channels.is_empty()).then(|| channels.iter().fold(Channels::default(), Channels::and)))
    }

    /// The same of all connections, by their names.
    pub(super) async fn channels(&self) -> Result<HashMap<String, Channels>, BrokerError> {
        let listed: Listed<Channel> = self.list("/api/channels", "", CHANNEL).await?;
        let mut channels: HashMap<String, Channels> = HashMap::new();
        let mut known = HashSet::with_capacity(listed.rows.len());
        for channel in &listed.rows {
            let Some(name) = channel.connection_details.as_ref().and_then(|of| of.name.as_ref()) else {
                continue;
            };
            // One that moves to a later page while they are read is in both.
            if known.insert(channel.name.as_str()) {
                let of_connection = channels.entry(name.clone()).or_default();
                *of_connection = of_connection.and(channel);
            }
        }
        Ok(channels)
    }

    async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        condition: &str,
        columns: &str,
    ) -> Result<Listed<T>, BrokerError> {
        let mut rows = Vec::new();
        for number in 1..=MAX_PAGES {
            let page_size = self.page_size;
            let path = format!("{path}?page={number}&page_size={page_size}{condition}&columns={columns}");
            let page: Page<T> = match self.http.get(&path).await {
                Ok(page) => page,
                // The list has become shorter meanwhile.
                Err(HttpError::Status { status, .. }) if status == 400 && number > 1 => {
                    return Ok(Listed { rows, is_in_pieces: true });
                }
                Err(error) => return Err(explain(error)),
            };
            rows.extend(page.items);
            if number >= page.page_count {
                return Ok(Listed { rows, is_in_pieces: number > 1 });
            }
        }
        Err(BrokerError::Refused(format!("{path}: more than {MAX_PAGES} pages")))
    }
}

impl Connection {
    /// Of an MQTT connection that has said who it is.
    pub(super) fn clientid(&self) -> Option<&str> {
        let is_mqtt = self.protocol.as_deref().is_some_and(|name| name.contains("MQTT"));
        self.variable_map.as_ref().filter(|_| is_mqtt)?.client_id.as_deref()
    }

    /// Name and level by the standard; the API says 3.1.0 for 3.1.
    pub(super) fn protocol(&self) -> Option<(&'static str, u32)> {
        match self.protocol.as_deref()?.rsplit(' ').next()? {
            "3.1.0" | "3.1" => Some(("MQIsdp", 3)),
            "3.1.1" => Some(("MQTT", 4)),
            "5.0" | "5" | "5-0" => Some(("MQTT", 5)),
            _ => None,
        }
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        socket_address(self.peer_host.as_deref()?, self.peer_port?)
    }

    /// Both ends: the broker's and the client's.
    pub(super) fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        Some((socket_address(self.host.as_deref()?, self.port?)?, self.peer()?))
    }

    /// Names it for ever: ports are used again, but not in the same millisecond.
    pub(super) fn identity(&self) -> String {
        identity(&self.name, self.connected_at)
    }
}

fn identity(name: &str, connected_at: Option<i64>) -> String {
    format!("{} {name}", connected_at.unwrap_or_default())
}

/// The name by which the API knows a connection of this identity.
pub(super) fn connection_name(identity: &str) -> &str {
    identity.split_once(' ').map_or(identity, |(_, name)| name)
}

fn socket_address(host: &str, port: u16) -> Option<SocketAddr> {
    let ip: IpAddr = host.parse().ok()?;
    Some(SocketAddr::new(ip.to_canonical(), port))
}

impl Queue {
    /// Whose queue it is, and of which QoS.
    pub(super) fn of(&self) -> Option<(&str, usize)> {
        queue_of(&self.name)
    }

    /// Whether it outlives the connection.
    pub(super) fn is_persistent(&self) -> bool {
        self.durable && !self.auto_delete
    }

    /// How long it outlives the connection, seconds; `None`: for ever.
    pub(super) fn expiry_interval(&self) -> Option<u32> {
        let expires = self.arguments.as_ref()?.expires;
        expires.map(|ms| u32::try_from(ms / 1_000).unwrap_or(u32::MAX))
    }

    /// The connections that consume from it, as far as the API tells.
    pub(super) fn consumers(&self) -> impl Iterator<Item = &str> {
        self.consumer_details.iter().filter_map(|consumer| consumer.channel_details.as_ref()?.name.as_deref())
    }
}

impl Binding {
    /// Every queue is bound to the default exchange, whose name is empty, besides.
    pub(super) fn is_subscription(&self) -> bool {
        !self.source.is_empty()
    }
}

impl Channels {
    fn and(self, channel: &Channel) -> Self {
        let counted = |count: fn(&MessageStats) -> Option<u64>| {
            channel.message_stats.as_ref().and_then(count).unwrap_or_default()
        };
        Self {
            published: self.published + counted(|of| of.publish),
            delivered: self.delivered + counted(|of| of.deliver) + counted(|of| of.deliver_no_ack),
            prefetch_count: self.prefetch_count.max(channel.prefetch_count),
        }
    }
}

/// The client and QoS of a queue's name.
pub(super) fn queue_of(name: &str) -> Option<(&str, usize)> {
    let rest = name.strip_prefix(QUEUE_PREFIX)?;
    (0..).zip(QUEUE_SUFFIXES).find_map(|(qos, suffix)| Some((rest.strip_suffix(suffix)?, qos)))
}

pub(super) fn queue_name(clientid: &str, qos: usize) -> String {
    format!("{QUEUE_PREFIX}{clientid}{}", QUEUE_SUFFIXES[qos])
}

fn explain(error: HttpError) -> BrokerError {
    match &error {
        HttpError::Status { status, .. } if matches!(status.as_u16(), 401 | 403) => BrokerError::Refused(
            format!("{error}: expected a user that may ask this (tag monitoring; to kick, administrator)"),
        ),
        HttpError::Status { .. } | HttpError::Body { .. } => BrokerError::Refused(error.to_string()),
        HttpError::Unreachable { .. } | HttpError::Timeout { .. } => {
            BrokerError::Unavailable(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_name_their_client_whatever_its_id() {
        for clientid in ["c", "", "a b/ü", "qos1", "xqos0", "mqtt-subscription-"] {
            for qos in [0, 1] {
                assert_eq!(queue_of(&queue_name(clientid, qos)), Some((clientid, qos)));
            }
        }
        assert_eq!(queue_of("mqtt-subscription-c"), None);
        assert_eq!(queue_of("cqos1"), None);
    }

    #[test]
    fn what_the_api_writes_is_read() {
        let text = r#"{"name":"127.0.0.1:38168 -> 127.0.0.1:11883","node":"r@h","vhost":"/","user":"guest",
            "protocol":"MQTT 3.1.0","host":"::ffff:127.0.0.1","port":11883,"peer_host":"127.0.0.1","peer_port":38168,
            "connected_at":1795596827885,"variable_map":{"client_id":"c"}}"#;
        let connection: Connection = serde_json::from_str(text).unwrap();
        assert_eq!(connection.clientid(), Some("c"));
        assert_eq!(connection.protocol(), Some(("MQIsdp", 3)));
        let ends = ("127.0.0.1:11883".parse().unwrap(), "127.0.0.1:38168".parse().unwrap());
        assert_eq!(connection.ends(), Some(ends));
        assert_eq!(connection_name(&connection.identity()), connection.name);
        let amqp: Connection = serde_json::from_str(&text.replace("MQTT 3.1.0", "AMQP 0-9-1")).unwrap();
        assert_eq!(amqp.clientid(), None);

        let text = r#"[{"name":"x (1)","connection_details":{"name":"x"},"prefetch_count":10,"message_stats":{"publish":2}},
            {"name":"x (2)","connection_details":{"name":"x"},"prefetch_count":0,"message_stats":{"publish":1,"deliver_no_ack":3}},
            {"name":"y (1)","connection_details":[],"message_stats":[]}]"#;
        let channels: Vec<Channel> = serde_json::from_str(text).unwrap();
        let both = Channels { published: 3, delivered: 3, prefetch_count: Some(10) };
        assert_eq!(channels[..2].iter().fold(Channels::default(), Channels::and), both);
        assert_eq!(Channels::default().and(&channels[2]), Channels::default());
        assert!(channels[2].connection_details.as_ref().is_none());

        for (arguments, expected) in [(r#"{"x-expires":86400000}"#, Some(86_400)), ("{}", None), ("[]", None)]
        {
            let text = format!(
                r#"{{"name":"mqtt-subscription-cqos1","vhost":"/","durable":true,"auto_delete":false,
                "arguments":{arguments},"consumer_details":[{{"channel_details":{{"connection_name":"x"}}}},
                {{"channel_details":[]}}]}}"#
            );
            let queue: Queue = serde_json::from_str(&text).unwrap();
            assert_eq!(queue.expiry_interval(), expected, "{arguments}");
            assert_eq!(queue.consumers().collect::<Vec<_>>(), ["x"]);
            assert!(queue.is_persistent());
        }
    }
}
