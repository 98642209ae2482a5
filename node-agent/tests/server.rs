//! The server around the calls, over a real channel: what health and reflection say, and when a call has ended.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rollcall_node_agent::broker::synthetic::SyntheticBroker;
use rollcall_node_agent::broker::{
    Broker, BrokerError, BrokerInfo, ClientChange, Kick, SessionRef, send_resync,
};
use rollcall_node_agent::config::{BrokerConfig, Config};
use rollcall_node_agent::run::{run_with_ready, start_broker};
use rollcall_proto::v1::node_client::NodeClient;
use rollcall_proto::v1::{Client, DescribeRequest, Filter, GetRequest, ListRequest, Statistics};
use rollcall_proto::{MAX_WINDOW, REASON_METADATA, Reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

/// The names health is asked for.
const SERVICES: [&str; 2] = ["", "rollcall.v1.Node"];

/// A broker that cannot be asked until it is mended; then it has one client.
#[derive(Default)]
struct Broken {
    info: BrokerInfo,
    mended: Notify,
}

#[async_trait]
impl Broker for Broken {
    fn info(&self) -> BrokerInfo {
        self.info.clone()
    }

    async fn follow(&self, changes: mpsc::Sender<ClientChange>) -> Result<(), BrokerError> {
        changes.send(ClientChange::BrokerFailed("no answer".into())).await.unwrap();
        self.mended.notified().await;
        let client = Client { clientid: "c".into(), session: 1, ..Client::default() };
        send_resync(&changes, [client]).await.unwrap();
        changes.closed().await;
        Ok(())
    }

    async fn statistics(&self, sessions: &[SessionRef]) -> Vec<Option<Statistics>> {
        vec![None; sessions.len()]
    }

    async fn kick(&self, _: &SessionRef) -> Result<Kick, BrokerError> {
        Ok(Kick::NotFound)
    }
}

/// Dropped, the agent drains.
struct Running {
    channel: Channel,
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

async fn serve(broker: Arc<dyn Broker>, max_calls: u32) -> Running {
    serve_with(broker, |config| config.max_calls = max_calls.try_into().unwrap()).await
}

async fn serve_with(broker: Arc<dyn Broker>, set: impl FnOnce(&mut Config)) -> Running {
    let mut config = Config::new("a@127.0.0.1", BrokerConfig::Synthetic { clients: 0, seed: 0, churn: 0 });
    set(&mut config);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let (ready, is_ready) = oneshot::channel();
    let ready = || ready.send(()).unwrap();
    let serving = run_with_ready(config, listener, broker, ready, async { drop(stopped.await) });
    tokio::spawn(serving);
    is_ready.await.unwrap();
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    Running { channel, address, _stop: stop }
}

impl Running {
    fn client(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    async fn get(&self) -> Result<usize, Status> {
        let request = GetRequest { clientid: "c".into(), ..GetRequest::default() };
        Ok(self.client().get(request).await?.into_inner().clients.len())
    }

    async fn health(&self, service: &str) -> ServingStatus {
        let request = HealthCheckRequest { service: service.into() };
        HealthClient::new(self.channel.clone()).check(request).await.unwrap().into_inner().status()
    }
}

fn reason(status: &Status) -> Option<Reason> {
    Reason::from_word(status.metadata().get(REASON_METADATA)?.to_str().ok()?)
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 5 s: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_serving_once_the_clients_are_known() {
    let broker = Arc::new(Broken::default());
    let agent = serve(Arc::clone(&broker) as _, 10).await;
    for service in SERVICES {
        assert_eq!(agent.health(service).await, ServingStatus::NotServing);
    }
    let refused = agent.get().await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::Unavailable, Some(Reason::Unreachable)));
    assert_eq!(refused.message(), "the broker's clients are not known yet");
    let described = agent.client().describe(DescribeRequest {}).await.unwrap().into_inner();
    assert_eq!((described.resynced_at_ms, described.broker_error.as_str()), (None, "no answer"));

    broker.mended.notify_one();
    for service in SERVICES {
        until("serving", async || agent.health(service).await == ServingStatus::Serving).await;
    }
    assert_eq!(agent.get().await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_keeps_its_place_until_it_ends_or_nobody_reads_it() {
    let broker = Arc::new(SyntheticBroker::new(u64::from(MAX_WINDOW), 0, "a@127.0.0.1"));
    let agent = serve(broker, 1).await;
    let list = || ListRequest { limit: MAX_WINDOW, ..ListRequest::default() };
    // More than a connection's windows hold, so the agent has to wait for the reader.
    let mut unread = agent.client().list(list()).await.unwrap().into_inner();
    assert_eq!(unread.message().await.unwrap().unwrap().count, u64::from(MAX_WINDOW));
    let refused = agent.get().await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::ResourceExhausted, Some(Reason::Overloaded)));
    drop(unread);
    until("the place of a list nobody reads", async || agent.get().await.is_ok()).await;

    let mut read = agent.client().list(list()).await.unwrap().into_inner();
    let mut rows = 0;
    while let Some(chunk) = read.message().await.unwrap() {
        rows += chunk.clients.len();
    }
    assert_eq!(rows, MAX_WINDOW as usize);
    until("the place of a list that has ended", async || agent.get().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configured_churn_reaches_the_index() {
    let (clients, seed) = (100, 1);
    let config = Config::new("a@127.0.0.1", BrokerConfig::Synthetic { clients, seed, churn: 1_000 });
    let agent = serve(start_broker(&config).await.unwrap().broker(), 10).await;
    // Before the first reconnect of all, the latest is of before the moment that the rows are a picture of.
    let moment = 1_767_225_600_000;
    let connected_since = Filter { gte_connected_at_ms: Some(moment), ..Filter::default() };
    until("reconnect of every client", async || {
        let request =
            ListRequest { filter: Some(connected_since.clone()), limit: 0, ..ListRequest::default() };
        let mut chunks = agent.client().list(request).await.unwrap().into_inner();
        chunks.message().await.unwrap().is_some_and(|chunk| chunk.count == clients)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_names_the_services_and_describes_them() {
    let agent = serve(Arc::new(SyntheticBroker::new(1, 0, "a@127.0.0.1")), 10).await;
    let ask = async |message: MessageRequest| {
        let request = ServerReflectionRequest { message_request: Some(message), ..Default::default() };
        let mut client = ServerReflectionClient::new(agent.channel.clone());
        let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
        answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list of services");
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["rollcall.v1.Node", "grpc.health.v1.Health"] {
        assert!(names.contains(&name.to_owned()), "{names:?}");
    }
    let symbol = MessageRequest::FileContainingSymbol("rollcall.v1.Node".into());
    let MessageResponse::FileDescriptorResponse(files) = ask(symbol).await else {
        panic!("no description of the service");
    };
    assert!(!files.file_descriptor_proto.is_empty());
}

/// What an HTTP/2 client begins with, and SETTINGS that set nothing.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

async fn connect_from(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    socket.connect(to).await.unwrap()
}

/// Whether the agent greets one that speaks HTTP/2, or closes it.
async fn is_let_in(stream: &mut TcpStream) -> bool {
    // It may be closed already.
    let _ = stream.write_all(HELLO).await;
    matches!(stream.read(&mut [0; 9]).await, Ok(length) if length > 0)
}

async fn is_sent_away(stream: &mut TcpStream) {
    // Who speaks something else is told goodbye in HTTP/2.
    let mut said = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut said)).await;
    assert!(ended.is_ok() && said.len() < 64, "it is sent away after {said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_speak_is_sent_away_and_takes_nobodys_place() {
    let broker = Arc::new(SyntheticBroker::new(1, 0, "a@127.0.0.1"));
    let agent = serve_with(broker, |config| config.max_connections = 4.try_into().unwrap()).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(agent.address).await.unwrap());
    }
    let mut half = TcpStream::connect(agent.address).await.unwrap();
    half.write_all(&HELLO[..10]).await.unwrap();
    let mut other = TcpStream::connect(agent.address).await.unwrap();
    other.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut slow = TcpStream::connect(agent.address).await.unwrap();
    for piece in HELLO.chunks(7) {
        slow.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(slow.read(&mut [0; 9]).await.unwrap() > 0, "who speaks in pieces is listened to");
    for stream in silent.iter_mut().chain([&mut half, &mut other]) {
        is_sent_away(stream).await;
    }
    assert_eq!(agent.health("").await, ServingStatus::Serving);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_connections_stay_than_are_configured_and_of_one_address_half() {
    let broker = Arc::new(SyntheticBroker::new(1, 0, "a@127.0.0.1"));
    let agent = serve_with(broker, |config| config.max_connections = 4.try_into().unwrap()).await;
    // The test's own channel is one of 127.0.0.1.
    assert_eq!(agent.health("").await, ServingStatus::Serving);
    let mut second = connect_from([127, 0, 0, 1], agent.address).await;
    assert!(is_let_in(&mut second).await);
    assert!(!is_let_in(&mut connect_from([127, 0, 0, 1], agent.address).await).await, "more than half");
    let mut others = Vec::new();
    for last in [2, 3] {
        let mut other = connect_from([127, 0, 0, last], agent.address).await;
        assert!(is_let_in(&mut other).await, "127.0.0.{last}");
        others.push(other);
    }
    assert!(!is_let_in(&mut connect_from([127, 0, 0, 4], agent.address).await).await, "more than all");
    others.pop();
    until("the place of one that left", async || {
        is_let_in(&mut connect_from([127, 0, 0, 4], agent.address).await).await
    })
    .await;
    assert_eq!(agent.health("").await, ServingStatus::Serving);
}
