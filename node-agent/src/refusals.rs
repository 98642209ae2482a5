//! Refusals in the log: each kind once in a while, with how many were left out, so that who is refused again and again does
//! not fill it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long nothing is said after something was.
const PAUSE: Duration = Duration::from_secs(5);

/// When something was said last, and how often not since.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<(Option<Instant>, u64)>);

impl Refusals {
    /// Has a refusal logged, with how many before it went unsaid, if it is time for that.
    pub(crate) fn note(&self, log: impl FnOnce(u64)) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match &mut *last {
            (Some(said), unsaid) if now < *said + PAUSE => *unsaid += 1,
            (said, unsaid) => {
                *said = Some(now);
                log(std::mem::take(unsaid));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_left_out_is_counted() {
        let refusals = Refusals::default();
        let mut said = Vec::new();
        for second in 0..12 {
            refusals.note(|unsaid| said.push((second, unsaid)));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(said, [(0, 0), (5, 4), (10, 4)]);
    }
}
