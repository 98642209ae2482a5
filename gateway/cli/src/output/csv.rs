//! CSV as the gateway's export writes it: RFC 4180, lines that end with CRLF, empty where a value is null or absent.

use serde_json::Value;

use crate::api::answer::Object;

/// The fields of a client in the order of the gateway, which the columns have unless others are named.
pub(crate) const CLIENT_FIELDS: [&str; 37] = [
    "node",
    "clientid",
    "username",
    "proto_name",
    "proto_ver",
    "ip_address",
    "port",
    "is_bridge",
    "zone",
    "mountpoint",
    "keepalive",
    "clean_start",
    "expiry_interval",
    "connected",
    "connected_at",
    "disconnected_at",
    "created_at",
    "subscriptions_cnt",
    "max_subscriptions",
    "inflight",
    "max_inflight",
    "mqueue_len",
    "max_mqueue",
    "mqueue_dropped",
    "awaiting_rel",
    "max_awaiting_rel",
    "recv_oct",
    "recv_cnt",
    "recv_pkt",
    "recv_msg",
    "send_oct",
    "send_cnt",
    "send_pkt",
    "send_msg",
    "mailbox_len",
    "heap_size",
    "reductions",
];

/// The line of the names.
pub(crate) fn header(fields: &[String], out: &mut String) {
    line(fields.iter().map(|field| Some(field.as_str().into())), out);
}

/// A row's line.
pub(crate) fn row(fields: &[String], row: &Object, out: &mut String) {
    line(fields.iter().map(|field| row.get(field).and_then(cell)), out);
}

fn cell(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn line(cells: impl Iterator<Item = Option<String>>, out: &mut String) {
    let begin = out.len();
    for (at, cell) in cells.enumerate() {
        if at > 0 {
            out.push(',');
        }
        let cell = cell.unwrap_or_default();
        if cell.contains([',', '"', '\r', '\n']) {
            out.push('"');
            out.push_str(&cell.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(&cell);
        }
    }
    // Many readers skip empty lines.
    if out.len() == begin {
        out.push_str("\"\"");
    }
    out.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_stand_where_they_are_needed() {
        let object: Object =
            serde_json::from_str(r#"{"a":"x,\"y\"","b":null,"c":7,"d":true,"e":"l\nm"}"#).unwrap();
        let fields: Vec<String> = ["a", "b", "c", "d", "e", "none"].map(str::to_owned).into();
        let mut out = String::new();
        header(&fields, &mut out);
        row(&fields, &object, &mut out);
        assert_eq!(out, "a,b,c,d,e,none\r\n\"x,\"\"y\"\"\",,7,true,\"l\nm\",\r\n");
        out.clear();
        row(&fields[1..2], &object, &mut out);
        assert_eq!(out, "\"\"\r\n");
    }
}
