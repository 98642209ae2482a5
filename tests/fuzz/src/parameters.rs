//! Query strings taken apart and written by code that is not the gateway's.

use rollcall_proto::v1::{ConnState, Filter};
use rollcall_proto::{Order, address};

/// The parts between ampersands, empty ones left out.
pub fn parts(text: &str) -> Vec<&str> {
    text.split('&').filter(|part| !part.is_empty()).collect()
}

/// Name and value of a part, as they stand there.
pub fn name_and_value(part: &str) -> (&str, &str) {
    part.split_once('=').unwrap_or((part, ""))
}

/// What an encoded name or value stands for, if it is text.
pub fn decode(raw: &str) -> Option<String> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = raw.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => digit(bytes.next())? << 4 | digit(bytes.next())?,
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

/// Every byte as a percent sign and two digits.
pub fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A query string while it is written.
#[derive(Clone, Debug, Default)]
pub struct Written(String);

impl Written {
    /// Adds a parameter.
    pub fn add(&mut self, name: &str, value: impl ToString) {
        self.0 +=
            &format!("{}{name}={}", if self.0.is_empty() { "" } else { "&" }, encode(&value.to_string()));
    }

    /// Adds a parameter for each value.
    pub fn each<T: ToString>(&mut self, name: &str, values: impl IntoIterator<Item = T>) {
        for value in values {
            self.add(name, value);
        }
    }

    /// Adds what a filter says.
    pub fn filter(&mut self, filter: &Filter) {
        self.each("clientid", &filter.clientid);
        self.each("username", &filter.username);
        self.each("zone", &filter.zone);
        self.each("proto_name", &filter.proto_name);
        self.each("proto_ver", &filter.proto_ver);
        self.each("ip_address", filter.ip_address.iter().filter_map(|bytes| address::from_wire(bytes)));
        self.each("conn_state", filter.conn_state.iter().map(|state| state_name(*state)));
        self.each("clean_start", &filter.clean_start);
        self.each("_like_clientid", &filter.like_clientid);
        self.each("_like_username", &filter.like_username);
        self.each("_gte_created_at", filter.gte_created_at_ms.map(seconds));
        self.each("_lte_created_at", filter.lte_created_at_ms.map(seconds));
        self.each("_gte_connected_at", filter.gte_connected_at_ms.map(seconds));
        self.each("_lte_connected_at", filter.lte_connected_at_ms.map(seconds));
    }

    /// Adds an order.
    pub fn order(&mut self, order: Order) {
        self.add("_sort", order.field.name());
        self.add("_order", if order.descending { "desc" } else { "asc" });
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// What a connection's state is called.
pub fn state_name(state: i32) -> &'static str {
    match ConnState::try_from(state) {
        Ok(ConnState::Connected) => "connected",
        Ok(ConnState::Idle) => "idle",
        Ok(ConnState::Disconnected) => "disconnected",
        Ok(ConnState::Unspecified) | Err(_) => "no state of this contract",
    }
}

/// What milliseconds are read from; the ends stand for everything beyond.
pub fn seconds(ms: i64) -> String {
    match ms {
        i64::MAX => "9".repeat(30),
        i64::MIN => format!("-{}", "9".repeat(30)),
        ms => (ms / 1000).to_string(),
    }
}
