//! One look at all sessions of a server.
//!
//! Records are read before connections: who leaves in between is offline with the record it had, and whose record was
//! not there yet is connected anyway.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use futures::try_join;
use rollcall_proto::address;
use rollcall_proto::v1::{Client, ConnState};

use super::monitor::{Connection, Server};
use super::records::{Record, origin};
use super::{Extra, Node, lock};
use crate::broker::BrokerError;
use crate::broker::polled::{self, Seen};

/// Questions at a time.
pub(super) const AT_ONCE: usize = 16;

/// An account and a client id.
type Key = (String, String);

pub(super) async fn look(node: &Node) -> Result<Vec<Seen<Extra>>, BrokerError> {
    // A login of a server that is down waits for its answer, the endpoint says so at once.
    let (records, ()) = try_join!(records(node), node.monitor.answers())?;
    let (server, connections) = connections(node).await?;

    let listener = listener(&server);
    let mut seen = Vec::with_capacity(connections.len());
    let mut connected: HashSet<Key> = HashSet::with_capacity(connections.len());
    for connection in connections {
        let Some(clientid) = connection.clientid() else { continue };
        if node.takeover.is_own(connection.ip(), connection.port) {
            continue;
        }
        let key = (connection.account.clone().unwrap_or_default(), clientid.to_owned());
        seen.push(online(&server, &connection, &key, records.get(&key).cloned(), listener));
        connected.insert(key);
    }
    let origin = origin(&server.server_name);
    for ((account, clientid), record) in records {
        let key = (account, clientid);
        if record.clean || record.origin != origin || connected.contains(&key) {
            continue;
        }
        let client = Client {
            zone: Some(key.0),
            clientid: key.1,
            clean_start: Some(false),
            expiry_interval: Some(u32::MAX),
            conn_state: ConnState::Disconnected.into(),
            ..Client::default()
        };
        let extra = Extra { record: Some(record), ..Extra::default() };
        seen.push(Seen { client, connection: None, is_persistent: true, extra });
    }
    Ok(seen)
}

async fn records(node: &Node) -> Result<HashMap<Key, Arc<Record>>, BrokerError> {
    let mut records = HashMap::new();
    for (name, account) in &node.accounts {
        let of_account = account.records().await?;
        records
            .extend(of_account.into_iter().map(|record| ((name.clone(), record.clientid.clone()), record)));
    }
    Ok(records)
}

/// The connections of the server that is expected. A list in pages can miss a row that moves from one to another while
/// it is read, so those that are missing are asked for one by one.
async fn connections(node: &Node) -> Result<(Server, Vec<Connection>), BrokerError> {
    let listed = node.monitor.connections().await?;
    let server = server(node, &listed.server_id).await?;
    let mut rows = listed.rows;
    if listed.is_in_pieces {
        let cids: HashSet<u64> = rows.iter().map(|row| row.cid).collect();
        let missing: Vec<u64> = {
            let sessions = polled::lock(&node.sessions);
            let is_of_server = |connection: &str| connection.starts_with(&server.server_id);
            let known = sessions.seen().filter(|seen| seen.connection.as_deref().is_some_and(is_of_server));
            known.map(|seen| seen.extra.cid).filter(|cid| !cids.contains(cid)).collect()
        };
        let mut answers =
            stream::iter(missing).map(|cid| node.monitor.connection(cid)).buffer_unordered(AT_ONCE);
        while let Some(answer) = answers.next().await {
            rows.extend(answer?);
        }
    }
    Ok((server, rows))
}

/// What is known of the server that answered, which changes its id whenever it starts.
async fn server(node: &Node, id: &str) -> Result<Server, BrokerError> {
    let known = lock(&node.server).clone().filter(|server| server.server_id == id);
    if let Some(server) = known {
        return Ok(server);
    }
    let server = node.monitor.server().await?;
    if server.server_id != id {
        return Err(BrokerError::Unavailable(format!("server {id} was replaced by {}", server.server_id)));
    }
    if let Some(expected) = node.settings.server_name.as_ref().filter(|name| **name != server.server_name) {
        return Err(BrokerError::Refused(format!(
            "the server at {} is {:?}, expected server_name {expected:?}",
            node.settings.url, server.server_name
        )));
    }
    if server.mqtt.port == 0 {
        return Err(BrokerError::Refused(format!("server {:?} has no mqtt listener", server.server_name)));
    }
    let mut info = lock(&node.info);
    info.version.clone_from(&server.version);
    info.mqtt_addresses = mqtt_address(node, &server).into_iter().collect();
    drop(info);
    *lock(&node.server) = Some(server.clone());
    Ok(server)
}

/// Where MQTT clients connect.
pub(super) fn mqtt_address(node: &Node, server: &Server) -> Option<String> {
    if node.settings.mqtt_address.is_some() {
        return node.settings.mqtt_address.clone();
    }
    let listener = listener(server)?;
    let is_anywhere = listener.ip().is_unspecified();
    Some(if is_anywhere { format!("127.0.0.1:{}", listener.port()) } else { listener.to_string() })
}

fn listener(server: &Server) -> Option<SocketAddr> {
    Some(SocketAddr::new(server.mqtt.host.parse().ok()?, server.mqtt.port))
}

fn online(
    server: &Server,
    connection: &Connection,
    (account, clientid): &Key,
    record: Option<Arc<Record>>,
    listener: Option<SocketAddr>,
) -> Seen<Extra> {
    let clean = record.as_ref().map(|record| record.clean);
    let ip = connection.ip();
    let started = connection.started_at_ms();
    let client = Client {
        clientid: clientid.clone(),
        username: connection.username().map(str::to_owned),
        zone: Some(account.clone()),
        proto_name: Some("MQTT".to_owned()),
        proto_ver: Some(4),
        ip_address: ip.map(address::to_wire).unwrap_or_default(),
        port: Some(u32::from(connection.port)),
        clean_start: clean,
        expiry_interval: clean.map(|clean| if clean { 0 } else { u32::MAX }),
        conn_state: ConnState::Connected.into(),
        connected_at_ms: started,
        created_at_ms: started,
        ..Client::default()
    };
    let peer = ip.map(|ip| SocketAddr::new(ip, connection.port));
    Seen {
        client,
        connection: Some(format!("{}:{}", server.server_id, connection.cid)),
        is_persistent: clean == Some(false),
        extra: Extra { cid: connection.cid, ends: listener.zip(peer), record },
    }
}
