//! Rows of nodes, and the page they make up.
//!
//! A row is kept as numbers and places in its node's one text, the node's name once for all of them: reading a row costs
//! no allocation, and merging moves places, not rows. Decided against keeping the bytes as they came and reading a row
//! again when it is written: that is a second pass over every field, and what cannot be read must be known before the
//! page is made, because the node has then failed.
//!
//! A node's rows are checked, not trusted: rows out of order would put every later page out of order, and a row
//! under another node's name would send a kick astray. Both make the node's answer a `protocol` failure.

use std::net::IpAddr;

use rollcall_proto::v1::{ConnState, Statistics};
use rollcall_proto::wire::{ListHead, Malformed, WireRow, read_list};
use rollcall_proto::{ClientRef, KeyRef, Order, SortField};
use thiserror::Error;

use super::merge::InvalidRows;

/// A client with its live figures, borrowed from wherever it is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowRef<'a> {
    /// Identity, with its node's name.
    pub client: ClientRef<'a>,
    /// Live figures; all absent where none were told.
    pub statistics: &'a Statistics,
}

/// Bytes that do not hold rows that may be kept.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unreadable {
    /// They are no message.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// More rows than were asked for.
    #[error("more than the {0} rows asked for")]
    TooMany(usize),
    /// More text than places can count.
    #[error("more than 4 GiB of text")]
    TooLong,
}

/// Rows of one node, in order.
#[derive(Clone, Debug, Default)]
pub struct NodeRows {
    node: String,
    /// The rows' texts, one after the other.
    text: String,
    rows: Vec<Packed>,
    /// The first row that came with a node's name, and the name; and the first that came with another than that.
    told: Option<(usize, String)>,
    told_other: Option<usize>,
}

/// A row without its texts.
#[derive(Clone, Copy, Debug)]
struct Packed {
    clientid: Place,
    username: Option<Place>,
    zone: Option<Place>,
    proto_name: Option<Place>,
    mountpoint: Option<Place>,
    session: u64,
    connected_at_ms: Option<i64>,
    disconnected_at_ms: Option<i64>,
    created_at_ms: Option<i64>,
    ip_address: Option<IpAddr>,
    proto_ver: Option<u32>,
    port: Option<u32>,
    keepalive: Option<u32>,
    expiry_interval: Option<u32>,
    is_bridge: Option<bool>,
    clean_start: Option<bool>,
    conn_state: ConnState,
    statistics: Statistics,
}

/// Where a text stands among those of its node.
#[derive(Clone, Copy, Debug)]
struct Place {
    from: u32,
    to: u32,
}

impl NodeRows {
    /// Takes in a chunk of a list as it came; no more than `most` rows in all.
    ///
    /// # Errors
    /// [`Unreadable`]; then what was taken in is of no use.
    pub fn read(&mut self, chunk: &[u8], most: usize) -> Result<ListHead, Unreadable> {
        // Nearly all of a chunk is rows, of some 180 bytes, and about half of a row is text.
        self.text.reserve(chunk.len() / 2);
        self.rows.reserve((chunk.len() / 160).min(most.saturating_sub(self.len())));
        read_list(
            chunk,
            |row| if self.len() < most { self.push(row) } else { Err(Unreadable::TooMany(most)) },
        )
    }

    /// Takes in one more row.
    ///
    /// # Errors
    /// [`Unreadable::TooLong`].
    pub fn push(&mut self, row: &WireRow<'_>) -> Result<(), Unreadable> {
        let WireRow { client, statistics } = row;
        if !client.node.is_empty() {
            self.note_name(client.node);
        }
        let clientid = self.keep(client.clientid)?;
        let mut keep = |text: Option<&str>| text.map(|text| self.keep(text)).transpose();
        let packed = Packed {
            clientid,
            username: keep(client.username)?,
            zone: keep(client.zone)?,
            proto_name: keep(client.proto_name)?,
            mountpoint: keep(client.mountpoint)?,
            session: client.session,
            connected_at_ms: client.connected_at_ms,
            disconnected_at_ms: client.disconnected_at_ms,
            created_at_ms: client.created_at_ms,
            ip_address: client.ip_address,
            proto_ver: client.proto_ver,
            port: client.port,
            keepalive: client.keepalive,
            expiry_interval: client.expiry_interval,
            is_bridge: client.is_bridge,
            clean_start: client.clean_start,
            conn_state: client.conn_state,
            statistics: *statistics,
        };
        self.rows.push(packed);
        Ok(())
    }

