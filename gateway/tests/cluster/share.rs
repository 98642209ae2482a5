//! Pages near the list's beginning, of which each node sends its share.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rollcall_gateway::cluster::{ListQuery, Start};
use rollcall_gateway::page::cursor::Position;
use rollcall_proto::{Order, Reason};

use super::fake_node::{Behaviour, DEADLINE, FakeNode};
use super::{cluster_of, ids, list, list_within, model, query, rows, until_described};

fn calls(nodes: &[Arc<FakeNode>]) -> Vec<usize> {
    nodes.iter().map(|node| node.calls.lists.load(Relaxed)).collect()
}

fn rows_sent(nodes: &[Arc<FakeNode>]) -> usize {
    nodes.iter().map(|node| node.calls.rows_sent.load(Relaxed)).sum()
}

#[tokio::test]
async fn a_page_at_the_beginning_ships_a_share_of_each_node() {
    let nodes: Vec<_> =
        (0..3).map(|n| FakeNode::new(&format!("n{n}"), rows(n, 9000, false), Behaviour::Honest)).collect();
    let cluster = cluster_of(&nodes).await;
    until_described(&cluster).await;
    let answer = list(&cluster, &query(1, 100, Order::default())).await.unwrap();
    assert_eq!(ids(&answer), model(&nodes, Order::default())[..100]);
    assert_eq!((calls(&nodes), rows_sent(&nodes)), (vec![1, 1, 1], 3 * 49));
    assert!(nodes.iter().all(|node| node.calls.surveys.load(Relaxed) == 0));
}

#[tokio::test]
async fn nodes_whose_share_was_too_small_are_asked_once_more_and_no_other() {
    let nodes: Vec<_> =
        (0..3).map(|n| FakeNode::new(&format!("n{n}"), rows(n, 9000, true), Behaviour::Honest)).collect();
    let cluster = cluster_of(&nodes).await;
    until_described(&cluster).await;
    let expected = model(&nodes, Order::default());
    let answer = list(&cluster, &query(1, 100, Order::default())).await.unwrap();
    assert_eq!(ids(&answer), expected[..100]);
    assert_eq!((answer.count, answer.consistent), (27_000, true));
    // What came: 49 of the first node, 49 of the second, which could have two more before the page ends, and 49 of the third.
    assert_eq!((calls(&nodes), rows_sent(&nodes)), (vec![2, 2, 1], 3 * 49 + 100 + 51));
    // Behind a cursor as well: here the second node begins in the middle of the page.
    let mut start = Start::Cursor(Position::After(answer.next.unwrap()));
    for page in 1..95 {
        let answer = list(&cluster, &ListQuery { start, ..query(1, 100, Order::default()) }).await.unwrap();
        assert_eq!(ids(&answer), expected[page * 100..(page + 1) * 100]);
        start = Start::Cursor(Position::After(answer.next.unwrap()));
    }
    assert!(nodes.iter().all(|node| node.calls.surveys.load(Relaxed) == 0));
}

#[tokio::test]
async fn a_node_that_fails_when_it_is_asked_once_more_is_named() {
    for behaviour in [Behaviour::OverloadedAgain, Behaviour::HangsAgain, Behaviour::RenamedAgain] {
        let nodes: Vec<_> = (0..3)
            .map(|n| {
                let behaviour = if n == 0 { behaviour } else { Behaviour::Honest };
                FakeNode::new(&format!("n{n}"), rows(n, 9000, true), behaviour)
            })
            .collect();
        let cluster = cluster_of(&nodes).await;
        until_described(&cluster).await;
        let answer = list_within(DEADLINE, &cluster, &query(1, 100, Order::default())).await.unwrap();
        assert_eq!(ids(&answer), model(&nodes[1..], Order::default())[..100], "{behaviour:?}");
        let reason = match behaviour {
            Behaviour::OverloadedAgain => Reason::Overloaded,
            Behaviour::HangsAgain => Reason::Timeout,
            _ => Reason::Protocol,
        };
        assert_eq!(answer.completeness.failed.iter().map(|node| node.reason).collect::<Vec<_>>(), [reason]);
        assert_eq!((answer.count, answer.completeness.answered), (18_000, 2));
    }
}
