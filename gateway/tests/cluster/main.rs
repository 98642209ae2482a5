//! The cluster's operations against node-agents that are honest, silent or lying, over real gRPC.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rollcall_gateway::cluster::{
    Cluster, ClusterError, ClusterSettings, CountQuery, ListAnswer, ListQuery, NodeState, Scope, Start,
};
use rollcall_gateway::page::completeness::FailedNode;
use rollcall_gateway::page::cursor::Position;
use rollcall_gateway::page::groups::{GroupBy, Value};
use rollcall_proto::{Order, Reason, SortField, v1};
use tokio::time::Instant;

use fake_node::{Behaviour, DEADLINE, FakeNode, PATIENCE};

mod churn;
mod events;
mod export;
#[allow(dead_code, reason = "it is told to do more in the tests of the API")]
mod fake_node;
mod health;
mod marks;
mod sessions;
mod share;
mod snapshots;
mod walks;

/// `count` clients of node number `node`; ids interleave with other nodes' unless `apart`.
fn rows(node: usize, count: usize, apart: bool) -> Vec<v1::Client> {
    (0..count)
        .map(|row| v1::Client {
            clientid: if apart { format!("c-{node}-{row:06}") } else { format!("c-{row:06}-{node}") },
            session: row as u64 + 1,
            username: (row % 3 > 0).then(|| format!("u{}", row % 7)),
            port: Some((row * 7919 % 5000) as u32),
            conn_state: v1::ConnState::Connected.into(),
            connected_at_ms: Some((row * 31 % 997) as i64),
            ..v1::Client::default()
        })
        .collect()
}

async fn cluster_of(nodes: &[Arc<FakeNode>]) -> Cluster {
    start_with(nodes, Duration::from_millis(200)).await
}

fn start(nodes: Vec<String>) -> Cluster {
    probed_every(Duration::from_millis(200), nodes)
}

async fn start_with(nodes: &[Arc<FakeNode>], probe_interval: Duration) -> Cluster {
    let mut addresses = Vec::new();
    for node in nodes {
        addresses.push(node.serve().await.to_string());
    }
    probed_every(probe_interval, addresses)
}

fn probed_every(probe_interval: Duration, nodes: Vec<String>) -> Cluster {
    let connect_timeout = Duration::from_secs(1);
    Cluster::start(&ClusterSettings { probe_interval, connect_timeout, ..ClusterSettings::over(nodes) })
        .unwrap()
}

fn query(page: u64, limit: u32, order: Order) -> ListQuery {
    ListQuery { filter: v1::Filter::default(), order, start: Start::Page(page), limit, scope: Scope::All }
}

async fn list(cluster: &Cluster, query: &ListQuery) -> Result<ListAnswer, ClusterError> {
    list_within(PATIENCE, cluster, query).await
}

async fn list_within(
    time: Duration,
    cluster: &Cluster,
    query: &ListQuery,
) -> Result<ListAnswer, ClusterError> {
    let started = Instant::now();
    let answer = cluster.list(query, started + time).await;
    assert!(started.elapsed() <= time, "the answer came {:?} after the request", started.elapsed());
    answer
}

fn model(nodes: &[Arc<FakeNode>], order: Order) -> Vec<(String, String)> {
    let mut all: Vec<v1::Client> = nodes
        .iter()
        .flat_map(|node| {
            node.rows().iter().map(|row| v1::Client { node: node.name(), ..row.clone() }).collect::<Vec<_>>()
        })
        .collect();
    all.sort_by(|a, b| order.compare(&order.key(&a.as_client_ref()), &order.key(&b.as_client_ref())));
    all.into_iter().map(|row| (row.clientid, row.node)).collect()
}

fn ids(answer: &ListAnswer) -> Vec<(String, String)> {
    answer.rows.iter().map(|row| (row.client.clientid.to_owned(), row.client.node.to_owned())).collect()
}

/// Rows of a node that has the client "both" too.
fn both(n: usize) -> Vec<v1::Client> {
    let mut all = rows(n, 3, false);
    all.push(v1::Client { clientid: "both".into(), session: 40 + n as u64, ..all[0].clone() });
    all
}

fn failed(node: &str, reason: Reason) -> FailedNode {
    FailedNode::new(node, reason)
}

