//! Sorted streams of several nodes become one, row by row as they are read.
//!
//! Where [`merge`](super::merge) has all rows of a page, this has of each node only what came last, and says whose rows it
//! needs before it can go on. Chunks are checked one by one by [`own_rows`](super::merge::own_rows) before they get here;
//! that one follows the other is checked here. A row costs O(log nodes) comparisons.

use std::vec::IntoIter;

use rollcall_proto::Order;
use rollcall_proto::v1::{Client, Key};
use thiserror::Error;

/// The merge of some streams. Nodes are numbered from 0.
#[derive(Debug)]
pub struct Streams {
    order: Order,
    nodes: Vec<Stream>,
    /// The nodes with a row, as a binary heap: each before its children at 2i + 1 and 2i + 2.
    heap: Vec<usize>,
    /// The nodes of which it is not known whether a row follows.
    waiting: Vec<usize>,
}

/// What is there of one node.
#[derive(Debug)]
struct Stream {
    /// The next row; every node in the heap has one.
    head: Option<Client>,
    rest: IntoIter<Client>,
    /// Of the last row that came.
    last: Option<Key>,
}

/// What is next.
#[derive(Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once; a box would cost an allocation a row"
)]
pub enum Step {
    /// This row.
    Row(Client),
    /// It depends on what follows of this node: [`Streams::push`] or [`Streams::end`] says.
    Wait {
        /// Its number.
        node: usize,
    },
    /// Nothing: every stream is at its end.
    End,
}

/// A chunk that does not come behind the one before.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a chunk does not come behind the one before in the order")]
pub struct OutOfOrder;

impl Streams {
    /// As many streams, none of which has told anything.
    #[must_use]
    pub fn new(order: Order, nodes: usize) -> Self {
        let stream = || Stream { head: None, rest: Vec::new().into_iter(), last: None };
        Self {
            order,
            nodes: (0..nodes).map(|_| stream()).collect(),
            heap: Vec::with_capacity(nodes),
            waiting: (0..nodes).rev().collect(),
        }
    }

    /// The next row of all streams together, or whose rows it depends on.
    pub fn step(&mut self) -> Step {
        if let Some(&node) = self.waiting.last() {
            return Step::Wait { node };
        }
        let Some(&node) = self.heap.first() else { return Step::End };
        let stream = &mut self.nodes[node];
        let next = stream.rest.next();
        let has_more = next.is_some();
        let row = std::mem::replace(&mut stream.head, next);
        if !has_more {
            self.heap.swap_remove(0);
            self.waiting.push(node);
        }
        self.sink(0);
        // Every node in the heap has a row.
        row.map_or(Step::End, Step::Row)
    }

