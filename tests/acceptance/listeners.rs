//! TLS, WebSocket and both: clients are listed with what is true of them, whatever carries them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rollcall_tests::mqtt::{Client, Connect, dial};
use rollcall_tests::sandbox::{Agent, Cluster};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message, WebSocket};

/// MQTT in WebSocket messages, as a byte stream.
struct InMessages<S> {
    socket: WebSocket<S>,
    read: Vec<u8>,
}

impl<S: Read + Write> InMessages<S> {
    fn open(stream: S, address: SocketAddr) -> Self {
        let mut request = format!("ws://{address}/mqtt").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "mqtt".parse().unwrap());
        let (socket, _) =
            tungstenite::client(request, stream).unwrap_or_else(|_| panic!("no WebSocket at {address}"));
        Self { socket, read: Vec::new() }
    }
}

fn other(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}

impl<S: Read + Write> Read for InMessages<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read.is_empty() {
            match self.socket.read().map_err(other)? {
                Message::Binary(bytes) => self.read = bytes.to_vec(),
                Message::Close(_) => return Ok(0),
                _ => {}
            }
        }
        let length = buffer.len().min(self.read.len());
        buffer[..length].copy_from_slice(&self.read[..length]);
        self.read.drain(..length);
        Ok(length)
    }
}

impl<S: Read + Write> Write for InMessages<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(Message::binary(bytes.to_vec())).map_err(other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush().map_err(other)
    }
}

fn encrypted(address: SocketAddr, config: &Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), dial(address))
}

/// One row's identity and traffic; then a kick.
fn check<S: Read + Write>(cluster: &Cluster, zone: &str, mut client: Client<S>, overhead: bool) {
    let clientid = format!("by {zone}");
    client.subscribe("t", 0);
    client.publish("t", 0, b"there and back");
    assert_eq!(client.receive(true), b"there and back");
    let (sent, received) = (client.sent_bytes, client.received_bytes);
    // TLS and WebSocket add bytes of their own.
    let passed = |counted: &Value, own: u64| {
        counted.as_u64().is_some_and(|counted| if overhead { counted > own } else { counted == own })
    };
    let row = cluster.gateway.row_when(&clientid, |row| {
        row["recv_pkt"] == 3 && passed(&row["recv_oct"], sent) && passed(&row["send_oct"], received)
    });
    assert_eq!((&row["zone"], &row["ip_address"]), (&json!(zone), &json!("127.0.0.1")), "{row}");
    let found = cluster.gateway.get(&format!("/clients?zone={zone}")).rows();
    assert_eq!(found.iter().map(|row| &row["clientid"]).collect::<Vec<_>>(), [&clientid]);
    assert_eq!(cluster.gateway.kick(&clientid).status, 200);
    client.await_close();
    assert_eq!(cluster.gateway.find(&clientid), [] as [Value; 0]);
}

#[test]
fn every_transport_brings_clients_that_are_listed_and_kicked() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(path("cert.pem"), key.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), key.signing_key.serialize_pem()).unwrap();
    let tls = format!("tls = {{ cert = {:?}, key = {:?} }}\n", path("cert.pem"), path("key.pem"));
    let mut config = String::new();
    for (zone, protocol, tls) in
        [("tcp", "tcp", ""), ("tls", "tcp", &tls), ("ws", "websocket", ""), ("wss", "websocket", &tls)]
    {
        config += &format!(
            "[[embedded.listeners]]\naddress = \"127.0.0.1:0\"\nzone = \"{zone}\"\nprotocol = \"{protocol}\"\n{tls}"
        );
    }
    std::fs::write(path("agent.toml"), config).unwrap();
    let agent = Agent::start("a@127.0.0.1", &["--config", path("agent.toml").to_str().unwrap()]);
    let listeners = agent.process.mqtt_all.clone();
    let cluster = Cluster::of(vec![agent]);

    let mut roots = RootCertStore::empty();
    roots.add(key.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trusting =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let trusting = Arc::new(trusting.with_root_certificates(roots).with_no_client_auth());

    let [tcp, tls, ws, wss] = listeners[..] else { panic!("four listeners, {listeners:?}") };
    let connect = |zone: &str| Connect::new(5, &format!("by {zone}"));
    check(&cluster, "tcp", Client::connect(tcp, &connect("tcp")), false);
    check(&cluster, "tls", Client::over(encrypted(tls, &trusting), &connect("tls")).unwrap(), true);
    let socket = InMessages::open(dial(ws), ws);
    check(&cluster, "ws", Client::over(socket, &connect("ws")).unwrap(), true);
    let socket = InMessages::open(encrypted(wss, &trusting), wss);
    check(&cluster, "wss", Client::over(socket, &connect("wss")).unwrap(), true);
}
