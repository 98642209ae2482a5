//! The counting front before the real broker: the same service, and figures that are what really passed.

use std::sync::Arc;
use std::time::Duration;

use rollcall_node_agent::broker::embedded::{EmbeddedSettings, ListenerSettings, TlsSettings, Transport};
use rollcall_node_agent::broker::{Broker, Kick};
use rollcall_proto::address;
use rollcall_proto::v1::{ConnState, Statistics};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::raw::{Connect, Raw, packet, text};
use crate::sandbox::{Sandbox, listener, session_of, settings};

fn counted() -> EmbeddedSettings {
    EmbeddedSettings { counting_front: true, ..settings() }
}

/// PUBLISH with QoS 2.
fn publish_2(level: u8, id: u16) -> Vec<u8> {
    let mut body = text("elsewhere");
    body.extend(id.to_be_bytes());
    if level == 5 {
        body.push(0);
    }
    packet(0x34, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_and_packet_of_every_version_is_counted_with_and_without_tls() {
    let directory = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = TlsSettings { cert: directory.path().join("cert.pem"), key: directory.path().join("key.pem") };
    std::fs::write(&tls.cert, certified.cert.pem()).unwrap();
    std::fs::write(&tls.key, certified.signing_key.serialize_pem()).unwrap();
    let secure = ListenerSettings { tls: Some(tls), ..listener("127.0.0.1:0") };
    let listeners = vec![listener("127.0.0.1:0"), secure];
    let sandbox = Sandbox::start(EmbeddedSettings { listeners, ..counted() }).await;
    for name in ["send_pkt", "awaiting_rel", "recv_oct", "recv_cnt"] {
        assert!(sandbox.info().capabilities.contains(&format!("statistics:{name}")), "{name}");
    }
    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));

    for connect in [Connect::v31("three"), Connect::v4("four"), Connect::v5("five")] {
        let stream = TcpStream::connect(sandbox.addresses[0]).await.unwrap();
        passes(&sandbox, Raw::over(stream, &connect).await.unwrap(), &connect).await;
        let stream = TcpStream::connect(sandbox.addresses[1]).await.unwrap();
        let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
        passes(&sandbox, Raw::over(stream, &connect).await.unwrap(), &connect).await;
    }
}

