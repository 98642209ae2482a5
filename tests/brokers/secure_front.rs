//! RabbitMQ behind a front that speaks TLS: what is counted is MQTT, and the certificate is followed.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rollcall_tests::brokers::{Kind, Outside, Rabbitmq};
use rollcall_tests::mqtt::{self, Client, Connect};
use rollcall_tests::wait::eventually;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::suite::Step;
use crate::world::World;

pub(crate) const STEPS: [(&str, Step); 1] =
    [("behind_a_front_with_tls_messages_are_counted_at_once", messages_are_counted_at_once)];

/// RabbitMQ, whose agent is told of a certificate too.
struct Secure {
    rabbitmq: Rabbitmq,
    cert: PathBuf,
    key: PathBuf,
}

impl Outside for Secure {
    fn mqtt(&self) -> SocketAddr {
        self.rabbitmq.mqtt()
    }

    fn agent_arguments(&self) -> Vec<String> {
        let arguments = self.rabbitmq.agent_arguments();
        let file = Path::new(arguments.last().unwrap());
        let text = std::fs::read_to_string(file).unwrap();
        let tls = format!(", tls_cert = {:?}, tls_key = {:?} }}\n", self.cert, self.key);
        let secured = text.replace(" }\n", &tls);
        assert_ne!(secured, text, "the front's settings are one line");
        std::fs::write(file, secured).unwrap();
        arguments
    }

    fn login(&self) -> (String, String) {
        self.rabbitmq.login()
    }

    fn zone(&self) -> &str {
        self.rabbitmq.zone()
    }

    fn other_zone(&self) -> (&str, (String, String)) {
        self.rabbitmq.other_zone()
    }

    fn connect_otherwise(&self) -> TcpStream {
        self.rabbitmq.connect_otherwise()
    }

    fn shows_port(&self, port: u16) -> bool {
        self.rabbitmq.shows_port(port)
    }

    fn secrets(&self) -> Vec<String> {
        self.rabbitmq.secrets()
    }

    fn kill(&mut self) {
        self.rabbitmq.kill();
    }

    fn start_again(&mut self) {
        self.rabbitmq.start_again();
    }
}

/// Puts a certificate of its own for loopback, and its key, in place.
fn renew(folder: &TempDir) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    for (name, text) in [("cert.pem", made.cert.pem()), ("key.pem", made.signing_key.serialize_pem())] {
        let new = folder.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, folder.path().join(name)).unwrap();
    }
    made.cert.der().clone()
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn connect(
    stream: TcpStream,
    trusted: &CertificateDer<'static>,
    connect: &Connect,
) -> std::io::Result<Client<Stream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    let name = stream.peer_addr()?.ip().into();
    let tls = ClientConnection::new(Arc::new(config), name).map_err(std::io::Error::other)?;
    Client::over(StreamOwned::new(tls, stream), connect)
}

fn messages_are_counted_at_once(_: &mut World) {
    let folder = tempfile::tempdir().unwrap();
    let first = renew(&folder);
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    let secure = Secure { rabbitmq: Rabbitmq::start_behind_a_front(), cert, key };
    let world = World::of(Kind::Rabbitmq, Some(Box::new(secure)));
    let dial = || mqtt::dial(world.mqtt());
    let login = |clientid: &str| world.login(Connect::new(4, clientid).keep_session());

    assert!(Client::over(dial(), &login("plain")).is_err(), "clients must speak TLS");
    let stream = dial();
    let port = stream.local_addr().unwrap().port();
    let mut client = connect(stream, &first, &login("secure")).unwrap();
    client.subscribe("own", 1);
    client.publish("elsewhere", 0, b"zero");
    client.publish("elsewhere", 1, &[7; 30_000]);
    let mut publisher = connect(dial(), &first, &login("publisher")).unwrap();
    for payload in [b"a", b"b", b"c"] {
        publisher.publish("own", 1, payload);
    }
    for payload in [b"a", b"b", b"c"] {
        assert_eq!(client.receive(false), payload);
    }
    let row = world.gateway.row_when("secure", |row| {
        row["recv_oct"] == client.sent_bytes && row["send_oct"] == client.received_bytes
    });
    for (field, expected) in [
        ("recv_pkt", client.sent_packets),
        ("send_pkt", client.received_packets),
        ("recv_msg", 2),
        ("send_msg", 3),
        ("inflight", 3),
        ("awaiting_rel", 0),
    ] {
        assert_eq!(row[field], json!(expected), "{field} of {row}");
    }
    assert_eq!(row["port"].as_u64(), Some(port.into()), "the client's own: {row}");
    // The broker gave them the ids 1 to 3.
    for id in [1, 2] {
        client.send(&mqtt::packet(0x40, &[0, id])).unwrap();
    }
    let row = world.gateway.row_when("secure", |row| row["recv_oct"] == client.sent_bytes);
    assert_eq!((&row["inflight"], &row["recv_msg"]), (&json!(1), &json!(2)), "{row}");
    let by_inflight = world.gateway.get("/clients?_sort=inflight&_order=desc&_limit=1").rows();
    assert_eq!((&by_inflight[0]["clientid"], &by_inflight[0]["inflight"]), (&json!("secure"), &json!(1)));

    let second = renew(&folder);
    let mut renewed = eventually("the new certificate", || {
        connect(dial(), &second, &login("renewed")).map_err(|error| error.to_string())
    });
    assert!(connect(dial(), &first, &login("late")).is_err(), "the old one is shown no more");
    client.ping();
    renewed.ping();
    assert_eq!(world.gateway.kick("secure").status, 200);
    client.await_close();
    world.await_gone("secure");
    assert_ne!(world.gateway.row("renewed")["recv_oct"], Value::Null);
}