    /// Says whose rows these are, which leave their node's name out on the wire, and checks them.
    ///
    /// # Errors
    /// [`InvalidRows`] says what is wrong with the first bad row.
    pub fn belong_to(&mut self, node: &str, order: Order) -> Result<(), InvalidRows> {
        let foreign = match &self.told {
            Some((at, told)) if told != node => Some(*at),
            _ => self.told_other,
        };
        if let Some(at) = foreign {
            return Err(InvalidRows::ForeignNode { at });
        }
        node.clone_into(&mut self.node);
        let mut keys = (0..self.len()).map(|at| self.key(order, at));
        let Some(mut before) = keys.next() else { return Ok(()) };
        for (at, key) in keys.enumerate() {
            if order.compare(&before, &key).is_ge() {
                return Err(InvalidRows::OutOfOrder { at });
            }
            before = key;
        }
        Ok(())
    }

    /// Whether all of them, in order as [`Self::belong_to`] has found them, stand behind a key.
    #[must_use]
    pub fn stand_behind(&self, order: Order, key: &KeyRef<'_>) -> bool {
        self.is_empty() || order.compare(&self.key(order, 0), key).is_gt()
    }

    /// Whose they are; empty before [`Self::belong_to`].
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = RowRef<'_>> {
        (0..self.len()).map(|at| self.row(at))
    }

    /// The last.
    #[must_use]
    pub fn last(&self) -> Option<RowRef<'_>> {
        self.len().checked_sub(1).map(|at| self.row(at))
    }

    fn row(&self, at: usize) -> RowRef<'_> {
        RowRef { client: self.client(at), statistics: &self.rows[at].statistics }
    }

    /// The key of the row at a place below [`Self::len`].
    pub(super) fn key(&self, order: Order, at: usize) -> KeyRef<'_> {
        if order.field != SortField::Clientid {
            return order.key(&self.client(at));
        }
        // Most lists are in this order, and it reads two fields of the row's eighteen.
        let row = &self.rows[at];
        KeyRef { value: None, clientid: self.text(row.clientid), node: &self.node, session: row.session }
    }

    fn text(&self, place: Place) -> &str {
        &self.text[place.from as usize..place.to as usize]
    }

    /// The client of the row at a place below [`Self::len`].
    fn client(&self, at: usize) -> ClientRef<'_> {
        let row = &self.rows[at];
        let text = |place| self.text(place);
        ClientRef {
            node: &self.node,
            clientid: text(row.clientid),
            session: row.session,
            username: row.username.map(text),
            zone: row.zone.map(text),
            proto_name: row.proto_name.map(text),
            proto_ver: row.proto_ver,
            ip_address: row.ip_address,
            port: row.port,
            is_bridge: row.is_bridge,
            mountpoint: row.mountpoint.map(text),
            keepalive: row.keepalive,
            clean_start: row.clean_start,
            expiry_interval: row.expiry_interval,
            conn_state: row.conn_state,
            connected_at_ms: row.connected_at_ms,
            disconnected_at_ms: row.disconnected_at_ms,
            created_at_ms: row.created_at_ms,
            statistics: Some(&row.statistics),
        }
    }

    fn keep(&mut self, text: &str) -> Result<Place, Unreadable> {
        let from = self.text.len();
        self.text.push_str(text);
        let count = |bytes: usize| u32::try_from(bytes).map_err(|_| Unreadable::TooLong);
        Ok(Place { from: count(from)?, to: count(self.text.len())? })
    }

    fn note_name(&mut self, node: &str) {
        match &self.told {
            None => self.told = Some((self.rows.len(), node.to_owned())),
            Some((_, told)) if told != node && self.told_other.is_none() => {
                self.told_other = Some(self.rows.len());
            }
            Some(_) => {}
        }
    }
}

/// Rows of one page, and the nodes' rows that it was taken from.
#[derive(Clone, Debug, Default)]
pub struct PageRows {
    nodes: Vec<NodeRows>,
    /// Node and row of each, both below what there is.
    page: Vec<At>,
}

/// A row of a node, both by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Which node.
    pub node: u32,
    /// Which of its rows.
    pub row: u32,
}

impl PageRows {
    /// These rows of these nodes, in this order.
    pub(super) fn new(nodes: Vec<NodeRows>, page: Vec<At>) -> Self {
        Self { nodes, page }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.page.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.page.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = RowRef<'_>> {
        self.page.iter().map(|at| self.row(*at))
    }

