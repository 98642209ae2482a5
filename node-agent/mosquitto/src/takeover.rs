//! Ends the session of a client that is away, as only a client can: by connecting under its id with a clean session.
//!
//! The plugin lets itself in, with a password that is good for this once. It is refused when the client is back by then:
//! its new connection is not the one that was to be kicked, or it is found connected and kicked like any other.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use rollcall_node_agent::broker::{BrokerError, SessionRef};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::plugin::Shared;
use crate::table::OWN_USER;

/// CONNACK of MQTT 3.1.1 up to its return code, which follows.
const CONNACK: [u8; 3] = [0x20, 0x02, 0x00];

/// Not authorised.
const REFUSED: u8 = 5;

const DISCONNECT: [u8; 2] = [0xe0, 0x00];

/// Ends the session, unless the client is back.
pub(crate) async fn end_session(
    shared: &Shared,
    address: SocketAddr,
    session: &SessionRef,
    until: Instant,
) -> Result<(), BrokerError> {
    let SessionRef { clientid, session } = session;
    let password = format!("{:032x}", rand::random::<u128>());
    shared.table().allow_takeover(clientid, *session, password.clone());
    let outcome = timeout_at(until, connect(address, clientid, &password)).await;
    let is_over = matches!(outcome, Ok(Ok(Answer::Accepted)));
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    shared.table().end_takeover(clientid, *session, is_over, now_ms);
    shared.news.notify_one();
    match outcome {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(BrokerError::Refused(format!(
            "the session of a client that is away cannot be ended by {address}: {error}"
        ))),
        Err(_) => Err(BrokerError::Late(format!("no answer from {address}"))),
    }
}

enum Answer {
    Accepted,
    /// The client is back.
    Refused,
}

async fn connect(address: SocketAddr, clientid: &str, password: &str) -> std::io::Result<Answer> {
    let invalid = |message: String| std::io::Error::new(std::io::ErrorKind::InvalidData, message);
    let mut stream = TcpStream::connect(address).await?;
    let packet = connect_packet(clientid, password)
        .ok_or_else(|| invalid("the client id is longer than MQTT allows".to_owned()))?;
    stream.write_all(&packet).await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    let [beginning @ .., code] = answer;
    if beginning != CONNACK {
        return Err(invalid("it does not speak MQTT".to_owned()));
    }
    match code {
        0 => {
            stream.write_all(&DISCONNECT).await?;
            // When it has closed its end it is done with the session.
            let mut rest = [0; 16];
            while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
            Ok(Answer::Accepted)
        }
        REFUSED => Ok(Answer::Refused),
        code => Err(invalid(format!("return code {code}"))),
    }
}

/// CONNECT of MQTT 3.1.1 with a clean session. `None` if the id is too long for it.
fn connect_packet(clientid: &str, password: &str) -> Option<Vec<u8>> {
    /// User name, password, clean session.
    const FLAGS: u8 = 0b1100_0010;
    const KEEPALIVE: u16 = 10;
    let mut body = b"\x00\x04MQTT\x04".to_vec();
    body.push(FLAGS);
    body.extend(KEEPALIVE.to_be_bytes());
    for text in [clientid, OWN_USER, password] {
        body.extend(u16::try_from(text.len()).ok()?.to_be_bytes());
        body.extend(text.as_bytes());
    }
    let mut packet = vec![0x10];
    let mut length = body.len();
    loop {
        let more = if length > 127 { 0x80 } else { 0 };
        packet.push((length % 128) as u8 | more);
        length /= 128;
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_is_what_the_standard_says() {
        let packet = connect_packet("ab", "pw").unwrap();
        let mut expected = vec![0x10, 10 + 4 + 16 + 4, 0, 4];
        expected.extend(b"MQTT\x04\xc2\x00\x0a\x00\x02ab\x00\x0erollcall-agent\x00\x02pw");
        assert_eq!(packet, expected);
        let long = connect_packet(&"x".repeat(200), "pw").unwrap();
        // 10 + 202 + 16 + 4 = 232 = 0xe8: two bytes, low seven bits first.
        assert_eq!(long[..3], [0x10, 0xe8, 0x01]);
        assert!(connect_packet(&"x".repeat(70_000), "pw").is_none());
    }
}
