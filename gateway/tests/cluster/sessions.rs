//! The sessions that match, and the end of exactly one of them.

use rollcall_gateway::cluster::Ended;

use super::*;

fn filter(username: &str) -> v1::Filter {
    v1::Filter { username: vec![username.into()], ..v1::Filter::default() }
}

#[tokio::test]
async fn sessions_that_match_are_those_of_all_nodes_up_to_the_most() {
    let node = |n, count| FakeNode::new(&format!("n{n}"), rows(n, count, false), Behaviour::Honest);
    let nodes = [node(0, 700), node(1, 30)];
    let cluster = cluster_of(&nodes).await;
    let matching = |of: &Arc<FakeNode>| {
        let rows = of.rows();
        let matching = rows.iter().filter(|row| row.username.as_deref() == Some("u1"));
        matching.map(|row| (row.clientid.clone(), of.name())).collect::<Vec<_>>()
    };
    let mut model = [matching(&nodes[0]), matching(&nodes[1])].concat();
    model.sort();
    let all = model.len();
    for (most, more) in [(all, false), (all + 1, false), (all - 1, true), (1, true), (0, true)] {
        let deadline = Instant::now() + PATIENCE;
        let found = cluster.sessions(&filter("u1"), &Scope::All, most, deadline).await.unwrap();
        let ids: Vec<_> = found
            .sessions
            .iter()
            .map(|session| (session.clientid().to_owned(), session.node().to_owned()))
            .collect();
        assert_eq!((ids.as_slice(), found.more), (&model[..most.min(all)], more), "{most}");
        assert!(found.completeness.is_whole());
    }
    let deadline = Instant::now() + PATIENCE;
    let only = Scope::Only(vec!["n1".into()]);
    let found = cluster.sessions(&filter("u1"), &only, all, deadline).await.unwrap();
    assert_eq!(found.sessions.len(), matching(&nodes[1]).len());
    assert!(nodes.iter().all(|node| node.calls.exports_open.load(Relaxed) == 0));
}

#[tokio::test]
async fn a_session_is_ended_once_and_its_node_says_what_became_of_it() {
    let failed = |reason| FailedNode::new("n0", reason);
    for (behaviour, ended) in [
        (Behaviour::Honest, Ended::Kicked),
        (Behaviour::GoneInKick, Ended::Gone),
        (Behaviour::Reconnected, Ended::Moved),
        (Behaviour::RestartedInKick, Ended::Restarted),
        (Behaviour::OverloadedInKick, Ended::Refused(failed(Reason::Overloaded))),
        (Behaviour::HangInKick, Ended::Unknown(failed(Reason::Timeout))),
    ] {
        let node = FakeNode::new("n0", rows(0, 3, false), behaviour);
        let cluster = cluster_of(&[Arc::clone(&node)]).await;
        let deadline = Instant::now() + DEADLINE;
        let found = cluster.sessions(&v1::Filter::default(), &Scope::All, 10, deadline).await.unwrap();
        let session = &found.sessions[1];
        assert_eq!(cluster.end(session, Instant::now() + DEADLINE).await, ended);
        assert_eq!(node.calls.kicks.load(Relaxed), 1, "{behaviour:?}");
        let kicked = node.kicked.lock().unwrap().clone();
        let expected = (ended == Ended::Kicked).then(|| (session.clientid().to_owned(), 2));
        assert_eq!(kicked, expected.into_iter().collect::<Vec<_>>(), "{behaviour:?}");
    }
}

#[tokio::test]
async fn a_node_that_fails_midway_leaves_nobody_to_kick() {
    for behaviour in [Behaviour::BreakMidway, Behaviour::HangMidway] {
        let broken = FakeNode::new("n1", rows(1, 300, false), behaviour);
        let nodes = [FakeNode::new("n0", rows(0, 300, false), Behaviour::Honest), broken];
        let cluster = cluster_of(&nodes).await;
        let deadline = Instant::now() + DEADLINE;
        let answer = cluster.sessions(&v1::Filter::default(), &Scope::All, 1000, deadline).await;
        let Err(ClusterError::BrokeOff { failed }) = answer else { panic!("{answer:?}") };
        assert_eq!(failed[0].node, "n1");
        // Who is within the first rows can be told all the same.
        let deadline = Instant::now() + DEADLINE;
        let few = cluster.sessions(&v1::Filter::default(), &Scope::All, 50, deadline).await.unwrap();
        assert_eq!((few.sessions.len(), few.more), (50, true));
    }
}
