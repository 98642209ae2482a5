//! Clients ranked by a live figure: the first [`MAX_RANKED`], as the figures were when they were read.
//!
//! A [`Ranking`] takes in one figure a client, in any number, and holds at most twice as many as it keeps. A
//! [`Ranked`] is what is left, over the [`View`] the clients came from: ranks, keys and rows agree with each other
//! however the figures go on changing. The figure a row was ranked by is kept, so that what a page shows is in
//! the order it says. No clock, no runtime, no broker.
//!
//! Decided against: an index of live figures. They change with every packet, so it would cost the broker node more
//! than the few who ask; and a window as large as the node would cost each answer memory for ranks that nobody
//! turns to.

use std::ops::Range;
use std::sync::Arc;

use rollcall_proto::order::number_of_figure;
use rollcall_proto::v1::{Fence, Key};
use rollcall_proto::{ClientRef, KeyRef, MAX_RANKED, Order};

use crate::index::{View, evenly_spaced};

/// A client's place: ascending, whatever the direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Those without a figure come last.
    is_absent: bool,
    /// The figure, turned round if it descends.
    directed: u64,
    /// Where the client stands in the view, which is what decides between equals.
    position: u32,
}

/// Finds the first clients by a figure.
#[derive(Debug)]
pub struct Ranking {
    order: Order,
    keep: usize,
    /// The best so far and up to as many that are not yet known to be.
    places: Vec<Place>,
}

impl Ranking {
    /// In this order, by a live figure.
    #[must_use]
    pub fn new(order: Order) -> Self {
        Self::of(order, MAX_RANKED as usize)
    }

    fn of(order: Order, keep: usize) -> Self {
        Self { order, keep, places: Vec::new() }
    }

    /// Takes in the figure of the client at a position of the view.
    pub fn add(&mut self, position: u32, figure: Option<u64>) {
        // What keys cannot tell apart must not be told apart here.
        let figure = figure.map(|figure| figure.min(i64::MAX as u64));
        let directed = figure.map_or(0, |figure| if self.order.descending { !figure } else { figure });
        self.places.push(Place { is_absent: figure.is_none(), directed, position });
        if self.places.len() >= 2 * self.keep {
            self.places.select_nth_unstable(self.keep);
            self.places.truncate(self.keep);
        }
    }

    /// The ranking over the view in default order whose clients were taken in.
    #[must_use]
    pub fn finish(mut self, view: View) -> Ranked {
        self.places.sort_unstable();
        self.places.truncate(self.keep);
        Ranked { view, order: self.order, places: self.places.into() }
    }
}

/// The first clients by a figure, in order. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ranked {
    view: View,
    order: Order,
    places: Arc<[Place]>,
}

