//! Walks by cursor.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rollcall_gateway::cluster::{Cluster, ClusterError, ListAnswer, ListQuery, Lost, Start};
use rollcall_gateway::page::cursor::{self, Fingerprint, Position};
use rollcall_proto::{Order, Reason, SortField, v1};
use tokio::time::Instant;

use super::fake_node::{Behaviour, DEADLINE, FakeNode, Happens};
use super::{cluster_of, failed, ids, list, list_within, model, probed_every, query, rows, until_described};

/// Follows cursors from the beginning to the end; `between` changes the nodes between two pages.
async fn walk(
    cluster: &Cluster,
    limit: u32,
    order: Order,
    mut between: impl FnMut(usize),
) -> Vec<(String, String)> {
    let fingerprint = Fingerprint::of(&v1::Filter::default(), order, &[]);
    let mut seen = Vec::new();
    let mut start = Start::Page(1);
    for page in 0.. {
        let answer = list(cluster, &ListQuery { start, ..query(1, limit, order) }).await.unwrap();
        assert!(answer.completeness.is_whole() && answer.consistent);
        assert!(answer.rows.len() <= limit as usize);
        seen.extend(ids(&answer));
        let Some(next) = answer.next else { break };
        assert_eq!(answer.rows.len(), limit as usize, "a short page in the middle");
        let cursor = cursor::encode(fingerprint, &next);
        start = Start::Cursor(cursor::decode(fingerprint, order, &cursor).unwrap());
        between(page);
    }
    seen
}

#[tokio::test]
async fn cursors_walk_a_quiet_cluster_once_whatever_the_order() {
    let nodes: Vec<_> = [700, 0, 1500]
        .iter()
        .enumerate()
        .map(|(n, &count)| FakeNode::new(&format!("n{n}"), rows(n, count, n == 2), Behaviour::Honest))
        .collect();
    let cluster = cluster_of(&nodes).await;
    for field in [SortField::Clientid, SortField::Username, SortField::Port, SortField::Node] {
        for (descending, limit) in [(false, 100), (true, 733)] {
            let order = Order { field, descending };
            assert!(walk(&cluster, limit, order, |_| {}).await == model(&nodes, order), "{order:?}");
        }
    }
}

#[tokio::test]
async fn a_walk_over_a_changing_cluster_skips_none_that_stayed_and_shows_none_twice() {
    let nodes: Vec<_> =
        (0..3).map(|n| FakeNode::new(&format!("n{n}"), rows(n, 9000, false), Behaviour::Honest)).collect();
    let cluster = cluster_of(&nodes).await;
    let order = Order { field: SortField::Port, descending: true };
    let stayed = |row: &v1::Client| !row.session.is_multiple_of(5);
    let before = model(&nodes, order);
    let seen = walk(&cluster, 1000, order, |page| {
        for (n, node) in nodes.iter().enumerate() {
            let mut rows = node.rows();
            // Every fifth goes sooner or later, and others come, before and behind the present place.
            rows.retain(|row| stayed(row) || row.session % 30 != page as u64 % 6 * 5);
            rows.extend((0..40).map(|new| v1::Client {
                clientid: format!("new-{n}-{page}-{new}"),
                session: 1_000_001 + page as u64 * 500 + new * 5,
                port: Some((new * 127) as u32),
                conn_state: v1::ConnState::Connected.into(),
                ..v1::Client::default()
            }));
        }
    })
    .await;
    let shown: HashSet<_> = seen.iter().collect();
    assert_eq!(shown.len(), seen.len(), "a client was shown twice");
    let staying: HashSet<_> = nodes
        .iter()
        .flat_map(|node| {
            let rows = node.rows();
            let staying = rows.iter().filter(|row| stayed(row) && row.session < 1_000_000);
            staying.map(|row| (row.clientid.clone(), node.name())).collect::<Vec<_>>()
        })
        .collect();
    assert!(staying.len() > 20_000 && before.len() == 27_000);
    assert!(staying.iter().all(|client| shown.contains(client)), "a client that stayed was skipped");
}

