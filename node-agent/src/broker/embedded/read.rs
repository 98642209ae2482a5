//! The broker's state of one session, as a row.
//!
//! What nobody knows stays absent: `mountpoint` (there is none), the figures of an Erlang process, and of a client that
//! does not pass the front `is_bridge` (the broker refuses a CONNECT with the bridge bit, so it never sees one),
//! `awaiting_rel` (kept inside its packet loop) and `send_pkt` (acknowledgements are not counted).

use std::sync::atomic::{AtomicU64, Ordering};

use rmqtt::session::Session;
use rmqtt::types::ConnectInfo;
use rollcall_proto::address;
use rollcall_proto::v1::{Client, ConnState, Statistics};

use super::registry::ConnectionRecord;
use crate::broker::tcp_info::Traffic;

/// The identity of a client. `zone` is that of the listener it came in by.
pub(super) async fn client(session: &Session, record: &ConnectionRecord, zone: Option<&str>) -> Client {
    let connect = session.connect_info().await.ok();
    let connected = session.connected().await.unwrap_or(false);
    let remote = session.id.remote_addr;
    Client {
        node: String::new(),
        clientid: session.id.client_id.to_string(),
        session: record.session.number,
        username: session.id.username.as_ref().map(ToString::to_string),
        zone: zone.map(ToOwned::to_owned),
        proto_name: connect.as_deref().map(|connect| protocol_name(connect).to_owned()),
        proto_ver: connect.as_deref().map(|connect| u32::from(connect.proto_ver())),
        ip_address: remote.map(|remote| address::to_wire(remote.ip())).unwrap_or_default(),
        port: remote.map(|remote| u32::from(remote.port())),
        is_bridge: record.passed.as_ref().and_then(|passed| passed.is_bridge()),
        mountpoint: None,
        keepalive: connect.as_deref().map(|connect| u32::from(connect.keep_alive())),
        clean_start: connect.as_deref().map(ConnectInfo::clean_start),
        expiry_interval: match &connect {
            Some(connect) => Some(expiry_interval(session, connect).await),
            None => None,
        },
        conn_state: if connected { ConnState::Connected } else { ConnState::Disconnected }.into(),
        connected_at_ms: session.connected_at().await.ok(),
        disconnected_at_ms: if connected {
            None
        } else {
            session.disconnected_at().await.ok().filter(|&at| at > 0)
        },
        created_at_ms: session.created_at().await.ok(),
        statistics: None,
    }
}

/// The live figures of a session; `traffic` is what the kernel knows of its connection.
pub(super) async fn statistics(
    session: &Session,
    record: &ConnectionRecord,
    traffic: Option<Traffic>,
) -> Statistics {
    let listener = session.listen_cfg();
    let subscriptions = match session.subscriptions().await {
        Ok(subscriptions) => Some(subscriptions.len().await as u64),
        Err(_) => None,
    };
    let count = |counter: &AtomicU64| Some(counter.load(Ordering::Relaxed));
    let passed = record.passed.as_ref().map(|passed| passed.counts());
    Statistics {
        subscriptions_cnt: subscriptions,
        max_subscriptions: Some(listener.max_subscriptions as u64),
        inflight: Some(session.out_inflight().read().await.len() as u64),
        max_inflight: Some(u64::from(session.fitter.max_inflight().get())),
        mqueue_len: Some(session.deliver_queue().len() as u64),
        max_mqueue: Some(session.deliver_queue().capacity() as u64),
        mqueue_dropped: count(&record.session.dropped_messages),
        awaiting_rel: passed.and_then(|passed| passed.awaiting_rel),
        // One window serves both directions.
        max_awaiting_rel: Some(u64::from(listener.max_inflight.get())),
        recv_oct: passed
            .map(|passed| passed.received_octets)
            .or(traffic.map(|traffic| traffic.received_bytes)),
        recv_cnt: traffic.map(|traffic| traffic.received_segments),
        recv_pkt: match passed {
            Some(passed) => passed.received_packets,
            None => count(&record.received_packets),
        },
        recv_msg: count(&record.session.received_messages),
        send_oct: passed.map(|passed| passed.sent_octets).or(traffic.map(|traffic| traffic.sent_bytes)),
        send_cnt: traffic.map(|traffic| traffic.sent_segments),
        send_pkt: passed.and_then(|passed| passed.sent_packets),
        send_msg: count(&record.session.sent_messages),
        mailbox_len: None,
        heap_size: None,
        reductions: None,
    }
}

fn protocol_name(connect: &ConnectInfo) -> &'static str {
    match connect {
        ConnectInfo::V3(_, connect) => connect.protocol.name(),
        ConnectInfo::V5(..) => "MQTT",
    }
}

/// The broker has one lifetime for all MQTT 3 sessions, but ends those with Clean Session with the connection.
async fn expiry_interval(session: &Session, connect: &ConnectInfo) -> u32 {
    if let ConnectInfo::V3(_, connect) = connect
        && connect.clean_session
    {
        return 0;
    }
    let disconnect = session.disconnect().await.ok().flatten();
    let interval = session.fitter.session_expiry_interval(disconnect.as_ref());
    u32::try_from(interval.as_secs()).unwrap_or(u32::MAX)
}
