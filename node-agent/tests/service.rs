//! The gRPC service over a real channel, in process.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rollcall_node_agent::broker::{
    Broker, BrokerError, BrokerInfo, ClientChange, Kick, SessionRef, send_resync,
};
use rollcall_node_agent::config::{BrokerConfig, Config};
use rollcall_node_agent::run::{RunError, run_with_ready};
use rollcall_proto::v1::kick_response::Outcome;
use rollcall_proto::v1::node_client::NodeClient;
use rollcall_proto::v1::{
    Client, ConnState, DescribeRequest, DescribeResponse, ExportRequest, Filter, GetRequest, Key,
    KickRequest, ListRequest, ListResponse, Order, SortField, Statistics, SurveyRequest, WatchRequest,
};
use rollcall_proto::{REASON_METADATA, Reason};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const NODE: &str = "a@127.0.0.1";

/// How a session's kick is to end.
type KickResult = fn() -> Result<Kick, BrokerError>;

/// A broker that does what the test says.
#[derive(Default)]
struct Scripted {
    info: BrokerInfo,
    clients: Vec<Client>,
    changes: Mutex<Option<mpsc::Sender<ClientChange>>>,
    kicks: Mutex<HashMap<u64, KickResult>>,
    /// A kick or a question for live figures takes one permit, if there is a gate.
    gate: Option<Arc<Semaphore>>,
    gone: tokio::sync::Notify,
}

impl Scripted {
    fn with(clients: Vec<Client>) -> Self {
        let info = BrokerInfo { kind: "scripted", version: "1".into(), ..BrokerInfo::default() };
        Self { info, clients, ..Self::default() }
    }

    fn gated(clients: Vec<Client>) -> (Self, Arc<Semaphore>) {
        let gate = Arc::new(Semaphore::new(0));
        (Self { gate: Some(Arc::clone(&gate)), ..Self::with(clients) }, gate)
    }

    fn on_kick(self, session: u64, result: KickResult) -> Self {
        self.kicks.lock().unwrap().insert(session, result);
        self
    }

    async fn pass(&self) {
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
    }

    async fn resync(&self, clients: Vec<Client>) {
        let changes = self.changes.lock().unwrap().clone().unwrap();
        send_resync(&changes, clients).await.unwrap();
    }

    async fn tell(&self, change: ClientChange) {
        let changes = self.changes.lock().unwrap().clone().unwrap();
        changes.send(change).await.unwrap();
    }
}

#[async_trait]
impl Broker for Scripted {
    fn info(&self) -> BrokerInfo {
        self.info.clone()
    }

    async fn follow(&self, changes: mpsc::Sender<ClientChange>) -> Result<(), BrokerError> {
        *self.changes.lock().unwrap() = Some(changes.clone());
        send_resync(&changes, self.clients.clone()).await.unwrap();
        tokio::select! {
            () = changes.closed() => Ok(()),
            () = self.gone.notified() => Err(BrokerError::Unavailable("unplugged".into())),
        }
    }

    async fn statistics(&self, sessions: &[SessionRef]) -> Vec<Option<Statistics>> {
        self.pass().await;
        let statistics =
            |session: &SessionRef| Statistics { mqueue_len: Some(session.session), ..Statistics::default() };
        sessions.iter().map(|session| Some(statistics(session))).collect()
    }

    async fn kick(&self, session: &SessionRef) -> Result<Kick, BrokerError> {
        self.pass().await;
        self.kicks.lock().unwrap().get(&session.session).map_or(Ok(Kick::Kicked), |result| result())
    }
}

struct Running {
    broker: Arc<Scripted>,
    client: NodeClient<Channel>,
    channel: Channel,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), RunError>>,
}

async fn serve(broker: Scripted, change: impl FnOnce(&mut Config)) -> Running {
    let mut config = Config::new(NODE, BrokerConfig::Synthetic { clients: 0, seed: 0, churn: 0 });
    change(&mut config);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let broker = Arc::new(broker);
    let (stop, stopped) = oneshot::channel();
    let (ready, is_ready) = oneshot::channel();
    let serving = run_with_ready(
        config,
        listener,
        Arc::clone(&broker) as Arc<dyn Broker>,
        || ready.send(()).unwrap(),
        async { drop(stopped.await) },
    );
    let ended = tokio::spawn(serving);
    is_ready.await.unwrap();
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    Running { broker, client: NodeClient::new(channel.clone()), channel, stop, ended }
}

