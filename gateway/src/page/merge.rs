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
    use std::cmp::Ordering;
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use rollcall_proto::SortField;
    use rollcall_proto::v1::Statistics;
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

    /// Fields of every kind: what a row always has, texts, numbers, flags, addresses, times, live figures.
    const FIELDS: [SortField; 8] = [
        SortField::Clientid,
        SortField::Node,
        SortField::Username,
        SortField::Port,
        SortField::IsBridge,
        SortField::IpAddress,
        SortField::ConnectedAt,
        SortField::MqueueLen,
    ];

    /// Few values a field, so that ties are common, and some that are missing.
    fn client() -> impl Strategy<Value = Client> {
        let identity = ("[ab]{0,2}", 0..3_u64, proptest::option::of("[xy]{0,2}"));
        let numbers = (proptest::option::of(0..3_u32), proptest::option::of(any::<bool>()));
        let addresses = [vec![], vec![9, 0, 0, 1], vec![10, 0, 0, 1], vec![0; 16]];
        let figures = (proptest::option::of(-1..2_i64), proptest::option::of(proptest::option::of(0..2_u64)));
        (identity, numbers, proptest::sample::select(addresses.to_vec()), figures).prop_map(
            |((clientid, session, username), (port, is_bridge), ip_address, (connected_at_ms, told))| {
                Client {
                    clientid,
                    session,
                    username,
                    port,
                    is_bridge,
                    ip_address,
                    connected_at_ms,
                    statistics: told.map(|mqueue_len| Statistics { mqueue_len, ..Statistics::default() }),
                    ..Client::default()
                }
            },
        )
    }

    /// What a row has in a field, so that it compares as the documentation says.
    fn value(field: SortField, row: &Client) -> Option<(usize, i64, Vec<u8>)> {
        let number = |number: i64| (0, number, Vec::new());
        let text = |text: &String| (0, 0, text.clone().into_bytes());
        match field {
            SortField::Clientid => Some(text(&row.clientid)),
            SortField::Node => Some(text(&row.node)),
            SortField::Username => row.username.as_ref().map(text),
            SortField::Port => row.port.map(|port| number(port.into())),
            SortField::IsBridge => row.is_bridge.map(|flag| number(flag.into())),
            // Every IPv4 address before every IPv6 address.
            SortField::IpAddress => {
                Some(&row.ip_address).filter(|ip| !ip.is_empty()).map(|ip| (ip.len(), 0, ip.clone()))
            }
            SortField::ConnectedAt => row.connected_at_ms.map(number),
            SortField::MqueueLen => row.statistics?.mqueue_len.map(|figure| number(figure as i64)),
            other => panic!("{other:?} is not in the model"),
        }
    }

    /// The total order once more, as the documentation has it.
    fn compare(order: Order, a: &Client, b: &Client) -> Ordering {
        let by_value = match (value(order.field, a), value(order.field, b)) {
            (Some(a), Some(b)) if order.descending => b.cmp(&a),
            (Some(a), Some(b)) => a.cmp(&b),
            (a, b) => a.is_none().cmp(&b.is_none()),
        };
        by_value.then_with(|| (&a.clientid, &a.node, a.session).cmp(&(&b.clientid, &b.node, b.session)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn a_merged_window_equals_the_one_sorted_list(
            nodes in proptest::collection::vec(proptest::collection::vec(client(), 0..30), 0..5),
            field in proptest::sample::select(FIELDS.to_vec()), descending in any::<bool>(),
            skip in 0..60_usize, take in 0..60_usize,
        ) {
            let order = Order { field, descending };
            let sorted: Vec<Vec<Client>> = nodes.into_iter().enumerate().map(|(at, rows)| {
                // A node has a session once.
                let once: BTreeMap<_, _> = rows.into_iter().map(|row| ((row.clientid.clone(), row.session), row)).collect();
                let mut rows: Vec<_> = once.into_values().map(|row| Client { node: format!("n{at}"), ..row }).collect();
                rows.sort_by(|a, b| compare(order, a, b));
                rows
            }).collect();
            let mut model: Vec<&Client> = sorted.iter().flatten().collect();
            model.sort_by(|a, b| compare(order, a, b));
            let identity = |clientid: &str, node: &str, session: u64| format!("{clientid}@{node}/{session}");
            let expected: Vec<_> = model.into_iter().skip(skip).take(take)
                .map(|row| identity(&row.clientid, &row.node, row.session)).collect();
            let nodes = sorted.iter().enumerate().map(|(node, rows)| rows_of(order, &format!("n{node}"), rows)).collect();
            let page = merge(order, nodes, skip, take);
            let page: Vec<_> = page.iter().map(|row| identity(row.client.clientid, row.client.node, row.client.session)).collect();
            prop_assert_eq!(page, expected);
        }
    }
}
