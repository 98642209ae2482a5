//! The service as its callers see it, over the synthetic broker.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use rollcall_proto::v1::{Client, Filter, GroupBy, SortField};
use rollcall_proto::{CHUNK_ROWS, ClientRef, Order, REASON_METADATA, Reason, v1};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::*;
use crate::broker::synthetic::SyntheticBroker;
use crate::broker::{BrokerInfo, ClientChange};

/// A service that knows as many clients.
async fn service(clients: u64) -> NodeService {
    followed(Arc::new(SyntheticBroker::new(clients, 1, "a@h"))).await
}

/// A service that knows the broker's clients.
async fn followed(broker: Arc<dyn Broker>) -> NodeService {
    let agent = Arc::new(Agent::new("a@h", broker, 4));
    let follows = Arc::clone(&agent);
    tokio::spawn(async move { follows.follower.follow(follows.broker.as_ref()).await });
    agent.follower.heard().await;
    NodeService::new(agent)
}

fn by_port() -> Option<v1::Order> {
    Some(v1::Order { field: SortField::Port.into(), descending: true })
}

fn export() -> Request<ExportRequest> {
    Request::new(ExportRequest { order: by_port(), without_statistics: true, ..ExportRequest::default() })
}

#[tokio::test]
async fn an_export_has_every_client_in_the_lists_order() {
    let service = service(3000).await;
    let list =
        ListRequest { order: by_port(), limit: 5000, without_statistics: true, ..ListRequest::default() };
    let listed: Vec<_> =
        service.list(Request::new(list)).await.unwrap().into_inner().try_collect().await.unwrap();
    let exported: Vec<_> = service.export(export()).await.unwrap().into_inner().try_collect().await.unwrap();
    assert_eq!(exported, listed);
    assert_eq!(exported.iter().map(|chunk| chunk.clients.len()).sum::<usize>(), 3000);
    assert!(exported.len() == 3000 / CHUNK_ROWS && exported[0].identity.is_some());

    let filter = Some(Filter { clientid: vec!["nobody".into()], ..Filter::default() });
    let none = Request::new(ExportRequest { filter, ..ExportRequest::default() });
    let none: Vec<_> = service.export(none).await.unwrap().into_inner().try_collect().await.unwrap();
    assert!(none.len() == 1 && none[0].identity.is_some() && none[0].clients.is_empty());
}