async fn serve_plain(clients: Vec<Client>) -> Running {
    serve(Scripted::with(clients), |_| {}).await
}

fn client(number: u64) -> Client {
    Client {
        clientid: format!("c-{number:05}"),
        session: number,
        username: (!number.is_multiple_of(3)).then(|| format!("u-{}", number % 3)),
        port: Some(u32::try_from(number % 7).unwrap()),
        conn_state: ConnState::Connected.into(),
        ..Client::default()
    }
}

fn clients(count: u64) -> Vec<Client> {
    (1..=count).map(client).collect()
}

impl Running {
    async fn list(&self, request: ListRequest) -> Result<Vec<ListResponse>, Status> {
        let mut stream = self.client.clone().list(request).await?.into_inner();
        let mut chunks = Vec::new();
        while let Some(chunk) = stream.message().await? {
            chunks.push(chunk);
        }
        Ok(chunks)
    }

    async fn kick(&self, clientid: &str, session: Option<u64>) -> Result<Outcome, Status> {
        let request = KickRequest { clientid: clientid.into(), session, incarnation: None };
        let answer = self.client.clone().kick(request).await?.into_inner();
        assert_eq!(answer.identity.as_ref().unwrap().name, NODE);
        Ok(answer.outcome())
    }

    async fn describe(&self) -> DescribeResponse {
        self.client.clone().describe(DescribeRequest {}).await.unwrap().into_inner()
    }

    async fn health(&self, service: &str) -> ServingStatus {
        let request = HealthCheckRequest { service: service.into() };
        HealthClient::new(self.channel.clone()).check(request).await.unwrap().into_inner().status()
    }
}

fn sessions(chunks: &[ListResponse]) -> Vec<u64> {
    chunks.iter().flat_map(|chunk| &chunk.clients).map(|client| client.session).collect()
}