/// Sends and receives a bit of everything and compares.
async fn passes<S>(sandbox: &Sandbox, mut client: Raw<S>, connect: &Connect)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    client.subscribe("own/#", 1).await;
    for id in 1..=10 {
        client.publish("elsewhere", 0, 0, b"zero").await;
        client.publish("elsewhere", 1, id, b"one").await;
        client.publish("elsewhere", 2, 100 + id, &[7; 100_000]).await;
    }
    client.publish("own/x", 0, 0, b"back").await;
    client.receive(true).await;
    client.ping().await;
    // Three are not released, one of them sent twice.
    for id in [7, 8, 9, 9] {
        client.send(&publish_2(connect.level, id)).await;
        assert_eq!(client.read().await.unwrap().0, 0x50, "PUBREC");
    }
    // CONNECT, SUBSCRIBE, 31 PUBLISH, 10 PUBREL, PINGREQ, 4 PUBLISH
    let row = sandbox.row_when(&connect.clientid, |row| row.conn_state() == ConnState::Connected).await;
    let settled =
        |figures: &Statistics| figures.send_oct == Some(client.received) && figures.recv_msg == Some(34);
    let figures = sandbox.figures_when(&row, settled).await;
    let expected = Statistics {
        subscriptions_cnt: Some(1),
        max_subscriptions: Some(0),
        inflight: Some(0),
        max_inflight: Some(100),
        mqueue_len: Some(0),
        max_mqueue: Some(1000),
        mqueue_dropped: Some(0),
        awaiting_rel: Some(3),
        max_awaiting_rel: Some(100),
        recv_oct: Some(client.sent),
        recv_cnt: figures.recv_cnt,
        recv_pkt: Some(48),
        recv_msg: Some(34),
        send_oct: Some(client.received),
        send_cnt: figures.send_cnt,
        send_pkt: Some(client.packets),
        send_msg: Some(1),
        ..Statistics::default()
    };
    assert_eq!(figures, expected, "{}", connect.clientid);
    assert!(figures.recv_cnt.unwrap() > 25 && figures.send_cnt.unwrap() > 20, "{figures:?}");
    assert_eq!((row.is_bridge, row.port.is_some()), (Some(false), true));

    client.send(&packet(0x62, vec![0, 8])).await;
    assert_eq!(client.read().await.unwrap().0, 0x70, "PUBCOMP");
    sandbox.figures_when(&row, |figures| figures.awaiting_rel == Some(2)).await;
    client.disconnect().await;
    sandbox.gone(&connect.clientid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_of_the_last_connection_stay_until_the_next_begins() {
    let sandbox = Sandbox::start(counted()).await;
    let connect = Connect::v5("c").keep_session().expiry(600);
    let mut first = Raw::tcp(sandbox.address(), &connect).await;
    first.publish("t", 1, 1, b"x").await;
    first.send(&publish_2(5, 2)).await;
    assert_eq!(first.read().await.unwrap().0, 0x50);
    let (sent, received) = (first.sent + 2, first.received);
    first.disconnect().await;
    let row = sandbox.row_when("c", |row| row.conn_state() == ConnState::Disconnected).await;
    let figures = sandbox.figures(&row).await.unwrap();
    assert_eq!((figures.recv_oct, figures.send_oct), (Some(sent), Some(received)));
    assert_eq!((figures.recv_pkt, figures.send_pkt, figures.awaiting_rel), (Some(4), Some(3), Some(1)));
    assert_eq!((figures.recv_cnt, figures.send_cnt), (None, None), "the kernel has forgotten it");

    // Another takes over from it, while it is connected.
    let mut second = Raw::tcp(sandbox.address(), &connect).await;
    second.ping().await;
    let mut third = Raw::tcp(sandbox.address(), &connect).await;
    assert!(third.session_present);
    second.closed().await;
    third.publish("t", 0, 0, b"x").await;
    third.ping().await;
    let figures = sandbox.figures_when(&row, |figures| figures.recv_oct == Some(third.sent)).await;
    let packets = (figures.recv_pkt, figures.send_pkt, figures.awaiting_rel);
    assert_eq!(packets, (Some(3), Some(third.packets), Some(0)));
    assert_eq!((figures.send_oct, figures.recv_msg), (Some(third.received), Some(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_sees_clients_under_their_own_address_and_listener() {
    let zone =
        |zone: &str, listener: ListenerSettings| ListenerSettings { zone: zone.to_owned(), ..listener };
    let listeners = vec![
        zone("four", listener("127.0.0.1:0")),
        zone("six", listener("[::1]:0")),
        zone("both", listener("[::]:0")),
        zone("web", ListenerSettings { protocol: Transport::WebSocket, ..listener("127.0.0.1:0") }),
        zone("proxied", ListenerSettings { proxy_protocol: true, ..listener("127.0.0.1:0") }),
    ];
    let sandbox = Sandbox::start(EmbeddedSettings { listeners, ..counted() }).await;
    for (index, name) in [(0, "four"), (1, "six"), (2, "both")] {
        let mut address = sandbox.addresses[index];
        if name == "both" {
            address.set_ip([127, 0, 0, 1].into());
        }
        let mut client = Raw::tcp(address, &Connect::v4(name)).await;
        client.ping().await;
        let row = sandbox.row_when(name, |_| true).await;
        assert_eq!(row.ip_address, address::to_wire(client.local().ip()));
        assert_eq!((row.port, row.zone), (Some(client.local().port().into()), Some(name.to_owned())));
        let row = sandbox.row(name).unwrap();
        let figures = sandbox.figures_when(&row, |figures| figures.send_oct == Some(client.received)).await;
        assert_eq!((figures.recv_oct, figures.send_pkt), (Some(client.sent), Some(2)));
        assert!(figures.recv_cnt.is_some(), "{name}: the client's own socket");
    }
    // Where a header is expected the front has no part.
    let mut stream = TcpStream::connect(sandbox.addresses[4]).await.unwrap();
    stream.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 4321 1883\r\n").await.unwrap();
    let mut proxied = Raw::over(stream, &Connect::v4("proxied")).await.unwrap();
    proxied.ping().await;
    let row = sandbox.row_when("proxied", |_| true).await;
    let figures = sandbox.figures_when(&row, |figures| figures.recv_pkt == Some(2)).await;
    assert_eq!((row.port, row.is_bridge, figures.recv_oct, figures.send_pkt), (Some(4321), None, None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kick_is_told_to_clients_of_mqtt_5_and_ends_the_others_as_ever() {
    let sandbox = Sandbox::start(counted()).await;
    for connect in [Connect::v4("c").keep_session(), Connect::v5("c").keep_session().expiry(600)] {
        for with_traffic in [false, true] {
            let mut client = Raw::tcp(sandbox.address(), &connect).await;
            assert!(!client.session_present);
            client.subscribe("t", 0).await;
            let row = sandbox.row_when("c", |row| row.conn_state() == ConnState::Connected).await;
            let mut publisher = Raw::tcp(sandbox.address(), &Connect::v4("publisher")).await;
            if with_traffic {
                for _ in 0..5 {
                    publisher.publish("t", 0, 0, &[1; 100_000]).await;
                }
                publisher.ping().await;
            }
            assert_eq!(sandbox.kick(&session_of(&row)).await.unwrap(), Kick::Kicked);
            let mut last = None;
            while let Some(packet) = client.read().await {
                last = Some(packet);
            }
            match (connect.level, with_traffic) {
                (5, _) => assert_eq!(last, Some((0xe0, vec![0x98, 0]))),
                (_, true) => assert!(last.is_none_or(|(first, _)| first == 0x30)),
                (_, false) => assert_eq!(last, None),
            }
            assert_eq!(sandbox.kick(&session_of(&row)).await.unwrap(), Kick::NotFound);
            sandbox.gone("c").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_by_himself_is_told_nothing() {
    let sandbox = Sandbox::start(counted()).await;
    for says_so in [true, false] {
        let mut stream = TcpStream::connect(sandbox.address()).await.unwrap();
        stream.write_all(&Connect::v5("c").bytes()).await.unwrap();
        let row = sandbox.row_when("c", |_| true).await;
        if says_so {
            stream.write_all(&[0xe0, 0]).await.unwrap();
        }
        // Its end is passed on, and the broker's comes back.
        stream.shutdown().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all[0], 0x20, "{all:?}");
        assert_eq!(all.len(), 2 + usize::from(all[1]), "CONNACK and nothing more: {all:?}");
        sandbox.gone("c").await;
        assert_eq!(sandbox.kick(&session_of(&row)).await.unwrap(), Kick::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_refuses_is_refused_and_its_answer_arrives() {
    let sandbox = Sandbox::start(counted()).await;
    // The bridge bit; no MQTT at all; an empty client id without a clean session, and more behind it.
    let bridge = Connect { level: 0x84, ..Connect::v4("bridge") };
    for bytes in [bridge.bytes(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()] {
        let mut stream = TcpStream::connect(sandbox.address()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty() || answer[0] == 0x20, "{answer:?}");
    }
    let mut stream = TcpStream::connect(sandbox.address()).await.unwrap();
    let eager = [Connect::v4("").keep_session().bytes(), publish_2(4, 1)].concat();
    stream.write_all(&eager).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, [0x20, 2, 0, 2], "identifier rejected");
    assert!(sandbox.resync().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_every_byte_in_order_and_a_fast_writer_waits() {
    const MESSAGES: u32 = 400;
    let limit = 4 * 1024 * 1024;
    let sandbox = Sandbox::start(EmbeddedSettings { max_packet_size: limit, ..counted() }).await;
    let mut slow = Raw::tcp(sandbox.address(), &Connect::v4("slow")).await;
    slow.subscribe("t", 1).await;
    let mut publisher = Raw::tcp(sandbox.address(), &Connect::v4("publisher")).await;
    let payload = |number: u32| {
        let length = (number as usize * 7919) % 100_000;
        (0..length as u32).map(|at| (at.wrapping_mul(31) ^ number) as u8).collect::<Vec<u8>>()
    };
    let publishing = tokio::spawn(async move {
        for number in 0..MESSAGES {
            publisher.publish("t", 1, u16::try_from(number + 1).unwrap(), &payload(number)).await;
        }
        // One packet that is nearly all that a packet may be.
        publisher.publish("t", 1, 1, &vec![9; limit as usize - 100]).await;
        publisher
    });
    for number in 0..MESSAGES {
        if number % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (_, received) = slow.receive(true).await;
        assert!(received == payload(number), "message {number} of {} bytes", received.len());
    }
    assert_eq!(slow.receive(true).await.1, vec![9; limit as usize - 100]);
    let publisher = publishing.await.unwrap();
    for (name, client) in [("slow", &slow), ("publisher", &publisher)] {
        let row = sandbox.row_when(name, |_| true).await;
        let settled = |figures: &Statistics| {
            (figures.recv_oct, figures.send_oct) == (Some(client.sent), Some(client.received))
        };
        let figures = sandbox.figures_when(&row, settled).await;
        assert_eq!((figures.send_pkt, figures.awaiting_rel), (Some(client.packets), Some(0)), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_kicked_too_and_its_connection_ends() {
    let sandbox = Sandbox::start(counted()).await;
    let mut deaf = Raw::tcp(sandbox.address(), &Connect::v5("deaf").keep_session().expiry(60)).await;
    deaf.subscribe("t", 0).await;
    let mut publisher = Raw::tcp(sandbox.address(), &Connect::v4("publisher")).await;
    for _ in 0..60 {
        publisher.publish("t", 0, 0, &[0; 500_000]).await;
    }
    publisher.ping().await;
    let row = sandbox.row_when("deaf", |_| true).await;
    let error = sandbox.kick(&session_of(&row)).await.unwrap_err();
    assert!(error.to_string().contains("\"deaf\" is not gone after 3 s"), "{error}");
    // The kick goes on by itself, and neither broker nor front waits for longer than 10 s.
    sandbox.gone("deaf").await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    deaf.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_shutdown_clients_of_mqtt_5_are_told_so_and_the_address_is_free_again() {
    let sandbox = Sandbox::start(counted()).await;
    let address = sandbox.address();
    let mut client = Raw::tcp(address, &Connect::v5("c")).await;
    sandbox.row_when("c", |_| true).await;
    sandbox.shutdown().await;
    assert_eq!(client.read().await, Some((0xe0, vec![0x8b, 0])));
    assert_eq!(client.read().await, None);
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
    let settings = EmbeddedSettings { listeners: vec![listener(&address.to_string())], ..counted() };
    let again = Sandbox::start(settings).await;
    Raw::tcp(again.address(), &Connect::v4("c")).await.ping().await;
}
