//! Selections over clusters against one sorted list, and what each of their waves leaves.

use std::sync::LazyLock;

use proptest::prelude::*;
use rollcall_proto::SortField;
use rollcall_proto::order::ValueRef;

use super::*;
use crate::page::plan;
use crate::page::share::Expected;

/// A node's rows in order.
enum Rows {
    /// These; those without a number lack the field.
    Some(Vec<Option<i64>>),
    /// So many from a number on.
    Line { count: u64, first: i64, step: i64 },
}

impl Rows {
    fn len(&self) -> u64 {
        match self {
            Self::Some(rows) => rows.len() as u64,
            Self::Line { count, .. } => *count,
        }
    }

    fn number(&self, rank: u64) -> Option<i64> {
        match self {
            Self::Some(rows) => rows[rank as usize],
            Self::Line { first, step, .. } => Some(first + rank as i64 * step),
        }
    }
}

/// Nodes of sorted rows; a row's number is what it is sorted by, in whatever form the order's field has.
struct Cluster {
    order: Order,
    names: Vec<String>,
    nodes: Vec<Rows>,
    /// How many rows of a node have a rank at the most.
    most_ranked: u64,
}

const ORDER: Order = Order { field: SortField::ConnectedAt, descending: false };

/// Numbers of the rows in the orders by a text.
const TEXTS: i64 = 400;

fn text_of(number: i64) -> &'static str {
    static ALL: LazyLock<Vec<String>> = LazyLock::new(|| (0..TEXTS).map(|n| format!("{n:03}")).collect());
    &ALL[number as usize]
}

/// A row's key. By client id and by node no row lacks the field.
fn key_of(order: Order, number: Option<i64>, node: &str, session: u64) -> KeyRef<'_> {
    let (value, clientid) = match order.field {
        SortField::Clientid => (None, number.map_or("", text_of)),
        SortField::Node => (None, ""),
        SortField::Username => (number.map(|number| ValueRef::Text(text_of(number))), ""),
        _ => (number.map(ValueRef::Number), ""),
    };
    KeyRef { value, clientid, node, session }
}

impl Cluster {
    fn new(nodes: Vec<Vec<i64>>) -> Self {
        Self::ordered(ORDER, nodes.into_iter().map(|rows| rows.into_iter().map(Some).collect()).collect())
    }

    fn ordered(order: Order, mut nodes: Vec<Vec<Option<i64>>>) -> Self {
        for rows in &mut nodes {
            rows.sort_by(|a, b| order.compare(&key_of(order, *a, "", 0), &key_of(order, *b, "", 0)));
        }
        Self::of(order, nodes.into_iter().map(Rows::Some).collect())
    }

    fn of(order: Order, nodes: Vec<Rows>) -> Self {
        let names = (0..nodes.len()).map(|node| format!("n{node:03}")).collect();
        Self { order, names, nodes, most_ranked: u64::MAX }
    }

