//! Exports over the whole cluster.

use super::*;

use rollcall_gateway::cluster::{Export, ExportQuery};
use rollcall_gateway::page::completeness::Completeness;

fn query(order: Order) -> ExportQuery {
    ExportQuery { filter: v1::Filter::default(), order, scope: Scope::All, with_statistics: true }
}

async fn begin(cluster: &Cluster, order: Order) -> Result<Export, ClusterError> {
    cluster.export(&query(order), Instant::now() + DEADLINE, Duration::from_millis(300)).await
}

async fn rest(export: &mut Export) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    while let Some(row) = export.next().await {
        assert_eq!(row.statistics.unwrap().recv_oct, Some(row.session));
        rows.push((row.clientid, row.node));
    }
    rows
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

#[tokio::test]
async fn an_export_is_the_one_list_in_every_order() {
    for apart in [false, true] {
        let nodes: Vec<_> = [400, 900, 0, 50]
            .iter()
            .enumerate()
            .map(|(n, &count)| FakeNode::new(&format!("n{n}"), rows(n, count, apart), Behaviour::Honest))
            .collect();
        let cluster = cluster_of(&nodes).await;
        for field in [SortField::Clientid, SortField::Username, SortField::Port, SortField::Node] {
            for descending in [false, true] {
                let order = Order { field, descending };
                let mut export = begin(&cluster, order).await.unwrap();
                assert!(rest(&mut export).await == model(&nodes, order), "{order:?}");
                assert!(!export.broke_off());
                assert_eq!(export.completeness(), Completeness { total: 4, answered: 4, failed: vec![] });
            }
        }
    }
}

#[tokio::test]
async fn a_node_that_fails_at_the_start_is_left_out_and_named() {
    for (behaviour, reason) in [
        (Behaviour::HangInQueries, Reason::Timeout),
        (Behaviour::Draining, Reason::Draining),
        (Behaviour::Overloaded, Reason::Overloaded),
        (Behaviour::Unsorted, Reason::Protocol),
        (Behaviour::ForeignRows, Reason::Protocol),
        (Behaviour::Nameless, Reason::Protocol),
    ] {
        let good = FakeNode::new("n0", rows(0, 250, false), Behaviour::Honest);
        let bad = FakeNode::new("n1", rows(1, 250, false), behaviour);
        let cluster = cluster_of(&[Arc::clone(&good), bad]).await;
        let mut export = begin(&cluster, Order::default()).await.unwrap();
        assert!(rest(&mut export).await == model(&[good], Order::default()), "{behaviour:?}");
        let Completeness { total, answered, failed } = export.completeness();
        assert_eq!((total, answered, failed[0].reason), (2, 1, reason), "{behaviour:?}");
        assert!(!export.broke_off());
    }
}

#[tokio::test]
async fn nobody_answering_is_an_error() {
    let bad = FakeNode::new("n0", rows(0, 5, false), Behaviour::Draining);
    let cluster = cluster_of(&[bad]).await;
    let error = begin(&cluster, Order::default()).await.unwrap_err();
    let ClusterError::NobodyAnswered { failed } = error else { panic!("{error}") };
    assert_eq!(failed[0].reason, Reason::Draining);
}

#[tokio::test]
async fn a_node_that_fails_midway_ends_the_export_before_the_first_gap() {
    for (behaviour, reason) in [
        (Behaviour::HangMidway, Reason::Timeout),
        (Behaviour::BreakMidway, Reason::Unreachable),
        (Behaviour::Repeats, Reason::Protocol),
    ] {
        let nodes = [
            FakeNode::new("n0", rows(0, 1000, false), Behaviour::Honest),
            FakeNode::new("n1", rows(1, 1000, false), behaviour),
        ];
        let cluster = cluster_of(&nodes).await;
        let mut export = begin(&cluster, Order::default()).await.unwrap();
        let seen = rest(&mut export).await;
        let expected = model(&nodes, Order::default());
        // The bad node's first chunk has its rows 0 to 99, with as many of the other between them.
        assert_eq!(seen, expected[..200], "{behaviour:?}");
        assert!(export.broke_off() && export.next().await.is_none());
        assert_eq!(export.completeness().failed, [failed("n1", reason)]);
    }
}

#[tokio::test]
async fn exports_that_nobody_reads_hold_up_neither_each_other_nor_lists() {
    let mut large = rows(0, 5000, false);
    for row in &mut large {
        row.zone = Some("z".repeat(2000));
    }
    let node = FakeNode::new("n0", large, Behaviour::Honest);
    let cluster = cluster_of(std::slice::from_ref(&node)).await;
    let mut exports = Vec::new();
    for _ in 0..3 {
        let mut export = begin(&cluster, Order::default()).await.unwrap();
        assert!(export.next().await.is_some());
        exports.push(export);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    // A row has some 2 kB here; what is sent ahead is bounded by the window and the node's own buffers.
    let sent = node.calls.rows_sent.load(Relaxed);
    assert!(sent < 3 * 1500, "{sent} rows were sent to readers who took one each");
    let page = list(&cluster, &super::query(1, 100, Order::default())).await.unwrap();
    assert_eq!(page.rows.len(), 100);
    // Time in which nobody read is not the node's fault.
    assert_eq!(rest(&mut exports[0]).await.len(), 4999);
    assert!(!exports[0].broke_off());
    drop(exports);
    eventually("dropping an export ends its call", || node.calls.exports_open.load(Relaxed) == 0).await;
}
