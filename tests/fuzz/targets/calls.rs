//! Calls that no list is made of, whole: Describe, Get, Kick and Watch. The first byte of the input says which one, and which side
//! the rest of it is a message of.
//!
//! What a node says goes through a gateway, from the connection to the JSON that its user reads:
//! - Every answer is JSON, and comes by the deadline.
//! - A node that says who it is, and in which protocol, is shown so, and any other is not; who is draining is shown so.
//! - A client is shown if the node's answer is one that the contract allows, just as it says, and otherwise the node is named as failed.
//! - A client is said to be kicked only if the node says so, in its own name.
//! - Events come with numbers that go up by one, and clients in them are of the node that told them.
//!
//! What a gateway asks goes to an agent, from its connection to its broker and back:
//! - It describes itself, whatever it is asked with.
//! - A client is found exactly if the broker has it, with its figures exactly if they are asked for.
//! - A kick ends the sessions that the contract says, and says so; they are found no more, and all others are.
//! - Whoever follows events hears who the agent is, that some are lost exactly if they are, and then of every kick.
//!
//! The clock stands still while there is something to do, and otherwise goes on at once: waiting costs nothing.

#![no_main]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use prost::Message;
use rollcall_fuzz::clients::{self, NODE};
use rollcall_fuzz::grpc::{Answer, Answers, BUFFER, Caller, answer};
use rollcall_fuzz::mutate;
use rollcall_gateway::Gateway;
use rollcall_gateway::byte_stream::BoxedStream;
use rollcall_gateway::cluster::Dial;
use rollcall_gateway::config::{Config as GatewayConfig, Layer};
use rollcall_node_agent::broker::{
    Broker, BrokerError, BrokerInfo, ClientChange, Kick, SessionRef, send_resync,
};
use rollcall_node_agent::config::{BrokerConfig, Config as AgentConfig};
use rollcall_node_agent::incoming::Connection;
use rollcall_node_agent::run::run_on;
use rollcall_proto::Protocol;
use rollcall_proto::v1::kick_response::Outcome;
use rollcall_proto::v1::{
    Client, DescribeResponse, GetRequest, GetResponse, Identity, KickRequest, KickResponse, Statistics,
    WatchRequest, WatchResponse,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// The client that the gateway is asked for.
const CLIENT: &str = "dev-0007";

/// The gateway's deadline for a request.
const DEADLINE: Duration = Duration::from_secs(2);

/// The longest name of a node that the gateway takes.
const MAX_NAME: usize = 128;

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate::mutate(data, size, max_size, seed, 1, mutate::message)
});

fuzz_target!(|data: &[u8]| {
    let [kind, message @ ..] = data else { return };
    // Of its own for each input: what is left behind by one must not change what becomes of the next.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        match kind % 8 {
            0 => shown_node(message).await,
            1 => shown_client(message).await,
            2 => told_kick(message).await,
            3 => told_events(message).await,
            4 => asked_to_describe(message).await,
            5 => asked_for_client(message).await,
            6 => asked_to_kick(message).await,
            _ => asked_for_events(message).await,
        }
    });
});

fn remote() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

// What a node says.

/// Where the gateway's node is.
struct InMemory(Answers);

impl Debug for InMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InMemory")
    }
}

impl Dial for InMemory {
    fn dial(&self, _: &str) -> BoxFuture<'static, io::Result<BoxedStream>> {
        let (ours, theirs) = duplex(BUFFER);
        tokio::spawn(answer(theirs, Arc::clone(&self.0)));
        Box::pin(async { Ok(Box::new(ours) as BoxedStream) })
    }
}