#[tokio::test]
async fn pages_at_any_depth_equal_the_one_list() {
    for apart in [false, true] {
        let nodes: Vec<_> = [4000, 9000, 0, 6500]
            .iter()
            .enumerate()
            .map(|(n, &count)| FakeNode::new(&format!("n{n}"), rows(n, count, apart), Behaviour::Honest))
            .collect();
        let cluster = cluster_of(&nodes).await;
        for (field, descending) in [
            (SortField::Clientid, false),
            (SortField::Port, true),
            (SortField::Username, false),
            (SortField::Node, true),
        ] {
            let order = Order { field, descending };
            let expected = model(&nodes, order);
            for (page, limit) in
                [(1, 100), (2, 5000), (97, 100), (195, 100), (196, 100), (2, 10_000), (3, 10_000)]
            {
                let answer = list(&cluster, &query(page, limit, order)).await.unwrap();
                let from = ((page - 1) * u64::from(limit)) as usize;
                let expected: Vec<_> = expected.iter().skip(from).take(limit as usize).cloned().collect();
                assert!(ids(&answer) == expected, "{order:?}, page {page} of {limit}");
                assert_eq!((answer.count, answer.consistent), (19_500, true));
                assert_eq!((answer.completeness.total, answer.completeness.answered), (4, 4));
            }
        }
    }
}