#[tokio::test]
async fn exports_that_nobody_reads_leave_the_calls_alone_and_end_when_dropped() {
    let service = service(3000).await;
    let mut open = Vec::new();
    let refused = loop {
        match service.export(export()).await {
            Ok(stream) => open.push(stream.into_inner()),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(service.get(Request::new(GetRequest::default())).await.is_ok());
    // The state is that of the beginning, whatever goes meanwhile.
    let first = open[0].next().await.unwrap().unwrap();
    for client in &first.clients {
        service.agent.index.ended(&client.clientid, client.session);
    }
    let last = open.pop().unwrap();
    let last: Vec<_> = last.try_collect().await.unwrap();
    assert_eq!(last.iter().map(|chunk| chunk.clients.len()).sum::<usize>(), 3000);
    assert!(service.export(export()).await.is_ok());
    drop(open);
    assert_eq!(service.agent.calls.in_flight(), 0);
}

#[tokio::test]
async fn calls_are_refused_until_the_clients_are_known_and_while_draining() {
    let agent = Arc::new(Agent::new("a", Arc::new(SyntheticBroker::new(0, 0, "a")), 1));
    let service = NodeService::new(Arc::clone(&agent));
    let refusal = async || {
        let status = service.get(Request::new(GetRequest::default())).await.unwrap_err();
        let word = status.metadata().get(REASON_METADATA).map(|word| word.to_str().unwrap().to_owned());
        (status.code(), word.and_then(|word| Reason::from_word(&word)))
    };
    assert_eq!(refusal().await, (Code::Unavailable, Some(Reason::Unreachable)));
    agent.calls.drain();
    assert_eq!(refusal().await, (Code::Unavailable, Some(Reason::Draining)));
    assert!(service.describe(Request::new(DescribeRequest {})).await.unwrap().into_inner().draining);
}

/// Waits until the agent says that so many calls are in flight and so many scans run.
async fn until_at_work(service: &NodeService, calls: u32, scans: u32) {
    let at_work = async || {
        let told = service.describe(Request::new(DescribeRequest {})).await.unwrap().into_inner();
        (told.calls_in_flight, told.scans_running)
    };
    for _ in 0..500 {
        if at_work().await == (calls, scans) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?} calls and scans, expected {calls} and {scans}", at_work().await);
}

/// A search that finds no end by itself, as a call that waits for it.
fn endless(service: &NodeService, deadline: Deadline) -> JoinHandle<Result<(), Status>> {
    let service = service.clone();
    tokio::spawn(async move {
        let _call = service.admit()?;
        let search = service.ask(SHORT + 1, deadline, |_, stop| {
            while !stop() {
                std::thread::yield_now();
            }
            Err::<(), _>(QueryError::Stopped)
        });
        service.agent.calls.bound(deadline, search).await
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_search_ends_with_its_caller_and_at_its_deadline() {
    let service = service(10).await;
    until_at_work(&service, 0, 0).await;
    let call = endless(&service, Deadline::of(&MetadataMap::new()));
    until_at_work(&service, 1, 1).await;
    call.abort();
    until_at_work(&service, 0, 0).await;

    let mut metadata = MetadataMap::new();
    metadata.insert("grpc-timeout", MetadataValue::from_static("50m"));
    let late = endless(&service, Deadline::of(&metadata)).await.unwrap();
    assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
    until_at_work(&service, 0, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_search_takes_its_core_until_it_has_stopped() {
    let service = service(10).await;
    let (stop, is_stopped) = std::sync::mpsc::channel::<()>();
    let stuck = service.clone();
    let call = tokio::spawn(async move {
        let ask = move |_: &Queries, _: &dyn Fn() -> bool| {
            let _ = is_stopped.recv();
            Err::<(), _>(QueryError::Stopped)
        };
        stuck.ask(SHORT + 1, Deadline::of(&MetadataMap::new()), ask).await
    });
    until_at_work(&service, 0, 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    until_at_work(&service, 0, 1).await;
    drop(stop);
    until_at_work(&service, 0, 0).await;
}

/// An agent that takes one call at a time, with so many clients of three zones.
async fn one_call_service(clients: u64) -> NodeService {
    let broker = Arc::new(SyntheticBroker::new(1, 1, "a@h"));
    let agent = Agent::new("a@h", broker, 1);
    let client = |n: u64| Client {
        clientid: n.to_string(),
        session: n,
        username: Some(n.to_string()),
        zone: Some((n % 3).to_string()),
        ..Client::default()
    };
    agent.follower.apply(ClientChange::ResyncBegun).await;
    agent.follower.apply(ClientChange::ResyncRows((0..clients).map(client).collect())).await;
    agent.follower.apply(ClientChange::ResyncDone).await;
    NodeService::new(Arc::new(agent))
}

async fn count(
    service: &NodeService,
    group_by: GroupBy,
    filter: Filter,
) -> Result<Vec<CountResponse>, Status> {
    let request = CountRequest { filter: Some(filter), group_by: group_by.into() };
    let stream = service.count(Request::new(request)).await?.into_inner();
    Ok(stream.map(Result::unwrap).collect().await)
}

#[tokio::test]
async fn a_count_is_answered_on_and_off_the_runtime() {
    for clients in [30, 30_000] {
        let service = one_call_service(clients).await;
        let chunks = count(&service, GroupBy::Zone, Filter::default()).await.unwrap();
        let identity = Some(service.agent.identity.clone());
        assert_eq!((chunks.len(), &chunks[0].identity, chunks[0].count), (1, &identity, clients));
        let counts: Vec<u64> = chunks[0].groups.iter().map(|group| group.count).collect();
        assert_eq!(counts, [clients / 3; 3]);
        let all = count(&service, GroupBy::Unspecified, Filter::default()).await.unwrap();
        assert_eq!(all, [CountResponse { identity, count: clients, groups: vec![] }]);
    }
}

#[tokio::test]
async fn a_count_is_refused_as_other_calls_are() {
    let service = one_call_service(200_001).await;
    let code = |answer: Result<Vec<CountResponse>, Status>| answer.unwrap_err().code();
    let everyone = Filter::default;
    assert_eq!(code(count(&service, GroupBy::Username, everyone()).await), Code::FailedPrecondition);
    let bad = Filter { conn_state: vec![9], ..everyone() };
    assert_eq!(code(count(&service, GroupBy::Zone, bad).await), Code::InvalidArgument);
    let mut late = Request::new(CountRequest { filter: None, group_by: GroupBy::Username.into() });
    late.set_timeout(Duration::from_nanos(1));
    assert_eq!(service.count(late).await.err().unwrap().code(), Code::DeadlineExceeded);
    let request = Request::new(CountRequest::default());
    let first = service.count(request).await.unwrap();
    let refused = code(count(&service, GroupBy::Zone, everyone()).await);
    assert_eq!(refused, Code::ResourceExhausted, "a call counts until its stream ends");
    drop(first);
    service.agent.calls.drain();
    assert_eq!(code(count(&service, GroupBy::Zone, everyone()).await), Code::Unavailable);
}

fn by(field: SortField) -> Option<v1::Order> {
    Some(v1::Order { field: field.into(), descending: true })
}

async fn rows(service: &NodeService, list: ListRequest) -> Vec<Client> {
    let chunks: Vec<ListResponse> =
        service.list(Request::new(list)).await.unwrap().into_inner().try_collect().await.unwrap();
    chunks.into_iter().flat_map(|chunk| chunk.clients).collect()
}

/// The synthetic broker, which now and then takes for ever to tell live figures.
struct Stalling {
    broker: SyntheticBroker,
    asked: AtomicU32,
    /// Which times, from 1.
    stalls: &'static [u32],
}

#[async_trait]
impl Broker for Stalling {
    fn info(&self) -> BrokerInfo {
        self.broker.info()
    }

    async fn follow(&self, changes: mpsc::Sender<ClientChange>) -> Result<(), BrokerError> {
        self.broker.follow(changes).await
    }

    async fn statistics(&self, sessions: &[SessionRef]) -> Vec<Option<v1::Statistics>> {
        if self.stalls.contains(&(1 + self.asked.fetch_add(1, Ordering::Relaxed))) {
            std::future::pending::<()>().await;
        }
        self.broker.statistics(sessions).await
    }

    async fn kick(&self, session: &SessionRef) -> Result<Kick, BrokerError> {
        self.broker.kick(session).await
    }
}

#[tokio::test(start_paused = true)]
async fn after_figures_that_were_late_a_page_goes_without_and_an_export_asks_again_later_and_later() {
    let service = async |stalls| {
        let broker = SyntheticBroker::new(10_000, 1, "a@h");
        followed(Arc::new(Stalling { broker, asked: AtomicU32::default(), stalls })).await
    };
    // Of each chunk, whether all its rows have figures; some or none.
    let with_figures = |chunks: Vec<ListResponse>| -> Vec<bool> {
        let told = |chunk: &ListResponse| {
            let told = chunk.clients.iter().filter(|client| client.statistics.is_some()).count();
            assert!(told == 0 || told == chunk.clients.len(), "{told} of {}", chunk.clients.len());
            told > 0
        };
        chunks.iter().map(told).collect()
    };
    let page = ListRequest { limit: 10_000, ..ListRequest::default() };
    let page = service(&[2]).await.list(Request::new(page)).await.unwrap().into_inner();
    let page = with_figures(page.try_collect().await.unwrap());
    assert_eq!((page.len(), page[0], page[1..].contains(&true)), (20, true, false));

    let exported = async |stalls| {
        let all = Request::new(ExportRequest::default());
        let chunks = service(stalls).await.export(all).await.unwrap().into_inner();
        with_figures(chunks.try_collect().await.unwrap())
    };
    let without = async |stalls| {
        let told = exported(stalls).await;
        assert_eq!(told.len(), 20);
        told.iter().enumerate().filter(|(_, told)| !**told).map(|(at, _)| at).collect::<Vec<_>>()
    };
    assert_eq!(without(&[2]).await, (1..=5).collect::<Vec<_>>());
    assert_eq!(without(&[2, 3]).await, (1..=14).collect::<Vec<_>>());
    // Once they are in time again, the next pause is a short one.
    assert_eq!(without(&[1, 3]).await, (0..=4).chain(6..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_list_by_a_live_figure_is_the_sorted_whole_and_shows_the_figure_it_is_sorted_by() {
    let service = service(20_000).await;
    let mut expected = Vec::new();
    for offset in [0, 10_000] {
        let filter = Some(Filter { clean_start: vec![true], ..Filter::default() });
        expected.extend(
            rows(&service, ListRequest { filter, offset, limit: 10_000, ..ListRequest::default() }).await,
        );
    }
    let order = Order { field: SortField::MqueueLen, descending: true };
    expected.sort_by(|a, b| order.compare(&order.key(&a.as_client_ref()), &order.key(&b.as_client_ref())));
    assert!(expected.len() > 5_000 && expected[0].statistics.unwrap().mqueue_len == Some(99));

    let list = |offset, limit, without_statistics| ListRequest {
        filter: Some(Filter { clean_start: vec![true], ..Filter::default() }),
        order: by(SortField::MqueueLen),
        offset,
        limit,
        without_statistics,
        ..ListRequest::default()
    };
    assert_eq!(rows(&service, list(0, 1_200, false)).await, expected[..1_200]);
    assert_eq!(rows(&service, list(4_000, 700, false)).await, expected[4_000..4_700]);
    let bare = rows(&service, list(0, 600, true)).await;
    for (row, whole) in bare.iter().zip(&expected) {
        let mqueue_len = whole.statistics.unwrap().mqueue_len;
        assert_eq!(row.statistics, Some(v1::Statistics { mqueue_len, ..v1::Statistics::default() }));
        assert_eq!(row.clientid, whole.clientid);
    }
}

#[tokio::test]
async fn ranks_by_a_live_figure_end_at_ten_thousand_and_what_lies_beyond_is_refused() {
    let service = service(12_000).await;
    let survey = SurveyRequest {
        order: by(SortField::RecvOct),
        end: u64::MAX,
        fences: 256,
        ..SurveyRequest::default()
    };
    let surveyed = Node::survey(&service, Request::new(survey.clone())).await.unwrap().into_inner();
    assert_eq!((surveyed.count, surveyed.fences.len()), (12_000, 256));
    assert!(surveyed.fences.iter().all(|fence| fence.rank < 10_000));
    // The snapshot reads the same ranks, however the figures have changed.
    let again = SurveyRequest { snapshot: surveyed.snapshot, ..survey };
    assert_eq!(Node::survey(&service, Request::new(again)).await.unwrap().into_inner(), surveyed);
    let list = |offset, limit| ListRequest {
        order: by(SortField::RecvOct),
        snapshot: surveyed.snapshot,
        offset,
        limit,
        ..ListRequest::default()
    };
    let row = &rows(&service, list(surveyed.fences[9].rank, 1)).await[0];
    let order = Order { field: SortField::RecvOct, descending: true };
    let key = v1::Key::from(order.key(&ClientRef { node: "a@h", ..row.as_client_ref() }));
    assert_eq!(Some(key), surveyed.fences[9].key);

    let refused = async |list| service.list(Request::new(list)).await.err().unwrap();
    let beyond = refused(list(9_000, 1_001)).await;
    assert_eq!(
        (beyond.code(), beyond.message()),
        (
            Code::InvalidArgument,
            "ranks up to 10001 by recv_oct, expected at most 10000: no client behind has a rank"
        )
    );
    let after = Some(v1::Key { clientid: "c".into(), node: "a@h".into(), ..v1::Key::default() });
    let behind = refused(ListRequest { after, ..list(0, 1) }).await;
    assert_eq!(
        (behind.code(), behind.message()),
        (Code::InvalidArgument, "a list from a key on by recv_oct, expected an order by an identity field")
    );
    let last = refused(ListRequest { from_end: true, ..list(0, 1) }).await;
    assert_eq!(
        (last.code(), last.message()),
        (Code::InvalidArgument, "a list from the end by recv_oct, expected an order by an identity field")
    );
    let export = ExportRequest { order: by(SortField::RecvOct), ..ExportRequest::default() };
    let export = service.export(Request::new(export)).await.err().unwrap();
    assert_eq!(export.message(), "an export by recv_oct, expected an order by an identity field");
}
