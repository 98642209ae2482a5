//! An MQTT client that does one thing at a time and counts its own bytes and packets, for tests that compare a
//! broker's figures with what really passed. Speaks 3.1 (level 3), 3.1.1 (4) and 5.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long the broker may take to say something.
const PATIENCE: Duration = Duration::from_secs(15);

/// What CONNECT says.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Protocol level: 3, 4 or 5.
    pub level: u8,
    /// The client identifier.
    pub clientid: String,
    /// Clean Session or Clean Start.
    pub clean: bool,
    /// Keep-alive interval, seconds.
    pub keepalive: u16,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Session Expiry Interval, seconds; MQTT 5 only.
    pub expiry: Option<u32>,
}

impl Connect {
    /// A clean session without a user name.
    #[must_use]
    pub fn new(level: u8, clientid: &str) -> Self {
        let clientid = clientid.to_owned();
        Self { level, clientid, clean: true, keepalive: 60, username: None, password: None, expiry: None }
    }

    /// One that takes up, and leaves behind, a session.
    #[must_use]
    pub fn keep_session(mut self) -> Self {
        self.clean = false;
        self.expiry = (self.level == 5).then_some(600);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut body = text(if self.level == 3 { "MQIsdp" } else { "MQTT" });
        let mut flags = u8::from(self.clean) << 1;
        flags |= u8::from(self.username.is_some()) << 7 | u8::from(self.password.is_some()) << 6;
        body.extend([self.level, flags]);
        body.extend(self.keepalive.to_be_bytes());
        if self.level == 5 {
            match self.expiry {
                None => body.push(0),
                Some(expiry) => {
                    body.extend([5, 0x11]);
                    body.extend(expiry.to_be_bytes());
                }
            }
        }
        body.extend(text(&self.clientid));
        for part in [&self.username, &self.password].into_iter().flatten() {
            body.extend(text(part));
        }
        packet(0x10, &body)
    }
}

/// A connection that has been accepted.
#[derive(Debug)]
pub struct Client<S = TcpStream> {
    stream: S,
    level: u8,
    last_id: u16,
    /// Bytes sent, of MQTT packets.
    pub sent_bytes: u64,
    /// Bytes received, of MQTT packets.
    pub received_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// PUBLISH packets sent.
    pub sent_messages: u64,
    /// Packets received.
    pub received_packets: u64,
    /// PUBLISH packets received.
    pub received_messages: u64,
    /// What CONNACK says.
    pub session_present: bool,
}

impl Client {
    /// Connects over TCP.
    ///
    /// # Panics
    /// If the broker does not accept.
    #[must_use]
    pub fn connect(address: SocketAddr, connect: &Connect) -> Self {
        Self::over(dial(address), connect).unwrap_or_else(|error| panic!("{connect:?}: {error}"))
    }

    /// The client's own end of the connection.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket")
    }
}

/// A TCP connection on which nothing takes for ever.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the broker listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    stream.set_nodelay(true).expect("no delay");
    stream
}

impl<S: Read + Write> Client<S> {
    /// Sends CONNECT over a stream.
    ///
    /// # Errors
    /// If the broker refuses or closes.
    pub fn over(stream: S, connect: &Connect) -> io::Result<Self> {
        let mut client = Self {
            stream,
            level: connect.level,
            last_id: 0,
            sent_bytes: 0,
            received_bytes: 0,
            sent_packets: 0,
            sent_messages: 0,
            received_packets: 0,
            received_messages: 0,
            session_present: false,
        };
        client.send(&connect.bytes())?;
        match client.read()? {
            (0x20, body) if body.get(1) == Some(&0) => client.session_present = body[0] & 1 == 1,
            (first, body) => return Err(io::Error::other(format!("no acceptance: {first:#x} {body:?}"))),
        }
        Ok(client)
    }

    /// Subscribes and awaits the answer.
    ///
    /// # Panics
    /// If the connection fails.
    pub fn subscribe(&mut self, filter: &str, qos: u8) {
        let mut body = self.next_id().to_vec();
        self.push_no_properties(&mut body);
        body.extend(text(filter));
        body.push(qos);
        self.send(&packet(0x82, &body)).expect("SUBSCRIBE");
        self.expect(0x90);
    }

    /// Publishes; with QoS 1 or 2 awaits the whole exchange.
    ///
    /// # Panics
    /// If the connection fails.
    pub fn publish(&mut self, topic: &str, qos: u8, payload: &[u8]) {
        let mut body = text(topic);
        let id = self.next_id();
        if qos > 0 {
            body.extend(id);
        }
        self.push_no_properties(&mut body);
        body.extend(payload);
        self.send(&packet(0x30 | qos << 1, &body)).expect("PUBLISH");
        self.sent_messages += 1;
        match qos {
            0 => {}
            1 => self.expect(0x40),
            _ => {
                self.expect(0x50);
                self.send(&packet(0x62, &id)).expect("PUBREL");
                self.expect(0x70);
            }
        }
    }

