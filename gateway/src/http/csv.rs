//! Rows as CSV, RFC 4180: a header, lines that end with CRLF, quotes where they are needed.
//!
//! What is null or absent in a row is empty. A line of one empty field is written `""`, because many readers skip empty
//! lines.

use std::convert::Infallible;
use std::fmt::Display;
use std::io::Write;

use super::row::{Fields, Row, Value};

/// Writes the line of the keys.
pub(super) fn header(fields: Fields, out: &mut Vec<u8>) {
    for (at, name) in fields.names().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a client's line.
pub(super) fn row(row: Row<'_>, out: &mut Vec<u8>) {
    let begin = out.len();
    let mut is_first = true;
    let Ok(()) = row.each(|_, value| {
        if !std::mem::take(&mut is_first) {
            out.push(b',');
        }
        cell(value, out);
        Ok::<_, Infallible>(())
    });
    if out.len() == begin {
        out.extend_from_slice(b"\"\"");
    }
    out.extend_from_slice(b"\r\n");
}

fn cell(value: Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Absent | Value::Null => {}
        Value::Text(value) => text(value, out),
        Value::Number(number) => plain(&number, out),
        Value::Flag(flag) => plain(&flag, out),
        Value::Address(address) => plain(&address, out),
        Value::Time(time) => plain(&time, out),
    }
}

/// What never needs quotes.
fn plain(value: &impl Display, out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = write!(out, "{value}");
}

fn text(value: &str, out: &mut Vec<u8>) {
    let bytes = value.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b',' | b'"' | b'\r' | b'\n')) {
        out.extend_from_slice(bytes);
        return;
    }
    out.push(b'"');
    for (at, part) in value.split('"').enumerate() {
        if at > 0 {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rollcall_proto::v1::{Client, ConnState, Statistics};

    use super::*;

    fn written(client: &Client, fields: &str) -> String {
        let fields = Fields::parse(fields).unwrap();
        let mut out = Vec::new();
        header(fields, &mut out);
        row(Row::of(client, fields), &mut out);
        String::from_utf8(out).unwrap()
    }

    /// Reads CSV as RFC 4180 has it.
    fn read(csv: &str) -> Vec<Vec<String>> {
        let mut lines = vec![];
        let mut line = vec![];
        let mut left = csv;
        while !left.is_empty() {
            let mut cell = String::new();
            if let Some(mut quoted) = left.strip_prefix('"') {
                loop {
                    let (part, rest) = quoted.split_once('"').unwrap();
                    cell += part;
                    let Some(more) = rest.strip_prefix('"') else {
                        left = rest;
                        break;
                    };
                    cell.push('"');
                    quoted = more;
                }
            } else {
                let end = left.find([',', '\r']).unwrap();
                cell += &left[..end];
                assert!(!cell.contains(['"', '\n']), "{csv}");
                left = &left[end..];
            }
            line.push(cell);
            if let Some(rest) = left.strip_prefix(',') {
                left = rest;
            } else {
                left = left.strip_prefix("\r\n").unwrap();
                lines.push(std::mem::take(&mut line));
            }
        }
        lines
    }

    #[test]
    fn every_kind_of_value() {
        let client = Client {
            clientid: "a,\"b\"\r\nc".into(),
            ip_address: vec![10, 0, 0, 1],
            port: Some(1883),
            is_bridge: Some(false),
            conn_state: ConnState::Connected.into(),
            created_at_ms: Some(0),
            disconnected_at_ms: Some(0),
            statistics: Some(Statistics { recv_oct: Some(u64::MAX), ..Statistics::default() }),
            ..Client::default()
        };
        let fields = "clientid,username,ip_address,port,is_bridge,zone,connected,disconnected_at,created_at,recv_oct,\
                      heap_size";
        assert_eq!(
            written(&client, fields),
            "clientid,username,ip_address,port,is_bridge,zone,connected,disconnected_at,created_at,recv_oct,heap_size\r\n\
             \"a,\"\"b\"\"\r\nc\",undefined,10.0.0.1,1883,false,,true,,1970-01-01 00:00:00,18446744073709551615,\r\n"
        );
    }

    #[test]
    fn no_line_is_empty() {
        assert_eq!(written(&Client::default(), "zone"), "zone\r\n\"\"\r\n");
        assert_eq!(written(&Client::default(), "zone,keepalive"), "zone,keepalive\r\n,\r\n");
    }

    proptest! {
        #[test]
        fn any_text_is_read_back(clientid in "[a,\"\r\n ü]{0,8}", zone in "[a,\"\r\n]{0,8}", port in 0..9_u32) {
            let client =
                Client { clientid: clientid.clone(), zone: Some(zone.clone()), port: Some(port), ..Client::default() };
            let lines = read(&written(&client, "clientid,port,zone"));
            prop_assert_eq!(&lines[1], &[clientid, port.to_string(), zone]);
            prop_assert_eq!(lines.len(), 2);
        }
    }
}
