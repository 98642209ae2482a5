//! Pages near the list's beginning or end, of which each node sends its share, and pages at a guess.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rollcall_gateway::cluster::{ListQuery, Start};
use rollcall_gateway::page::cursor::Position;
use rollcall_proto::{Order, Reason};

use super::fake_node::{Behaviour, DEADLINE, FakeNode};
use super::{cluster_of, ids, list, list_within, model, query, rows, until_described};

pub(crate) fn calls(nodes: &[Arc<FakeNode>]) -> Vec<usize> {
    nodes.iter().map(|node| node.calls.lists.load(Relaxed)).collect()
}

pub(crate) fn rows_sent(nodes: &[Arc<FakeNode>]) -> usize {
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

pub(crate) fn reset(nodes: &[Arc<FakeNode>]) {
    for node in nodes {
        node.calls.lists.store(0, Relaxed);
        node.calls.surveys.store(0, Relaxed);
        node.calls.rows_sent.store(0, Relaxed);
    }
}

pub(crate) fn surveys(nodes: &[Arc<FakeNode>]) -> Vec<usize> {
    nodes.iter().map(|node| node.calls.surveys.load(Relaxed)).collect()
}

pub(crate) fn page_of(all: &[(String, String)], page: u64, limit: u32) -> Vec<(String, String)> {
    all.iter().skip((page as usize - 1) * limit as usize).take(limit as usize).cloned().collect()
}

#[tokio::test]
async fn pages_at_both_ends_take_one_wave_and_those_between_two() {
    let nodes: Vec<_> =
        (0..3).map(|n| FakeNode::new(&format!("n{n}"), rows(n, 9000, false), Behaviour::Honest)).collect();
    let cluster = cluster_of(&nodes).await;
    until_described(&cluster).await;
    for order in [Order::default(), Order { descending: true, ..Order::default() }] {
        let expected = model(&nodes, order);
        for (page, waves) in
            [(1, 1), (2, 1), (11, 1), (120, 2), (140, 2), (260, 1), (269, 1), (270, 1), (271, 1)]
        {
            reset(&nodes);
            let answer = list(&cluster, &query(page, 100, order)).await.unwrap();
            assert!(ids(&answer) == page_of(&expected, page, 100), "page {page}");
            assert_eq!((answer.count, answer.consistent), (27_000, true));
            assert_eq!(answer.next.is_some(), page < 270, "page {page}");
            assert_eq!((surveys(&nodes), calls(&nodes)), (vec![waves - 1; 3], vec![1; 3]), "page {page}");
            assert!(rows_sent(&nodes) <= 500, "page {page}: {} rows", rows_sent(&nodes));
        }
    }
}

#[tokio::test]
async fn the_end_of_a_list_may_be_of_one_node() {
    let nodes: Vec<_> =
        (0..3).map(|n| FakeNode::new(&format!("n{n}"), rows(n, 9000, true), Behaviour::Honest)).collect();
    let cluster = cluster_of(&nodes).await;
    until_described(&cluster).await;
    let expected = model(&nodes, Order::default());
    for (page, waves) in [(270, 2), (269, 2), (271, 1)] {
        reset(&nodes);
        let answer = list(&cluster, &query(page, 100, Order::default())).await.unwrap();
        assert!(ids(&answer) == page_of(&expected, page, 100), "page {page}");
        assert_eq!((surveys(&nodes), calls(&nodes)[2]), (vec![0; 3], waves), "page {page}");
        assert!(rows_sent(&nodes) <= 600);
    }
    // Between the ends a guess is of no use here; it is made once and then not for some time.
    for (page, guesses) in [(120, 1), (150, 0), (135, 0)] {
        reset(&nodes);
        let answer = list(&cluster, &query(page, 100, Order::default())).await.unwrap();
        assert!(ids(&answer) == page_of(&expected, page, 100));
        let waves = nodes.iter().map(|node| node.calls.surveys.load(Relaxed)).max();
        assert_eq!(waves, Some(1 + guesses));
    }
}

#[tokio::test]
async fn counts_that_are_old_cost_waves_at_the_end_and_no_row() {
    for described in [0, 2_900, 3_050, 40_000] {
        let nodes: Vec<_> = (0..3)
            .map(|n| FakeNode::new(&format!("n{n}"), rows(n, 3000, n == 1), Behaviour::Honest))
            .collect();
        for node in &nodes {
            *node.described.lock().unwrap() = Some(described);
        }
        let expected = model(&nodes, Order::default());
        for page in [85, 89, 90, 91] {
            // A new gateway each time: an answer would teach it better.
            let cluster = cluster_of(&nodes).await;
            until_described(&cluster).await;
            reset(&nodes);
            let answer = list(&cluster, &query(page, 100, Order::default())).await.unwrap();
            assert!(ids(&answer) == page_of(&expected, page, 100), "page {page} of {described}");
            assert_eq!((answer.count, answer.consistent), (9_000, true));
            assert_eq!(answer.next.is_some(), page < 90);
            assert!(rows_sent(&nodes) <= 600, "page {page} of {described}: {} rows", rows_sent(&nodes));
        }
    }
}

#[tokio::test]
async fn answers_teach_how_many_clients_there_are() {
    let nodes: Vec<_> =
        (0..3).map(|n| FakeNode::new(&format!("n{n}"), rows(n, 3000, false), Behaviour::Honest)).collect();
    for node in &nodes {
        *node.described.lock().unwrap() = Some(0);
    }
    // Described once.
    let cluster = super::start_with(&nodes, std::time::Duration::from_secs(600)).await;
    until_described(&cluster).await;
    list(&cluster, &query(1, 100, Order::default())).await.unwrap();
    reset(&nodes);
    let answer = list(&cluster, &query(90, 100, Order::default())).await.unwrap();
    assert!(ids(&answer) == page_of(&model(&nodes, Order::default()), 90, 100));
    assert_eq!((surveys(&nodes), calls(&nodes)), (vec![0; 3], vec![1; 3]));
}

#[tokio::test]
async fn an_agent_that_knows_no_end_costs_waves_and_no_row() {
    let nodes: Vec<_> = [Behaviour::Honest, Behaviour::KnowsNoEnd, Behaviour::Honest]
        .into_iter()
        .enumerate()
        .map(|(n, behaviour)| FakeNode::new(&format!("n{n}"), rows(n, 3000, false), behaviour))
        .collect();
    let cluster = cluster_of(&nodes).await;
    until_described(&cluster).await;
    let expected = model(&nodes, Order::default());
    for page in [1, 3, 11, 60, 89, 90, 91] {
        let answer = list(&cluster, &query(page, 100, Order::default())).await.unwrap();
        assert!(ids(&answer) == page_of(&expected, page, 100), "page {page}");
        assert!(answer.completeness.failed.is_empty());
    }
}

#[tokio::test]
async fn rows_of_other_ranks_than_asked_for_are_a_protocol_failure() {
    for behaviour in [Behaviour::MisstatesRanks, Behaviour::TooFewRows] {
        let nodes: Vec<_> = [behaviour, Behaviour::Honest, Behaviour::Honest]
            .into_iter()
            .enumerate()
            .map(|(n, behaviour)| FakeNode::new(&format!("n{n}"), rows(n, 3000, false), behaviour))
            .collect();
        let cluster = cluster_of(&nodes).await;
        until_described(&cluster).await;
        let expected = model(&nodes[1..], Order::default());
        for page in [1, 11, 45, 60, 61] {
            let answer = list(&cluster, &query(page, 100, Order::default())).await.unwrap();
            assert!(ids(&answer) == page_of(&expected, page, 100), "{behaviour:?}, page {page}");
            assert_eq!(answer.completeness.failed, [super::failed("n0", Reason::Protocol)]);
        }
    }
}