fn reason(status: &Status) -> Option<Reason> {
    Reason::from_word(status.metadata().get(REASON_METADATA)?.to_str().ok()?)
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..3000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 30 s: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_comes_in_chunks_with_statistics() {
    let agent = serve_plain(clients(1_234)).await;
    let chunks =
        agent.list(ListRequest { offset: 10, limit: 1_100, ..ListRequest::default() }).await.unwrap();
    let sizes: Vec<usize> = chunks.iter().map(|chunk| chunk.clients.len()).collect();
    assert_eq!(sizes, [500, 500, 100]);
    assert_eq!(chunks[0].count, 1_234);
    let identity = chunks[0].identity.clone().unwrap();
    assert_eq!(identity, agent.describe().await.identity.unwrap());
    assert_eq!(sessions(&chunks), (11..=1_110).collect::<Vec<u64>>());
    let first = Client {
        statistics: Some(Statistics { mqueue_len: Some(11), ..Statistics::default() }),
        ..client(11)
    };
    assert_eq!(chunks[0].clients[0], first);
    let bare = ListRequest { limit: 1, without_statistics: true, ..ListRequest::default() };
    assert_eq!(agent.list(bare).await.unwrap()[0].clients, [client(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_ends_when_its_rows_are_large() {
    let large = |number| Client { mountpoint: Some("m".repeat(60_000)), ..client(number) };
    let agent = serve_plain((1..=40).map(large).collect()).await;
    let chunks = agent.list(ListRequest { limit: 100, ..ListRequest::default() }).await.unwrap();
    let sizes: Vec<usize> = chunks.iter().map(|chunk| chunk.clients.len()).collect();
    assert_eq!(sizes, [18, 18, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_list_still_says_whose_and_how_many() {
    let agent = serve_plain(clients(5)).await;
    let filter = Some(Filter { clientid: vec!["nobody".into()], ..Filter::default() });
    for (request, count) in [
        (ListRequest { limit: 0, ..ListRequest::default() }, 5),
        (ListRequest { offset: 5, limit: 10, ..ListRequest::default() }, 5),
        (ListRequest { offset: u64::MAX, limit: 10, ..ListRequest::default() }, 5),
        (ListRequest { filter, limit: 10, ..ListRequest::default() }, 0),
    ] {
        let chunks = agent.list(request).await.unwrap();
        assert_eq!(chunks.len(), 1);
        assert_eq!(chunks[0].identity.as_ref().unwrap().name, NODE);
        assert_eq!((chunks[0].count, chunks[0].clients.len()), (count, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survey_and_the_lists_of_its_snapshot_see_one_state() {
    let agent = serve_plain(clients(10_000)).await;
    let order = Some(Order { field: SortField::Port.into(), descending: true });
    let filter = Some(Filter { like_clientid: vec!["c-0".into()], ..Filter::default() });
    let survey = SurveyRequest {
        filter: filter.clone(),
        order,
        start: 0,
        end: u64::MAX,
        fences: 8,
        ..Default::default()
    };
    let unkept = SurveyRequest { without_snapshot: true, ..survey.clone() };
    let unkept = agent.client.clone().survey(unkept).await.unwrap().into_inner();
    let answer = agent.client.clone().survey(survey).await.unwrap().into_inner();
    assert_eq!((answer.count, answer.fences.len()), (9_999, 8));
    assert_eq!((unkept.count, unkept.fences.len(), unkept.snapshot), (9_999, 8, 0));
    assert_ne!(answer.snapshot, 0);
    let key = answer.fences[3].key.clone().unwrap();
    assert_eq!(key.node, NODE);
    agent.kick(&key.clientid, None).await.unwrap();
    let list = |snapshot| ListRequest {
        filter: filter.clone(),
        order,
        snapshot,
        offset: answer.fences[3].rank,
        limit: 1,
        ..ListRequest::default()
    };
    let frozen = agent.list(list(answer.snapshot)).await.unwrap();
    assert_eq!((frozen[0].count, &frozen[0].clients[0].clientid), (9_999, &key.clientid));
    let live = agent.list(list(0)).await.unwrap();
    assert_eq!(live[0].count, 9_998);
    assert_ne!(live[0].clients[0].clientid, key.clientid);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_outside_the_contract_are_told_apart() {
    let agent = serve_plain(clients(3)).await;
    let gone = agent.list(ListRequest { snapshot: 77, ..ListRequest::default() }).await.unwrap_err();
    assert_eq!((gone.code(), gone.message()), (Code::FailedPrecondition, "snapshot 77 is gone"));
    let many = agent.list(ListRequest { limit: 20_001, ..ListRequest::default() }).await.unwrap_err();
    assert_eq!(many.code(), Code::InvalidArgument);
    assert_eq!(many.message(), "limit 20001, expected at most 20000");
    let none = agent.client.clone().survey(SurveyRequest::default()).await.unwrap_err();
    assert_eq!((none.code(), none.message()), (Code::InvalidArgument, "fences 0, expected 1 to 256"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_and_a_survey_can_begin_behind_a_key() {
    let agent = serve_plain(clients(1_000)).await;
    // Between two clients, of another node: what counts is the order, not who has the key.
    let after = Some(Key { clientid: "c-00400x".into(), node: "z".into(), ..Key::default() });
    let list = ListRequest { after: after.clone(), offset: 5, limit: 3, ..ListRequest::default() };
    let chunks = agent.list(list.clone()).await.unwrap();
    assert_eq!((chunks[0].count, chunks[0].first), (1_000, 400));
    assert_eq!(sessions(&chunks), [406, 407, 408]);
    let survey = SurveyRequest { after, end: u64::MAX, fences: 2, ..SurveyRequest::default() };
    let answer = agent.client.clone().survey(survey).await.unwrap().into_inner();
    let ranks: Vec<u64> = answer.fences.iter().map(|fence| fence.rank).collect();
    assert_eq!((answer.count, answer.first, ranks), (1_000, 400, vec![400, 700]));
    assert_eq!(chunks[0].start, 405);
    let last = |offset, limit| ListRequest { from_end: true, offset, limit, ..list.clone() };
    let chunks = agent.list(last(10, 3)).await.unwrap();
    assert_eq!((chunks[0].count, chunks[0].first, chunks[0].start), (1_000, 400, 987));
    assert_eq!(sessions(&chunks), [988, 989, 990]);
    // None before the key, however many are asked for.
    let chunks = agent.list(last(598, 100)).await.unwrap();
    assert_eq!((chunks[0].start, sessions(&chunks)), (400, vec![401, 402]));
    let chunks = agent.list(last(700, 100)).await.unwrap();
    assert_eq!((chunks[0].start, sessions(&chunks)), (400, vec![]));
    let whole = ListRequest { from_end: true, limit: 1_200, ..ListRequest::default() };
    let chunks = agent.list(whole).await.unwrap();
    assert_eq!((chunks[0].start, sessions(&chunks)), (0, (1..=1_000).collect()));
    let nameless = ListRequest { after: Some(Key::default()), ..list };
    let refused = agent.list(nameless).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "after: the key names no node"));
}

#[tokio::test(flavor = "multi_thread")]
async fn get_gives_every_session_of_the_id() {
    let twice = Client { session: 900, ..client(2) };
    let agent = serve_plain([clients(3), vec![twice]].concat()).await;
    let get = |clientid: &str| GetRequest { clientid: clientid.into(), ..GetRequest::default() };
    let answer = agent.client.clone().get(get("c-00002")).await.unwrap().into_inner();
    let found: Vec<(u64, Option<u64>)> =
        answer.clients.iter().map(|c| (c.session, c.statistics.as_ref().unwrap().mqueue_len)).collect();
    assert_eq!(found, [(2, Some(2)), (900, Some(900))]);
    assert!(agent.client.clone().get(get("c-0000")).await.unwrap().into_inner().clients.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn get_by_a_sessions_number_gives_that_one_and_says_so() {
    // Few are searched at once, many off the runtime.
    for count in [3, 20_000] {
        let twice = Client { session: 900_000, ..client(2) };
        let agent = serve_plain([clients(count), vec![twice]].concat()).await;
        for (session, clientid) in [(2, Some("c-00002")), (900_000, Some("c-00002")), (800_000, None)] {
            // The client id counts for nothing.
            let clientid_of_another = "c-00001".to_owned();
            let request = GetRequest {
                clientid: clientid_of_another,
                session: Some(session),
                without_statistics: true,
            };
            let answer = agent.client.clone().get(request).await.unwrap().into_inner();
            let found: Vec<_> = answer.clients.iter().map(|c| (c.clientid.as_str(), c.session)).collect();
            let expected: Vec<_> = clientid.map(|clientid| (clientid, session)).into_iter().collect();
            assert_eq!((answer.session, found), (Some(session), expected), "{session} of {count}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kick_says_what_became_of_the_sessions() {
    let twice = Client { session: 900, ..client(2) };
    let broker = Scripted::with([clients(6), vec![twice]].concat())
        .on_kick(3, || Ok(Kick::NotFound))
        .on_kick(4, || Err(BrokerError::Unavailable("busy".into())))
        .on_kick(5, || Err(BrokerError::Refused("no".into())));
    let agent = serve(broker, |_| {}).await;
    assert_eq!(agent.kick("nobody", None).await.unwrap(), Outcome::NotFound);
    assert_eq!(agent.kick("c-00001", Some(9)).await.unwrap(), Outcome::OtherSession);
    // A session number of before a restart names nothing.
    let incarnation = agent.describe().await.identity.map(|identity| identity.incarnation ^ 1);
    let old = KickRequest { clientid: "c-00001".into(), session: Some(1), incarnation };
    assert_eq!(agent.client.clone().kick(old).await.unwrap().into_inner().outcome(), Outcome::OtherSession);
    assert_eq!(agent.kick("c-00001", Some(1)).await.unwrap(), Outcome::Kicked);
    assert_eq!(agent.describe().await.clients, 6);
    assert_eq!(agent.kick("c-00001", None).await.unwrap(), Outcome::NotFound);
    assert_eq!(agent.kick("c-00002", None).await.unwrap(), Outcome::Kicked);
    assert_eq!(agent.kick("c-00003", None).await.unwrap(), Outcome::NotFound);
    let unavailable = agent.kick("c-00004", None).await.unwrap_err();
    assert_eq!(unavailable.code(), Code::Unavailable);
    assert_eq!(unavailable.message(), "the broker does not answer: busy");
    assert_eq!(reason(&unavailable), None);
    assert_eq!(agent.kick("c-00005", None).await.unwrap_err().code(), Code::Internal);
    // News from before the kick does not bring the session back.
    agent.broker.tell(ClientChange::Present(client(1))).await;
    agent.broker.tell(ClientChange::Present(client(50))).await;
    until("the new client", async || agent.describe().await.clients == 4).await;
    let left = agent.list(ListRequest { limit: 10, ..ListRequest::default() }).await.unwrap();
    assert_eq!(sessions(&left), [4, 5, 6, 50]);
}

#[tokio::test(flavor = "multi_thread")]
async fn describe_tells_how_index_and_broker_stand() {
    let offline = Client { conn_state: ConnState::Disconnected.into(), ..client(4) };
    let agent = serve_plain([clients(3), vec![offline]].concat()).await;
    let answer = agent.describe().await;
    assert_eq!((answer.broker_kind.as_str(), answer.connected, answer.clients), ("scripted", 3, 4));
    assert!(answer.resynced_at_ms >= Some(answer.started_at_ms));
    assert!(answer.broker_error.is_empty() && !answer.draining);
    agent.broker.tell(ClientChange::BrokerFailed("no answer".into())).await;
    until("the error", async || agent.describe().await.broker_error == "no answer").await;
    assert_eq!(agent.describe().await.clients, 4);
    agent.broker.resync(clients(2)).await;
    until("the resync", async || agent.describe().await.broker_error.is_empty()).await;
    assert_eq!(agent.describe().await.clients, 2);
    for service in ["", "rollcall.v1.Node"] {
        assert_eq!(agent.health(service).await, ServingStatus::Serving);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_without_statistics_when_the_broker_is_slow() {
    let (broker, _gate) = Scripted::gated(clients(1_000));
    let agent = serve(broker, |_| {}).await;
    let mut request = Request::new(ListRequest { limit: 1_000, ..ListRequest::default() });
    request.set_timeout(Duration::from_secs(1));
    let mut stream = agent.client.clone().list(request).await.unwrap().into_inner();
    let mut rows = Vec::new();
    while let Some(chunk) = stream.message().await.unwrap() {
        rows.extend(chunk.clients);
    }
    assert_eq!(rows.len(), 1_000);
    assert!(rows.iter().all(|row| row.statistics.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_takes_its_work_along() {
    // A ranking asks the broker for the figure of every client, and this one never answers.
    let (broker, _gate) = Scripted::gated(clients(3));
    let agent = serve(broker, |_| {}).await;
    let at_work = async || {
        let told = agent.describe().await;
        (told.calls_in_flight, told.scans_running)
    };
    let order = Some(Order { field: SortField::MqueueLen.into(), descending: true });
    let mut client = agent.client.clone();
    let waiting = tokio::spawn(async move {
        client.list(ListRequest { order, limit: 10, ..ListRequest::default() }).await.map(drop)
    });
    until("the ranking", async || at_work().await == (1, 1)).await;
    waiting.abort();
    until("its end", async || at_work().await == (0, 0)).await;

    let mut late = Request::new(SurveyRequest { order, end: 10, fences: 2, ..SurveyRequest::default() });
    late.metadata_mut().insert("grpc-timeout", "100m".parse().unwrap());
    let late = agent.client.clone().survey(late).await.unwrap_err();
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late:?}");
    until("its end", async || at_work().await == (0, 0)).await;

    // So do the figures of one client.
    let mut client = agent.client.clone();
    let get = GetRequest { clientid: "c-00001".into(), ..GetRequest::default() };
    let waiting = tokio::spawn(async move { client.get(get).await.map(drop) });
    until("the question", async || at_work().await == (1, 0)).await;
    waiting.abort();
    until("its end", async || at_work().await == (0, 0)).await;
    // Streams too, of which more are opened in turn than there may be at once.
    for _ in 0..40 {
        let without_figures = ExportRequest { without_statistics: true, ..ExportRequest::default() };
        let mut exported = agent.client.clone().export(without_figures).await.unwrap().into_inner();
        assert!(exported.message().await.unwrap().is_some());
        drop(exported);
        until("the export's end", async || at_work().await == (0, 0)).await;
        let opened = async || agent.client.clone().watch(WatchRequest::default()).await;
        let mut watched = None;
        // The one before may not be over yet.
        until("a stream of events", async || {
            watched = opened().await.ok();
            watched.is_some()
        })
        .await;
        assert!(watched.unwrap().into_inner().message().await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kick_whose_caller_goes_away_is_finished_and_leaves_nothing() {
    let (broker, gate) = Scripted::gated(clients(3));
    let agent = serve(broker, |_| {}).await;
    let mut client = agent.client.clone();
    let kick = KickRequest { clientid: "c-00001".into(), session: None, incarnation: None };
    let waiting = tokio::spawn(async move { client.kick(kick).await.map(drop) });
    until("the kick", async || agent.describe().await.calls_in_flight == 1).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    // The broker has not answered, so it is still going on; by now the agent knows that nobody waits.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let told = agent.describe().await;
    assert_eq!((told.calls_in_flight, told.clients), (1, 3));
    gate.add_permits(1);
    until("its end", async || {
        let told = agent.describe().await;
        (told.calls_in_flight, told.clients) == (0, 2)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_at_its_deadline() {
    let (broker, gate) = Scripted::gated(clients(3));
    let agent = serve(broker, |_| {}).await;
    let mut request =
        Request::new(KickRequest { clientid: "c-00001".into(), session: None, incarnation: None });
    // By hand: `set_timeout` would make the channel end the call first.
    request.metadata_mut().insert("grpc-timeout", "100m".parse().unwrap());
    let started = std::time::Instant::now();
    let late = agent.client.clone().kick(request).await.unwrap_err();
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late:?}");
    assert!(started.elapsed() < Duration::from_secs(2));
    // The kick that had begun is finished all the same.
    gate.add_permits(1);
    until("the kick", async || agent.describe().await.clients == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_of_calls_the_agent_says_overloaded() {
    let (broker, gate) = Scripted::gated(clients(3));
    let agent = serve(broker, |config| config.max_calls = 2.try_into().unwrap()).await;
    let kick = |number: u64| {
        let mut client = agent.client.clone();
        let request = KickRequest { clientid: format!("c-{number:05}"), session: None, incarnation: None };
        tokio::spawn(async move {
            loop {
                match client.kick(request.clone()).await {
                    // One of the lists below came first; they end at once.
                    Err(status) if status.code() == Code::ResourceExhausted => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    answer => return answer.unwrap().into_inner().outcome(),
                }
            }
        })
    };
    let (first, second) = (kick(1), kick(2));
    let without_statistics = || ListRequest { without_statistics: true, ..ListRequest::default() };
    let mut refused = None;
    until("a refusal", async || {
        refused = agent.list(without_statistics()).await.err();
        refused.is_some()
    })
    .await;
    let refused = refused.unwrap();
    assert_eq!((refused.code(), reason(&refused)), (Code::ResourceExhausted, Some(Reason::Overloaded)));
    assert_eq!(agent.describe().await.clients, 3);
    gate.add_permits(2);
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (Outcome::Kicked, Outcome::Kicked));
    assert!(agent.list(without_statistics()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_refuses_new_calls_and_lets_those_in_flight_finish() {
    let (broker, gate) = Scripted::gated(clients(3));
    let Running { client, channel, stop, ended, broker } = serve(broker, |_| {}).await;
    let mut kicking = client.clone();
    let request = KickRequest { clientid: "c-00001".into(), session: None, incarnation: None };
    let kick = tokio::spawn(async move { kicking.kick(request).await });
    until("the kick to begin", async || gate.available_permits() == 0 && !kick.is_finished()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.send(()).unwrap();
    let mut describing = client.clone();
    until("draining", async || describing.describe(DescribeRequest {}).await.unwrap().into_inner().draining)
        .await;
    let refused = client.clone().list(ListRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::Unavailable, Some(Reason::Draining)));
    let health = HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(health.into_inner().status(), ServingStatus::NotServing);
    assert!(!ended.is_finished());
    gate.add_permits(1);
    assert_eq!(kick.await.unwrap().unwrap().into_inner().outcome(), Outcome::Kicked);
    ended.await.unwrap().unwrap();
    drop(broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_does_not_wait_for_ever() {
    let (broker, _gate) = Scripted::gated(clients(3));
    let agent = serve(broker, |config| config.drain_timeout = Duration::from_millis(50)).await;
    let mut kicking = agent.client.clone();
    let request = KickRequest { clientid: "c-00001".into(), session: None, incarnation: None };
    let kick = tokio::spawn(async move { kicking.kick(request).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = std::time::Instant::now();
    agent.stop.send(()).unwrap();
    agent.ended.await.unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(kick.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_gone_for_good_ends_the_agent() {
    let agent = serve_plain(clients(3)).await;
    agent.broker.gone.notify_one();
    let error = agent.ended.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "lost the broker: the broker does not answer: unplugged");
}
