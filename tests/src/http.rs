//! An HTTP/1.1 client of one request a connection, which sends what it is told byte for byte.
//!
//! Libraries refuse or repair targets such as `/clients/%zz` or `//clients`; a test wants to send just those.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// Longer than any deadline of the gateway.
const PATIENCE: Duration = Duration::from_secs(30);

/// All but letters, digits and `-._~` of a query value or a path segment.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What came back.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, without its transfer encoding.
    pub body: Vec<u8>,
}

impl Response {
    /// A header's first value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("status {}, body is not JSON ({error}): {text}", self.status))
    }

    /// The rows of a 200.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn rows(&self) -> Vec<Value> {
        let body = self.json();
        assert_eq!((self.status, &body["code"]), (200, &Value::from(0)), "{body}");
        body["data"].as_array().unwrap_or_else(|| panic!("data is no array: {body}")).clone()
    }

    /// The code of the body.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn code(&self) -> i64 {
        let body = self.json();
        body["code"].as_i64().unwrap_or_else(|| panic!("no code: {body}"))
    }

    /// The message of an error.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn message(&self) -> String {
        let body = self.json();
        let message = body["message"].as_str().filter(|message| !message.is_empty());
        message.unwrap_or_else(|| panic!("an error without a message: {body}")).to_owned()
    }
}

/// Percent-encodes all that could mean something in a path segment or a query value.
#[must_use]
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// The value of an `Authorization` header.
#[must_use]
pub fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

/// Sends one request and reads its response. `target` is sent as it is.
///
/// # Panics
/// If no whole response comes back.
#[must_use]
pub fn request(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    send(address, head(address, method, target, headers).as_bytes()).unwrap_or_else(|error| {
        let shown: String = target.chars().take(200).collect();
        panic!("{method} {shown}: {error}")
    })
}

/// A request without a body.
#[must_use]
pub fn head(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head + "\r\n"
}

/// Sends bytes, whatever they are, and reads one response.
///
/// # Errors
/// If the connection fails or what comes back is no HTTP response.
pub fn send(address: SocketAddr, bytes: &[u8]) -> io::Result<Response> {
    send_over(&mut connect(address)?, bytes)
}

/// A connection on which nothing takes for ever.
///
/// # Errors
/// If there is none.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// As [`send`], over a connection of any kind.
///
/// # Errors
/// As [`send`].
pub fn send_over(stream: &mut (impl io::Read + io::Write), bytes: &[u8]) -> io::Result<Response> {
    // A server may refuse, and close, before it has read everything.
    let written = stream.write_all(bytes);
    let response = read(stream);
    match written {
        Err(error) if response.is_err() => Err(error),
        _ => response,
    }
}

/// Reads one response, which ends by its length, its last chunk, or the end of the connection.
fn read(stream: &mut impl io::Read) -> io::Result<Response> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        if let Some(response) = parse(&bytes, false)? {
            return Ok(response);
        }
        let length = stream.read(&mut chunk)?;
        if length == 0 {
            let seen = || String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
            return parse(&bytes, true)?.ok_or_else(|| invalid(&format!("cut off after {:?}", seen())));
        }
        bytes.extend_from_slice(&chunk[..length]);
    }
}

/// The response in these bytes, if it is whole; `ended` says that no more will come.
fn parse(bytes: &[u8], ended: bool) -> io::Result<Option<Response>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let body_start = match head.parse(bytes).map_err(|error| invalid(&error.to_string()))? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers =
        head.headers.iter().map(|header| (header.name.to_lowercase(), text(header.value))).collect();
    let mut response = Response { status: head.code.unwrap_or_default(), headers, body: Vec::new() };
    let rest = &bytes[body_start..];
    let length = response.header("content-length").and_then(|length| length.parse::<usize>().ok());
    let body = if response.header("transfer-encoding") == Some("chunked") {
        unchunk(rest)?
    } else if let Some(length) = length {
        rest.get(..length).map(<[u8]>::to_vec)
    } else {
        ended.then(|| rest.to_vec())
    };
    Ok(body.map(|body| {
        response.body = body;
        response
    }))
}

/// The body in these chunks, if the last one is there.
fn unchunk(mut rest: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        match httparse::parse_chunk_size(rest).map_err(|_| invalid("bad chunk size"))? {
            httparse::Status::Partial => return Ok(None),
            httparse::Status::Complete((_, 0)) => return Ok(Some(body)),
            httparse::Status::Complete((start, length)) => {
                let end = start + usize::try_from(length).map_err(|_| invalid("huge chunk"))?;
                let Some(data) = rest.get(start..end) else { return Ok(None) };
                body.extend_from_slice(data);
                rest = rest.get(end + 2..).unwrap_or_default();
            }
        }
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_end_by_length_by_chunk_or_by_connection() {
        let by_length = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab";
        let by_chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n";
        let by_end = b"HTTP/1.1 200 OK\r\n\r\nab";
        for (bytes, ended) in [(&by_length[..], false), (&by_chunk[..], false), (&by_end[..], true)] {
            assert_eq!(parse(bytes, ended).unwrap().unwrap().body, b"ab");
            assert!(parse(&bytes[..20], false).unwrap().is_none());
        }
        assert!(parse(by_end, false).unwrap().is_none());
        assert!(parse(&by_chunk[..55], false).unwrap().is_none());
        assert!(parse(b"nonsense\r\n\r\n", false).is_err());
    }

    #[test]
    fn encoding_leaves_nothing_that_means_something() {
        assert_eq!(encode("a/b+%ü .."), "a%2Fb%2B%25%C3%BC%20..");
    }
}
