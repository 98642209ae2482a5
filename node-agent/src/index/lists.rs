//! The orders in which all rows are listed.
//!
//! By clientid and by username always. By another field once somebody has asked for it: such a list is kept, and every
//! change keeps it true, until nobody has asked for [`KEPT`]. At most [`MOST_KEPT`] are kept, some 5 bytes a client
//! each; the one used longest ago makes room.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rollcall_proto::SortField;

use super::columns::Columns;
use super::ordered::Ordered;
use super::sorts::sort_by_field;
use crate::packed::block;

/// How many lists by other fields are kept: each costs every change a search.
const MOST_KEPT: usize = 4;
/// How long a list is kept after its last use: that of somebody who reads what a page says.
const KEPT: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) by_clientid: Ordered,
    pub(super) by_username: Ordered,
    kept: Vec<Kept>,
    /// How often a kept list was used.
    uses: AtomicU64,
}

#[derive(Debug)]
struct Kept {
    field: SortField,
    list: Ordered,
    /// The number of its last use.
    used: AtomicU64,
    /// The same when it was looked at last, and since when it has been that.
    idle: Option<(u64, Instant)>,
}

/// The list that has this order already: all rows are of one node, so that its name decides nothing.
pub(super) fn listed(field: SortField) -> SortField {
    match field {
        SortField::Unspecified | SortField::Node => SortField::Clientid,
        field => field,
    }
}

impl Lists {
    /// Lists of rows whose order by clientid is known, with a kept one for each field.
    pub(super) fn new(columns: &Columns, by_clientid: &[u32], kept: &[SortField]) -> Self {
        let sorted = |field| {
            let mut slots = block(by_clientid.len());
            slots.extend_from_slice(by_clientid);
            sort_by_field(columns, &mut slots, field);
            Ordered::from_sorted(&slots)
        };
        let mut lists = Self {
            by_clientid: Ordered::from_sorted(by_clientid),
            by_username: sorted(SortField::Username),
            ..Self::default()
        };
        kept.iter().for_each(|&field| drop(lists.keep(field, sorted(field))));
        lists
    }

    /// The list by a field, if there is one.
    pub(super) fn by(&self, field: SortField) -> Option<&Ordered> {
        match listed(field) {
            SortField::Clientid => Some(&self.by_clientid),
            SortField::Username => Some(&self.by_username),
            field => {
                let kept = self.kept.iter().find(|kept| kept.field == field)?;
                kept.used.store(self.uses.fetch_add(1, Relaxed), Relaxed);
                Some(&kept.list)
            }
        }
    }

    /// Whether there is a list by a field; it does not count as a use.
    pub(super) fn has(&self, field: SortField) -> bool {
        matches!(listed(field), SortField::Clientid | SortField::Username)
            || self.kept.iter().any(|kept| kept.field == field)
    }

    /// Keeps a list by another field, of the rows as they are now. Gives back the one that made room for it.
    pub(super) fn keep(&mut self, field: SortField, list: Ordered) -> Option<Ordered> {
        let known = self.kept.iter().position(|kept| kept.field == field);
        let made_room = known.or_else(|| {
            let kept = self.kept.iter().enumerate().filter(|_| self.kept.len() == MOST_KEPT);
            kept.min_by_key(|(_, kept)| kept.used.load(Relaxed)).map(|(oldest, _)| oldest)
        });
        let made_room = made_room.map(|oldest| self.kept.swap_remove(oldest).list);
        let used = self.uses.fetch_add(1, Relaxed).into();
        self.kept.push(Kept { field, list, used, idle: None });
        made_room
    }

    /// The fields of the lists that are kept.
    pub(super) fn kept(&self) -> Vec<SortField> {
        self.kept.iter().map(|kept| kept.field).collect()
    }

    /// Takes out the kept lists that nobody has used for long, to be dropped when there is time.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Ordered> {
        let idle = self.kept.extract_if(.., |kept| {
            let used = kept.used.load(Relaxed);
            match kept.idle {
                Some((seen, since)) if seen == used => now.saturating_duration_since(since) > KEPT,
                _ => {
                    kept.idle = Some((used, now));
                    false
                }
            }
        });
        idle.map(|kept| kept.list).collect()
    }

    /// Every list.
    pub(super) fn all(&self) -> Vec<Ordered> {
        let kept = self.kept.iter().map(|kept| kept.list.clone());
        [self.by_clientid.clone(), self.by_username.clone()].into_iter().chain(kept).collect()
    }

    /// Shows every piece of memory.
    pub(super) fn each_piece(&self, visit: &mut impl FnMut(*const (), usize)) {
        self.by_clientid.each_piece(visit);
        self.by_username.each_piece(visit);
        for kept in &self.kept {
            kept.list.each_piece(visit);
        }
    }

    /// Every list but that by clientid.
    pub(super) fn others(&mut self) -> impl Iterator<Item = (SortField, &mut Ordered)> {
        let kept = self.kept.iter_mut().map(|kept| (kept.field, &mut kept.list));
        std::iter::once((SortField::Username, &mut self.by_username)).chain(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: [SortField; 5] =
        [SortField::Port, SortField::Zone, SortField::CreatedAt, SortField::IpAddress, SortField::Keepalive];

    #[test]
    fn the_list_used_longest_ago_makes_room() {
        let mut lists = Lists::default();
        FIELDS[..4].iter().for_each(|&field| assert!(lists.keep(field, Ordered::default()).is_none()));
        assert!(lists.by(SortField::Port).is_some());
        assert!(lists.keep(FIELDS[4], Ordered::default()).is_some());
        assert!(lists.by(SortField::Zone).is_none() && !lists.has(SortField::Zone));
        assert!(lists.has(SortField::Port) && lists.has(FIELDS[4]));
        assert!(lists.has(SortField::Node) && lists.has(SortField::Username));
    }

    #[test]
    fn a_list_is_dropped_some_time_after_its_last_use() {
        let mut lists = Lists::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        lists.keep(SortField::Port, Ordered::default());
        lists.keep(SortField::Zone, Ordered::default());
        assert!(lists.expire(at(0)).is_empty());
        assert!(lists.expire(at(100)).is_empty());
        assert!(lists.by(SortField::Port).is_some());
        assert_eq!(lists.expire(at(121)).len(), 1);
        assert_eq!(lists.kept(), [SortField::Port]);
        assert!(lists.expire(at(241)).is_empty());
        assert_eq!(lists.kept(), [SortField::Port]);
        assert_eq!(lists.expire(at(242)).len(), 1);
        assert!(lists.kept().is_empty());
    }
}
