//! An MQTT client that does exactly what it is told, over any stream, and knows how many bytes passed.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What to say in CONNECT.
#[derive(Clone)]
pub(crate) struct Connect {
    pub(crate) name: &'static str,
    pub(crate) level: u8,
    pub(crate) clientid: String,
    pub(crate) clean: bool,
    pub(crate) keepalive: u16,
    pub(crate) user: Option<(String, String)>,
    /// MQTT 5 properties, without their length.
    pub(crate) properties: Vec<u8>,
}

impl Connect {
    pub(crate) fn v31(clientid: &str) -> Self {
        Self { name: "MQIsdp", level: 3, ..Self::v4(clientid) }
    }

    pub(crate) fn v4(clientid: &str) -> Self {
        Self {
            name: "MQTT",
            level: 4,
            clientid: clientid.to_owned(),
            clean: true,
            keepalive: 60,
            user: None,
            properties: Vec::new(),
        }
    }

    pub(crate) fn v5(clientid: &str) -> Self {
        Self { level: 5, ..Self::v4(clientid) }
    }

    pub(crate) fn keep_session(self) -> Self {
        Self { clean: false, ..self }
    }

    /// MQTT 5 Session Expiry Interval, seconds.
    pub(crate) fn expiry(mut self, seconds: u32) -> Self {
        self.properties.push(0x11);
        self.properties.extend(seconds.to_be_bytes());
        self
    }

    pub(crate) fn login(self, user: &str, password: &str) -> Self {
        Self { user: Some((user.to_owned(), password.to_owned())), ..self }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut body = text(self.name);
        body.push(self.level);
        let login = if self.user.is_some() { 0b1100_0000 } else { 0 };
        body.push(login | if self.clean { 0b10 } else { 0 });
        body.extend(self.keepalive.to_be_bytes());
        if self.level == 5 {
            body.push(u8::try_from(self.properties.len()).unwrap());
            body.extend(&self.properties);
        }
        body.extend(text(&self.clientid));
        if let Some((user, password)) = &self.user {
            body.extend(text(user));
            body.extend(text(password));
        }
        packet(0x10, body)
    }
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

pub(crate) fn packet(first: u8, body: Vec<u8>) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length % 128).unwrap();
        length /= 128;
        bytes.push(if length > 0 { low | 128 } else { low });
        if length == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

pub(crate) struct Raw<S> {
    stream: S,
    level: u8,
    /// Bytes given to the stream, and taken from it.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Packets taken from the stream.
    pub(crate) packets: u64,
    /// From CONNACK.
    pub(crate) session_present: bool,
    pub(crate) connack: u8,
}

impl Raw<TcpStream> {
    /// Connects over TCP and completes CONNECT.
    pub(crate) async fn tcp(address: SocketAddr, connect: &Connect) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream, connect).await.expect("the broker accepts")
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    /// Sends CONNECT and reads CONNACK; `None` if the broker closes instead.
    pub(crate) async fn over(stream: S, connect: &Connect) -> Option<Self> {
        let mut raw = Self {
            stream,
            level: connect.level,
            sent: 0,
            received: 0,
            packets: 0,
            session_present: false,
            connack: 0,
        };
        raw.send(&connect.bytes()).await;
        let (first, body) = raw.read().await?;
        assert_eq!(first, 0x20, "CONNACK");
        raw.session_present = body[0] & 1 == 1;
        raw.connack = body[1];
        Some(raw)
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
        self.sent += bytes.len() as u64;
    }

    /// The next packet: first byte and body. `None` when the connection is closed. Panics after 8 s.
    pub(crate) async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        timeout(Duration::from_secs(8), self.read_packet()).await.expect("a packet within 8 s")
    }

    async fn read_packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.stream.read_u8().await.ok()?;
        self.received += 1;
        let (mut length, mut shift) = (0_usize, 0);
        loop {
            let byte = self.stream.read_u8().await.ok()?;
            self.received += 1;
            length |= usize::from(byte & 127) << shift;
            shift += 7;
            if byte & 128 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        self.received += length as u64;
        self.packets += 1;
        Some((first, body))
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) {
        let mut body = vec![0, 1];
        if self.level == 5 {
            body.push(0);
        }
        body.extend(text(filter));
        body.push(qos);
        self.send(&packet(0x82, body)).await;
        assert_eq!(self.read().await.unwrap().0, 0x90, "SUBACK");
    }

    /// Sends PUBLISH and, for QoS 1 and 2, awaits the whole exchange.
    pub(crate) async fn publish(&mut self, topic: &str, qos: u8, id: u16, payload: &[u8]) {
        let mut body = text(topic);
        if qos > 0 {
            body.extend(id.to_be_bytes());
        }
        if self.level == 5 {
            body.push(0);
        }
        body.extend(payload);
        self.send(&packet(0x30 | qos << 1, body)).await;
        match qos {
            0 => {}
            1 => assert_eq!(self.read().await.unwrap().0, 0x40, "PUBACK"),
            _ => {
                assert_eq!(self.read().await.unwrap().0, 0x50, "PUBREC");
                self.send(&packet(0x62, id.to_be_bytes().to_vec())).await;
                assert_eq!(self.read().await.unwrap().0, 0x70, "PUBCOMP");
            }
        }
    }

    /// Reads PUBLISH, acknowledges QoS 1 if asked to, and gives QoS and payload.
    pub(crate) async fn receive(&mut self, acknowledge: bool) -> (u8, Vec<u8>) {
        let (first, body) = self.read().await.expect("a PUBLISH");
        assert_eq!(first >> 4, 3, "PUBLISH");
        let qos = first >> 1 & 3;
        let mut at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        if qos > 0 {
            let id = [body[at], body[at + 1]];
            at += 2;
            if acknowledge && qos == 1 {
                self.send(&packet(0x40, id.to_vec())).await;
            }
        }
        if self.level == 5 {
            at += 1 + usize::from(body[at]);
        }
        (qos, body[at..].to_vec())
    }

    pub(crate) async fn ping(&mut self) {
        self.send(&[0xc0, 0]).await;
        assert_eq!(self.read().await.unwrap().0, 0xd0, "PINGRESP");
    }

    /// Whether the connection still stands: a ping is answered.
    pub(crate) async fn is_open(&mut self) -> bool {
        self.stream.write_all(&[0xc0, 0]).await.is_ok()
            && self.read().await.is_some_and(|(first, _)| first == 0xd0)
    }

    pub(crate) async fn disconnect(mut self) {
        self.send(&[0xe0, 0]).await;
        let _ = self.stream.shutdown().await;
    }

    /// Waits until the broker closes the connection, which it must within 8 s.
    pub(crate) async fn closed(&mut self) {
        while self.read().await.is_some() {}
    }
}
