//! Sorting rows, and finding their places in lists that are sorted.
//!
//! Sorts compare the first eight bytes of a value as one number, and look the value up again only where these are
//! equal. Of texts these are the eight bytes behind what all of them begin with: ids of devices often begin alike.

use std::cmp::Ordering;
use std::net::IpAddr;

use rollcall_proto::SortField;
use rollcall_proto::order::ValueRef;

use super::columns::{Columns, Place, compare_values};
use super::left::Left;
use super::ordered::Ordered;
use super::segment::SEGMENT;
use crate::packed::block;

/// How many rows of a list stand before a place in the ascending order by a field.
pub(super) fn position(list: &Ordered, columns: &Columns, field: SortField, place: &Place<'_>) -> usize {
    list.partition_point(|slot| columns.row(slot).compare(field, place).is_lt())
}

/// Sorts numbers by the text each stands for, and where texts are equal by `tie`. Stable.
pub(super) fn sort_by_text<'a>(
    numbers: &mut [u32],
    text: impl Fn(u32) -> &'a str,
    tie: impl Fn(u32, u32) -> Ordering,
) {
    let common = common_beginning(numbers, &text);
    let mut keys = block(numbers.len());
    keys.extend(
        (0_u32..)
            .zip(&*numbers)
            .map(|(at, &number)| (beginning(&text(number).as_bytes()[common..]), at, number)),
    );
    // By the place it had, a sort that needs no memory is as stable as another.
    keys.sort_unstable_by(|a, b| {
        let texts = || text(a.2).cmp(text(b.2)).then_with(|| tie(a.2, b.2));
        a.0.cmp(&b.0).then_with(texts).then(a.1.cmp(&b.1))
    });
    write_back(numbers, keys.into_iter().map(|(_, _, number)| number));
}

/// How many bytes all texts begin with in common.
fn common_beginning<'a>(numbers: &[u32], text: &impl Fn(u32) -> &'a str) -> usize {
    let Some(first) = numbers.first().map(|&number| text(number).as_bytes()) else { return 0 };
    numbers.iter().fold(first.len(), |common, &number| {
        let equal = text(number).as_bytes().iter().zip(&first[..common]).take_while(|(a, b)| a == b);
        equal.count()
    })
}

/// The first eight bytes as a number: texts are in its order, or it is equal.
fn beginning(text: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let length = text.len().min(8);
    bytes[..length].copy_from_slice(&text[..length]);
    u64::from_be_bytes(bytes)
}

/// Sorts rows by clientid and session.
pub(super) fn sort_by_clientid(columns: &Columns, slots: &mut [u32]) {
    sort_by_text(
        slots,
        |slot| columns.row(slot).clientid(),
        |a, b| columns.row(a).session().cmp(&columns.row(b).session()),
    );
}

/// Sorts rows that stand in default order by another field, ascending.
pub(super) fn sort_by_field(columns: &Columns, slots: &mut [u32], field: SortField) {
    let value = |slot: u32| columns.row(slot).value(field);
    if matches!(field, SortField::Username | SortField::Mountpoint) {
        let (mut with, without): (Vec<u32>, Vec<u32>) =
            slots.iter().partition(|&&slot| value(slot).is_some());
        let text = |slot: u32| match value(slot) {
            Some(ValueRef::Text(text)) => text,
            _ => "",
        };
        sort_by_text(&mut with, text, |_, _| Ordering::Equal);
        write_back(slots, with.into_iter().chain(without));
        return;
    }
    if matches!(field, SortField::Zone | SortField::ProtoName | SortField::ProtoVer) {
        let ranks = origin_ranks(columns, field);
        slots.sort_by_cached_key(|&slot| ranks[columns.row(slot).origin() as usize]);
        return;
    }
    let (mut with, mut without) = (block(slots.len()), Vec::new());
    for (at, &slot) in (0_u32..).zip(&*slots) {
        match value(slot) {
            Some(value) => with.push((number(value), at, slot)),
            None => without.push(slot),
        }
    }
    with.sort_unstable_by(|a, b| {
        // Only of IPv6 addresses does the number not say all.
        let is_exact = field != SortField::IpAddress || a.0 < SIGN;
        a.0.cmp(&b.0)
            .then_with(|| if is_exact { Ordering::Equal } else { compare_values(value(a.2), value(b.2)) })
            .then(a.1.cmp(&b.1))
    });
    write_back(slots, with.into_iter().map(|(_, _, slot)| slot).chain(without));
}