/// A client whose key is too long for a cursor, in the order by client id or by user name.
fn long(n: usize, row: usize) -> v1::Client {
    v1::Client {
        clientid: format!("{}{row:05}-{n}", "ü".repeat(400)),
        username: Some("u".repeat(3000)),
        session: row as u64 + 1,
        conn_state: v1::ConnState::Connected.into(),
        connected_at_ms: Some(row as i64),
        ..v1::Client::default()
    }
}

fn nodes_of_long(rows: usize, behaviour: Behaviour) -> Vec<Arc<FakeNode>> {
    let rows = |n| (0..rows).map(|row| long(n, row)).collect();
    (0..2).map(|n| FakeNode::new(&format!("n{n}"), rows(n), behaviour)).collect()
}

/// Where the page behind this one begins, as its cursor says it.
fn start_behind(answer: &ListAnswer, order: Order) -> Start {
    let fingerprint = Fingerprint::of(&v1::Filter::default(), order, &[]);
    let text = cursor::encode(fingerprint, answer.next.as_ref().unwrap());
    Start::Cursor(cursor::decode(fingerprint, order, &text).unwrap())
}

/// The first page of a list, and the question for the second; its cursor holds no key.
async fn first_page_of_long(cluster: &Cluster, limit: u32, order: Order) -> (ListAnswer, ListQuery) {
    let first = list(cluster, &query(1, limit, order)).await.unwrap();
    let start = start_behind(&first, order);
    assert!(matches!(start, Start::Cursor(Position::Hashed(_))), "{start:?}");
    (first, ListQuery { start, ..query(1, limit, order) })
}

const BY_CONNECTED_AT: Order = Order { field: SortField::ConnectedAt, descending: false };

#[tokio::test]
async fn keys_too_long_for_a_cursor_are_found_again() {
    let nodes = nodes_of_long(50, Behaviour::Honest);
    let cluster = cluster_of(&nodes).await;
    for (field, descending) in [
        (SortField::Clientid, false),
        (SortField::Clientid, true),
        (SortField::Username, false),
        (SortField::Username, true),
        (SortField::ConnectedAt, true),
    ] {
        let order = Order { field, descending };
        assert!(walk(&cluster, 7, order, |_| {}).await == model(&nodes, order), "{order:?}");
    }
    // Also by a gateway that has just started, and does not know yet which node is where.
    let order = Order::default();
    let (_, second) = first_page_of_long(&cluster, 7, order).await;
    let addresses = cluster.nodes().into_iter().map(|node| node.address).collect();
    let started = probed_every(DEADLINE, addresses);
    assert_eq!(ids(&list(&started, &second).await.unwrap()), model(&nodes, order)[7..14]);
}

#[tokio::test]
async fn to_find_a_long_key_again_ships_one_row() {
    let nodes = nodes_of_long(12_000, Behaviour::Honest);
    let cluster = cluster_of(&nodes).await;
    let (_, second) = first_page_of_long(&cluster, 10, Order::default()).await;
    let sent = || nodes.iter().map(|node| node.calls.rows_sent.load(Relaxed)).sum::<usize>();
    let before = sent();
    let second = list(&cluster, &second).await.unwrap();
    assert_eq!((second.rows.len(), second.completeness.is_whole()), (10, true));
    assert!(sent() - before <= 1 + 3 * 10 + 2 * 100, "{} rows", sent() - before);
}

