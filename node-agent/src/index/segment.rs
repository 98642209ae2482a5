//! The rows of one segment, column by column.
//!
//! A row is a position in its segment, and one bit of every [`Mask`]. Every column is shared with the copies of the
//! segment until it changes, so a change beside a copy copies the columns it changes, some hundred bytes each. A
//! column that no row has a value in takes no memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use rollcall_proto::ClientRef;
use rollcall_proto::v1::ConnState;

use super::left::{Left, show};
use super::text::Texts;

/// Rows of a segment. More make scans faster, fewer make copies smaller.
pub(super) const SEGMENT: usize = 128;

/// One bit for each row of a segment.
pub(super) type Mask = u128;

/// A mask of one row.
pub(super) fn bit(at: usize) -> Mask {
    1 << at
}

/// The rows of a mask, ascending.
pub(super) fn bits(mut mask: Mask) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = (mask != 0).then(|| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(at)
    })
}

/// Values of a fixed size, some of which may be absent.
#[derive(Clone, Debug)]
pub(super) struct Column<T> {
    present: Mask,
    /// None if every value is absent.
    values: Option<Arc<[T; SEGMENT]>>,
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Self { present: 0, values: None }
    }
}

impl<T: Copy + Default + PartialEq> Column<T> {
    pub(super) fn get(&self, at: usize) -> Option<T> {
        self.values.as_ref().filter(|_| self.present & bit(at) != 0).map(|values| values[at])
    }

    pub(super) fn set(&mut self, at: usize, value: Option<T>, left: &mut Left) {
        let Some(value) = value else {
            self.present &= !bit(at);
            if self.present == 0
                && let Some(values) = self.values.take()
            {
                left.let_go(&values, size_of_val);
            }
            return;
        };
        self.present |= bit(at);
        let values = self.values.get_or_insert_with(|| Arc::new([T::default(); SEGMENT]));
        if values[at] != value {
            left.make_mut(values, size_of_val)[at] = value;
        }
    }

    fn each_piece(&self, visit: &mut impl FnMut(*const (), usize)) {
        if let Some(values) = &self.values {
            show(values, size_of_val(&**values), visit);
        }
    }

    /// Reads every cache line of the values, and gives something that depends on them.
    pub(super) fn touch(&self) -> usize {
        let one_a_line = (64 / size_of::<T>()).max(1);
        let values = self.values.iter().flat_map(|values| values.iter().step_by(one_a_line));
        values.filter(|&&value| value == T::default()).count()
    }

    /// The rows that have a value, and one that passes the test.
    pub(super) fn rows(&self, test: impl Fn(T) -> bool) -> Mask {
        let Some(values) = &self.values else { return 0 };
        // Tests of 64 values and the gathering of their results are loops that the compiler can unroll into
        // instructions on many values.
        let mut passed: Mask = 0;
        for (number, values) in values.as_chunks::<64>().0.iter().enumerate() {
            let mut flags = [0_u8; 64];
            for (flag, &value) in flags.iter_mut().zip(values) {
                *flag = u8::from(test(value));
            }
            let mut word = 0_u64;
            for (byte, flags) in flags.as_chunks::<8>().0.iter().enumerate() {
                // The product moves the lowest bit of byte n to bit 56 + n.
                let gathered = u64::from_le_bytes(*flags).wrapping_mul(0x0102_0408_1020_4080) >> 56;
                word |= gathered << (8 * byte);
            }
            passed |= Mask::from(word) << (64 * number);
        }
        passed & self.present
    }
}

/// Flags, some of which may be absent.
#[derive(Clone, Debug, Default)]
pub(super) struct Flags {
    present: Mask,
    on: Mask,
}

impl Flags {
    pub(super) fn get(&self, at: usize) -> Option<bool> {
        (self.present & bit(at) != 0).then_some(self.on & bit(at) != 0)
    }

    fn set(&mut self, at: usize, flag: Option<bool>) {
        self.present &= !bit(at);
        self.on &= !bit(at);
        if let Some(flag) = flag {
            self.present |= bit(at);
            self.on |= if flag { bit(at) } else { 0 };
        }
    }

    /// The rows that have this value.
    pub(super) fn rows(&self, flag: bool) -> Mask {
        self.present & if flag { self.on } else { !self.on }
    }
}

/// Connection states, one mask for each but the unspecified.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnStates([Mask; 3]);

const KNOWN_STATES: [ConnState; 3] = [ConnState::Connected, ConnState::Idle, ConnState::Disconnected];

impl ConnStates {
    pub(super) fn get(&self, at: usize) -> ConnState {
        let known = KNOWN_STATES.into_iter().zip(self.0).find(|(_, rows)| rows & bit(at) != 0);
        known.map_or(ConnState::Unspecified, |(state, _)| state)
    }

    fn set(&mut self, at: usize, state: ConnState) {
        for (known, rows) in KNOWN_STATES.into_iter().zip(&mut self.0) {
            *rows = if known == state { *rows | bit(at) } else { *rows & !bit(at) };
        }
    }

    /// The rows in this state; none are in the unspecified one.
    pub(super) fn rows(&self, state: ConnState) -> Mask {
        KNOWN_STATES.into_iter().zip(self.0).find(|(known, _)| *known == state).map_or(0, |(_, rows)| rows)
    }
}

/// Addresses: a row has a value in one of the two columns at the most.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    v4: Column<u32>,
    v6: Column<u128>,
}

