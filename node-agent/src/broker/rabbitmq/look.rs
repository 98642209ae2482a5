//! One look at all sessions of a node.
//!
//! Queues are listed before connections. A client that leaves in between is offline with the queue it had; one that
//! comes is connected, and its queue is seen next time. The other way round a client that leaves would be in neither
//! list.
//!
//! What the API says of a queue's consumers lags behind by some seconds, and a new connection shows as late. So a queue
//! without a connection is an offline session if nobody consumes from it, or if it is that of a session known already;
//! otherwise its client has just come.

use std::collections::{HashMap, HashSet};

use futures::stream::{self, StreamExt as _};
use rollcall_proto::address;
use rollcall_proto::v1::{Client, ConnState};

use super::api::{Connection, Overview, Queue, connection_name, queue_name};
use super::{Extra, Node, lock};
use crate::broker::BrokerError;
use crate::broker::polled::{self, Seen};

/// Questions at a time.
pub(super) const AT_ONCE: usize = 8;

/// A virtual host and a client id.
type Key = (String, String);

/// The queues of one client.
#[derive(Default)]
struct Queues {
    has: [bool; 2],
    /// That for QoS 1.
    durable: Option<Queue>,
}

pub(super) async fn look(node: &Node) -> Result<Vec<Seen<Extra>>, BrokerError> {
    let name = responsible_for(node).await?;
    let mut queues: HashMap<Key, Queues> = HashMap::new();
    for queue in all_queues(node).await? {
        let Some((clientid, qos)) = queue.of() else { continue };
        let key = (queue.vhost.clone(), clientid.to_owned());
        let of_client = queues.entry(key).or_default();
        of_client.has[qos] = true;
        if qos == 1 {
            of_client.durable = Some(queue);
        }
    }
    let connections = all_connections(node).await?;

    let mut seen = Vec::with_capacity(connections.len());
    let mut connected: HashSet<Key> = HashSet::with_capacity(connections.len());
    for connection in connections {
        let Some(clientid) = connection.clientid() else { continue };
        let key = (connection.vhost.clone(), clientid.to_owned());
        if connection.node.as_deref().is_none_or(|node| node == name) {
            seen.push(online(node, &connection, clientid, queues.get(&key)));
        }
        connected.insert(key);
    }
    let offline = queues.into_iter().filter(|(key, _)| !connected.contains(key));
    seen.extend(offline_sessions(node, &name, offline));
    Ok(seen)
}

/// Finds out for which node of the cluster to answer, and what it is.
async fn responsible_for(node: &Node) -> Result<String, BrokerError> {
    let known = lock(&node.overview).clone();
    let overview = match known {
        Some(overview) => overview,
        None => node.api.overview().await?,
    };
    let name = node.name.clone().unwrap_or_else(|| overview.node.clone());
    match node.api.is_running(&name).await? {
        Some(true) => {}
        Some(false) => return Err(BrokerError::Unavailable(format!("node {name} does not run"))),
        None => {
            let answering = &overview.node;
            return Err(BrokerError::Refused(format!(
                "node is {name:?}, expected one of the cluster of {answering:?}, which answers"
            )));
        }
    }
    let mut info = lock(&node.info);
    info.version.clone_from(&overview.rabbitmq_version);
    info.mqtt_addresses = match node.front {
        Some(address) => vec![address.to_string()],
        None => mqtt_addresses(&overview, &name),
    };
    drop(info);
    *lock(&node.overview) = Some(overview);
    Ok(name)
}