    fn key(&self, node: usize, rank: u64) -> KeyRef<'_> {
        key_of(self.order, self.nodes[node].number(rank), &self.names[node], rank)
    }

    fn survey(&self, node: usize, range: &Range<u64>, fences: u32) -> Surveyed<'_> {
        let count = self.nodes[node].len();
        let ranked = count.min(self.most_ranked);
        let (start, end) = (range.start.min(ranked), range.end.min(ranked));
        let length = end - start;
        let picked = length.min(fences.into());
        let fences = (0..picked)
            .map(|k| start + k * length / picked)
            .map(|rank| (rank, self.key(node, rank)))
            .collect();
        Surveyed { count, first: 0, fences }
    }

    /// Runs a selection to its end: the page's keys, waves with the fetch, rows shipped.
    fn page(&self, offset: u64, limit: u32) -> (Vec<(usize, u64)>, u32, u64) {
        self.run(Selection::new(self.order, offset, limit, self.nodes.len()))
    }

    /// The same, with a guess from counts.
    fn page_near(&self, offset: u64, limit: u32, counts: &[u64]) -> (Vec<(usize, u64)>, u32, u64) {
        let expected: Vec<_> =
            counts.iter().map(|&count| Expected { count: Some(count), answers: true }).collect();
        let total = Some(counts.iter().sum());
        let near = plan::around(offset, limit, &expected, total, 4.0);
        self.run(Selection::new(self.order, offset, limit, self.nodes.len()).near(near))
    }

    fn run(&self, mut selection: Selection) -> (Vec<(usize, u64)>, u32, u64) {
        selection.most_ranked = self.most_ranked;
        loop {
            match selection.step() {
                Step::Survey(ranges) => {
                    let fences = selection.fences();
                    let wave: Vec<_> = ranges
                        .iter()
                        .enumerate()
                        .map(|(node, range)| Some(self.survey(node, range, fences)))
                        .collect();
                    let is_guess = selection.guess().is_some();
                    selection.narrow(&wave).unwrap();
                    if !is_guess {
                        self.check_wave(&selection, &ranges, fences);
                    }
                }
                Step::Fetch { windows, skip, take } => {
                    let shipped = windows.iter().map(|window| window.end - window.start).sum();
                    let mut rows: Vec<(usize, u64)> = windows
                        .iter()
                        .enumerate()
                        .flat_map(|(node, window)| window.clone().map(move |rank| (node, rank)))
                        .collect();
                    rows.sort_by(|a, b| self.order.compare(&self.key(a.0, a.1), &self.key(b.0, b.1)));
                    let page = rows.into_iter().skip(skip as usize).take(take as usize).collect();
                    return (page, selection.waves() + 1, shipped);
                }
            }
        }
    }

    /// What a wave of so many fences leaves of the ranges that it looked at, as the module promises: the page and two gaps
    /// and two rows a node; of ranges that are no longer than the fences, the page alone.
    fn check_wave(&self, selection: &Selection, ranges: &[Range<u64>], fences: u32) {
        let length = |(range, rows): (&Range<u64>, &Rows)| {
            let ranked = rows.len().min(self.most_ranked);
            range.end.min(ranked).saturating_sub(range.start)
        };
        let lengths: Vec<u64> = ranges.iter().zip(&self.nodes).map(length).collect();
        let gap = |length: &u64| length.div_ceil((*length).min(fences.into()).max(1));
        let beside =
            lengths.iter().filter(|length| **length > 0).map(|length| 2 * gap(length) + 2).sum::<u64>();
        let ((_, take), left) = (selection.target(), selection.active_total());
        assert!(
            left <= take + beside,
            "{left} rows left for a page of {take}, of {lengths:?} by {fences} fences"
        );
        if take > 0 && lengths.iter().all(|length| *length <= fences.into()) {
            assert_eq!(left, take, "of {lengths:?} by {fences} fences");
        }
    }

    fn model(&self, offset: u64, limit: u32) -> Vec<(usize, u64)> {
        let mut all: Vec<(usize, u64)> = self
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(node, rows)| (0..rows.len()).map(move |rank| (node, rank)))
            .collect();
        all.sort_by(|a, b| self.order.compare(&self.key(a.0, a.1), &self.key(b.0, b.1)));
        all.into_iter().skip(offset as usize).take(limit as usize).collect()
    }
}