    /// Takes in the next rows of a node that is waited for: in order, with their node's name.
    ///
    /// # Errors
    /// [`OutOfOrder`] if they do not come behind those before; then they are not taken in.
    pub fn push(&mut self, node: usize, rows: Vec<Client>) -> Result<(), OutOfOrder> {
        let order = self.order;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(()) };
        let stream = &mut self.nodes[node];
        if let Some(before) = &stream.last {
            let first = first.as_client_ref();
            let follows = order
                .key_from_wire(before)
                .is_ok_and(|before| order.compare(&before, &order.key(&first)).is_lt());
            if !follows {
                return Err(OutOfOrder);
            }
        }
        stream.last = Some(order.key(&last.as_client_ref()).into());
        stream.rest = rows.into_iter();
        stream.head = stream.rest.next();
        self.waiting.retain(|waiting| *waiting != node);
        self.heap.push(node);
        self.rise(self.heap.len() - 1);
        Ok(())
    }

    /// Takes in that no row of a node follows.
    pub fn end(&mut self, node: usize) {
        self.waiting.retain(|waiting| *waiting != node);
    }

    /// Whether one place of the heap must stand before another; places without a row stand last.
    fn is_before(&self, a: usize, b: usize) -> bool {
        let head = |place: usize| self.heap.get(place).and_then(|&node| self.nodes[node].head.as_ref());
        match (head(a), head(b)) {
            (Some(a), Some(b)) => {
                let (a, b) = (a.as_client_ref(), b.as_client_ref());
                self.order.compare(&self.order.key(&a), &self.order.key(&b)).is_lt()
            }
            (first, _) => first.is_some(),
        }
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if !self.is_before(place, parent) {
                break;
            }
            self.heap.swap(place, parent);
            place = parent;
        }
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            let child = if self.is_before(right, left) { right } else { left };
            if !self.is_before(child, place) {
                break;
            }
            self.heap.swap(place, child);
            place = child;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rollcall_proto::SortField;

    use super::*;

    fn row(node: usize, clientid: &str, port: u32) -> Client {
        Client { node: format!("n{node}"), clientid: clientid.into(), port: Some(port), ..Client::default() }
    }

    #[test]
    fn nothing_is_given_before_every_stream_has_told_what_is_next() {
        let mut streams = Streams::new(Order::default(), 2);
        assert_eq!(streams.step(), Step::Wait { node: 0 });
        streams.push(0, vec![row(0, "a", 1), row(0, "c", 1)]).unwrap();
        assert_eq!(streams.step(), Step::Wait { node: 1 });
        streams.push(1, vec![row(1, "b", 1)]).unwrap();
        assert_eq!(streams.step(), Step::Row(row(0, "a", 1)));
        assert_eq!(streams.step(), Step::Row(row(1, "b", 1)));
        assert_eq!(streams.step(), Step::Wait { node: 1 });
        streams.end(1);
        assert_eq!(streams.step(), Step::Row(row(0, "c", 1)));
        assert_eq!(streams.step(), Step::Wait { node: 0 });
        streams.end(0);
        assert_eq!(streams.step(), Step::End);
        assert_eq!(Streams::new(Order::default(), 0).step(), Step::End);
    }

    #[test]
    fn a_chunk_must_come_behind_the_one_before() {
        for second in ["a", "b"] {
            let mut streams = Streams::new(Order::default(), 1);
            streams.push(0, vec![row(0, "a", 1), row(0, "b", 1)]).unwrap();
            assert!(matches!(streams.step(), Step::Row(_)) && matches!(streams.step(), Step::Row(_)));
            assert_eq!(streams.push(0, vec![row(0, second, 1)]), Err(OutOfOrder));
            assert_eq!(streams.step(), Step::Wait { node: 0 });
        }
    }

    proptest! {
        #[test]
        fn merged_streams_equal_the_one_sorted_list(
            nodes in proptest::collection::vec(proptest::collection::btree_map("[a-d]{1,3}", 0..4_u32, 0..40), 0..9),
            sizes in proptest::collection::vec(1..7_usize, 1..5),
            by_port in any::<bool>(), descending in any::<bool>(),
        ) {
            let order = Order { field: if by_port { SortField::Port } else { SortField::Clientid }, descending };
            let sort = |rows: &mut Vec<Client>| {
                rows.sort_by(|a, b| order.compare(&order.key(&a.as_client_ref()), &order.key(&b.as_client_ref())));
            };
            let mut sorted: Vec<Vec<Client>> = nodes.iter().enumerate()
                .map(|(node, rows)| rows.iter().map(|(id, port)| row(node, id, *port)).collect())
                .collect();
            let mut model: Vec<Client> = sorted.iter().flatten().cloned().collect();
            sort(&mut model);
            sorted.iter_mut().for_each(sort);
            let mut left: Vec<_> = sorted.into_iter().map(Vec::into_iter).collect();
            let mut streams = Streams::new(order, left.len());
            let mut sizes = sizes.into_iter().cycle();
            let mut merged = Vec::new();
            loop {
                match streams.step() {
                    Step::Row(row) => merged.push(row),
                    Step::End => break,
                    Step::Wait { node } => {
                        let chunk: Vec<Client> = left[node].by_ref().take(sizes.next().unwrap_or(1)).collect();
                        if chunk.is_empty() { streams.end(node) } else { streams.push(node, chunk).unwrap() }
                    }
                }
            }
            prop_assert_eq!(merged, model);
        }
    }
}
