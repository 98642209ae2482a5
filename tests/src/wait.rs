//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// Ample for anything that should happen within a second, on a machine that is busy compiling.
pub const SOON: Duration = Duration::from_secs(20);

/// Tries until it succeeds and gives what came of it.
///
/// # Panics
/// When [`SOON`] has passed, with what was waited for and the last failure.
pub fn eventually<T>(what: &str, attempt: impl FnMut() -> Result<T, String>) -> T {
    within(SOON, what, attempt)
}

/// As [`eventually`], with another deadline.
///
/// # Panics
/// When the time has passed, with what was waited for and the last failure.
pub fn within<T>(limit: Duration, what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(10);
    loop {
        match attempt() {
            Ok(outcome) => return outcome,
            Err(failure) if Instant::now() >= deadline => panic!("no {what} within {limit:?}: {failure}"),
            Err(_) => self::pause(pause),
        }
        pause = (pause * 5 / 4).min(LONGEST_PAUSE);
    }
}

/// A look takes work from the programs under test, so the pauses between two grow.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Lets time pass that is part of what is tested, such as how long a fault lasts. For anything that should come about there
/// is [`eventually`].
#[expect(clippy::disallowed_methods, reason = "no executor here; the one place that sleeps")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