fn write_back(slots: &mut [u32], sorted: impl Iterator<Item = u32>) {
    slots.iter_mut().zip(sorted).for_each(|(slot, sorted)| *slot = sorted);
}

/// The highest bit of a number: as numbers, negative values come before the others and IPv4 addresses before IPv6.
const SIGN: u64 = 1 << 63;

/// A value as a number: values are in its order, or it is equal.
fn number(value: ValueRef<'_>) -> u64 {
    match value {
        ValueRef::Number(number) => number as u64 ^ SIGN,
        ValueRef::Text(text) => beginning(text.as_bytes()),
        ValueRef::Address(IpAddr::V4(v4)) => v4.to_bits().into(),
        ValueRef::Address(IpAddr::V6(v6)) => SIGN | (v6.to_bits() >> 65) as u64,
    }
}

/// For each origin's number the rank of its value among all values, the absent one last.
fn origin_ranks(columns: &Columns, field: SortField) -> Vec<usize> {
    let order = rollcall_proto::Order { field, descending: false };
    let values: Vec<_> =
        columns.origins().iter().map(|origin| order.key(&origin.as_client_ref()).value).collect();
    let mut distinct = values.clone();
    distinct.sort_unstable_by(|a, b| compare_values(*a, *b));
    distinct.dedup();
    values
        .into_iter()
        .map(|value| distinct.partition_point(|other| compare_values(*other, value).is_lt()))
        .collect()
}

/// Brings a sorted list of one state of the rows up to a later one. Gives up, and says so, if more than so many
/// segments have changed or a resync has replaced the rows.
pub(super) fn catch_up(
    list: &mut Ordered,
    field: SortField,
    from: &Columns,
    to: &Columns,
    most_segments: usize,
) -> bool {
    if !to.is_state_of(from) {
        return false;
    }
    let changed: Vec<usize> = to.changed_since(from).take(most_segments + 1).collect();
    if changed.len() > most_segments {
        return false;
    }
    let differs = |slot: &u32| match (from.get(*slot), to.get(*slot)) {
        (Some(was), Some(is)) => was.place(field) != is.place(field),
        (was, is) => was.is_some() || is.is_some(),
    };
    let slots = changed.iter().flat_map(|segment| (segment * SEGMENT..).take(SEGMENT));
    let slots: Vec<u32> = slots.map(|slot| slot as u32).filter(differs).collect();
    // No view has the list yet.
    let left = &mut Left::default();
    // First everything out, by what it was, so that all that stays is the same in both states.
    for &slot in &slots {
        if let Some(row) = from.get(slot) {
            let removed = list.remove(position(list, from, field, &row.place(field)), left);
            debug_assert_eq!(removed, Some(slot));
        }
    }
    for &slot in &slots {
        if let Some(row) = to.get(slot) {
            list.insert(position(list, to, field, &row.place(field)), slot, left);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_are_sorted_whatever_they_begin_with(
            beginning in "[aä]{0,9}",
            texts in proptest::collection::vec("[ab\0ä]{0,12}", 0..60),
        ) {
            let texts: Vec<String> = texts.iter().map(|text| format!("{beginning}{text}")).collect();
            let mut numbers: Vec<u32> = (0..texts.len() as u32).collect();
            let mut expected = numbers.clone();
            expected.sort_by(|&a, &b| texts[a as usize].cmp(&texts[b as usize]).then(b.cmp(&a)));
            sort_by_text(&mut numbers, |number| &texts[number as usize], |a, b| b.cmp(&a));
            prop_assert_eq!(numbers, expected);
        }

        #[test]
        fn numbers_of_values_are_in_the_order_of_the_values(a in any::<i64>(), b in any::<i64>(), v4 in any::<u32>(), v6 in any::<u128>()) {
            prop_assert_eq!(number(ValueRef::Number(a)).cmp(&number(ValueRef::Number(b))), a.cmp(&b));
            let (v4, v6) = (IpAddr::from(v4.to_be_bytes()), IpAddr::from(v6.to_be_bytes()));
            prop_assert!(number(ValueRef::Address(v4)) < number(ValueRef::Address(v6)));
        }
    }
}
