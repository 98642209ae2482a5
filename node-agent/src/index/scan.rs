//! A filter over columns: which rows of a segment match, as a mask.
//!
//! The decision is the one of [`Matcher::matches`], condition by condition; a property test holds the two together.
//! Conditions on what [`super::origin`] keeps are checked by the matcher itself, once for each origin. Exact client
//! ids and user names are not looked at here: they are searched for in lists, see [`super::select`]. One core does it:
//! a million rows take a millisecond or two, and the agent runs as many scans at once as it has cores (ARCHITECTURE.md says
//! what to split one would gain).

use std::net::IpAddr;

use rollcall_proto::Matcher;
use rollcall_proto::v1::{ConnState, Filter};

use super::Stopped;
use super::columns::Columns;
use super::origin::Origins;
use super::segment::{Mask, SEGMENT, Segment, bit, bits};
use super::text::Search;

/// Segments whose memory is asked for at once, and between two looks at whether an answer is still wanted.
const AT_ONCE: usize = 32;

/// The conditions of a filter but exact client ids and user names.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    origins: AllowedOrigins,
    ip_addresses: Vec<IpAddr>,
    conn_states: Vec<ConnState>,
    clean_start: Vec<bool>,
    created_at: Option<(i64, i64)>,
    connected_at: Option<(i64, i64)>,
    like_clientid: Vec<Search>,
    like_username: Vec<Search>,
}

#[derive(Clone, Debug)]
enum AllowedOrigins {
    All,
    One(u32),
    /// By number.
    Some(Vec<bool>),
}

impl AllowedOrigins {
    fn of(filter: &Filter, origins: &Origins) -> Self {
        let Filter { zone, proto_name, proto_ver, .. } = filter.clone();
        let filter = Filter { zone, proto_name, proto_ver, ..Filter::default() };
        // The addresses and states that a matcher could refuse are not in this part of the filter.
        let Ok(matcher) = Matcher::new(filter) else { return Self::Some(Vec::new()) };
        if matcher.is_unconditional() {
            return Self::All;
        }
        let allowed: Vec<bool> =
            origins.iter().map(|origin| matcher.matches(&origin.as_client_ref())).collect();
        let mut numbers = (0_u32..).zip(&allowed).filter(|(_, allowed)| **allowed).map(|(number, _)| number);
        match (numbers.next(), numbers.next()) {
            (Some(only), None) => Self::One(only),
            _ => Self::Some(allowed),
        }
    }
}

/// The bounds, if there are any, that a time must keep.
fn bounds(from: Option<i64>, to: Option<i64>) -> Option<(i64, i64)> {
    (from.is_some() || to.is_some()).then_some((from.unwrap_or(i64::MIN), to.unwrap_or(i64::MAX)))
}

impl Scan {
    pub(super) fn new(matcher: &Matcher, columns: &Columns) -> Self {
        let filter = matcher.filter();
        // The longest needle first: it leaves the fewest rows for the others to be looked for in.
        let searches = |needles: &[String]| {
            let mut needles: Vec<&String> = needles.iter().collect();
            needles.sort_by_key(|needle| std::cmp::Reverse(needle.len()));
            needles.into_iter().map(|needle| Search::new(needle)).collect()
        };
        Self {
            origins: AllowedOrigins::of(filter, columns.origins()),
            ip_addresses: matcher.ip_addresses().to_vec(),
            conn_states: matcher.conn_states().to_vec(),
            clean_start: filter.clean_start.clone(),
            created_at: bounds(filter.gte_created_at_ms, filter.lte_created_at_ms),
            connected_at: bounds(filter.gte_connected_at_ms, filter.lte_connected_at_ms),
            like_clientid: searches(&filter.like_clientid),
            like_username: searches(&filter.like_username),
        }
    }

    /// The rows that match.
    pub(super) fn rows(&mut self, segment: &Segment) -> Mask {
        let any = |masks: &mut dyn Iterator<Item = Mask>| masks.fold(0, |all, mask| all | mask);
        let mut rows = segment.live;
        if !self.conn_states.is_empty() {
            rows &= any(&mut self.conn_states.iter().map(|&state| segment.conn_states.rows(state)));
        }
        if !self.clean_start.is_empty() {
            rows &= any(&mut self.clean_start.iter().map(|&flag| segment.clean_starts.rows(flag)));
        }
        if rows == 0 {
            return 0;
        }
        rows &= match &self.origins {
            AllowedOrigins::All => Mask::MAX,
            AllowedOrigins::One(only) => segment.origins.rows(|number| number == *only),
            AllowedOrigins::Some(allowed) => {
                segment.origins.rows(|number| allowed.get(number as usize).is_some_and(|allowed| *allowed))
            }
        };
        for (bounds, times) in
            [(self.created_at, &segment.created_at), (self.connected_at, &segment.connected_at)]
        {
            if let Some((from, to)) = bounds {
                // One comparison instead of two; bounds the wrong way round let nothing through.
                let span = to.wrapping_sub(from) as u64;
                let within = times.rows(|time| time.wrapping_sub(from) as u64 <= span);
                rows &= if from <= to { within } else { 0 };
            }
        }
        if !self.ip_addresses.is_empty() {
            rows &= any(&mut self.ip_addresses.iter().map(|&ip| segment.ip_addresses.rows(ip)));
        }
        for search in &mut self.like_clientid {
            rows = search.rows(&segment.clientids, rows);
        }
        for search in &mut self.like_username {
            rows = search.rows(&segment.usernames, rows);
        }
        rows
    }

