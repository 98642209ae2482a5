//! What changes leave to views.
//!
//! A view shares everything with the index. What it shares is copied before it is changed, and then the old is the view's
//! alone, as long as it lives. [`Left`] counts the bytes of that as it happens: between two moments it grows by at
//! least what all views taken since the first one hold for themselves at the second. It counts too much what views have
//! given back since, and never too little. Zones and protocols, which rows share, are left out.

use std::sync::Arc;

/// What an [`Arc`] has beside its value.
const COUNTS: usize = 2 * size_of::<usize>();

/// Bytes left to views so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Left(u64);

impl Left {
    /// As [`Arc::make_mut`], for a value of so many bytes.
    pub(super) fn make_mut<'a, T: Clone>(
        &mut self,
        shared: &'a mut Arc<T>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> &'a mut T {
        self.let_go(shared, bytes);
        Arc::make_mut(shared)
    }

    /// The index will not have this value any more.
    pub(super) fn let_go<T>(&mut self, shared: &Arc<T>, bytes: impl FnOnce(&T) -> usize) {
        if Arc::strong_count(shared) > 1 {
            self.add(shared_bytes(bytes(shared)));
        }
    }

    pub(super) fn add(&mut self, bytes: usize) {
        self.0 += bytes as u64;
    }

    pub(super) fn bytes(self) -> u64 {
        self.0
    }
}

/// What a value of so many bytes takes in an [`Arc`].
fn shared_bytes(bytes: usize) -> usize {
    bytes + COUNTS
}

/// Shows a piece of memory that a list or columns consist of: where it is, and how many bytes it has.
pub(super) fn show<T>(shared: &Arc<T>, bytes: usize, visit: &mut impl FnMut(*const (), usize)) {
    visit(Arc::as_ptr(shared).cast(), shared_bytes(bytes));
}