/// Orders of every kind, both ways.
fn orders() -> impl Strategy<Value = Order> {
    let fields = [SortField::ConnectedAt, SortField::Username, SortField::Clientid, SortField::Node];
    (proptest::sample::select(fields.to_vec()), any::<bool>())
        .prop_map(|(field, descending)| Order { field, descending })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Rows that lack the field stand at the end of every node's, whichever way round, and many are equal in it.
    #[test]
    fn a_page_in_any_order_equals_the_one_list(
        order in orders(), values in prop_oneof![Just(3), Just(TEXTS)],
        nodes in proptest::collection::vec(
            proptest::collection::vec(proptest::option::weighted(0.8, 0..TEXTS), 0..700), 1..6),
        offset in 0..3000_u64, limit in 0..40_u32,
        near in proptest::option::of(proptest::collection::vec((0..800_u64, 0..800_u64), 6)),
        room in proptest::option::of(0..300_u64),
    ) {
        let few = |rows: Vec<Option<i64>>| rows.into_iter().map(|row| row.map(|row| row % values)).collect();
        let cluster = Cluster::ordered(order, nodes.into_iter().map(few).collect());
        let count = cluster.nodes.len();
        let mut selection = Selection::new(order, offset, limit, count);
        if let Some(near) = near {
            selection = selection.near(near[..count].iter().map(|&(a, b)| a.min(b)..a.max(b)).collect());
        }
        if let Some(room) = room {
            selection = selection.within(room);
        }
        let (page, _, shipped) = cluster.run(selection);
        prop_assert_eq!(page, cluster.model(offset, limit));
        prop_assert!(shipped <= 3 * u64::from(limit) + 100 * count as u64);
    }

    #[test]
    fn pages_within_the_ranks_of_a_node_are_exact_though_it_has_more_rows(
        nodes in proptest::collection::vec(proptest::collection::vec(0..400_i64, 0..900), 1..7),
        most_ranked in 40..500_u64, offset in 0..460_u64, limit in 0..40_u32,
    ) {
        let offset = offset.min(most_ranked - 40);
        let cluster = Cluster { most_ranked, ..Cluster::new(nodes) };
        let (page, _, shipped) = cluster.page(offset, limit);
        prop_assert_eq!(page, cluster.model(offset, limit));
        prop_assert!(shipped <= 3 * u64::from(limit) + 100 * cluster.nodes.len() as u64);
    }

    #[test]
    fn a_page_equals_the_one_list(
        nodes in proptest::collection::vec(proptest::collection::vec(0..400_i64, 0..900), 1..7),
        offset in 0..4000_u64, limit in 0..40_u32,
    ) {
        let cluster = Cluster::new(nodes);
        let (page, _, shipped) = cluster.page(offset, limit);
        prop_assert_eq!(page, cluster.model(offset, limit));
        prop_assert!(shipped <= 3 * u64::from(limit) + 100 * cluster.nodes.len() as u64);
    }

    #[test]
    fn a_page_near_any_guess_equals_the_one_list_a_wave_later_at_the_most(
        nodes in proptest::collection::vec(proptest::collection::vec(0..400_i64, 0..900), 1..7),
        near in proptest::collection::vec((0..1000_u64, 0..1000_u64), 7),
        offset in 0..4000_u64, limit in 0..40_u32,
    ) {
        let cluster = Cluster::new(nodes);
        let near = near[..cluster.nodes.len()].iter().map(|&(a, b)| a.min(b)..a.max(b)).collect();
        let selection = Selection::new(ORDER, offset, limit, cluster.nodes.len()).near(near);
        let (page, waves, shipped) = cluster.run(selection);
        prop_assert_eq!(page, cluster.model(offset, limit));
        prop_assert!(shipped <= 3 * u64::from(limit) + 100 * cluster.nodes.len() as u64);
        prop_assert!(waves <= cluster.page(offset, limit).1 + 1);
    }

    #[test]
    fn a_fetch_can_be_of_the_page_alone(
        nodes in proptest::collection::vec(proptest::collection::vec(0..400_i64, 0..900), 1..7),
        offset in 0..4000_u64, limit in 0..40_u32, room in 0..300_u64,
    ) {
        let cluster = Cluster::new(nodes);
        let selection = Selection::new(ORDER, offset, limit, cluster.nodes.len()).within(room);
        let (page, waves, shipped) = cluster.run(selection);
        prop_assert!(shipped <= room.max(page.len() as u64), "{shipped} rows");
        prop_assert_eq!(page, cluster.model(offset, limit));
        prop_assert!(waves <= cluster.page(offset, limit).1 + 1);
    }

    /// Of a page of many rows the fences are too few to find its exact ends.
    #[test]
    fn a_selection_ends_however_few_rows_it_may_fetch(
        sizes in proptest::collection::vec(0..3000_usize, 1..6), overlap in 0..3000_i64,
        offset in 0..8000_u64, limit in 1..6000_u32, room in 0..4000_u64,
    ) {
        let mut base = 0;
        let nodes = sizes.iter().map(|&size| {
            let rows = (0..size as i64).map(|row| base + row).collect();
            base += size as i64 - overlap;
            rows
        }).collect();
        let cluster = Cluster::new(nodes);
        let selection = Selection::new(ORDER, offset, limit, cluster.nodes.len()).within(room);
        let (page, waves, shipped) = cluster.run(selection);
        prop_assert_eq!(page, cluster.model(offset, limit));
        let without = cluster.page(offset, limit);
        prop_assert!(waves <= without.1 + EXTRA_WAVES, "{} waves, {} without", waves, without.1);
        prop_assert!(shipped <= room.max(u64::from(limit) + MOST_SLACK + 100 * cluster.nodes.len() as u64));
    }

    /// Counts of another time, of nodes whose rows are spread evenly or not.
    #[test]
    fn a_page_near_old_counts_equals_the_one_list(
        sizes in proptest::collection::vec((0..3000_usize, 0..3000_u64), 2..6), overlap in 0..2000_i64,
        offset in 0..12000_u64, limit in 1..200_u32,
    ) {
        let mut base = 0;
        let nodes = sizes.iter().map(|&(size, _)| {
            let rows = (0..size as i64).map(|row| base + row).collect();
            base += size as i64 - overlap;
            rows
        }).collect();
        let cluster = Cluster::new(nodes);
        let counts: Vec<u64> = sizes.iter().map(|&(_, count)| count).collect();
        prop_assert_eq!(cluster.page_near(offset, limit, &counts).0, cluster.model(offset, limit));
    }

    /// Range-partitioned and heavily skewed nodes, where shares of the offset say nothing.
    #[test]
    fn a_page_equals_the_one_list_however_rows_are_spread(
        sizes in proptest::collection::vec(0..3000_usize, 2..6), overlap in 0..2000_i64,
        offset in 0..12000_u64, limit in 1..200_u32,
    ) {
        let mut base = 0;
        let nodes = sizes.iter().map(|&size| {
            let rows = (0..size as i64).map(|row| base + row).collect();
            base += size as i64 - overlap;
            rows
        }).collect();
        let cluster = Cluster::new(nodes);
        prop_assert_eq!(cluster.page(offset, limit).0, cluster.model(offset, limit));
    }
}