    /// Gives `take` every segment and its rows that match, until it fails or the answer is no longer wanted.
    pub(super) fn each_segment<'a, E: From<Stopped>>(
        mut self,
        columns: &'a Columns,
        stop: &dyn Fn() -> bool,
        mut take: impl FnMut(&'a Segment, Mask) -> Result<(), E>,
    ) -> Result<(), E> {
        let segments: Vec<&Segment> = columns.segments().collect();
        for segments in segments.chunks(AT_ONCE) {
            if stop() {
                return Err(Stopped.into());
            }
            std::hint::black_box(segments.iter().fold(0, |all, segment| all ^ self.touch(segment)));
            for segment in segments {
                let rows = self.rows(segment);
                take(segment, rows)?;
            }
        }
        Ok(())
    }

    /// Reads a bit of all that [`Scan::rows`] will read. One after the other, the segments of an index that no cache holds
    /// would each be waited for several times; so the memory of some is asked for at once.
    fn touch(&self, segment: &Segment) -> usize {
        let mut touched = segment.live as usize;
        if !matches!(self.origins, AllowedOrigins::All) {
            touched ^= segment.origins.touch();
        }
        if self.created_at.is_some() {
            touched ^= segment.created_at.touch();
        }
        if self.connected_at.is_some() {
            touched ^= segment.connected_at.touch();
        }
        if !self.ip_addresses.is_empty() {
            touched ^= segment.ip_addresses.touch();
        }
        if !self.like_clientid.is_empty() {
            touched ^= segment.clientids.touch();
        }
        if !self.like_username.is_empty() {
            touched ^= segment.usernames.touch();
        }
        touched
    }

    /// All rows that match.
    pub(super) fn run(self, columns: &Columns, stop: &dyn Fn() -> bool) -> Result<Matches, Stopped> {
        let mut matches = Matches::default();
        self.each_segment(columns, stop, |_, rows| {
            matches.count += rows.count_ones() as usize;
            matches.masks.push(rows);
            Ok::<_, Stopped>(())
        })?;
        Ok(matches)
    }
}

/// Rows that match, one bit a slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Matches {
    masks: Vec<Mask>,
    pub(super) count: usize,
}

impl Matches {
    /// These rows of so many, every one once.
    pub(super) fn of(slots: &[u32], columns: &Columns) -> Self {
        let mut masks = vec![0; columns.segment_count()];
        for &slot in slots {
            masks[slot as usize / SEGMENT] |= bit(slot as usize % SEGMENT);
        }
        Self { masks, count: slots.len() }
    }

    pub(super) fn contains(&self, slot: u32) -> bool {
        self.masks[slot as usize / SEGMENT] & bit(slot as usize % SEGMENT) != 0
    }

    /// The slots, ascending.
    pub(super) fn slots(&self) -> Vec<u32> {
        let masks = self.masks.iter().enumerate();
        masks.flat_map(|(number, &mask)| bits(mask).map(move |at| (number * SEGMENT + at) as u32)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::columns::Table;
    use super::super::left::Left;
    use super::super::tests::{client, filter};
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(80))]
        #[test]
        fn a_scan_is_the_matcher_row_by_row(
            clients in proptest::collection::vec((client(), any::<bool>()), 0..300),
            filters in proptest::collection::vec(filter(), 1..12),
        ) {
            let mut table = Table::default();
            let slots: Vec<u32> = clients.iter().map(|(client, _)| table.add(&client.as_client_ref(), &mut Left::default())).collect();
            for (slot, _) in slots.iter().zip(&clients).filter(|(_, (_, stays))| !stays) {
                table.remove(*slot, &mut Left::default());
            }
            for filter in filters {
                let matcher = Matcher::new(Filter { clientid: vec![], username: vec![], ..filter }).unwrap();
                let matches = Scan::new(&matcher, table.columns()).run(table.columns(), &|| false).unwrap();
                let mut expected = Vec::new();
                for (slot, (client, stays)) in slots.iter().zip(&clients) {
                    let row = client.as_client_ref();
                    prop_assert_eq!(table.columns().get(*slot).map(|row| row.as_client_ref("")), stays.then_some(row));
                    if *stays && matcher.matches(&row) {
                        expected.push(*slot);
                    }
                    prop_assert_eq!(matches.contains(*slot), *stays && matcher.matches(&row));
                }
                prop_assert_eq!(matches.count, expected.len());
                prop_assert_eq!(Matches::of(&expected, table.columns()).masks, matches.masks.clone());
                prop_assert_eq!(matches.slots(), expected);
            }
        }
    }
}
