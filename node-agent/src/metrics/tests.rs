use futures::StreamExt as _;
use rollcall_metrics::{Format, reference, render};
use rollcall_proto::v1::node_server::Node as _;
use rollcall_proto::v1::{Client, CountRequest, DescribeRequest, ListRequest};
use tonic::Request;

use super::*;
use crate::broker::ClientChange;
use crate::broker::synthetic::SyntheticBroker;
use crate::service::NodeService;

fn agent() -> Arc<Agent> {
    Arc::new(Agent::new("a\"h", Arc::new(SyntheticBroker::new(1, 1, "a\"h")), 1))
}

fn samples(agent: &Arc<Agent>) -> Vec<String> {
    let text = render(Format::Prometheus, Page(Arc::clone(agent))).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[track_caller]
fn expect(agent: &Arc<Agent>, expected: &[&str]) {
    let shown = samples(agent);
    for sample in expected {
        assert!(shown.iter().any(|line| line == sample), "{sample} is not in {shown:#?}");
    }
}

fn about(agent: &Arc<Agent>, name: &str) -> usize {
    samples(agent).iter().filter(|line| line.starts_with(name)).count()
}

/// Tells the agent of so many clients, every third of them disconnected.
async fn resync(agent: &Agent, clients: u64) {
    let client = |n: u64| Client {
        clientid: n.to_string(),
        session: n,
        conn_state: if n.is_multiple_of(3) { ConnState::Disconnected } else { ConnState::Connected }.into(),
        ..Client::default()
    };
    agent.follower.apply(ClientChange::ResyncBegun).await;
    agent.follower.apply(ClientChange::ResyncRows((0..clients).map(client).collect())).await;
    agent.follower.apply(ClientChange::ResyncDone).await;
}

#[test]
fn the_catalog_is_what_is_written() {
    let text = render(Format::Prometheus, Page(agent())).unwrap();
    let written: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let names: Vec<&str> = catalog::metrics().map(|metric| metric.name).collect();
    assert_eq!(written, names);
}

/// `docs/metrics.md` has the table that this prints when it fails.
#[test]
fn the_documentation_lists_every_metric() {
    let table = reference(catalog::metrics());
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let text = std::fs::read_to_string(document).unwrap();
    assert!(text.contains(&table), "docs/metrics.md does not have this table:\n{table}");
}

#[tokio::test]
async fn what_is_not_known_is_absent() {
    let agent = agent();
    for name in [
        "rollcall_agent_clients",
        "rollcall_agent_broker_up",
        "rollcall_agent_resynced",
        "rollcall_agent_index",
    ] {
        assert_eq!(about(&agent, name), 0, "{name}");
    }
    expect(&agent, &[r#"rollcall_agent_info{node="a\"h",broker="synthetic",broker_version="0.1.0"} 1"#]);
    agent.follower.apply(ClientChange::BrokerFailed("gone".into())).await;
    expect(&agent, &["rollcall_agent_broker_up 0", "rollcall_agent_broker_failures_total 1"]);
    resync(&agent, 10).await;
    expect(
        &agent,
        &[
            "rollcall_agent_broker_up 1",
            r#"rollcall_agent_clients{conn_state="connected"} 6"#,
            r#"rollcall_agent_clients{conn_state="idle"} 0"#,
            r#"rollcall_agent_clients{conn_state="disconnected"} 4"#,
            r#"rollcall_agent_changes_total{change="resync_row"} 10"#,
            r#"rollcall_agent_resyncs_total{outcome="done"} 1"#,
            r#"rollcall_agent_resyncs_total{outcome="broken_off"} 0"#,
        ],
    );
    agent.follower.apply(ClientChange::ResyncBegun).await;
    agent.follower.apply(ClientChange::BrokerFailed("gone".into())).await;
    agent.follower.apply(ClientChange::Present(Client { session: 99, ..Client::default() })).await;
    expect(
        &agent,
        &[
            "rollcall_agent_broker_up 0",
            r#"rollcall_agent_resyncs_total{outcome="broken_off"} 1"#,
            r#"rollcall_agent_changes_total{change="present"} 1"#,
        ],
    );
}

#[tokio::test]
async fn calls_are_counted_when_they_have_ended_and_by_how() {
    let agent = agent();
    let service = NodeService::new(Arc::clone(&agent));
    let list = |limit| service.list(Request::new(ListRequest { limit, ..ListRequest::default() }));
    assert!(service.describe(Request::new(DescribeRequest {})).await.is_ok());
    assert!(list(1).await.is_err());
    resync(&agent, 1_200).await;
    assert!(list(1_000_000).await.is_err());
    // Three chunks of 500 rows at most.
    let mut rows = list(10_000).await.unwrap().into_inner();
    assert!(rows.next().await.unwrap().is_ok());
    expect(&agent, &["rollcall_agent_calls_in_flight 1.0"]);
    assert_eq!(about(&agent, r#"rollcall_agent_calls_total{rpc="list",outcome="ok"}"#), 0);
    assert!(list(1).await.is_err(), "there is one place");
    while rows.next().await.is_some() {}
    drop(rows);
    let mut given_up = list(10_000).await.unwrap().into_inner();
    assert!(given_up.next().await.unwrap().is_ok());
    drop(given_up);
    let count = CountRequest { filter: None, group_by: GroupBy::Kind.into() };
    let counted: Vec<_> = service.count(Request::new(count)).await.unwrap().into_inner().collect().await;
    assert_eq!(counted.len(), 1);
    expect(
        &agent,
        &[
            r#"rollcall_agent_calls_total{rpc="describe",outcome="ok"} 1"#,
            r#"rollcall_agent_calls_total{rpc="list",outcome="ok"} 1"#,
            r#"rollcall_agent_calls_total{rpc="list",outcome="unavailable"} 1"#,
            r#"rollcall_agent_calls_total{rpc="list",outcome="invalid_argument"} 1"#,
            r#"rollcall_agent_calls_total{rpc="list",outcome="resource_exhausted"} 1"#,
            r#"rollcall_agent_calls_total{rpc="list",outcome="cancelled"} 1"#,
            r#"rollcall_agent_calls_total{rpc="count",outcome="ok"} 1"#,
            r#"rollcall_agent_call_duration_seconds_count{rpc="list"} 5"#,
            "rollcall_agent_calls_in_flight 0.0",
        ],
    );
}

#[tokio::test]
async fn the_index_is_measured() {
    let agent = agent();
    resync(&agent, 10_000).await;
    let measure = tokio::time::timeout(Duration::from_secs(5), measure_index(&agent));
    tokio::select! {
        _ = measure => {}
        () = async {
            while about(&agent, "rollcall_agent_index_bytes") == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } => {}
    }
    let shown = samples(&agent);
    let bytes = shown.iter().find_map(|line| line.strip_prefix("rollcall_agent_index_bytes ")).unwrap();
    let bytes: u64 = bytes.parse().unwrap();
    assert!((30 * 10_000..1_000 * 10_000).contains(&bytes), "{bytes}");
}