#[tokio::test]
async fn a_cursor_of_a_long_key_goes_on_where_it_was_or_says_why_not() {
    let nodes = nodes_of_long(6, Behaviour::Honest);
    let cluster = cluster_of(&nodes).await;
    let lost = |lost| ClusterError::CursorLost { lost };
    let node = || "n1".to_owned();

    // The last client of the first page connects again, in its old session: it stands behind all others now.
    let (first, second) = first_page_of_long(&cluster, 4, BY_CONNECTED_AT).await;
    let last = first.rows.last().unwrap().client;
    assert_eq!((last.node, last.session), ("n1", 2));
    let set_last = |change: &dyn Fn(&mut v1::Client)| {
        change(nodes[1].rows().iter_mut().find(|row| row.clientid == last.clientid).unwrap());
    };
    set_last(&|row| row.connected_at_ms = Some(1000));
    let moved = list(&cluster, &second).await.unwrap_err();
    assert_eq!(moved, lost(Lost::Value { field: "connected_at" }));
    // Not so where its place is another's: then it is where it was.
    let (_, by_id) = first_page_of_long(&cluster, 4, Order::default()).await;
    assert_eq!(ids(&list(&cluster, &by_id).await.unwrap()), model(&nodes, Order::default())[4..8]);
    set_last(&|row| row.connected_at_ms = Some(1));
    assert_eq!(ids(&list(&cluster, &second).await.unwrap()), model(&nodes, BY_CONNECTED_AT)[4..8]);

    // After a restart of the agent another client has the number.
    set_last(&|row| row.session = 900);
    nodes[1].rows()[4].session = 2;
    assert_eq!(list(&cluster, &second).await.unwrap_err(), lost(Lost::Client { node: node() }));
    nodes[1].rows().retain(|row| row.session != 2);
    assert_eq!(list(&cluster, &second).await.unwrap_err(), lost(Lost::Client { node: node() }));

    let without_owner = cluster_of(&nodes[..1]).await;
    until_described(&without_owner).await;
    assert_eq!(list(&without_owner, &second).await.unwrap_err(), lost(Lost::Node { node: node() }));
}

#[tokio::test]
async fn where_a_long_key_stands_is_said_to_be_unknown_while_its_node_does_not_tell() {
    for (behaviour, reason) in
        [(Behaviour::HangsInSessions, Reason::Timeout), (Behaviour::KnowsNoSessions, Reason::Protocol)]
    {
        let nodes = nodes_of_long(6, behaviour);
        let cluster = cluster_of(&nodes).await;
        let (_, second) = first_page_of_long(&cluster, 4, BY_CONNECTED_AT).await;
        let error = list_within(DEADLINE, &cluster, &second).await.unwrap_err();
        assert_eq!(error, ClusterError::PlaceUnknown { failed: vec![failed("n1", reason)] });
        let started = cluster.list(&second, Instant::now() + DEADLINE).await.unwrap_err();
        assert_eq!(started, error, "{behaviour:?}");
    }
}

#[tokio::test]
async fn rows_from_before_the_cursor_are_a_protocol_failure() {
    let good = FakeNode::new("n0", rows(0, 8000, false), Behaviour::Honest);
    let bad = FakeNode::new("n1", rows(1, 8000, false), Behaviour::BeginsBeforeKey);
    let cluster = cluster_of(&[Arc::clone(&good), Arc::clone(&bad)]).await;
    // By rows at once, and by node, where a selection tells how many to ask for.
    for (field, limit) in [(SortField::Clientid, 50), (SortField::Clientid, 6000), (SortField::Node, 9000)] {
        let order = Order { field, descending: false };
        let first = list(&cluster, &query(1, limit, order)).await.unwrap();
        assert!(first.completeness.is_whole());
        let last = first.rows.last().unwrap().client.clientid.to_owned();
        let surveys = bad.calls.surveys.load(Relaxed);
        let second = ListQuery { start: start_behind(&first, order), ..query(1, limit, order) };
        let second = list(&cluster, &second).await.unwrap();
        assert_eq!(second.completeness.failed, [failed("n1", Reason::Protocol)], "{order:?}");
        let all = model(std::slice::from_ref(&good), order);
        let is_behind = |clientid: &str| field == SortField::Clientid && *clientid > *last;
        let behind = all.into_iter().filter(|(clientid, _)| is_behind(clientid));
        assert!(ids(&second) == behind.take(limit as usize).collect::<Vec<_>>(), "{order:?}");
        assert_eq!(bad.calls.surveys.load(Relaxed) > surveys, field == SortField::Node, "{order:?}");
    }
}

