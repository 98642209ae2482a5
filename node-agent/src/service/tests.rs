//! The service as its callers see it, over the synthetic broker.

use futures::{StreamExt, TryStreamExt};
use rollcall_proto::v1::{Filter, SortField};
use rollcall_proto::{CHUNK_ROWS, REASON_METADATA, Reason, v1};
use tonic::Code;

use super::*;
use crate::broker::synthetic::SyntheticBroker;

/// A service that knows as many clients.
async fn service(clients: u64) -> NodeService {
    let broker = Arc::new(SyntheticBroker::new(clients, 1, "a@h"));
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
    assert_eq!(refusal().await, (Code::Unavailable, None));
    agent.calls.drain();
    assert_eq!(refusal().await, (Code::Unavailable, Some(Reason::Draining)));
    assert!(service.describe(Request::new(DescribeRequest {})).await.unwrap().into_inner().draining);
}
