//! What adapters have in common whose brokers are asked now and then: which session is which, and the stream of
//! changes from one look to the next.
//!
//! A broker that is polled shows states, not events, and hardly ever a name for a session. [`Sessions`] makes sessions
//! of them: a client goes on with its session if it has the same connection as before, or if both before and now its
//! session is of the kind that outlives connections. Otherwise it is a new one. So a session that is ended and begun
//! anew between two looks, by somebody else than Rollcall, keeps its number; nothing tells it apart.
//!
//! A look takes time. What it found of a client that was kicked meanwhile is left out, and so is that connection in
//! any later look: brokers show closed connections for a while.

mod follow;
mod sessions;

pub(super) use follow::{Source, follow};
pub(super) use sessions::{Found, Seen, Sessions, lock};

/// Checks what the settings of all of them have in common; the broker gives pages of so many rows at the most.
pub(super) fn check_common(
    poll_interval_ms: u64,
    timeout_ms: u64,
    page_size: usize,
    max_page_size: usize,
) -> Result<(), String> {
    for (key, value, most) in
        [("poll_interval_ms", poll_interval_ms, 3_600_000), ("timeout_ms", timeout_ms, 60_000)]
    {
        if !(100..=most).contains(&value) {
            return Err(format!("{key} is {value}, expected 100 to {most}"));
        }
    }
    if !(1..=max_page_size).contains(&page_size) {
        return Err(format!("page_size is {page_size}, expected 1 to {max_page_size}"));
    }
    Ok(())
}