/// Waits until every node has said how many clients it has.
async fn until_described(cluster: &Cluster) {
    let deadline = Instant::now() + DEADLINE;
    while cluster.nodes().iter().any(|node| node.description.is_none()) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_deep_page_ships_about_a_page_of_rows() {
    let nodes: Vec<_> =
        (0..3).map(|n| FakeNode::new(&format!("n{n}"), rows(n, 30_000, false), Behaviour::Honest)).collect();
    let cluster = cluster_of(&nodes).await;
    list(&cluster, &query(450, 100, Order::default())).await.unwrap();
    let sent: usize = nodes.iter().map(|node| node.calls.rows_sent.load(Relaxed)).sum();
    assert!(sent <= 600, "{sent} rows for a page of 100");
    assert!(nodes.iter().all(|node| node.calls.surveys.load(Relaxed) <= 2));
}

#[tokio::test]
async fn counting_ships_no_rows() {
    let node = FakeNode::new("n0", rows(0, 50, false), Behaviour::Honest);
    let other = FakeNode::new("n1", rows(1, 20, false), Behaviour::Honest);
    let cluster = cluster_of(&[Arc::clone(&node), other]).await;
    for field in [SortField::Clientid, SortField::Port, SortField::Node, SortField::MqueueLen] {
        // Whatever the order, and wherever the page would begin.
        let after = v1::Key { clientid: "c-000010-0".into(), node: "n0".into(), ..v1::Key::default() };
        for start in [Start::Page(1), Start::Page(90), Start::Cursor(Position::After(after))] {
            if matches!(start, Start::Cursor(_)) && field != SortField::Clientid {
                continue;
            }
            let order = Order { field, descending: true };
            let answer = list(&cluster, &ListQuery { start, ..query(1, 0, order) }).await.unwrap();
            assert_eq!((answer.count, answer.rows.len()), (70, 0), "{field:?}");
            // To put clients in another order is work that nobody sees.
            let asked = node.last_list.lock().unwrap().clone().unwrap();
            assert_eq!(asked.order.map(|order| Order::try_from(order).unwrap()), Some(Order::default()));
            assert_eq!((asked.limit, asked.after), (0, None), "{field:?}");
        }
    }
    assert_eq!(node.calls.rows_sent.load(Relaxed), 0);
}

#[tokio::test]
async fn a_node_that_fails_is_named_and_the_others_rows_stand() {
    for (behaviour, reason) in [
        (Behaviour::Hang, Reason::Timeout),
        (Behaviour::HangInQueries, Reason::Timeout),
        (Behaviour::HangMidway, Reason::Timeout),
        (Behaviour::Drips, Reason::Timeout),
        (Behaviour::OddReason, Reason::Unreachable),
        (Behaviour::Draining, Reason::Draining),
        (Behaviour::Overloaded, Reason::Overloaded),
        (Behaviour::Unsorted, Reason::Protocol),
        (Behaviour::ForeignRows, Reason::Protocol),
        (Behaviour::TooManyRows, Reason::Protocol),
    ] {
        let good = FakeNode::new("n0", rows(0, 8000, false), Behaviour::Honest);
        let bad = FakeNode::new("n1", rows(1, 8000, false), behaviour);
        let cluster = cluster_of(&[Arc::clone(&good), bad]).await;
        tokio::time::timeout(DEADLINE, async {
            while cluster.nodes()[0].state == NodeState::Unknown {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        // The first page takes one wave, the second a selection.
        for (page, limit) in [(1, 50), (3, 3000)] {
            let answer =
                list_within(DEADLINE, &cluster, &query(page, limit, Order::default())).await.unwrap();
            let from = (page as usize - 1) * limit as usize;
            let expected = model(std::slice::from_ref(&good), Order::default());
            let expected: Vec<_> = expected.into_iter().skip(from).take(limit as usize).collect();
            assert!(ids(&answer) == expected, "{behaviour:?}, page {page}");
            assert_eq!(answer.count, 8000, "{behaviour:?}");
            let node = answer.completeness.failed[0].node.clone();
            assert!(behaviour == Behaviour::Hang || node == "n1", "{behaviour:?} is named {node}");
            assert_eq!(answer.completeness.failed, [failed(&node, reason)], "{behaviour:?}");
            assert_eq!((answer.completeness.total, answer.completeness.answered), (2, 1));
        }
    }
}

#[tokio::test]
async fn a_lying_survey_is_a_protocol_failure() {
    let good = FakeNode::new("n0", rows(0, 8000, false), Behaviour::Honest);
    let liar = FakeNode::new("n1", rows(1, 8000, false), Behaviour::LyingSurvey);
    let cluster = cluster_of(&[good, liar]).await;
    let answer = list(&cluster, &query(70, 100, Order::default())).await.unwrap();
    assert_eq!(answer.completeness.failed, [failed("n1", Reason::Protocol)]);
    assert_eq!((answer.count, answer.rows.len()), (8000, 100));
}

#[tokio::test]
async fn when_snapshots_go_the_page_comes_from_live_data_and_says_so() {
    let nodes: Vec<_> = (0..2)
        .map(|n| FakeNode::new(&format!("n{n}"), rows(n, 12_000, false), Behaviour::ForgetsSnapshots))
        .collect();
    let cluster = cluster_of(&nodes).await;
    let answer = list(&cluster, &query(150, 100, Order::default())).await.unwrap();
    assert!(!answer.consistent);
    assert!(answer.completeness.is_whole());
    // These nodes do not really change, so the page is right all the same.
    let expected: Vec<_> = model(&nodes, Order::default()).into_iter().skip(14_900).take(100).collect();
    assert_eq!(ids(&answer), expected);
}

#[tokio::test]
async fn two_agents_under_one_name_are_not_both_believed() {
    let nodes = [
        FakeNode::new("same", rows(0, 5, false), Behaviour::Honest),
        FakeNode::new("same", rows(1, 5, false), Behaviour::Honest),
    ];
    let cluster = cluster_of(&nodes).await;
    let answer = list(&cluster, &query(1, 100, Order::default())).await.unwrap();
    assert_eq!(answer.rows.len(), 5);
    // The second is called by its address, as the name is the first's.
    let second = cluster.nodes()[1].address.clone();
    assert_eq!(answer.completeness.failed, [failed(&second, Reason::Protocol)]);
}

#[tokio::test]
async fn nobody_answering_is_an_error_that_names_all() {
    let closed =
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let cluster = start(vec![closed.clone()]);
    let error = list(&cluster, &query(1, 100, Order::default())).await.unwrap_err();
    assert_eq!(error, ClusterError::NobodyAnswered { failed: vec![failed(&closed, Reason::Unreachable)] });
}

#[tokio::test]
async fn not_found_is_said_only_when_every_node_said_so() {
    let good = FakeNode::new("n0", rows(0, 5, false), Behaviour::Honest);
    let silent = FakeNode::new("n1", rows(1, 5, false), Behaviour::HangInQueries);
    let cluster = cluster_of(&[good, silent]).await;
    let deadline = || Instant::now() + Duration::from_millis(600);
    let found = cluster.get("c-000001-0", &Scope::All, deadline()).await.unwrap();
    assert_eq!(found.rows.last().unwrap().client.node, "n0");
    assert_eq!(found.completeness.failed, [failed("n1", Reason::Timeout)]);
    let clientid = "c-000001-1".to_owned();
    let unknown = ClusterError::NotFoundIncomplete {
        clientid: clientid.clone(),
        failed: vec![failed("n1", Reason::Timeout)],
    };
    assert_eq!(cluster.get(&clientid, &Scope::All, deadline()).await.unwrap_err(), unknown);
    assert_eq!(cluster.kick(&clientid, &Scope::All, deadline()).await.unwrap_err(), unknown);

    let on_n0 = Scope::Only(vec!["n0".into()]);
    assert!(cluster.get(&clientid, &on_n0, deadline()).await.unwrap().rows.is_empty());
    assert_eq!(
        cluster.kick(&clientid, &on_n0, deadline()).await.unwrap_err(),
        ClusterError::NotFound { clientid }
    );
}

#[tokio::test]
async fn a_kick_reaches_the_owners_alone_and_the_sessions_found() {
    let nodes = [
        FakeNode::new("n0", both(0), Behaviour::Honest),
        FakeNode::new("n1", both(1), Behaviour::Honest),
        FakeNode::new("n2", rows(2, 3, false), Behaviour::Honest),
    ];
    let cluster = cluster_of(&nodes).await;
    let kicked = cluster.kick("both", &Scope::All, Instant::now() + DEADLINE).await.unwrap();
    assert_eq!(kicked.kicked_on, ["n0", "n1"]);
    let kicks: Vec<_> = nodes.iter().map(|node| node.calls.kicks.load(Relaxed)).collect();
    assert_eq!(kicks, [1, 1, 0]);
}

#[tokio::test]
async fn a_client_that_moved_once_is_kicked_where_it_is_then() {
    // With another session on its node.
    let node = FakeNode::new("n0", rows(0, 3, false), Behaviour::ReconnectsOnce);
    let cluster = cluster_of(std::slice::from_ref(&node)).await;
    let session = node.rows()[0].session;
    let kicked = cluster.kick("c-000000-0", &Scope::All, Instant::now() + PATIENCE).await.unwrap();
    assert_eq!((kicked.kicked_on, kicked.completeness.is_whole()), (vec!["n0".to_owned()], true));
    // The session that was located first is not hit.
    assert_eq!(*node.kicked.lock().unwrap(), [("c-000000-0".to_owned(), session + 1_000)]);
    assert_eq!(node.calls.kicks.load(Relaxed), 2);
}

#[tokio::test]
async fn a_client_that_moved_is_looked_for_once_more() {
    let node = FakeNode::new("n0", rows(0, 3, false), Behaviour::Reconnected);
    let cluster = cluster_of(std::slice::from_ref(&node)).await;
    let error = cluster.kick("c-000001-0", &Scope::All, Instant::now() + DEADLINE).await.unwrap_err();
    assert_eq!(node.calls.kicks.load(Relaxed), 2);
    assert_eq!(
        error,
        ClusterError::Moved { clientid: "c-000001-0".into(), kicked_on: vec![], failed: vec![] }
    );
}

#[tokio::test]
async fn a_client_that_is_kicked_on_one_node_and_moves_on_another_is_not_said_to_be_gone() {
    let nodes = [
        FakeNode::new("n0", both(0), Behaviour::Honest),
        FakeNode::new("n1", both(1), Behaviour::Reconnected),
    ];
    let cluster = cluster_of(&nodes).await;
    let error = cluster.kick("both", &Scope::All, Instant::now() + DEADLINE).await.unwrap_err();
    let kicked_on = vec!["n0".into()];
    assert_eq!(error, ClusterError::Moved { clientid: "both".into(), kicked_on, failed: vec![] });
    assert!(error.to_string().ends_with("the client was kicked on n0"), "{error}");
}

#[tokio::test]
async fn an_owner_that_does_not_confirm_is_named() {
    let node = FakeNode::new("n0", rows(0, 3, false), Behaviour::HangInKick);
    let silent = FakeNode::new("n1", rows(1, 3, false), Behaviour::HangInQueries);
    let cluster = cluster_of(&[Arc::clone(&node), silent]).await;
    let error = cluster
        .kick("c-000001-0", &Scope::All, Instant::now() + Duration::from_millis(400))
        .await
        .unwrap_err();
    let owner = failed("n0", Reason::Timeout);
    let clientid = "c-000001-0".into();
    // So is one that did not say whether it has the client, too.
    let failed = vec![owner.clone(), failed("n1", Reason::Timeout)];
    assert_eq!(error, ClusterError::OwnerFailed { clientid, owner, kicked_on: vec![], failed });
    assert_eq!(node.calls.kicks.load(Relaxed), 1, "a kick is never sent twice");
}

#[tokio::test]
async fn an_unknown_node_is_told_from_one_not_yet_known() {
    let node = FakeNode::new("n0", rows(0, 3, false), Behaviour::Honest);
    let address = node.serve().await.to_string();
    let scope = Scope::Only(vec!["n9".into()]);
    let deadline = || Instant::now() + Duration::from_millis(500);
    let cluster = start(vec![address.clone()]);
    assert_eq!(
        cluster.get("x", &scope, deadline()).await.unwrap_err(),
        ClusterError::UnknownNode { name: "n9".into(), known: vec!["n0".into()] }
    );
    let closed =
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let cluster = start(vec![address, closed.clone()]);
    assert_eq!(
        cluster.get("x", &scope, deadline()).await.unwrap_err(),
        ClusterError::NodeNotYetKnown { name: "n9".into(), silent: vec![closed] }
    );
}

#[tokio::test]
async fn what_is_asked_of_one_node_is_never_answered_by_another() {
    let node = FakeNode::new("n0", rows(0, 3, false), Behaviour::Honest);
    let cluster = cluster_of(std::slice::from_ref(&node)).await;
    let scope = Scope::Only(vec!["n0".into()]);
    let deadline = || Instant::now() + DEADLINE;
    assert_eq!(cluster.get("c-000001-0", &scope, deadline()).await.unwrap().rows.len(), 1);
    node.becomes("n1");
    // Before a probe has noticed, the gateway still takes the address for n0.
    let refused = |failed: &[FailedNode]| {
        assert_eq!(failed, [FailedNode::new("n1", Reason::Protocol)]);
    };
    match cluster.kick("c-000001-0", &scope, deadline()).await.unwrap_err() {
        ClusterError::NobodyAnswered { failed } => refused(&failed),
        // The probe was quicker.
        error => assert!(matches!(error, ClusterError::UnknownNode { .. }), "{error}"),
    }
    assert_eq!(node.calls.kicks.load(Relaxed), 0);
    let listed = cluster.list(&ListQuery { scope, ..query(1, 10, Order::default()) }, deadline()).await;
    assert!(listed.is_err(), "rows of n1 under n0's name");
}

#[tokio::test]
async fn a_callers_short_deadline_says_nothing_of_the_nodes() {
    let node = FakeNode::new("n0", rows(0, 3, false), Behaviour::HangInLists);
    let cluster = cluster_of(std::slice::from_ref(&node)).await;
    let deadline = Instant::now() + Duration::from_millis(300);
    assert!(cluster.list(&query(1, 10, Order::default()), deadline).await.is_err());
    let view = cluster.nodes().remove(0);
    assert_eq!((view.state, view.last_error), (NodeState::Connected, None));
}

#[tokio::test]
async fn old_counts_cost_a_wave_and_not_the_bound() {
    let nodes: Vec<_> =
        (0..3).map(|n| FakeNode::new(&format!("n{n}"), rows(n, 9000, n == 1), Behaviour::Honest)).collect();
    for node in &nodes {
        *node.described.lock().unwrap() = Some(0);
    }
    let cluster = cluster_of(&nodes).await;
    until_described(&cluster).await;
    let expected = model(&nodes, Order::default());
    for (page, limit) in [(1, 10_000), (1, 150), (2, 80)] {
        for node in &nodes {
            node.calls.rows_sent.store(0, Relaxed);
        }
        let answer = list(&cluster, &query(page, limit, Order::default())).await.unwrap();
        let from = (page as usize - 1) * limit as usize;
        let page_rows: Vec<_> = expected.iter().skip(from).take(limit as usize).cloned().collect();
        assert!(ids(&answer) == page_rows, "page {page} of {limit}");
        let sent: usize = nodes.iter().map(|node| node.calls.rows_sent.load(Relaxed)).sum();
        assert!(sent <= 300 + 3 * limit as usize, "{sent} rows for a page of {limit}");
    }
}

#[tokio::test]
async fn a_node_that_claims_more_clients_than_can_be_costs_no_more_than_one_not_heard_of() {
    let nodes: Vec<_> =
        (0..2).map(|n| FakeNode::new(&format!("n{n}"), rows(n, 90, false), Behaviour::Honest)).collect();
    *nodes[1].described.lock().unwrap() = Some(u64::MAX);
    let cluster = cluster_of(&nodes).await;
    let deadline = Instant::now() + DEADLINE;
    while cluster.nodes().iter().any(|node| node.description.is_none()) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = list(&cluster, &query(2, 50, Order::default())).await.unwrap();
    let expected: Vec<_> = model(&nodes, Order::default()).into_iter().skip(50).take(50).collect();
    assert!(ids(&answer) == expected);
}

#[tokio::test]
async fn a_nameless_answer_is_a_protocol_failure() {
    let node = FakeNode::new("n0", rows(0, 3, false), Behaviour::Nameless);
    let cluster = cluster_of(std::slice::from_ref(&node)).await;
    let error = list(&cluster, &query(1, 10, Order::default())).await.unwrap_err();
    let ClusterError::NobodyAnswered { failed } = error else { panic!("{error}") };
    assert_eq!(failed[0].reason, Reason::Protocol);
}

fn by_username(top: usize, scope: Scope) -> CountQuery {
    CountQuery { filter: v1::Filter::default(), group_by: Some(GroupBy::Username), top, scope }
}

/// On every node another user name leads; the leader of the cluster is second on each.
#[tokio::test]
async fn the_largest_group_need_not_be_the_largest_of_any_node() {
    let user = |name: String, count: usize| (0..count).map(move |_| name.clone());
    let nodes = (0..3).map(|n| {
        let names = user(format!("own-{n}"), 5).chain(user("shared".into(), 4));
        let clients = names.enumerate().map(|(at, name)| v1::Client {
            clientid: at.to_string(),
            session: at as u64,
            username: Some(name),
            ..v1::Client::default()
        });
        FakeNode::new(&format!("n{n}"), clients.collect(), Behaviour::Honest)
    });
    let cluster = cluster_of(&nodes.collect::<Vec<_>>()).await;
    let answer = cluster.count(&by_username(1, Scope::All), Instant::now() + DEADLINE).await.unwrap();
    let top = answer.top.unwrap();
    assert_eq!(top.groups[0].value, Some(Value::Text("shared".into())));
    assert_eq!(
        (answer.count, top.groups[0].count, top.groups.len(), top.total, top.other),
        (27, 12, 1, 4, 15)
    );
}

#[tokio::test]
async fn a_count_holds_a_bounded_number_of_bytes_however_many_nodes_there_are() {
    let nodes = (0..5).map(|n| {
        let clients = (0..250_u64).map(|client| v1::Client {
            clientid: client.to_string(),
            session: client,
            username: Some(format!("{n}-{client}-{}", "x".repeat(60_000))),
            ..v1::Client::default()
        });
        FakeNode::new(&format!("n{n}"), clients.collect(), Behaviour::Honest)
    });
    let cluster = cluster_of(&nodes.collect::<Vec<_>>()).await;
    let by = || Instant::now() + 10 * DEADLINE;
    let all = cluster.count(&by_username(1, Scope::All), by()).await;
    assert_eq!(all.unwrap_err(), ClusterError::TooManyGroups);
    let three = Scope::Only(vec!["n0".into(), "n1".into(), "n2".into()]);
    let answer = cluster.count(&by_username(1, three), by()).await.unwrap();
    assert_eq!((answer.count, answer.top.unwrap().total), (750, 750));
}