    /// Reads a PUBLISH and gives its payload. QoS 1 is acknowledged if asked to; QoS 2 is not.
    ///
    /// # Panics
    /// If none comes.
    #[must_use]
    pub fn receive(&mut self, acknowledge: bool) -> Vec<u8> {
        let (first, body) = self.read().expect("a PUBLISH");
        assert_eq!(first >> 4, 3, "PUBLISH, got {first:#x}");
        self.received_messages += 1;
        let mut at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        if first >> 1 & 3 > 0 {
            let id = [body[at], body[at + 1]];
            at += 2;
            if acknowledge {
                self.send(&packet(0x40, &id)).expect("PUBACK");
            }
        }
        if self.level == 5 {
            at += 1 + usize::from(body[at]);
        }
        body[at..].to_vec()
    }

    /// A ping and its answer.
    ///
    /// # Panics
    /// If the connection fails.
    pub fn ping(&mut self) {
        self.send(&[0xc0, 0]).expect("PINGREQ");
        self.expect(0xd0);
    }

    /// Says goodbye and closes.
    ///
    /// # Panics
    /// If the connection fails.
    pub fn disconnect(mut self) {
        self.send(&[0xe0, 0]).expect("DISCONNECT");
    }

    /// Waits until the broker closes.
    ///
    /// # Panics
    /// If it does not.
    pub fn await_close(&mut self) {
        loop {
            match self.read() {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    panic!("the broker did not close the connection within {PATIENCE:?}")
                }
                Err(_) => return,
            }
        }
    }

    /// PINGREQ, and so many other answers before its own.
    ///
    /// # Panics
    /// If the connection fails.
    pub fn ping_through(&mut self, others: usize) {
        self.send(&[0xc0, 0]).expect("the broker reads");
        for _ in 0..others {
            self.read().expect("an answer");
        }
        self.expect(0xd0);
    }

    /// The last packet before the broker closes the connection.
    pub fn farewell(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut last = None;
        while let Ok(packet) = self.read() {
            last = Some(packet);
        }
        last
    }

    /// Sends bytes and counts them as one packet.
    ///
    /// # Errors
    /// If the connection fails.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()?;
        self.sent_bytes += bytes.len() as u64;
        self.sent_packets += 1;
        Ok(())
    }

    fn expect(&mut self, first: u8) {
        let (got, body) = self.read().unwrap_or_else(|error| panic!("no packet {first:#x}: {error}"));
        assert_eq!(got, first, "{got:#x} {body:?}");
    }

    /// The next packet: first byte and body.
    fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let first = self.read_byte()?;
        let (mut length, mut shift) = (0_usize, 0);
        loop {
            let byte = self.read_byte()?;
            length |= usize::from(byte & 127) << shift;
            shift += 7;
            if byte & 128 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        self.received_bytes += length as u64;
        self.received_packets += 1;
        Ok((first, body))
    }

    fn read_byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        self.received_bytes += 1;
        Ok(byte[0])
    }

    fn next_id(&mut self) -> [u8; 2] {
        self.last_id += 1;
        self.last_id.to_be_bytes()
    }

    fn push_no_properties(&self, body: &mut Vec<u8>) {
        if self.level == 5 {
            body.push(0);
        }
    }
}

/// A control packet.
#[must_use]
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length % 128).unwrap_or_default();
        length /= 128;
        bytes.push(if length > 0 { low | 128 } else { low });
        if length == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

/// A string as it stands in packets.
///
/// # Panics
/// If it is longer than MQTT allows.
#[must_use]
pub fn text(text: &str) -> Vec<u8> {
    let mut bytes =
        u16::try_from(text.len()).expect("a string of at most 65,535 bytes").to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_as_the_standard_writes_them() {
        let connect = Connect { username: Some("u".into()), ..Connect::new(3, "c") };
        assert_eq!(connect.bytes(), b"\x10\x12\0\x06MQIsdp\x03\x82\0\x3c\0\x01c\0\x01u");
        let connect = Connect::new(5, "c").keep_session();
        assert_eq!(connect.bytes(), b"\x10\x13\0\x04MQTT\x05\0\0\x3c\x05\x11\0\0\x02\x58\0\x01c");
        assert_eq!(packet(0x30, &[0; 321])[..3], [0x30, 0xc1, 2]);
        assert_eq!(packet(0xc0, &[]), [0xc0, 0]);
    }
}