impl Ranked {
    /// How many clients match, with a rank or without.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.view.count()
    }

    /// How many have a rank.
    fn ranked(&self) -> u64 {
        self.places.len() as u64
    }

    /// Bytes this holds beyond what it shares with the index.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.view.bytes() + size_of_val(&*self.places)
    }

    /// As [`View::left`].
    #[must_use]
    pub fn left(&self) -> u64 {
        self.view.left()
    }

    /// As [`View::fences`], of the clients with a rank.
    #[must_use]
    pub fn fences(&self, range: Range<u64>, most: u32) -> Vec<Fence> {
        evenly_spaced(range.start..range.end.min(self.ranked()), most)
            .filter_map(|rank| Some(Fence { rank, key: Some(self.key_at(rank)?) }))
            .collect()
    }

    fn key_at(&self, rank: u64) -> Option<Key> {
        let place = self.places.get(usize::try_from(rank).ok()?)?;
        let key = self.view.key_at(place.position.into())?;
        let value = self.figure(place).map(number_of_figure);
        Some(Key::from(KeyRef { value, clientid: &key.clientid, node: &key.node, session: key.session }))
    }

    /// The clients of a range of ranks, in order, read where they stand; ranks past the last give none.
    pub fn refs(&self, range: Range<u64>) -> impl Iterator<Item = ClientRef<'_>> {
        self.places(range).iter().filter_map(|place| {
            let position = u64::from(place.position);
            self.view.refs(position..position + 1).next()
        })
    }

    /// What the clients of a range of ranks were ranked by.
    pub fn figures(&self, range: Range<u64>) -> impl Iterator<Item = Option<u64>> {
        self.places(range).iter().map(|place| self.figure(place))
    }

    fn places(&self, range: Range<u64>) -> &[Place] {
        let clamp = |rank: u64| usize::try_from(rank).unwrap_or(usize::MAX).min(self.places.len());
        let (start, end) = (clamp(range.start), clamp(range.end));
        &self.places[start..end.max(start)]
    }

    fn figure(&self, place: &Place) -> Option<u64> {
        let figure = if self.order.descending { !place.directed } else { place.directed };
        (!place.is_absent).then_some(figure)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rollcall_proto::v1::{Client, Filter, Statistics};
    use rollcall_proto::{Matcher, SortField};

    use super::*;
    use crate::index::Index;

    fn all_of<'a>(refs: impl Iterator<Item = ClientRef<'a>>) -> Vec<Client> {
        refs.map(Client::from).collect()
    }

    fn view_of(clients: usize) -> View {
        let index = Index::new("a@h");
        let client = |n| Client { clientid: format!("{:04}", n / 2), session: n as u64, ..Client::default() };
        index.resync((0..clients).map(client).collect());
        index.view(&Matcher::new(Filter::default()).unwrap(), Order::default(), &|| false).unwrap()
    }

    proptest! {
        #[test]
        fn the_first_clients_are_those_of_a_sorted_vec(
            figures in proptest::collection::vec(
                proptest::option::of(prop_oneof![0..4_u64, any::<u64>()]), 0..120),
            keep in 1..60_usize,
            descending in any::<bool>(),
        ) {
            let order = Order { field: SortField::RecvOct, descending };
            let view = view_of(figures.len());
            let mut ranking = Ranking::of(order, keep);
            // In any order: here from the last.
            for (position, figure) in figures.iter().enumerate().rev() {
                ranking.add(position as u32, *figure);
            }
            let mut model: Vec<Client> = all_of(view.refs(0..u64::MAX)).into_iter().zip(&figures).map(|(client, figure)| {
                let recv_oct = figure.map(|figure| figure.min(i64::MAX as u64));
                let statistics = Some(Statistics { recv_oct, ..Statistics::default() });
                Client { statistics, ..client }
            }).collect();
            model.sort_by(|a, b| {
                order.compare(&order.key(&a.as_client_ref()), &order.key(&b.as_client_ref()))
            });
            model.truncate(keep);

            let ranked = ranking.finish(view);
            prop_assert_eq!(ranked.count(), figures.len() as u64);
            prop_assert_eq!(ranked.ranked(), model.len() as u64);
            let shown = |range: Range<u64>| -> Vec<Client> {
                let rows = all_of(ranked.refs(range.clone())).into_iter().zip(ranked.figures(range));
                rows.map(|(client, recv_oct)| {
                    let statistics = Some(Statistics { recv_oct, ..Statistics::default() });
                    Client { statistics, ..client }
                }).collect()
            };
            prop_assert_eq!(&shown(0..u64::MAX), &model);
            let middle = model.len() / 3..model.len() / 2;
            prop_assert_eq!(&shown(middle.start as u64..middle.end as u64), &model[middle]);
            let fences = ranked.fences(0..u64::MAX, u32::MAX);
            prop_assert_eq!(fences.len(), model.len());
            for (fence, client) in fences.iter().zip(&model) {
                prop_assert_eq!(fence.key.clone(), Some(order.key(&client.as_client_ref()).into()));
            }
        }
    }

    #[test]
    fn what_is_held_does_not_grow_with_what_is_taken_in() {
        let mut ranking = Ranking::of(Order { field: SortField::Inflight, descending: true }, 10);
        for position in 0..10_000 {
            ranking.add(position, Some(position.into()));
            assert!(ranking.places.len() < 20 && ranking.places.capacity() <= 32);
        }
        let ranked = ranking.finish(view_of(10_000));
        let best: Vec<u64> = ranked.refs(0..3).map(|client| client.session).collect();
        assert_eq!((best, ranked.ranked(), ranked.count()), (vec![9_999, 9_998, 9_997], 10, 10_000));
        assert!(ranked.refs(10..12).next().is_none() && ranked.fences(10..20, 4).is_empty());
    }
}