/// The node as it is, but for calls of this method about anything but nobody, which it answers by this message.
fn node(method: &'static str, message: &[u8]) -> Answers {
    let message = message.to_vec();
    Arc::new(move |path, asked| {
        let identity = Some(identity());
        let method_asked = path.rsplit('/').next().unwrap_or_default();
        let get = GetRequest::decode(asked).unwrap_or_default();
        let is_probe = method_asked == "Get" && get.clientid.is_empty();
        if method_asked == method && !is_probe {
            return vec![message.clone()];
        }
        let honest = match method_asked {
            "Describe" => {
                DescribeResponse { identity, clients: 1, ..DescribeResponse::default() }.encode_to_vec()
            }
            "Get" => {
                // Whoever calls itself otherwise does so in every answer.
                let own = DescribeResponse::decode(message.as_slice()).ok().filter(|_| method == "Describe");
                let identity = own.map_or(identity, |own| own.identity);
                let clients = if is_probe { Vec::new() } else { vec![client()] };
                GetResponse { identity, clients, ..GetResponse::default() }.encode_to_vec()
            }
            // Where nothing is said of it.
            _ => return Vec::new(),
        };
        vec![honest]
    })
}

fn identity() -> Identity {
    Identity { name: NODE.into(), incarnation: 1 }
}

fn client() -> Client {
    Client { node: String::new(), ..clients::example() }
}

/// A gateway over such a node, which has been probed. Gives where it is spoken to.
async fn gateway(node: Answers) -> DuplexStream {
    let text = |duration: Duration| format!("{}ms", duration.as_millis()).parse().expect("a duration");
    let layer = Layer {
        node: Some(vec!["node:1".parse().expect("an address")]),
        key: Some(vec!["ops:secret:operator".into()]),
        probe_interval: Some(text(Duration::from_secs(60))),
        request_timeout: Some(text(DEADLINE)),
        ..Layer::default()
    };
    let config = GatewayConfig::new(layer).expect("a configuration");
    let gateway = Gateway::start_with(config, Arc::new(InMemory(node))).expect("a gateway");
    let (ours, theirs) = duplex(BUFFER);
    let incoming = stream::iter([(Box::new(theirs) as BoxedStream, remote())]).chain(stream::pending());
    tokio::spawn(gateway.serve_on(incoming, std::future::pending()));
    // The clock goes on when the first probe is over.
    sleep(Duration::from_millis(1)).await;
    ours
}