    /// The last.
    #[must_use]
    pub fn last(&self) -> Option<RowRef<'_>> {
        self.page.last().map(|at| self.row(*at))
    }

    fn row(&self, at: At) -> RowRef<'_> {
        self.nodes[at.node as usize].row(at.row as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use rollcall_proto::v1::{Client, Identity, ListResponse};

    use super::*;

    fn client(node: &str, clientid: &str) -> Client {
        Client { node: node.into(), clientid: clientid.into(), ..Client::default() }
    }

    fn read(chunks: &[Vec<Client>], most: usize) -> Result<NodeRows, Unreadable> {
        let mut rows = NodeRows::default();
        for clients in chunks {
            let message = ListResponse { clients: clients.clone(), ..ListResponse::default() };
            rows.read(&message.encode_to_vec(), most)?;
        }
        Ok(rows)
    }

    fn belong(rows: Vec<Client>) -> Result<(), InvalidRows> {
        read(&[rows], 10).unwrap().belong_to("n1", Order::default())
    }

    #[test]
    fn rows_are_their_nodes_own_and_in_order() {
        assert_eq!(belong(vec![client("", "a"), client("n1", "b"), client("", "c")]), Ok(()));
        assert_eq!(belong(vec![]), Ok(()));
        let foreign = |at| Err(InvalidRows::ForeignNode { at });
        assert_eq!(belong(vec![client("", "a"), client("n2", "b")]), foreign(1));
        assert_eq!(belong(vec![client("n1", "a"), client("", "b"), client("n2", "c")]), foreign(2));
        assert_eq!(belong(vec![client("n2", "a"), client("n1", "b")]), foreign(0));
        let out_of_order = |at| Err(InvalidRows::OutOfOrder { at });
        assert_eq!(belong(vec![client("", "a"), client("", "a")]), out_of_order(0));
        assert_eq!(belong(vec![client("", "a"), client("", "c"), client("", "b")]), out_of_order(1));
    }

    #[test]
    fn no_more_rows_are_taken_than_were_asked_for() {
        let rows = |count: usize| vec![Client::default(); count];
        assert!(read(&[rows(2), rows(1)], 3).is_ok());
        assert_eq!(read(&[rows(2), rows(2)], 3).err(), Some(Unreadable::TooMany(3)));
        assert_eq!(read(&[rows(1)], 0).err(), Some(Unreadable::TooMany(0)));
    }

    #[test]
    fn a_head_says_whose_list_it_is() {
        let head = ListResponse {
            identity: Some(Identity { name: "n1".into(), incarnation: 7 }),
            count: 9,
            clients: vec![],
            first: 2,
            start: 4,
        };
        let read = NodeRows::default().read(&head.encode_to_vec(), 0).unwrap();
        assert_eq!((read.identity, read.count, read.first, read.start), (head.identity, 9, 2, 4));
        assert!(matches!(NodeRows::default().read(&[0xff], 0), Err(Unreadable::Malformed(_))));
    }

    proptest! {
        #[test]
        fn rows_are_given_back_as_they_came(
            chunks in proptest::collection::vec(proptest::collection::vec((
                "[a-zü]{0,4}", proptest::collection::vec(proptest::option::of("[a-zü]{0,4}"), 4),
                any::<u32>(), proptest::option::of(any::<i64>()), proptest::option::of(any::<u64>()),
            ), 0..5), 0..4),
        ) {
            let mut session = 0;
            let chunks: Vec<Vec<Client>> = chunks.into_iter().map(|rows| {
                rows.into_iter().map(|(clientid, texts, number, time, figure)| {
                    session += 1;
                    let [username, zone, proto_name, mountpoint] = <[_; 4]>::try_from(texts).unwrap();
                    Client {
                        clientid, session, username, zone, proto_name, mountpoint,
                        port: Some(number), keepalive: Some(number / 2), ip_address: number.to_be_bytes().into(),
                        is_bridge: Some(number % 2 == 0), conn_state: (number % 4) as i32,
                        connected_at_ms: time, created_at_ms: time.map(|time| time / 2),
                        statistics: figure.map(|_| Statistics { recv_oct: figure, ..Statistics::default() }),
                        ..Client::default()
                    }
                }).collect()
            }).collect();
            let rows = read(&chunks, usize::MAX).unwrap();
            let all: Vec<Client> = chunks.concat();
            prop_assert_eq!(rows.len(), all.len());
            for (at, (row, client)) in rows.iter().zip(&all).enumerate() {
                let statistics = Some(row.statistics);
                prop_assert_eq!(row.client, ClientRef { statistics, ..client.as_client_ref() });
                for field in SortField::IDENTITY.into_iter().chain(SortField::LIVE) {
                    let order = Order { field, descending: false };
                    prop_assert_eq!(rows.key(order, at), order.key(&row.client));
                }
                prop_assert_eq!(*row.statistics, client.statistics.unwrap_or_default());
            }
        }
    }
}
