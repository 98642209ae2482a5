//! One line of the file: an object whose keys are those of a row of the API, times in milliseconds.
//!
//! `node` and `clientid` are required. Every other key may be left out or `null`, and then the broker cannot tell
//! it; but a client is `connected` unless `conn_state`, `connected` or a `disconnected_at_ms` says otherwise. Unknown
//! keys are refused, so that a mistyped one is not taken for an unknown value.

use std::net::IpAddr;

use rollcall_proto::address;
use rollcall_proto::v1::{Client, ConnState, Statistics};
use serde::Deserialize;

/// A line as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    node: String,
    clientid: String,
    username: Option<String>,
    zone: Option<String>,
    proto_name: Option<String>,
    proto_ver: Option<u32>,
    ip_address: Option<IpAddr>,
    port: Option<u16>,
    is_bridge: Option<bool>,
    mountpoint: Option<String>,
    keepalive: Option<u32>,
    clean_start: Option<bool>,
    expiry_interval: Option<u32>,
    connected: Option<bool>,
    conn_state: Option<State>,
    connected_at_ms: Option<i64>,
    disconnected_at_ms: Option<i64>,
    created_at_ms: Option<i64>,
    subscriptions_cnt: Option<u64>,
    max_subscriptions: Option<u64>,
    inflight: Option<u64>,
    max_inflight: Option<u64>,
    mqueue_len: Option<u64>,
    max_mqueue: Option<u64>,
    mqueue_dropped: Option<u64>,
    awaiting_rel: Option<u64>,
    max_awaiting_rel: Option<u64>,
    recv_oct: Option<u64>,
    recv_cnt: Option<u64>,
    recv_pkt: Option<u64>,
    recv_msg: Option<u64>,
    send_oct: Option<u64>,
    send_cnt: Option<u64>,
    send_pkt: Option<u64>,
    send_msg: Option<u64>,
    mailbox_len: Option<u64>,
    heap_size: Option<u64>,
    reductions: Option<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum State {
    Connected,
    Idle,
    Disconnected,
}

/// Reads a line. `node` and `statistics` of the client are set, `session` is not.
///
/// # Errors
/// Key, value and what was expected, for people.
pub(super) fn parse(text: &[u8]) -> Result<Client, String> {
    let line: Line = serde_json::from_slice(text).map_err(|error| explain(text, &error))?;
    if line.node.is_empty() {
        return Err("node: \"\", expected a node's name".to_owned());
    }
    let conn_state = conn_state(&line)?;
    let statistics = Statistics {
        subscriptions_cnt: line.subscriptions_cnt,
        max_subscriptions: line.max_subscriptions,
        inflight: line.inflight,
        max_inflight: line.max_inflight,
        mqueue_len: line.mqueue_len,
        max_mqueue: line.max_mqueue,
        mqueue_dropped: line.mqueue_dropped,
        awaiting_rel: line.awaiting_rel,
        max_awaiting_rel: line.max_awaiting_rel,
        recv_oct: line.recv_oct,
        recv_cnt: line.recv_cnt,
        recv_pkt: line.recv_pkt,
        recv_msg: line.recv_msg,
        send_oct: line.send_oct,
        send_cnt: line.send_cnt,
        send_pkt: line.send_pkt,
        send_msg: line.send_msg,
        mailbox_len: line.mailbox_len,
        heap_size: line.heap_size,
        reductions: line.reductions,
    };
    Ok(Client {
        node: line.node,
        clientid: line.clientid,
        session: 0,
        username: line.username,
        zone: line.zone,
        proto_name: line.proto_name,
        proto_ver: line.proto_ver,
        ip_address: line.ip_address.map(address::to_wire).unwrap_or_default(),
        port: line.port.map(u32::from),
        is_bridge: line.is_bridge,
        mountpoint: line.mountpoint,
        keepalive: line.keepalive,
        clean_start: line.clean_start,
        expiry_interval: line.expiry_interval,
        conn_state: conn_state.into(),
        connected_at_ms: line.connected_at_ms,
        disconnected_at_ms: line.disconnected_at_ms,
        created_at_ms: line.created_at_ms,
        statistics: Some(statistics),
    })
}

fn conn_state(line: &Line) -> Result<ConnState, String> {
    let state = match (line.conn_state, line.connected) {
        (Some(state), _) => state,
        (None, Some(true)) => State::Connected,
        (None, Some(false)) => State::Disconnected,
        (None, None) if line.disconnected_at_ms.is_some() => State::Disconnected,
        (None, None) => State::Connected,
    };
    if line.connected.is_some_and(|connected| connected != (state == State::Connected)) {
        return Err("connected: disagrees with conn_state".to_owned());
    }
    if state == State::Connected && line.disconnected_at_ms.is_some() {
        return Err("disconnected_at_ms: set, expected null for a connected client".to_owned());
    }
    Ok(match state {
        State::Connected => ConnState::Connected,
        State::Idle => ConnState::Idle,
        State::Disconnected => ConnState::Disconnected,
    })
}

