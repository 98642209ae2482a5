//! Pages that are turned to again, or one by one: found behind marks that earlier answers have set.

use std::sync::Arc;

use rollcall_gateway::cluster::ListQuery;
use rollcall_proto::{Order, SortField, v1};

use super::fake_node::{Behaviour, FakeNode};
use super::share::{calls, page_of, reset, rows_sent, surveys};
use super::{cluster_of, ids, list, model, query, rows, until_described};

fn honest(count: usize, apart: bool) -> Vec<Arc<FakeNode>> {
    (0..3).map(|n| FakeNode::new(&format!("n{n}"), rows(n, count, apart), Behaviour::Honest)).collect()
}

#[tokio::test]
async fn after_one_page_the_same_and_the_next_ones_take_one_wave() {
    let nodes = honest(6_000, false);
    let cluster = cluster_of(&nodes).await;
    until_described(&cluster).await;
    for order in [Order::default(), Order { field: SortField::Port, descending: true }] {
        let expected = model(&nodes, order);
        list(&cluster, &query(90, 100, order)).await.unwrap();
        for page in [90, 91, 92, 91, 90] {
            reset(&nodes);
            let answer = list(&cluster, &query(page, 100, order)).await.unwrap();
            assert!(ids(&answer) == page_of(&expected, page, 100), "page {page}");
            assert_eq!((answer.count, answer.consistent), (18_000, true));
            assert_eq!(
                answer.next.map(|key| key.clientid),
                Some(expected[page as usize * 100 - 1].0.clone())
            );
            assert_eq!((surveys(&nodes), calls(&nodes)), (vec![0; 3], vec![1; 3]), "page {page}");
            assert!(rows_sent(&nodes) <= 200, "page {page}: {} rows", rows_sent(&nodes));
        }
    }
}

#[tokio::test]
async fn behind_a_mark_a_node_may_have_the_whole_page() {
    let nodes = honest(3_000, true);
    let cluster = cluster_of(&nodes).await;
    until_described(&cluster).await;
    let expected = model(&nodes, Order::default());
    list(&cluster, &query(54, 100, Order::default())).await.unwrap();
    for page in 55..66 {
        reset(&nodes);
        let answer = list(&cluster, &query(page, 100, Order::default())).await.unwrap();
        assert!(ids(&answer) == page_of(&expected, page, 100), "page {page}");
        assert_eq!(surveys(&nodes), vec![0; 3], "page {page}");
        assert!(calls(&nodes).iter().all(|calls| *calls <= 2) && rows_sent(&nodes) <= 600, "page {page}");
    }
}

/// Clients come and go before, at and behind the page, and whole nodes with them.
#[tokio::test]
async fn marks_that_moved_cost_waves_and_no_row() {
    let nodes = honest(5_000, false);
    let cluster = cluster_of(&nodes).await;
    until_described(&cluster).await;
    let check = async |page: u64| {
        let expected = model(&nodes, Order::default());
        reset(&nodes);
        let answer = list(&cluster, &query(page, 100, Order::default())).await.unwrap();
        assert!(ids(&answer) == page_of(&expected, page, 100), "page {page} of {}", expected.len());
        assert_eq!((answer.count, answer.consistent), (expected.len() as u64, true));
        assert!(rows_sent(&nodes) <= 600, "page {page}: {} rows", rows_sent(&nodes));
        surveys(&nodes).iter().sum::<usize>()
    };
    assert!(check(75).await > 0);
    // Fewer than the room a mark leaves: one wave still.
    nodes[0].rows().drain(10..13);
    assert_eq!(check(75).await, 0);
    nodes[1].rows().extend((0..5).map(|n| v1::Client {
        clientid: format!("a-{n}"),
        session: 100_000 + n,
        ..v1::Client::default()
    }));
    assert_eq!(check(75).await, 0);
    // More than that, and the mark is behind the page's beginning; the answer sets a new one.
    nodes[2].rows().extend((0..500).map(|n| v1::Client {
        clientid: format!("b-{n}"),
        session: 200_000 + n,
        ..v1::Client::default()
    }));
    assert!(check(75).await > 0);
    assert_eq!((check(75).await, check(76).await), (0, 0));
    nodes[0].rows().clear();
    for page in [70, 71, 70, 3, 71] {
        check(page).await;
    }
    assert_eq!(check(71).await, 0);
}

#[tokio::test]
async fn a_filtered_list_is_known_by_its_counts_once_it_was_answered() {
    let nodes = honest(9_000, false);
    let cluster = cluster_of(&nodes).await;
    until_described(&cluster).await;
    let filter = v1::Filter { username: vec!["u1".into(), "u2".into()], ..v1::Filter::default() };
    let filtered = |page| ListQuery { filter: filter.clone(), ..query(page, 100, Order::default()) };
    let first = list(&cluster, &filtered(1)).await.unwrap();
    let last = first.count.div_ceil(100);
    reset(&nodes);
    let answer = list(&cluster, &filtered(last)).await.unwrap();
    assert_eq!(answer.rows.len() as u64, first.count - (last - 1) * 100);
    assert!(answer.next.is_none());
    assert_eq!((surveys(&nodes), calls(&nodes)), (vec![0; 3], vec![1; 3]));
    // The clients that match change, and so does where the list ends.
    nodes.iter().for_each(|node| node.rows().truncate(5_000));
    for page in [1, last / 2, last, last / 3] {
        let answer = list(&cluster, &filtered(page)).await.unwrap();
        let matching = |node: &Arc<FakeNode>| {
            let is_one = |row: &&v1::Client| matches!(row.username.as_deref(), Some("u1" | "u2"));
            node.rows().iter().filter(is_one).count() as u64
        };
        let count = nodes.iter().map(matching).sum::<u64>();
        assert_eq!(answer.count, count);
        assert_eq!(answer.rows.len() as u64, count.saturating_sub((page - 1) * 100).min(100));
    }
}
