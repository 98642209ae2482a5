//! Clients one behind the other in one block of memory, in the form they have on the wire.
//!
//! For many clients that only have to wait for something: some 100 bytes each instead of the 500 and more of a message
//! with its strings, and as one block ([`block`]), which the system takes back as a whole whatever else was allocated
//! meanwhile. Read where they stand; nothing is copied.

use rollcall_proto::ClientRef;
use rollcall_proto::wire::{clientid_of, read_client, write_client};

/// Bytes from which on an allocation is given back to the system when it is freed, and nothing else comes of it. Of a smaller
/// one glibc concludes that there will be more like it: it takes them from its heap from then on, and keeps twice as much
/// free there for good.
const BLOCK: usize = 33 << 20;

/// Fewer bytes are an ordinary allocation.
const SMALL: usize = 64 << 10;

/// Room for values that will soon be gone: if they are many, an allocation of [`BLOCK`] bytes or more. What is not used of it
/// is address space, not memory.
pub(crate) fn block<T>(values: usize) -> Vec<T> {
    if values * size_of::<T>() < SMALL { Vec::with_capacity(values) } else { growing_block(values) }
}

/// As [`block`], for values that may become many.
pub(crate) fn growing_block<T>(values: usize) -> Vec<T> {
    Vec::with_capacity(values.max(BLOCK / size_of::<T>().max(1)))
}

/// The clients, by number.
#[derive(Debug)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
    /// Where each one ends.
    ends: Vec<usize>,
}

impl Default for Packed {
    fn default() -> Self {
        Self { bytes: growing_block(0), ends: growing_block(0) }
    }
}

impl Packed {
    /// Puts one more behind the others, without figures. There are fewer than 2^32.
    pub(crate) fn push(&mut self, client: &ClientRef<'_>) {
        write_client(&ClientRef { statistics: None, ..*client }, &mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn len(&self) -> u32 {
        self.ends.len() as u32
    }

    /// The client of a number.
    pub(crate) fn get(&self, number: u32) -> ClientRef<'_> {
        // What was written here can be read again.
        read_client(self.message(number)).unwrap_or_default().client
    }

    /// Its clientid, without a look at anything else.
    pub(crate) fn clientid(&self, number: u32) -> &str {
        clientid_of(self.message(number)).unwrap_or_default()
    }

    fn message(&self, number: u32) -> &[u8] {
        let at = number as usize;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[at]]
    }
}