/// In an order in which one node may have the whole page, and in one in which each has a part of it.
#[tokio::test]
async fn a_walk_needs_no_snapshot_and_ships_what_is_promised() {
    let nodes: Vec<_> = (0..3)
        .map(|n| FakeNode::new(&format!("n{n}"), rows(n, 3000, true), Behaviour::ForgetsSnapshots))
        .collect();
    let cluster = cluster_of(&nodes).await;
    for field in [SortField::Node, SortField::Clientid, SortField::Port] {
        for limit in [100, 1000, 8000] {
            let order = Order { field, descending: true };
            let (mut start, mut shown) = (Start::Page(1), Vec::new());
            loop {
                nodes.iter().for_each(|node| node.calls.rows_sent.store(0, Relaxed));
                let answer = list(&cluster, &ListQuery { start, ..query(1, limit, order) }).await.unwrap();
                assert!(answer.consistent && answer.count == 9000, "{order:?}, {limit} a page");
                let sent: usize = nodes.iter().map(|node| node.calls.rows_sent.load(Relaxed)).sum();
                assert!(sent <= 3 * limit as usize + 300, "{order:?}: {sent} rows for a page of {limit}");
                shown.extend(ids(&answer));
                if !answer.has_more {
                    break;
                }
                start = start_behind(&answer, order);
            }
            assert!(shown == model(&nodes, order), "{order:?}, {limit} a page");
        }
    }
}

/// What a selection told is no longer so when the rows are fetched.
#[tokio::test]
async fn a_page_by_cursor_over_nodes_that_change_between_waves_is_right_and_says_that_they_did() {
    let order = Order { field: SortField::Node, descending: false };
    let nodes: Vec<_> =
        (0..3).map(|n| FakeNode::new(&format!("n{n}"), rows(n, 3000, true), Behaviour::Honest)).collect();
    let cluster = cluster_of(&nodes).await;
    let first = list(&cluster, &query(1, 1000, order)).await.unwrap();
    let before = model(&nodes, order);
    let happens_in_lists = |n: usize, mut happens: Happens| {
        let node = Arc::clone(&nodes[n]);
        let mut known = node.calls.lists.load(Relaxed);
        nodes[n].before_each_call(move |rows| {
            let lists = node.calls.lists.load(Relaxed);
            if lists > known {
                happens(rows);
            }
            known = lists;
        });
    };
    // All but 100 of the one node go, so the page is of the next as well, to which one more comes each time.
    let is_gone = |row: &v1::Client| (1001..2901).contains(&row.session);
    happens_in_lists(0, Box::new(move |rows| rows.retain(|row| !is_gone(row))));
    let mut came = 0;
    happens_in_lists(
        1,
        Box::new(move |rows| {
            came += 1;
            rows.push(v1::Client {
                clientid: format!("c-1--{came}"),
                session: 10_000 + came,
                ..rows[0].clone()
            });
        }),
    );
    let second = ListQuery { start: start_behind(&first, order), ..query(1, 1000, order) };
    let second = list(&cluster, &second).await.unwrap();
    let (stayed, others): (Vec<_>, Vec<_>) = ids(&second).into_iter().partition(|row| before.contains(row));
    assert_eq!((stayed.len() + others.len(), others.is_empty()), (1000, false));
    assert!(stayed == before[2900..2900 + stayed.len()], "{stayed:?}");
    assert!(!second.consistent && second.has_more && second.completeness.is_whole());
}

/// A page by number, read from live data, that came out empty: nothing says where a walk would go on.
#[tokio::test]
async fn a_page_that_lost_its_rows_while_it_was_read_is_not_the_last() {
    let nodes: Vec<_> = (0..3)
        .map(|n| FakeNode::new(&format!("n{n}"), rows(n, 9000, false), Behaviour::ForgetsSnapshots))
        .collect();
    let cluster = cluster_of(&nodes).await;
    for node in &nodes {
        let calls = Arc::clone(node);
        // The third fetch is the one of live data; the first two named snapshots.
        node.before_each_call(move |rows| {
            if calls.calls.lists.load(Relaxed) >= 3 {
                rows.truncate(1000);
            }
        });
    }
    let answer = list(&cluster, &query(150, 100, Order::default())).await.unwrap();
    assert!(answer.rows.is_empty() && !answer.consistent, "{} rows", answer.rows.len());
    assert!(answer.has_more && answer.next.is_none());
}
