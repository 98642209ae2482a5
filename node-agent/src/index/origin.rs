//! What clients that came in by one way have in common: zone and protocol.
//!
//! There are few combinations, so a row keeps the number of its own, and a condition on them is checked once for each.
//! A number whose last row has gone is given to the next new combination; copies of [`Origins`] keep what it meant.
//! Mountpoints are a column of their own, because brokers can make one for every client.

use std::collections::HashMap;
use std::sync::Arc;

use rollcall_proto::ClientRef;

use super::segment::NOBODY;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    zone: Option<Box<str>>,
    proto_name: Option<Box<str>>,
    proto_ver: Option<u32>,
}

impl Origin {
    fn of(client: &ClientRef<'_>) -> Self {
        Self {
            zone: client.zone.map(Box::from),
            proto_name: client.proto_name.map(Box::from),
            proto_ver: client.proto_ver,
        }
    }

    fn is_of(&self, client: &ClientRef<'_>) -> bool {
        (self.zone.as_deref(), self.proto_name.as_deref(), self.proto_ver)
            == (client.zone, client.proto_name, client.proto_ver)
    }

    /// A client of which nothing else is known.
    pub(super) fn as_client_ref(&self) -> ClientRef<'_> {
        ClientRef {
            zone: self.zone.as_deref(),
            proto_name: self.proto_name.as_deref(),
            proto_ver: self.proto_ver,
            ..NOBODY
        }
    }
}

/// Origins by their numbers. A copy costs nothing until either side changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(Arc<Vec<Arc<Origin>>>);

impl Origins {
    /// The origin of a number that some row has.
    pub(super) fn get(&self, number: u32) -> &Origin {
        &self.0[number as usize]
    }

    /// All of them by number, also those that no row has any more.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Origin> {
        self.0.iter().map(AsRef::as_ref)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Gives origins their numbers.
#[derive(Debug, Default)]
pub(super) struct Numbering {
    numbers: HashMap<Arc<Origin>, u32>,
    /// Rows by number.
    uses: Vec<u32>,
    /// Numbers without a row.
    free: Vec<u32>,
    /// The number given last; the next client's is often the same.
    last: u32,
}

impl Numbering {
    /// The number of a client's origin, for one more row.
    pub(super) fn take(&mut self, origins: &mut Origins, client: &ClientRef<'_>) -> u32 {
        let is_last = |uses: &u32| *uses > 0 && origins.get(self.last).is_of(client);
        if !self.uses.get(self.last as usize).is_some_and(is_last) {
            let origin = Origin::of(client);
            self.last = match self.numbers.get(&origin) {
                Some(&number) => number,
                None => self.number(origins, Arc::new(origin)),
            };
        }
        self.uses[self.last as usize] += 1;
        self.last
    }

    fn number(&mut self, origins: &mut Origins, origin: Arc<Origin>) -> u32 {
        let table = Arc::make_mut(&mut origins.0);
        let number = if let Some(number) = self.free.pop() {
            table[number as usize] = Arc::clone(&origin);
            number
        } else {
            table.push(Arc::clone(&origin));
            self.uses.push(0);
            (table.len() - 1) as u32 // there are fewer than rows, whose slots have 32 bits
        };
        self.numbers.insert(origin, number);
        number
    }

    /// One row less has this number.
    pub(super) fn release(&mut self, origins: &Origins, number: u32) {
        let uses = &mut self.uses[number as usize];
        *uses -= 1;
        if *uses == 0 {
            self.numbers.remove(origins.get(number));
            self.free.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_shared_and_numbers_out_of_use_are_given_again_but_not_in_copies() {
        let (mut numbering, mut origins) = (Numbering::default(), Origins::default());
        let zones: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
        let of = |zone| ClientRef { zone: Some(zone), proto_ver: Some(5), ..NOBODY };
        let mut take = |origins: &mut Origins, zone| numbering.take(origins, &of(zone));
        let first = take(&mut origins, "z");
        assert_eq!(take(&mut origins, "z"), first);
        let other = take(&mut origins, &zones[0]);
        assert_ne!(other, first);
        assert_eq!(take(&mut origins, "z"), first);
        let copy = origins.clone();
        numbering.release(&origins, other);
        for zone in &zones[1..] {
            let number = numbering.take(&mut origins, &of(zone));
            assert_eq!(origins.get(number).as_client_ref(), of(zone));
            numbering.release(&origins, number);
        }
        assert_eq!((origins.len(), numbering.numbers.len()), (2, 1));
        assert_eq!(copy.get(other).as_client_ref(), of(&zones[0]));
        assert_eq!(numbering.take(&mut origins, &of("z")), first);
    }
}