#[test]
fn the_popular_second_query_is_wrong_and_this_is_right() {
    let cluster = Cluster::new(vec![(1..=10).collect(), (101..=110).collect()]);
    let values: Vec<i64> =
        cluster.page(4, 2).0.iter().filter_map(|&(node, rank)| cluster.nodes[node].number(rank)).collect();
    assert_eq!(values, [5, 6]);
}

#[test]
fn depth_costs_few_waves_and_about_a_page_of_rows() {
    // A row's number is its rank in the merged list.
    let even = |nodes: i64, rows: u64| {
        Cluster::of(ORDER, (0..nodes).map(|first| Rows::Line { count: rows, first, step: nodes }).collect())
    };
    let partitioned = |nodes: i64, rows: u64| {
        let first = |node| node * rows as i64;
        let line = |node| Rows::Line { count: rows, first: first(node), step: 1 };
        Cluster::of(ORDER, (0..nodes).map(line).collect())
    };
    let all_equal = Cluster::new(vec![vec![7; 200_000]; 3]);
    for (name, cluster, most_waves) in [
        ("3 x 1M even", even(3, 1_000_000), 3),
        ("3 x 1M partitioned", partitioned(3, 1_000_000), 3),
        ("3 x 200k equal", all_equal, 3),
        ("200 x 100k even", even(200, 100_000), 4),
        ("200 x 100k partitioned", partitioned(200, 100_000), 4),
    ] {
        let total: u64 = cluster.nodes.iter().map(Rows::len).sum();
        for offset in [0, total / 3, total / 2, total - 100, total - 1, total] {
            let (page, waves, shipped) = cluster.page(offset, 100);
            assert_eq!(page.len() as u64, 100.min(total - offset), "{name}, offset {offset}");
            let is_right = |(at, &(node, rank)): (u64, &(usize, u64))| {
                cluster.nodes[node].number(rank) == Some((offset + at) as i64)
            };
            assert!(name.ends_with("equal") || (0..).zip(&page).all(is_right), "{name}, offset {offset}");
            assert!(waves <= most_waves, "{name}, offset {offset}: {waves} waves");
            assert!(shipped <= 300 + 100 * cluster.nodes.len() as u64, "{name}: {shipped} rows");
        }
    }
}