fn mqtt_addresses(overview: &Overview, name: &str) -> Vec<String> {
    let is_mqtt = |protocol: &str| protocol == "mqtt" || protocol == "mqtt/ssl";
    let of_node =
        overview.listeners.iter().filter(|listener| listener.node == name && is_mqtt(&listener.protocol));
    let mut addresses: Vec<String> = of_node
        .filter_map(|listener| {
            let ip: std::net::IpAddr = listener.ip_address.parse().ok()?;
            Some(std::net::SocketAddr::new(ip, listener.port).to_string())
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// The queues of all clients of the cluster. As with connections, those that slipped through between pages are asked for:
/// a session must not end because another one did.
async fn all_queues(node: &Node) -> Result<Vec<Queue>, BrokerError> {
    let listed = node.api.queues().await?;
    let mut queues = listed.rows;
    if listed.is_in_pieces {
        let listed: HashSet<(&str, &str)> =
            queues.iter().map(|queue| (queue.vhost.as_str(), queue.name.as_str())).collect();
        let missing: Vec<Key> = {
            let sessions = polled::lock(&node.sessions);
            let names = sessions.places().flat_map(|(place, seen)| {
                let has = move |qos: &usize| seen.extra.queues[*qos];
                (0..2).filter(has).map(|qos| (place.zone.clone(), queue_name(&place.clientid, qos)))
            });
            names.filter(|(vhost, name)| !listed.contains(&(vhost.as_str(), name.as_str()))).collect()
        };
        let mut answers = stream::iter(missing)
            .map(async |(vhost, name)| node.api.queue(&vhost, &name).await)
            .buffer_unordered(AT_ONCE);
        while let Some(answer) = answers.next().await {
            queues.extend(answer?);
        }
    }
    Ok(queues)
}

/// All connections of the cluster. A list in pages can miss a row that moves from one to another while it is read, so
/// those that are missing are asked for one by one.
async fn all_connections(node: &Node) -> Result<Vec<Connection>, BrokerError> {
    let listed = node.api.connections().await?;
    let mut connections = listed.rows;
    if listed.is_in_pieces {
        let identities: HashSet<String> = connections.iter().map(Connection::identity).collect();
        let missing: Vec<String> = {
            let sessions = polled::lock(&node.sessions);
            let known = sessions.seen().filter_map(|seen| seen.connection.as_ref());
            known.filter(|&connection| !identities.contains(connection)).cloned().collect()
        };
        let mut answers = stream::iter(missing)
            .map(async |identity| (node.api.connection(connection_name(&identity)).await, identity))
            .buffer_unordered(AT_ONCE);
        while let Some((answer, identity)) = answers.next().await {
            connections.extend(answer?.filter(|connection| connection.identity() == identity));
        }
    }
    Ok(connections)
}

fn online(node: &Node, connection: &Connection, clientid: &str, queues: Option<&Queues>) -> Seen<Extra> {
    let durable = queues.and_then(|queues| queues.durable.as_ref());
    let is_persistent = durable.is_some_and(Queue::is_persistent);
    let (proto_name, proto_ver) = connection.protocol().unzip();
    let peer = connection.peer();
    let client = Client {
        clientid: clientid.to_owned(),
        username: connection.user.clone().filter(|user| !user.is_empty()),
        zone: Some(connection.vhost.clone()),
        proto_name: proto_name.map(str::to_owned),
        proto_ver,
        ip_address: peer.map(|peer| address::to_wire(peer.ip())).unwrap_or_default(),
        port: peer.map(|peer| u32::from(peer.port())),
        is_bridge: node.passed(connection.ends(), clientid).and_then(|passed| passed.is_bridge()),
        clean_start: durable.map(|_| !is_persistent),
        expiry_interval: durable.and_then(expiry_interval),
        conn_state: ConnState::Connected.into(),
        connected_at_ms: connection.connected_at,
        created_at_ms: connection.connected_at,
        ..Client::default()
    };
    let extra =
        Extra { ends: connection.ends(), queues: queues.map(|queues| queues.has).unwrap_or_default() };
    Seen { client, connection: Some(connection.identity()), is_persistent, extra }
}

/// A session that ends with its connection has 0, one that never ends the largest number there is, as in MQTT 5.
fn expiry_interval(durable: &Queue) -> Option<u32> {
    let after = durable.expiry_interval().unwrap_or(u32::MAX);
    Some(if durable.is_persistent() { after } else { 0 })
}

fn offline_sessions(
    node: &Node,
    name: &str,
    queues: impl Iterator<Item = (Key, Queues)>,
) -> Vec<Seen<Extra>> {
    let sessions = polled::lock(&node.sessions);
    let offline = |((vhost, clientid), queues): (Key, Queues)| {
        let queue = queues.durable.filter(Queue::is_persistent)?;
        let is_here = queue.node.as_deref() == Some(name);
        let is_idle = queue.consumers == Some(0) || sessions.knows(&vhost, &clientid);
        if !is_here || !is_idle {
            return None;
        }
        let client = Client {
            clientid,
            zone: Some(vhost),
            clean_start: Some(false),
            expiry_interval: expiry_interval(&queue),
            conn_state: ConnState::Disconnected.into(),
            ..Client::default()
        };
        let extra = Extra { ends: None, queues: queues.has };
        Some(Seen { client, connection: None, is_persistent: true, extra })
    };
    queues.filter_map(offline).collect()
}
