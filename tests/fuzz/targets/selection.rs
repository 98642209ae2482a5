//! The selection of a page's ranks, over nodes that tell the truth and nodes that lie.
//!
//! - It ends within [`MOST_WAVES`] waves, counting those of the selections that start again without a liar.
//! - It asks a node for no rank outside the list that the node said it has.
//! - A fetch is bounded: the page, the slack, and of one node the most a list may have.
//! - A node that tells the truth is never blamed.
//! - A guess of where the page is, right or wrong, changes nothing of this.
//! - Among nodes that tell the truth the page is the one of the merged list, at any depth.

#![no_main]

use std::ops::Range;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use rollcall_fuzz::mutate::Noise;
use rollcall_gateway::page::select::{Inconsistent, Selection, Step, Surveyed};
use rollcall_proto::order::ValueRef;
use rollcall_proto::{KeyRef, MAX_WINDOW, Order, SortField};

/// Waves of one selection. Every wave narrows the ranges to an eighth or less, from 2^40 rows a node at the most.
const MOST_WAVES: u32 = 24;

/// Waves that a selection spends at the least before it fetches more rows than it was asked to.
const EXTRA_WAVES: u32 = 2;

const NAMES: [&str; 6] = ["n0", "n1", "n2", "n3", "n4", "n5"];

fuzz_target!(|data: &[u8]| {
    // What is missing at the input's end reads as zeros.
    let _ = run(&mut Unstructured::new(data));
});

/// Whether something that happens once in so many times happens now; never at the input's end.
fn rarely(input: &mut Unstructured<'_>, times: u8) -> Result<bool> {
    Ok(input.int_in_range(1..=times)? == times)
}

/// A node of the cluster.
#[derive(Clone, Debug)]
enum Node {
    /// Row `rank` has the number `first + rank / same * step`: evenly spaced, `same` rows of each; in a descending order
    /// `step` is negative. The last `absent` rows have none.
    Honest { count: u64, first: i64, step: i64, same: u64, begin: u64, absent: u64 },
    /// Says anything; its fences are bunched together at the beginning of their range, or about evenly spaced.
    Liar { is_bunching: bool },
}

impl Node {
    fn new(input: &mut Unstructured<'_>, order: Order) -> Result<Self> {
        if rarely(input, 3)? {
            return Ok(Self::Liar { is_bunching: rarely(input, 8)? });
        }
        let bits = input.int_in_range(0..=30_u32)?;
        let count = input.arbitrary::<u64>()? & ((1 << bits) - 1);
        let first = input.arbitrary::<i32>()?.into();
        let step = i64::from(input.arbitrary::<u16>()?) >> input.int_in_range(0..=16_u32)?;
        Ok(Self::Honest {
            count,
            first,
            step: if order.descending { -step } else { step },
            same: input.int_in_range(1..=9)?,
            begin: if rarely(input, 4)? { input.int_in_range(0..=count)? } else { 0 },
            absent: if rarely(input, 3)? { input.int_in_range(0..=count)? } else { 0 },
        })
    }
}