/// Says which key the parser's error is about, where it does not say so itself.
fn explain(text: &[u8], error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let message = message.strip_suffix(&place).unwrap_or(&message);
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_slice(text) else {
        return format!("column {}: {message}, expected one JSON object a line", error.column());
    };
    // Every field by itself, beside the required ones: the one that fails is the one to name.
    for (key, value) in fields {
        let mut alone = serde_json::json!({ "node": "n", "clientid": "c" });
        alone[&key] = value;
        if let Err(error) = serde_json::from_value::<Line>(alone) {
            return format!("{key}: {error}");
        }
    }
    message.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_recorded_format_reads_as_written() {
        let client = parse(
            br#"{"node": "a@127.0.0.1", "clientid": "emqx_c_1", "username": null, "proto_name": "MQTT",
            "proto_ver": 4, "zone": "external", "ip_address": "::ffff:127.0.0.1", "port": 3000, "clean_start": false,
            "expiry_interval": 7200, "keepalive": 60, "is_bridge": false, "connected": false, "conn_state":
            "disconnected", "connected_at_ms": 1616033757000, "created_at_ms": 1616030157000, "disconnected_at_ms":
            1616033758000, "mqueue_len": 0}"#,
        )
        .unwrap();
        assert_eq!(
            client,
            Client {
                node: "a@127.0.0.1".into(),
                clientid: "emqx_c_1".into(),
                zone: Some("external".into()),
                proto_name: Some("MQTT".into()),
                proto_ver: Some(4),
                ip_address: vec![127, 0, 0, 1],
                port: Some(3000),
                is_bridge: Some(false),
                keepalive: Some(60),
                clean_start: Some(false),
                expiry_interval: Some(7200),
                conn_state: ConnState::Disconnected.into(),
                connected_at_ms: Some(1_616_033_757_000),
                disconnected_at_ms: Some(1_616_033_758_000),
                created_at_ms: Some(1_616_030_157_000),
                statistics: Some(Statistics { mqueue_len: Some(0), ..Statistics::default() }),
                ..Client::default()
            }
        );
    }

    #[test]
    fn the_connection_state_follows_from_what_is_said() {
        let state = |rest: &str| {
            parse(format!(r#"{{"node":"n","clientid":"c"{rest}}}"#).as_bytes()).map(|row| row.conn_state())
        };
        assert_eq!(state(""), Ok(ConnState::Connected));
        assert_eq!(state(r#","disconnected_at_ms":1"#), Ok(ConnState::Disconnected));
        assert_eq!(state(r#","connected":false"#), Ok(ConnState::Disconnected));
        assert_eq!(state(r#","conn_state":"idle","connected":false"#), Ok(ConnState::Idle));
        assert!(state(r#","conn_state":"idle","connected":true"#).is_err());
        assert!(state(r#","connected":true,"disconnected_at_ms":1"#).is_err());
    }

    #[test]
    fn what_is_not_of_the_format_is_refused_with_key_value_and_expectation() {
        let refused = |text: &str| parse(text.as_bytes()).unwrap_err();
        for (fields, expected) in [
            (r#""port":"x""#, "port: invalid type: string \"x\", expected u16"),
            (r#""port":70000"#, "port: invalid value: integer `70000`, expected u16"),
            (
                r#""conn_state":"gone""#,
                "conn_state: unknown variant `gone`, expected one of `connected`, `idle`, `disconnected`",
            ),
            (r#""ip_address":"10.0.0.256""#, "ip_address: invalid IP address syntax"),
            (r#""inflight":-1"#, "inflight: invalid value: integer `-1`, expected u64"),
            (r#""connected":false,"conn_state":"connected""#, "connected: disagrees with conn_state"),
            (
                r#""disconnected_at_ms":5,"conn_state":"connected""#,
                "disconnected_at_ms: set, expected null for a connected client",
            ),
        ] {
            let text = format!(r#"{{"node":"n","clientid":"c",{fields}}}"#);
            assert_eq!(refused(&text), expected, "{text}");
        }
        assert!(
            refused(r#"{"node":"n","clientid":"c","usernam":"x"}"#)
                .starts_with("usernam: unknown field `usernam`, expected one of `node`, `clientid`")
        );
        assert_eq!(refused(r#"{"clientid":"c"}"#), "missing field `node`");
        assert_eq!(refused(r#"{"node":"","clientid":"c"}"#), "node: \"\", expected a node's name");
        assert!(refused("[1").contains("expected one JSON object a line"));
        assert!(refused(r#"{"node":"n","clientid":"c"} {}"#).contains("trailing characters"));
    }
}