impl Addresses {
    pub(super) fn get(&self, at: usize) -> Option<IpAddr> {
        let v4 = self.v4.get(at).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)));
        v4.or_else(|| self.v6.get(at).map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))))
    }

    fn set(&mut self, at: usize, address: Option<IpAddr>, left: &mut Left) {
        let (v4, v6) = match address {
            Some(IpAddr::V4(v4)) => (Some(v4.to_bits()), None),
            Some(IpAddr::V6(v6)) => (None, Some(v6.to_bits())),
            None => (None, None),
        };
        self.v4.set(at, v4, left);
        self.v6.set(at, v6, left);
    }

    pub(super) fn touch(&self) -> usize {
        self.v4.touch() ^ self.v6.touch()
    }

    /// The rows that have this address.
    pub(super) fn rows(&self, address: IpAddr) -> Mask {
        match address {
            IpAddr::V4(v4) => self.v4.rows(|bits| bits == v4.to_bits()),
            IpAddr::V6(v6) => self.v6.rows(|bits| bits == v6.to_bits()),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Segment {
    /// The rows there are. In the others no column has a value.
    pub(super) live: Mask,
    pub(super) clientids: Texts,
    pub(super) usernames: Texts,
    pub(super) mountpoints: Texts,
    pub(super) sessions: Column<u64>,
    /// Numbers of [`super::origin::Origin`]s.
    pub(super) origins: Column<u32>,
    pub(super) ip_addresses: Addresses,
    pub(super) ports: Column<u32>,
    pub(super) keepalives: Column<u32>,
    pub(super) expiry_intervals: Column<u32>,
    pub(super) connected_at: Column<i64>,
    pub(super) disconnected_at: Column<i64>,
    pub(super) created_at: Column<i64>,
    pub(super) are_bridges: Flags,
    pub(super) clean_starts: Flags,
    pub(super) conn_states: ConnStates,
}

impl Segment {
    pub(super) fn is_live(&self, at: usize) -> bool {
        self.live & bit(at) != 0
    }

    /// Writes a row, whatever was there.
    pub(super) fn set(&mut self, at: usize, client: &ClientRef<'_>, origin: u32, left: &mut Left) {
        self.live |= bit(at);
        self.write(at, client, Some(origin), left);
        self.clientids.set(at, Some(client.clientid), left);
        self.sessions.set(at, Some(client.session), left);
    }

    pub(super) fn clear(&mut self, at: usize, left: &mut Left) {
        self.live &= !bit(at);
        self.write(at, &NOBODY, None, left);
        self.clientids.set(at, None, left);
        self.sessions.set(at, None, left);
    }

    fn write(&mut self, at: usize, client: &ClientRef<'_>, origin: Option<u32>, left: &mut Left) {
        self.usernames.set(at, client.username, left);
        self.mountpoints.set(at, client.mountpoint, left);
        self.origins.set(at, origin, left);
        self.ip_addresses.set(at, client.ip_address, left);
        self.ports.set(at, client.port, left);
        self.keepalives.set(at, client.keepalive, left);
        self.expiry_intervals.set(at, client.expiry_interval, left);
        self.connected_at.set(at, client.connected_at_ms, left);
        self.disconnected_at.set(at, client.disconnected_at_ms, left);
        self.created_at.set(at, client.created_at_ms, left);
        self.are_bridges.set(at, client.is_bridge);
        self.clean_starts.set(at, client.clean_start);
        self.conn_states.set(at, client.conn_state);
    }

    /// Shows every piece of memory but the segment itself.
    pub(super) fn each_piece(&self, visit: &mut impl FnMut(*const (), usize)) {
        for texts in [&self.clientids, &self.usernames, &self.mountpoints] {
            texts.each_piece(visit);
        }
        self.sessions.each_piece(visit);
        self.ip_addresses.v4.each_piece(visit);
        self.ip_addresses.v6.each_piece(visit);
        for column in [&self.origins, &self.ports, &self.keepalives, &self.expiry_intervals] {
            column.each_piece(visit);
        }
        for times in [&self.connected_at, &self.disconnected_at, &self.created_at] {
            times.each_piece(visit);
        }
    }
}

/// A client of which nothing is known.
pub(super) const NOBODY: ClientRef<'static> = ClientRef {
    node: "",
    clientid: "",
    session: 0,
    username: None,
    zone: None,
    proto_name: None,
    proto_ver: None,
    ip_address: None,
    port: None,
    is_bridge: None,
    mountpoint: None,
    keepalive: None,
    clean_start: None,
    expiry_interval: None,
    conn_state: ConnState::Unspecified,
    connected_at_ms: None,
    disconnected_at_ms: None,
    created_at_ms: None,
    statistics: None,
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_column_has_what_was_set_last_and_finds_the_rows_that_pass(
            changes in proptest::collection::vec((0..SEGMENT, proptest::option::of(0..4_u32)), 0..300),
        ) {
            let (mut column, mut model) = (Column::default(), [None; SEGMENT]);
            for (at, value) in changes {
                column.set(at, value, &mut Left::default());
                model[at] = value;
            }
            for (at, value) in model.iter().enumerate() {
                prop_assert_eq!(column.get(at), *value);
            }
            for wanted in 0..4 {
                let rows: Vec<usize> = bits(column.rows(|value| value == wanted)).collect();
                let expected: Vec<usize> = (0..SEGMENT).filter(|&at| model[at] == Some(wanted)).collect();
                prop_assert_eq!(rows, expected);
            }
        }
    }

    #[test]
    fn a_column_without_values_takes_no_memory() {
        let mut column = Column::default();
        column.set(5, Some(7_u64), &mut Left::default());
        column.set(5, None, &mut Left::default());
        assert!(column.values.is_none());
    }
}