/// The key of an honest node's row: number, then node and rank.
fn key(name: &'static str, node: &Node, rank: u64) -> KeyRef<'static> {
    let Node::Honest { count, first, step, same, absent, .. } = node else {
        unreachable!("only of honest nodes")
    };
    let number = first + i64::try_from(rank / same).unwrap_or_default() * step;
    let value = (rank < count - absent).then_some(ValueRef::Number(number));
    KeyRef { value, clientid: "", node: name, session: rank }
}

/// How many of a node's rows come before a key, by search: none comes before the one of the rank below.
fn rank_of(order: Order, name: &'static str, node: &Node, before: &KeyRef<'_>) -> u64 {
    let Node::Honest { count, begin, .. } = node else { return 0 };
    let (mut low, mut high) = (*begin, *count);
    while low < high {
        let middle = low + (high - low) / 2;
        if order.compare(&key(name, node, middle), before).is_lt() { low = middle + 1 } else { high = middle }
    }
    low - begin
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let order = Order { field: SortField::ConnectedAt, descending: rarely(input, 2)? };
    let wanted = input.int_in_range(1..=NAMES.len())?;
    let mut nodes: Vec<(&'static str, Node)> = Vec::new();
    for name in NAMES.into_iter().take(wanted) {
        nodes.push((name, Node::new(input, order)?));
    }
    let bits = input.int_in_range(0..=64_u32)?;
    let offset = input.arbitrary::<u64>()?.checked_shr(64 - bits).unwrap_or_default();
    let limit = [1, 0, 2, 10, 99, 100, 1_000, 10_000][usize::from(input.int_in_range(0..=7_u8)?)];
    let changing = rarely(input, 4)?;
    let within = if rarely(input, 3)? { Some(input.int_in_range(0..=20_000_u64)?) } else { None };
    let guess = if rarely(input, 2)? { Some(guess(input)?) } else { None };
    loop {
        let mut selection = Selection::new(order, offset, limit, nodes.len());
        if let Some(guess) = &guess {
            selection = selection.near(guess[..nodes.len()].to_vec());
        }
        if let Some(most) = within {
            selection = selection.within(most);
        }
        if changing {
            selection = selection.over_changing_nodes();
        }
        match select(&mut selection, &nodes, input) {
            Ok(step) => {
                if let (Some(most), Step::Fetch { windows, take, .. }) = (within.filter(|_| !changing), &step)
                {
                    let rows: u64 = windows.iter().map(|window| window.end - window.start).sum();
                    // Where that many cannot be come to it is as without.
                    let without =
                        u64::from(limit) + (2 * u64::from(limit)).min(1_000) + 100 * windows.len() as u64;
                    let most = if selection.waves() > EXTRA_WAVES { without.max(most) } else { most };
                    assert!(rows <= most.max(*take), "{rows} rows, not {most}: {windows:?}");
                }
                check_fetch(order, offset, limit, &selection, &nodes, step);
                return Ok(());
            }
            Err(blamed) => {
                let (name, node) = nodes.remove(blamed.node);
                assert!(matches!(node, Node::Liar { .. }), "{name} tells the truth and is blamed: {blamed}");
            }
        }
        if nodes.is_empty() {
            return Ok(());
        }
    }
}

/// Ranks of each node, anywhere.
fn guess(input: &mut Unstructured<'_>) -> Result<Vec<Range<u64>>> {
    let mut range = || {
        let bits = input.int_in_range(0..=63_u32)?;
        let start = input.arbitrary::<u64>()? & ((1 << bits) - 1);
        Ok(start..start.saturating_add(input.arbitrary::<u64>()? & ((1 << (bits / 2)) - 1)))
    };
    NAMES.iter().map(|_| range()).collect()
}

/// Waves up to the fetch.
fn select(
    selection: &mut Selection,
    nodes: &[(&'static str, Node)],
    input: &mut Unstructured<'_>,
) -> std::result::Result<Step, Inconsistent> {
    let mut told: Vec<Option<Range<u64>>> = vec![None; nodes.len()];
    loop {
        let step = selection.step();
        let Step::Survey(ranges) = step else { return Ok(step) };
        assert!(selection.waves() < MOST_WAVES, "no end after {MOST_WAVES} waves: {selection:?}");
        assert_eq!(ranges.len(), nodes.len());
        let mut wave = Vec::new();
        for ((range, told), (name, node)) in ranges.iter().zip(&mut told).zip(nodes) {
            check_asked(range, told.as_ref());
            // As the gateway does: a node whose range is empty is not asked.
            wave.push(if range.is_empty() {
                None
            } else {
                let answer = answer(name, node, range, selection, input);
                let list = answer.first..answer.count;
                *told = Some(match told.take() {
                    // The beginning is read once; the end may move if nodes may change.
                    Some(known) => known.start..known.end.max(list.end),
                    None => list,
                });
                Some(answer)
            });
        }
        assert!(wave.iter().any(Option::is_some), "a survey that asks nobody: {selection:?}");
        selection.narrow(&wave)?;
    }
}

fn check_asked(range: &Range<u64>, told: Option<&Range<u64>>) {
    assert!(range.start <= range.end, "{range:?}");
    if let Some(told) = told {
        assert!(
            range.is_empty() || (told.start <= range.start && range.end <= told.end),
            "{range:?} of {told:?}"
        );
    }
}

fn answer(
    name: &'static str,
    node: &Node,
    range: &Range<u64>,
    selection: &Selection,
    input: &mut Unstructured<'_>,
) -> Surveyed<'static> {
    match node {
        Node::Honest { count, begin, .. } => {
            let (start, end) = (range.start.max(*begin), range.end.min(*count));
            let length = end.saturating_sub(start);
            let fences = length.min(selection.fences().into());
            let fence = |n: u64| {
                let rank = start + n * length / fences;
                (rank, key(name, node, rank))
            };
            Surveyed { count: *count, first: *begin, fences: (0..fences).map(fence).collect() }
        }
        Node::Liar { is_bunching } => lie(name, *is_bunching, range, selection, input).unwrap_or(Surveyed {
            count: 0,
            first: 0,
            fences: Vec::new(),
        }),
    }
}

/// Mostly what passes for the truth: fences about evenly spaced over the range, with ascending keys of no meaning.
fn lie(
    name: &'static str,
    is_bunching: bool,
    range: &Range<u64>,
    selection: &Selection,
    input: &mut Unstructured<'_>,
) -> Result<Surveyed<'static>> {
    let is_first = selection.waves() == 0;
    let count = match input.int_in_range(0..=7_u8)? {
        6 => input.arbitrary()?,
        7 => range.end.saturating_add(input.int_in_range(0..=9)?),
        _ if is_first => (1 << input.int_in_range(0..=40_u32)?) - 1,
        _ => range.end,
    };
    let first = if is_first && rarely(input, 4)? { input.int_in_range(0..=count)? } else { range.start };
    let (start, end) = (range.start.max(first), range.end.min(count));
    let length = end.saturating_sub(start);
    let fences = length.min(selection.fences().into()) + u64::from(rarely(input, 64)?);
    let off_by = (length / fences.max(1)).saturating_sub(1) / input.int_in_range(1..=3)?;
    let (mut number, step) = (i64::from(input.arbitrary::<i32>()?), u64::from(input.arbitrary::<u16>()?));
    let falls_at = if rarely(input, 64)? { input.int_in_range(0..=fences)? } else { u64::MAX };
    let mut noise = Noise::new(input.arbitrary()?);
    let told = (0..fences).map(|n| {
        let even = u128::from(n) * u128::from(length) / u128::from(fences);
        let even = if is_bunching { n } else { u64::try_from(even).unwrap_or_default() };
        let off = if n == 0 || is_bunching { 0 } else { noise.below(off_by) };
        let rank = start.saturating_add(even).saturating_add(off);
        let up = i64::try_from(noise.below(step)).unwrap_or_default();
        number = number.saturating_add(if n == falls_at { -1 - up } else { up });
        (rank, KeyRef { value: Some(ValueRef::Number(number)), clientid: "", node: name, session: n })
    });
    Ok(Surveyed { count, first, fences: told.collect() })
}

fn check_fetch(
    order: Order,
    offset: u64,
    limit: u32,
    selection: &Selection,
    nodes: &[(&'static str, Node)],
    step: Step,
) {
    let Step::Fetch { windows, skip, take } = step else { unreachable!("select ends with a fetch") };
    let rows: u64 = windows.iter().map(|window| window.end - window.start).sum();
    let limit = u64::from(limit);
    assert!(take <= limit);
    assert!(windows.iter().all(|window| window.end - window.start <= MAX_WINDOW.into()), "{windows:?}");
    assert!(rows <= limit + (2 * limit).min(1_000) + 100 * nodes.len() as u64, "{rows} rows: {windows:?}");
    let honest = nodes.iter().all(|(_, node)| matches!(node, Node::Honest { .. }));
    if !selection.is_over_changing_nodes() {
        assert!(skip + take <= rows, "skip {skip}, take {take} of {rows}");
    }
    if !honest {
        return;
    }
    let ahead: u64 = nodes.iter().map(|(_, node)| ahead(node)).sum();
    assert_eq!(selection.total_ahead(), ahead);
    assert_eq!(take, limit.min(ahead.saturating_sub(offset)));
    let mut page: Vec<KeyRef<'_>> = (nodes.iter().zip(&windows))
        .flat_map(|((name, node), window)| window.clone().map(|rank| key(name, node, rank)))
        .collect();
    page.sort_by(|a, b| order.compare(a, b));
    let at = |ranks: u64| usize::try_from(ranks).unwrap_or(usize::MAX);
    let page: Vec<_> = page.into_iter().skip(at(skip)).take(at(take)).collect();
    assert_eq!(page.len() as u64, take);
    // The first row and the last stand at the right ranks of the merged list, so all of them do.
    for (rank, row) in [(offset, page.first()), ((offset.saturating_add(take)).wrapping_sub(1), page.last())]
    {
        let before = |row| nodes.iter().map(|(name, node)| rank_of(order, name, node, row)).sum::<u64>();
        assert!(row.is_none_or(|row| before(row) == rank), "{row:?} is not at rank {rank}");
    }
}

/// Rows of an honest node's list.
fn ahead(node: &Node) -> u64 {
    match node {
        Node::Honest { count, begin, .. } => count - begin,
        Node::Liar { .. } => 0,
    }
}
