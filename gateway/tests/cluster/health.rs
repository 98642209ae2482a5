//! What the cluster makes of nodes that fall silent, share a name, move, or are too new.

use rollcall_gateway::cluster::{NodeView, Policy};

use super::*;

/// As in the other tests, but a node is given up after half a second.
fn settings(nodes: Vec<String>) -> ClusterSettings {
    let circuit = Policy { probe_timeout: Duration::from_millis(500), circuit_failures: 2 };
    ClusterSettings { probe_interval: Duration::from_millis(100), circuit, ..ClusterSettings::over(nodes) }
}

async fn cluster_with(
    nodes: &[Arc<FakeNode>],
    change: impl FnOnce(ClusterSettings) -> ClusterSettings,
) -> Cluster {
    let mut addresses = Vec::new();
    for node in nodes {
        addresses.push(node.serve().await.to_string());
    }
    Cluster::start(&change(settings(addresses))).unwrap()
}

/// The node's view, as soon as it is so.
async fn view_when(cluster: &Cluster, node: usize, is_so: impl Fn(&NodeView) -> bool) -> NodeView {
    for _ in 0..2000 {
        let view = cluster.nodes().remove(node);
        if is_so(&view) {
            return view;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("node {node} is {:?}", cluster.nodes().remove(node));
}

async fn state_when(cluster: &Cluster, node: usize, state: NodeState) -> NodeView {
    view_when(cluster, node, |view| view.state == state).await
}

fn named(name: &str, node: usize, behaviour: Behaviour) -> Arc<FakeNode> {
    FakeNode::new(name, rows(node, 5, false), behaviour)
}

async fn first_page(cluster: &Cluster) -> ListAnswer {
    list(cluster, &query(1, 100, Order::default())).await.unwrap()
}

#[tokio::test]
async fn an_agent_that_describes_itself_and_answers_no_read_is_unavailable_and_not_waited_for() {
    let stuck = named("n1", 1, Behaviour::HangInQueries);
    let cluster = cluster_with(&[named("n0", 0, Behaviour::Honest), Arc::clone(&stuck)], |all| all).await;
    let view = view_when(&cluster, 1, |view| view.circuit.is_some()).await;
    assert_eq!((view.state, view.circuit), (NodeState::Unavailable, Some(Reason::Timeout)));
    assert_eq!(view.name.as_deref(), Some("n1"), "it said who it is");
    let error = view.last_error.unwrap();
    assert_eq!(error.text, "timeout: the agent says how it fares, and does not answer a read");
    assert!(view.failures >= 2 && view.last_seen.is_some());

    // Named and counted as ever, without waiting.
    let open = stuck.calls.open.load(Relaxed);
    let deadline = Instant::now() + Duration::from_secs(60);
    let asked = tokio::time::timeout(PATIENCE, async {
        let page = cluster.list(&query(1, 100, Order::default()), deadline).await.unwrap();
        let got = cluster.get("c-000001-0", &Scope::All, deadline).await.unwrap();
        let counted = cluster.count(&by_username(1, Scope::All), deadline).await.unwrap();
        [page.completeness, got.completeness, counted.completeness]
    });
    for completeness in asked.await.unwrap() {
        assert_eq!(completeness.failed, [failed("n1", Reason::Timeout)]);
        assert_eq!((completeness.total, completeness.answered), (2, 1));
    }
    assert!(stuck.calls.open.load(Relaxed) <= open.max(1), "only probes ask it");

    // The first probe that is answered ends it.
    stuck.mended.store(true, Relaxed);
    let view = state_when(&cluster, 1, NodeState::Connected).await;
    assert_eq!((view.circuit, view.failures), (None, 0));
    assert_eq!(view.last_error.map(|kept| kept.text), Some(error.text), "what went wrong is kept");
    assert!(first_page(&cluster).await.completeness.is_whole());
}

#[tokio::test]
async fn requests_that_take_too_long_do_not_stop_others_while_probes_are_answered() {
    let node = named("n0", 0, Behaviour::HangInLists);
    let cluster = cluster_with(std::slice::from_ref(&node), |all| all).await;
    state_when(&cluster, 0, NodeState::Connected).await;
    for _ in 0..4 {
        let deadline = Instant::now() + Duration::from_millis(700);
        assert!(cluster.list(&query(1, 10, Order::default()), deadline).await.is_err());
        let deadline = Instant::now() + PATIENCE;
        assert_eq!(cluster.get("c-000001-0", &Scope::All, deadline).await.unwrap().rows.len(), 1);
    }
    let view = cluster.nodes().remove(0);
    assert_eq!((view.state, view.circuit, view.changes), (NodeState::Connected, None, 0));
}

#[tokio::test]
async fn of_two_agents_under_one_name_the_second_is_never_asked_whatever_the_first_does() {
    let first = named("same", 0, Behaviour::HangInLists);
    let second = named("same", 1, Behaviour::Honest);
    let third = named("n2", 2, Behaviour::Honest);
    let cluster = cluster_with(&[Arc::clone(&first), Arc::clone(&second), third], |all| all).await;
    let view = state_when(&cluster, 1, NodeState::Conflict).await;
    let holder = cluster.nodes().remove(0);
    assert_eq!((view.name.as_deref(), view.label()), (Some("same"), view.address.as_str()));
    let said = view.last_error.unwrap().text;
    assert_eq!(said, format!("protocol: the agent at {} claims the same name", holder.address));
    assert_eq!((holder.state, holder.label()), (NodeState::Connected, "same"));

    let lists = second.calls.lists.load(Relaxed);
    for _ in 0..3 {
        let deadline = Instant::now() + Duration::from_millis(300);
        let answer = cluster.list(&query(1, 100, Order::default()), deadline).await.unwrap();
        assert_eq!(
            answer.completeness.failed,
            [failed(&view.address, Reason::Protocol), failed("same", Reason::Timeout)]
        );
        assert_eq!(answer.rows.len(), 5, "of the third");
    }
    first.mended.store(true, Relaxed);
    let answer = first_page(&cluster).await;
    assert_eq!(answer.completeness.failed, [failed(&view.address, Reason::Protocol)]);
    assert_eq!(answer.rows.len(), 10);
    // A kick goes to whom the name belongs, and a client that only the other has is not said to be nowhere.
    let deadline = || Instant::now() + PATIENCE;
    let only_same = Scope::Only(vec!["same".into()]);
    assert_eq!(cluster.kick("c-000001-0", &only_same, deadline()).await.unwrap().kicked_on, ["same"]);
    let elsewhere = cluster.kick("c-000001-1", &Scope::All, deadline()).await.unwrap_err();
    assert!(matches!(elsewhere, ClusterError::NotFoundIncomplete { .. }), "{elsewhere}");
    assert_eq!((second.calls.lists.load(Relaxed), second.calls.kicks.load(Relaxed)), (lists, 0));

    second.becomes("n1");
    let view = state_when(&cluster, 1, NodeState::Connected).await;
    assert_eq!((view.name.as_deref(), view.previous.unwrap().from), (Some("n1"), "same".into()));
    assert!(first_page(&cluster).await.completeness.is_whole());
}

#[tokio::test]
async fn a_node_that_moves_keeps_its_name_and_an_address_that_changed_hands_says_so() {
    let old = named("n0", 0, Behaviour::Honest);
    let new = named("n1", 1, Behaviour::Honest);
    let cluster = cluster_with(&[Arc::clone(&old), Arc::clone(&new)], |all| all).await;
    for node in [0, 1] {
        state_when(&cluster, node, NodeState::Connected).await;
    }
    // They change places.
    old.becomes("n1");
    new.becomes("n0");
    let view = view_when(&cluster, 0, |view| view.label() == "n1").await;
    assert_eq!(view.previous.unwrap().from, "n0");
    let view = view_when(&cluster, 1, |view| view.label() == "n0").await;
    assert_eq!((view.previous.unwrap().from, view.state), ("n1".into(), NodeState::Connected));
    let deadline = Instant::now() + PATIENCE;
    let on_n1 = Scope::Only(vec!["n1".into()]);
    assert_eq!(cluster.get("c-000001-0", &on_n1, deadline).await.unwrap().rows.len(), 1);

    // It starts again, and is the same node.
    new.becomes("n0");
    assert_eq!(view_when(&cluster, 1, |view| view.restarts == 1).await.label(), "n0");
}

#[tokio::test]
async fn an_agent_that_is_too_new_is_named_and_says_what_to_upgrade() {
    let newer = named("n1", 1, Behaviour::Honest);
    newer.min_protocol.store(2, Relaxed);
    let cluster = cluster_with(&[named("n0", 0, Behaviour::Honest), Arc::clone(&newer)], |all| all).await;
    let view = state_when(&cluster, 1, NodeState::Incompatible).await;
    let error = view.last_error.unwrap().text;
    assert!(error.contains("speaks protocol 3") && error.ends_with("upgrade the gateway"), "{error}");
    let answer = first_page(&cluster).await;
    assert_eq!((answer.completeness.failed, answer.rows.len()), (vec![failed("n1", Reason::Protocol)], 5));
    assert_eq!(newer.calls.lists.load(Relaxed), 0);
    // A newer one that works with older gateways is welcome.
    newer.min_protocol.store(1, Relaxed);
    state_when(&cluster, 1, NodeState::Connected).await;
    assert!(first_page(&cluster).await.completeness.is_whole());
}

#[tokio::test]
async fn a_slow_node_takes_in_no_more_than_its_share_of_calls() {
    let slow = named("n1", 1, Behaviour::HangInLists);
    let cluster = cluster_with(&[named("n0", 0, Behaviour::Honest), Arc::clone(&slow)], |all| {
        ClusterSettings { max_node_calls: 2, ..all }
    })
    .await;
    for node in [0, 1] {
        state_when(&cluster, node, NodeState::Connected).await;
    }
    let began = Instant::now();
    let deadline = began + Duration::from_secs(4);
    let page = query(1, 100, Order::default());
    let lists = (0..6).map(|_| async {
        let answer = cluster.list(&page, deadline).await.unwrap();
        assert_eq!(answer.rows.len(), 5);
        let [FailedNode { node, reason, .. }] = &answer.completeness.failed[..] else { panic!("{answer:?}") };
        assert_eq!(node, "n1");
        (*reason, began.elapsed() < Duration::from_secs(2))
    });
    let watch = async {
        let view = view_when(&cluster, 1, |view| view.calls == 2).await;
        assert_eq!(view.state, NodeState::Connected);
    };
    let (mut reasons, ()) = futures::join!(futures::future::join_all(lists), watch);
    reasons.sort_by_key(|(reason, _)| reason.as_str());
    let (overloaded, timeout) = ((Reason::Overloaded, true), (Reason::Timeout, false));
    assert_eq!(reasons, [overloaded, overloaded, overloaded, overloaded, timeout, timeout]);
    assert_eq!(slow.calls.lists.load(Relaxed), 2);
    assert_eq!(view_when(&cluster, 1, |view| view.calls == 0).await.state, NodeState::Connected);
}

#[tokio::test]
async fn a_request_that_is_dropped_leaves_no_call_behind() {
    let nodes = [named("n0", 0, Behaviour::HangInLists), named("n1", 1, Behaviour::HangInLists)];
    let cluster = cluster_with(&nodes, |all| all).await;
    for node in [0, 1] {
        state_when(&cluster, node, NodeState::Connected).await;
    }
    let task = {
        let cluster = cluster.clone();
        let deadline = Instant::now() + 10 * PATIENCE;
        tokio::spawn(async move { cluster.list(&query(1, 100, Order::default()), deadline).await.map(drop) })
    };
    for (at, node) in nodes.iter().enumerate() {
        view_when(&cluster, at, |view| view.calls == 1 && node.calls.open.load(Relaxed) == 1).await;
    }
    task.abort();
    for (at, node) in nodes.iter().enumerate() {
        view_when(&cluster, at, |view| view.calls == 0 && node.calls.open.load(Relaxed) == 0).await;
    }
}

#[tokio::test]
async fn a_node_nobody_has_heard_of_yet_is_expected_and_probed_until_it_is_there() {
    let reserved = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap().to_string();
    drop(reserved);
    let cluster = Cluster::start(&settings(vec![address.clone()])).unwrap();
    let view = state_when(&cluster, 0, NodeState::Unavailable).await;
    assert_eq!(
        (view.label(), view.last_seen, view.circuit),
        (address.as_str(), None, None),
        "refused at once"
    );
    let failures = view.failures;
    view_when(&cluster, 0, |view| view.failures > failures).await;
}
