//! Every kind of listener, and several brokers side by side.

use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use rollcall_node_agent::broker::embedded::{EmbeddedSettings, ListenerSettings, TlsSettings, Transport};
use rollcall_node_agent::broker::{Broker, Kick};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::raw::{Connect, Raw};
use crate::sandbox::{Sandbox, listener, session_of, settings};

/// A WebSocket as a stream of the bytes in its messages.
async fn websocket<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> DuplexStream {
    let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "mqtt");
    let (near, far) = tokio::io::duplex(65536);
    let (mut from_near, mut to_near) = tokio::io::split(far);
    let (mut to_broker, mut from_broker) = socket.split();
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok(length @ 1..) = from_near.read(&mut buffer).await {
            to_broker.send(Message::binary(buffer[..length].to_vec())).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Some(Ok(message)) = from_broker.next().await {
            if message.is_binary() && to_near.write_all(&message.into_data()).await.is_err() {
                break;
            }
        }
    });
    near
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listener_reports_its_address_and_zone_and_serves() {
    let directory = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = TlsSettings { cert: directory.path().join("cert.pem"), key: directory.path().join("key.pem") };
    std::fs::write(&tls.cert, certified.cert.pem()).unwrap();
    std::fs::write(&tls.key, certified.signing_key.serialize_pem()).unwrap();
    let zone =
        |zone: &str, listener: ListenerSettings| ListenerSettings { zone: zone.to_owned(), ..listener };
    let web = ListenerSettings { protocol: Transport::WebSocket, ..listener("127.0.0.1:0") };
    let listeners = vec![
        zone("four", listener("127.0.0.1:0")),
        zone("six", listener("[::1]:0")),
        zone("both", listener("[::]:0")),
        zone("web", web.clone()),
        zone("tls", ListenerSettings { tls: Some(tls.clone()), ..listener("127.0.0.1:0") }),
        zone("webtls", ListenerSettings { tls: Some(tls), ..web }),
        zone("proxied", ListenerSettings { proxy_protocol: true, ..listener("127.0.0.1:0") }),
    ];
    let sandbox = Sandbox::start(EmbeddedSettings { listeners, ..settings() }).await;
    assert!(sandbox.addresses.iter().all(|address| address.port() != 0), "{:?}", sandbox.addresses);
    assert!(sandbox.info().mqtt_addresses[1].starts_with("[::1]:"));

    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let secure =
        async |stream| connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();

    let connect = |zone: &str| Connect::v4(&format!("in {zone}"));
    let tcp = async |index: usize| {
        let address = sandbox.addresses[index];
        TcpStream::connect(if index == 2 {
            format!("127.0.0.1:{}", address.port()).parse().unwrap()
        } else {
            address
        })
        .await
        .unwrap()
    };
    let mut four = Raw::over(tcp(0).await, &connect("four")).await.unwrap();
    let mut six = Raw::over(tcp(1).await, &connect("six")).await.unwrap();
    let mut both = Raw::over(tcp(2).await, &connect("both")).await.unwrap();
    let mut web = Raw::over(websocket(tcp(3).await).await, &connect("web")).await.unwrap();
    let mut tls = Raw::over(secure(tcp(4).await).await, &connect("tls")).await.unwrap();
    let mut webtls =
        Raw::over(websocket(secure(tcp(5).await).await).await, &connect("webtls")).await.unwrap();
    let mut stream = tcp(6).await;
    stream.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 4321 1883\r\n").await.unwrap();
    let mut proxied = Raw::over(stream, &connect("proxied")).await.unwrap();

    four.ping().await;
    six.ping().await;
    both.ping().await;
    web.ping().await;
    tls.ping().await;
    webtls.ping().await;
    proxied.ping().await;
    sandbox.until("seven clients", |sandbox| sandbox.rows().len() == 7).await;
    for (zone, ip_address) in [
        ("four", vec![127, 0, 0, 1]),
        ("six", [vec![0; 15], vec![1]].concat()),
        ("both", vec![127, 0, 0, 1]),
        ("web", vec![127, 0, 0, 1]),
        ("tls", vec![127, 0, 0, 1]),
        ("webtls", vec![127, 0, 0, 1]),
        ("proxied", vec![192, 0, 2, 7]),
    ] {
        let row = sandbox.row(&format!("in {zone}")).unwrap();
        assert_eq!((row.zone.as_deref(), &row.ip_address), (Some(zone), &ip_address));
        let figures = sandbox.figures(&row).await.unwrap();
        // CONNECT is 14 + 3 + zone bytes, PINGREQ 2.
        let plain = 14 + 3 + zone.len() as u64 + 2;
        match zone {
            "proxied" => {
                assert_eq!((figures.recv_oct, figures.send_cnt), (None, None), "the socket is the proxy's");
                assert_eq!(row.port, Some(4321));
            }
            "web" | "tls" | "webtls" => {
                assert!(figures.recv_oct.unwrap() > plain, "framing is part of the stream: {figures:?}");
            }
            _ => assert_eq!(figures.recv_oct, Some(plain), "{zone}"),
        }
        assert_eq!(figures.recv_pkt, Some(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_brokers_in_one_process_share_nothing() {
    let mut sandboxes = Vec::new();
    for name in ["a@127.0.0.1", "b@127.0.0.1", "c@127.0.0.1"] {
        sandboxes.push(Sandbox::start(EmbeddedSettings { node_name: name.into(), ..settings() }).await);
    }
    let mut clients = Vec::new();
    for (sandbox, messages) in sandboxes.iter().zip([1_u16, 2, 3]) {
        let mut client = Raw::tcp(sandbox.address(), &Connect::v5("same").keep_session().expiry(60)).await;
        assert!(!client.session_present);
        client.subscribe("t", 0).await;
        for id in 1..=messages {
            client.publish("t", 0, id, b"x").await;
            client.receive(false).await;
        }
        client.ping().await;
        clients.push(client);
    }
    for (sandbox, messages) in sandboxes.iter().zip([1, 2, 3]) {
        let row = sandbox.row_when("same", |_| true).await;
        let figures = sandbox.figures_when(&row, |figures| figures.recv_pkt == Some(3 + messages)).await;
        assert_eq!((figures.recv_msg, figures.send_msg), (Some(messages), Some(messages)));
    }
    let row = sandboxes[1].row("same").unwrap();
    assert_eq!(sandboxes[1].kick(&session_of(&row)).await.unwrap(), Kick::Kicked);
    clients[1].closed().await;
    clients[0].ping().await;
    clients[2].ping().await;
    sandboxes[1].gone("same").await;
    assert_eq!((sandboxes[0].rows().len(), sandboxes[2].rows().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_shutdown_nobody_is_connected_and_the_address_is_free_again() {
    let sandbox = Sandbox::start(settings()).await;
    let address = sandbox.address();
    let mut client = Raw::tcp(address, &Connect::v4("c").keep_session()).await;
    Raw::tcp(address, &Connect::v4("offline").keep_session()).await.disconnect().await;
    sandbox.until("both", |sandbox| sandbox.rows().len() == 2).await;
    sandbox.shutdown().await;
    client.closed().await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
    assert!(sandbox.resync().await.is_empty());
    sandbox.shutdown().await;

    let settings = EmbeddedSettings { listeners: vec![listener(&address.to_string())], ..settings() };
    let again = Sandbox::start(settings).await;
    let client = Raw::tcp(again.address(), &Connect::v4("c").keep_session()).await;
    assert!(!client.session_present, "sessions live in memory");
}
