//! Sorted rows of several nodes become one sorted list.
//!
//! A node's rows are checked, not trusted: rows out of order would put every later page out of order, and a row
//! under another node's name would send a kick astray. Both make the node's answer a `protocol` failure.

use rollcall_proto::Order;
use rollcall_proto::v1::Client;
use thiserror::Error;

use super::rows::{At, NodeRows, PageRows};

/// Rows that a node must not send.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum InvalidRows {
    /// Two rows are equal in the order, or the second comes before the first.
    #[error("rows {at} and {} are not in order", at + 1)]
    OutOfOrder {
        /// Index of the first of the two.
        at: usize,
    },
    /// A row is of another node.
    #[error("row {at} is under another node's name")]
    ForeignNode {
        /// Index of the row.
        at: usize,
    },
}

/// Puts the node's name into its rows, which leave it out on the wire, and checks them.
///
/// # Errors
/// [`InvalidRows`] says what is wrong with the first bad row.
pub fn own_rows(order: Order, node: &str, rows: &mut [Client]) -> Result<(), InvalidRows> {
    for (at, row) in rows.iter_mut().enumerate() {
        if row.node.is_empty() {
            node.clone_into(&mut row.node);
        } else if row.node != node {
            return Err(InvalidRows::ForeignNode { at });
        }
    }
    for at in 1..rows.len() {
        let (a, b) = (rows[at - 1].as_client_ref(), rows[at].as_client_ref());
        if order.compare(&order.key(&a), &order.key(&b)).is_ge() {
            return Err(InvalidRows::OutOfOrder { at: at - 1 });
        }
    }
    Ok(())
}

/// Merges checked rows of several nodes and keeps `take` of them after the first `skip`.
///
/// The standard library's stable sort finds the sorted runs it is given and merges them, in O(rows * log nodes)
/// comparisons; a loser tree of our own would do the same.
#[must_use]
pub fn merge(order: Order, nodes: Vec<NodeRows>, skip: usize, take: usize) -> PageRows {
    let merged = in_order(order, nodes.iter());
    window(nodes, merged, skip, take)
}

/// Where all rows of these nodes, which are numbered as they come, stand in order.
#[must_use]
pub fn in_order<'a>(order: Order, nodes: impl Iterator<Item = &'a NodeRows> + Clone) -> Vec<At> {
    let mut keys = Vec::with_capacity(nodes.clone().map(NodeRows::len).sum());
    for (node, rows) in (0..).zip(nodes) {
        keys.extend((0..).zip(0..rows.len()).map(|(row, at)| (rows.key(order, at), At { node, row })));
    }
    keys.sort_by(|(a, _), (b, _)| order.compare(a, b));
    keys.into_iter().map(|(_, at)| at).collect()
}

/// The rows of a window of the merged list.
#[must_use]
pub fn window(nodes: Vec<NodeRows>, mut merged: Vec<At>, skip: usize, take: usize) -> PageRows {
    merged.truncate(skip.saturating_add(take));
    merged.drain(..skip.min(merged.len()));
    PageRows::new(nodes, merged)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rollcall_proto::wire::WireRow;

    use super::*;

    fn row(node: &str, clientid: &str, session: u64) -> Client {
        Client { node: node.into(), clientid: clientid.into(), session, ..Client::default() }
    }

    fn rows_of(order: Order, node: &str, clients: &[Client]) -> NodeRows {
        let mut rows = NodeRows::default();
        for client in clients {
            let statistics = client.statistics.unwrap_or_default();
            rows.push(&WireRow { client: client.as_client_ref(), statistics }).unwrap();
        }
        rows.belong_to(node, order).unwrap();
        rows
    }

    fn ids(rows: &PageRows) -> Vec<String> {
        rows.iter().map(|row| format!("{}@{}", row.client.clientid, row.client.node)).collect()
    }

    #[test]
    fn rows_get_their_nodes_name_and_are_checked() {
        let order = Order::default();
        let mut rows = vec![row("", "a", 1), row("", "b", 1), row("", "b", 2)];
        assert_eq!(own_rows(order, "n1", &mut rows), Ok(()));
        assert!(rows.iter().all(|row| row.node == "n1"));
        let mut doubled = vec![row("", "a", 1), row("", "b", 1), row("", "b", 1)];
        assert_eq!(own_rows(order, "n1", &mut doubled), Err(InvalidRows::OutOfOrder { at: 1 }));
        let mut backward = vec![row("", "b", 1), row("", "a", 1)];
        assert_eq!(own_rows(order, "n1", &mut backward), Err(InvalidRows::OutOfOrder { at: 0 }));
        let mut foreign = vec![row("", "a", 1), row("n2", "b", 1)];
        assert_eq!(own_rows(order, "n1", &mut foreign), Err(InvalidRows::ForeignNode { at: 1 }));
    }

    #[test]
    fn the_same_client_on_two_nodes_is_two_rows_in_node_order() {
        let page = merge(
            Order::default(),
            vec![
                rows_of(Order::default(), "n2", &[row("", "b", 1)]),
                rows_of(Order::default(), "n1", &[row("", "a", 9), row("n1", "b", 5)]),
            ],
            0,
            10,
        );
        assert_eq!(ids(&page), ["a@n1", "b@n1", "b@n2"]);
    }

    proptest! {
        #[test]
        fn a_merged_window_equals_the_one_sorted_list(
            nodes in proptest::collection::vec(proptest::collection::btree_set("[a-d]{1,3}", 0..30), 0..5),
            skip in 0..60_usize, take in 0..60_usize,
        ) {
            let order = Order { descending: true, ..Order::default() };
            let sorted: Vec<Vec<Client>> = nodes.iter().enumerate()
                .map(|(node, ids)| ids.iter().rev().map(|id| row(&format!("n{node}"), id, 0)).collect())
                .collect();
            let mut model: Vec<(String, String)> = sorted.iter().flatten()
                .map(|row| (row.clientid.clone(), row.node.clone())).collect();
            model.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
            let expected: Vec<_> = model.into_iter().skip(skip).take(take).map(|(id, node)| format!("{id}@{node}")).collect();
            let nodes = sorted.iter().enumerate().map(|(node, rows)| rows_of(order, &format!("n{node}"), rows)).collect();
            prop_assert_eq!(ids(&merge(order, nodes, skip, take)), expected);
        }
    }
}