/// Asks the gateway, and gives status and body: all of it, or of a stream what comes in this time.
async fn ask(gateway: &mut DuplexStream, method: &str, target: &str, most: Duration) -> (u16, String) {
    let head = format!(
        "{method} /api/v4{target} HTTP/1.1\r\nhost: g\r\nauthorization: Bearer secret\r\nconnection: close\r\n\r\n"
    );
    gateway.write_all(head.as_bytes()).await.expect("an open connection");
    let mut answer = Vec::new();
    let _ = timeout(most, gateway.read_to_end(&mut answer)).await;
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer by the deadline");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// The same of an answer that ends.
async fn ask_whole(gateway: &mut DuplexStream, method: &str, target: &str) -> (u16, Value) {
    let begun = Instant::now();
    let (status, body) = ask(gateway, method, target, DEADLINE * 2).await;
    assert!(begun.elapsed() <= DEADLINE + Duration::from_millis(250), "{:?}", begun.elapsed());
    (status, serde_json::from_str(&body).expect("JSON"))
}

/// The name that an answer gives, if it is one that the gateway takes.
fn name(identity: Option<&Identity>) -> Option<&str> {
    identity.map(|identity| identity.name.as_str()).filter(|name| (1..=MAX_NAME).contains(&name.len()))
}

async fn shown_node(message: &[u8]) {
    let mut gateway = gateway(node("Describe", message)).await;
    let (status, body) = ask_whole(&mut gateway, "GET", "/nodes").await;
    assert_eq!((status, &body["code"]), (200, &0.into()), "{body}");
    let shown = &body["data"][0];
    let said = DescribeResponse::decode(message).unwrap_or_default();
    let Some(name) = name(said.identity.as_ref()) else {
        assert_eq!((&shown["node"], &shown["state"]), (&Value::Null, &"unavailable".into()), "{shown}");
        return;
    };
    let state = match Protocol::OURS.check(Protocol::of(&said)) {
        Err(_) => "incompatible",
        Ok(()) if said.draining => "draining",
        Ok(()) => "connected",
    };
    assert_eq!((&shown["node"], &shown["state"]), (&name.into(), &state.into()), "{shown}");
    let told =
        [&said.broker_kind, &said.broker_version, &said.agent_version].map(|text| Value::from(text.as_str()));
    assert_eq!(
        [&shown["broker"], &shown["broker_version"], &shown["agent_version"]],
        told.each_ref(),
        "{shown}"
    );
    assert_eq!(
        (&shown["clients"], &shown["connected"]),
        (&said.clients.into(), &said.connected.into()),
        "{shown}"
    );
    assert_eq!(shown["broker_error"].as_str().unwrap_or_default(), said.broker_error, "{shown}");
}

async fn shown_client(message: &[u8]) {
    let mut gateway = gateway(node("Get", message)).await;
    let (status, body) = ask_whole(&mut gateway, "GET", &format!("/clients/{CLIENT}")).await;
    let said = GetResponse::decode(message).ok();
    let allowed = said.filter(|said| {
        let name = name(said.identity.as_ref());
        let is_own = |client: &Client| {
            client.clientid == CLIENT && (client.node.is_empty() || Some(client.node.as_str()) == name)
        };
        name.is_some()
            && said.clients.iter().all(is_own)
            && said.clients.windows(2).all(|pair| pair[0].session < pair[1].session)
    });
    let Some(said) = allowed else {
        assert_eq!((status, &body["code"]), (503, &101.into()), "{body}");
        return;
    };
    assert_eq!((status, &body["code"]), (200, &0.into()), "{body}");
    let rows = body["data"].as_array().expect("rows");
    assert_eq!(rows.len(), said.clients.len(), "{body}");
    let name = name(said.identity.as_ref()).expect("a name");
    for (row, client) in rows.iter().zip(&said.clients) {
        assert_eq!((&row["node"], &row["clientid"]), (&name.into(), &CLIENT.into()), "{row}");
        assert_eq!(row["username"], client.username.as_deref().unwrap_or("undefined"), "{row}");
        let figures = client.statistics.unwrap_or_default();
        for (key, figure) in [("recv_oct", figures.recv_oct), ("mqueue_len", figures.mqueue_len)] {
            assert_eq!(row[key].as_u64(), figure, "{key} of {row}");
        }
    }
}

async fn told_kick(message: &[u8]) {
    let mut gateway = gateway(node("Kick", message)).await;
    let (status, body) = ask_whole(&mut gateway, "DELETE", &format!("/clients/{CLIENT}")).await;
    let said = KickResponse::decode(message).ok().filter(|said| name(said.identity.as_ref()) == Some(NODE));
    let expected = match said.map_or(Outcome::Unspecified, |said| said.outcome()) {
        Outcome::Kicked => (200, 0),
        // It is looked for again, and is there again.
        Outcome::NotFound | Outcome::OtherSession => (503, 101),
        Outcome::Unspecified => (502, 101),
    };
    assert_eq!((status, body["code"].as_i64().expect("a code")), expected, "{body}");
}

async fn told_events(message: &[u8]) {
    let mut gateway = gateway(node("Watch", message)).await;
    // The node's streams end again and again, and are opened again.
    let (status, body) =
        ask(&mut gateway, "GET", "/client_events?_format=ndjson", Duration::from_secs(3)).await;
    assert_eq!(status, 200, "{body}");
    let said = WatchResponse::decode(message).unwrap_or_default();
    let told_by = name(said.identity.as_ref());
    let mut last = None;
    // In chunks of HTTP: their sizes stand between.
    let events = body.lines().filter(|line| line.starts_with('{'));
    for event in events.map(|line| serde_json::from_str::<Value>(line).expect("JSON")) {
        let number = event["id"].as_str().and_then(|id| id.rsplit_once('-')?.1.parse::<u64>().ok());
        let number = number.expect("a number");
        let is_event = event["event"] != "ready";
        assert!(last.is_none_or(|last| number == last + u64::from(is_event)), "{event} after {last:?}");
        last = Some(number);
        if let Some(client) = event.get("client") {
            assert_eq!(client["node"].as_str(), told_by, "{event}");
            let is_told = |of: &Client| client["clientid"] == of.clientid.as_str();
            assert!(said.events.iter().filter_map(|of| of.client.as_ref()).any(is_told), "{event}");
        }
    }
}

// What a gateway asks.

/// A broker with the clients of [`clients::some`].
struct Some40;

fn statistics_of(session: u64) -> Option<Statistics> {
    clients::some().into_iter().find(|client| client.session == session)?.statistics
}

#[async_trait]
impl Broker for Some40 {
    fn info(&self) -> BrokerInfo {
        BrokerInfo { kind: "forty", version: "1".into(), ..BrokerInfo::default() }
    }

    async fn follow(&self, changes: mpsc::Sender<ClientChange>) -> Result<(), BrokerError> {
        let rows = clients::some().into_iter().map(|client| Client { statistics: None, ..client });
        if send_resync(&changes, rows).await.is_ok() {
            changes.closed().await;
        }
        Ok(())
    }

    async fn statistics(&self, sessions: &[SessionRef]) -> Vec<Option<Statistics>> {
        sessions.iter().map(|session| statistics_of(session.session)).collect()
    }

    async fn kick(&self, _: &SessionRef) -> Result<Kick, BrokerError> {
        Ok(Kick::Kicked)
    }
}

/// An agent over that broker, which knows its clients; and who it is.
async fn agent() -> (Caller, Identity) {
    let nobody = BrokerConfig::Synthetic { clients: 0, seed: 0, churn: 0 };
    let (ours, theirs) = duplex(BUFFER);
    let connection = Connection::new(Box::new(theirs), remote());
    let incoming = stream::iter([connection]).chain(stream::pending());
    let run =
        run_on(AgentConfig::new(NODE, nobody), incoming, Arc::new(Some40), || {}, std::future::pending());
    tokio::spawn(run);
    sleep(Duration::from_millis(1)).await;
    let mut caller = Caller::on(ours).await;
    let told: DescribeResponse = message(&mut caller.call("Describe", &[]).await).await.expect("an answer");
    assert_eq!((told.clients, told.broker_kind.as_str()), (clients::some().len() as u64, "forty"));
    let identity = told.identity.expect("an identity");
    assert_eq!(identity.name, NODE);
    (caller, identity)
}

/// The next message of an answer.
async fn message<M: Message + Default>(answer: &mut Answer) -> Option<M> {
    answer.next().await.map(|bytes| M::decode(bytes.as_slice()).expect("a message of an agent"))
}

/// The one message of an answer; none for a message that was none.
async fn answered<M: Message + Default>(caller: &mut Caller, method: &str, asked: &[u8]) -> Option<M> {
    let mut answer = caller.call(method, asked).await;
    let first = message(&mut answer).await;
    assert!(first.is_none() || answer.next().await.is_none(), "two answers to {method}");
    first
}

async fn asked_to_describe(bytes: &[u8]) {
    let (mut caller, identity) = agent().await;
    let told: Option<DescribeResponse> = answered(&mut caller, "Describe", bytes).await;
    // There is nothing to read in the request; what is no message at all may be refused.
    assert!(told.is_none_or(|told| told.identity == Some(identity)));
}

async fn asked_for_client(bytes: &[u8]) {
    let (mut caller, identity) = agent().await;
    let told: Option<GetResponse> = answered(&mut caller, "Get", bytes).await;
    let Ok(asked) = GetRequest::decode(bytes) else {
        assert_eq!(told, None);
        return;
    };
    let told = told.expect("an answer");
    assert_eq!(told.identity, Some(identity));
    let own = clients::some().into_iter().filter(|client| client.clientid == asked.clientid);
    let expected: Vec<Client> = own
        .map(|client| {
            let statistics = client.statistics.filter(|_| !asked.without_statistics);
            Client { node: String::new(), statistics, ..client }
        })
        .collect();
    let told: Vec<Client> =
        told.clients.into_iter().map(|client| Client { node: String::new(), ..client }).collect();
    assert_eq!(told, expected);
}

/// The sessions under an id.
async fn sessions(caller: &mut Caller, clientid: &str) -> BTreeSet<u64> {
    let asked =
        GetRequest { clientid: clientid.to_owned(), without_statistics: true, ..GetRequest::default() }
            .encode_to_vec();
    let told: GetResponse = answered(caller, "Get", &asked).await.expect("an answer");
    told.clients.iter().map(|client| client.session).collect()
}

async fn asked_to_kick(bytes: &[u8]) {
    let (mut caller, identity) = agent().await;
    let Ok(mut asked) = KickRequest::decode(bytes) else {
        assert_eq!(answered::<KickResponse>(&mut caller, "Kick", bytes).await, None);
        return;
    };
    // No input can know it.
    if asked.incarnation == Some(1) {
        asked.incarnation = Some(identity.incarnation);
    }
    let before = sessions(&mut caller, &asked.clientid).await;
    let is_of_now = asked.incarnation.is_none_or(|incarnation| incarnation == identity.incarnation);
    let wanted =
        before.iter().copied().filter(|session| asked.session.is_none_or(|wanted| wanted == *session));
    let ended: BTreeSet<u64> = wanted.filter(|_| is_of_now).collect();
    let expected = match (is_of_now, before.is_empty(), ended.is_empty()) {
        (false, ..) | (true, false, true) => Outcome::OtherSession,
        (true, true, _) => Outcome::NotFound,
        (true, false, false) => Outcome::Kicked,
    };
    let told: KickResponse = answered(&mut caller, "Kick", &asked.encode_to_vec()).await.expect("an answer");
    assert_eq!((told.outcome(), told.identity), (expected, Some(identity)));
    assert_eq!(sessions(&mut caller, &asked.clientid).await, &before - &ended);
    let told: DescribeResponse = answered(&mut caller, "Describe", &[]).await.expect("an answer");
    assert_eq!(told.clients, (clients::some().len() - ended.len()) as u64, "others are there yet");
}

async fn asked_for_events(bytes: &[u8]) {
    let (mut caller, identity) = agent().await;
    let Ok(mut asked) = WatchRequest::decode(bytes) else {
        assert!(caller.call("Watch", bytes).await.next().await.is_none());
        return;
    };
    if asked.incarnation == 1 {
        asked.incarnation = identity.incarnation;
    }
    let mut events = caller.call("Watch", &asked.encode_to_vec()).await;
    let first: WatchResponse = message(&mut events).await.expect("a first message at once");
    // Nothing has happened yet that was kept.
    let is_lost = asked.after.is_some_and(|after| asked.incarnation != identity.incarnation || after > 0);
    assert_eq!((first.identity, first.lost, first.events.len()), (Some(identity), is_lost, 0));
    let kick = KickRequest { clientid: CLIENT.into(), session: Some(7), incarnation: None };
    let told: KickResponse = answered(&mut caller, "Kick", &kick.encode_to_vec()).await.expect("an answer");
    assert_eq!(told.outcome(), Outcome::Kicked);
    let mut positions = Vec::new();
    while let Some(next) = message::<WatchResponse>(&mut events).await {
        assert!(!next.lost && next.identity.is_none(), "{next:?}");
        assert_eq!(
            next.events.last().map_or(first.position, |event| event.position),
            next.position,
            "{next:?}"
        );
        let is_of_client = |client: &Client| client.clientid == CLIENT && client.session == 7;
        assert!(next.events.iter().all(|event| event.client.as_ref().is_some_and(is_of_client)), "{next:?}");
        positions.extend(next.events.iter().map(|event| event.position));
    }
    assert!(
        !positions.is_empty()
            && positions.iter().copied().eq(first.position + 1..=first.position + positions.len() as u64)
    );
}