/// Rows that fall to a node by chance, each with a number of its own.
fn by_chance(counts: &[u64]) -> Cluster {
    let mut left = counts.to_vec();
    let mut nodes = vec![Vec::new(); counts.len()];
    let mut state = 7_u64;
    for row in 0..counts.iter().sum::<u64>() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut at = (state >> 33) % left.iter().sum::<u64>();
        let node = left.iter().position(|&left| {
            let is_here = at < left;
            at = at.saturating_sub(left);
            is_here
        });
        let node = node.unwrap();
        left[node] -= 1;
        nodes[node].push(row as i64);
    }
    Cluster::new(nodes)
}

#[test]
fn a_page_anywhere_takes_two_waves_where_the_shares_tell_about_where_it_is() {
    for counts in [vec![300_000; 3], vec![500_000, 90_000, 2_000, 10], vec![20_000; 20]] {
        let cluster = by_chance(&counts);
        let total: u64 = counts.iter().sum();
        for part in 0..20 {
            let offset = total * part / 20;
            let (page, waves, shipped) = cluster.page_near(offset, 100, &counts);
            let number = |at: usize| cluster.nodes[page[at].0].number(page[at].1);
            assert_eq!((number(0), number(99)), (Some(offset as i64), Some(offset as i64 + 99)));
            assert_eq!(waves, 2, "{counts:?}, offset {offset}");
            assert!(shipped <= 300 + 100 * counts.len() as u64, "{counts:?}: {shipped} rows");
        }
    }
}

#[test]
fn few_fences_suffice_near_a_guess() {
    let fences = |length| Selection::new(ORDER, 0, 100, 3).near(vec![0..length; 3]).fences();
    assert_eq!([0, 10, 100, 3_264, 100_000].map(fences), [16, 16, 24, 139, 256]);
    let mut selection = Selection::new(ORDER, 0, 100, 1).near(vec![5..5; 1]);
    assert_eq!(selection.step(), Step::Survey(vec![5..6; 1]), "every node is asked for its count");
    let cluster = Cluster::new(vec![(0..3).collect()]);
    selection.narrow(&[Some(cluster.survey(0, &(5..6), 16))]).unwrap();
    assert_eq!((selection.total(), selection.fences()), (3, 256));
}

#[test]
fn an_offset_past_the_end_ships_nothing() {
    let cluster = Cluster::new(vec![(0..500).collect(), (0..500).collect()]);
    for offset in [1000, 1001, u64::MAX] {
        assert_eq!(cluster.page(offset, 10), (vec![], 2, 0), "offset {offset}");
    }
}

#[test]
fn a_survey_that_cannot_be_true_names_its_node() {
    let cluster = Cluster::new(vec![(0..1000).collect(), (0..1000).collect()]);
    let honest = |fences| {
        vec![0, 1].into_iter().map(|node| Some(cluster.survey(node, &(0..1000), fences))).collect::<Vec<_>>()
    };
    let refused = |spoil: &dyn Fn(&mut Surveyed<'_>)| {
        let mut selection = Selection::new(ORDER, 500, 10, 2);
        let mut wave = honest(selection.fences());
        spoil(wave[1].as_mut().unwrap());
        selection.narrow(&wave).unwrap_err()
    };
    assert_eq!(refused(&|survey| survey.fences.reverse()).node, 1);
    assert_eq!(refused(&|survey| survey.fences.truncate(3)).node, 1);
    assert_eq!(refused(&|survey| survey.count = 5000).node, 1);
    assert_eq!(refused(&|survey| survey.count = u64::MAX).what, "a count that no node can have");
    assert_eq!(
        refused(&|survey| survey.fences[7].1 = survey.fences[2].1).what,
        "fences that are not in order"
    );
    assert_eq!(refused(&|survey| survey.fences[7].0 = 900).what, "fences that are not evenly spaced");
    let mut selection = Selection::new(ORDER, 500, 10, 2);
    selection.narrow(&honest(selection.fences())).unwrap();
    let mut second = honest(selection.fences());
    second[0].as_mut().unwrap().count = 999;
    assert_eq!(
        selection.narrow(&second).unwrap_err(),
        Inconsistent { node: 0, what: "the count of one snapshot changed" }
    );
}
