//! Kinds of values, each with what is expected of it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

/// A text that is no such value.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{value:?}: expected {expected}")]
pub struct InvalidValue {
    value: String,
    expected: &'static str,
}

impl InvalidValue {
    fn new(value: &str, expected: &'static str) -> Self {
        Self { value: value.to_owned(), expected }
    }
}

macro_rules! from_text {
    ($($kind:ty),*) => {$(
        impl TryFrom<String> for $kind {
            type Error = InvalidValue;

            fn try_from(text: String) -> Result<Self, InvalidValue> {
                text.parse()
            }
        }
    )*};
}

from_text!(ListenAddress, NodeAddress, BasePath, Span, LogFormat, MetricsAccess);

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ListenAddress(pub SocketAddr);

impl Default for ListenAddress {
    fn default() -> Self {
        Self(SocketAddr::from(([127, 0, 0, 1], 8081)))
    }
}

impl FromStr for ListenAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        text.parse().map(Self).map_err(|_| {
            InvalidValue::new(text, "an IP address and a port, such as 127.0.0.1:8081 or [::1]:8081")
        })
    }
}

/// Where an agent listens: a name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct NodeAddress(pub String);

impl FromStr for NodeAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let is_host = |host: &str| match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
            }
        };
        let is_port = |port: &str| {
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
        };
        match text.rsplit_once(':') {
            Some((host, port)) if is_host(host) && is_port(port) => Ok(Self(text.to_owned())),
            _ => Err(InvalidValue::new(text, "host:port of an agent, such as 10.0.0.7:7070 or [::1]:7070")),
        }
    }
}

/// What the API's paths begin with: nothing, or segments each behind a slash.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct BasePath(String);

impl BasePath {
    /// Empty, or with a leading and without a trailing slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for BasePath {
    fn default() -> Self {
        Self("/api/v4".to_owned())
    }
}

impl FromStr for BasePath {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let path = text.strip_suffix('/').unwrap_or(text);
        let is_segment = |segment: &str| {
            !segment.is_empty()
                && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
        };
        let is_path = match path.strip_prefix('/') {
            Some(rest) => rest.split('/').all(is_segment),
            None => text == "/",
        };
        if !is_path {
            return Err(InvalidValue::new(
                text,
                "a path of letters, digits, -._~ and slashes, such as /api/v4, or / alone",
            ));
        }
        Ok(Self(path.to_owned()))
    }
}

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

/// No length of time in a configuration is sensibly longer.
const LONGEST_SPAN: Duration = Duration::from_secs(24 * 3600);

impl FromStr for Span {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let span = humantime::parse_duration(text).ok().filter(|span| *span <= LONGEST_SPAN);
        span.map(Self).ok_or_else(|| {
            InvalidValue::new(text, "a time with its unit, at most 24h, such as 250ms, 5s or 1m 30s")
        })
    }
}

/// A number of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub struct Count(pub usize);

const COUNT: &str = "an integer from 0 to 268435455";

impl TryFrom<i64> for Count {
    type Error = InvalidValue;

    fn try_from(number: i64) -> Result<Self, InvalidValue> {
        // More of anything than that is a mistake, and tokio's semaphores could not hold it.
        let count = usize::try_from(number).ok().filter(|count| *count < 1 << 28);
        count.map(Self).ok_or_else(|| InvalidValue::new(&number.to_string(), COUNT))
    }
}

impl FromStr for Count {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let number: i64 = text.parse().map_err(|_| InvalidValue::new(text, COUNT))?;
        number.try_into()
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(InvalidValue::new(text, "text or json")),
        }
    }
}

/// Who may scrape the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum MetricsAccess {
    /// Whoever has a key, of any role.
    #[default]
    Key,
    /// Everybody.
    Open,
}

impl FromStr for MetricsAccess {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "key" => Ok(Self::Key),
            "open" => Ok(Self::Open),
            _ => Err(InvalidValue::new(text, "key or open")),
        }
    }
}

/// A key as `ID:SECRET:ROLE`. It is read later, so that no error of a parser ever shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyArgument(String);

impl KeyArgument {
    /// The text, with the secret in it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for KeyArgument {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for KeyArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyArgument(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_addresses() {
        for text in ["127.0.0.1:7070", "[::1]:1", "node-1.example.org:65535", "a_b:7070"] {
            assert_eq!(text.parse(), Ok(NodeAddress(text.into())));
        }
        for text in [
            "",
            ":7070",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            "::1:7070",
            "[::1]",
            "http://h:1",
            "a b:1",
            "h/x:1",
        ] {
            assert!(text.parse::<NodeAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn base_paths() {
        for (text, path) in [("/api/v4", "/api/v4"), ("/api/v4/", "/api/v4"), ("/", ""), ("/x", "/x")] {
            assert_eq!(text.parse::<BasePath>().unwrap().as_str(), path);
        }
        for text in ["", "api", "//", "/a//b", "/a b", "/a?b", "/%20", "/a//"] {
            assert!(text.parse::<BasePath>().is_err(), "{text}");
        }
    }

    #[test]
    fn spans() {
        for (text, millis) in [("0s", 0), ("250ms", 250), ("5s", 5000), ("2m", 120_000), ("24h", 86_400_000)]
        {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(millis))));
        }
        for text in ["", "5", "s", "-1s", "25h", "99999999999999999999s", "18446744073709551615h", "5é"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn counts() {
        assert_eq!("268435455".parse(), Ok(Count(268_435_455)));
        for text in ["", "-1", "268435456", "1.5", "many", "99999999999999999999"] {
            assert!(text.parse::<Count>().is_err(), "{text}");
        }
    }
}
