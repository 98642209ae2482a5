//! The agent's log lines on their way into the broker's log, which only the broker's thread may write.
//!
//! They wait until the loop comes round. If it does not for long, the oldest are dropped and counted.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rollcall_node_agent::config::Log;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

/// How many lines may wait.
const MOST_LINES: usize = 1_000;

/// Lines that wait. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<(Level, String)>,
    dropped: u64,
}

impl Lines {
    /// Begins to take the process's events, as far as the settings want them.
    pub(crate) fn begin(&self, log: &Log) {
        // Checked with the rest of the configuration.
        let filter = EnvFilter::try_new(&log.filter).unwrap_or_default();
        // It fails if there is a log already, as in a test.
        let _ = tracing_subscriber::registry().with(self.clone().with_filter(filter)).try_init();
    }

    /// Gives out the lines that wait, oldest first.
    pub(crate) fn drain(&self, mut write: impl FnMut(Level, &str)) {
        let Waiting { lines, dropped } = std::mem::take(&mut *self.lock());
        if dropped > 0 {
            write(Level::WARN, &format!("{dropped} lines of the log were dropped"));
        }
        for (level, line) in lines {
            write(level, &line);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let mut waiting = self.lock();
        if waiting.lines.len() == MOST_LINES {
            waiting.lines.pop_front();
            waiting.dropped += 1;
        }
        waiting.lines.push_back((*event.metadata().level(), format!("{}{}", line.message, line.fields)));
    }
}

/// An event as text: its message, then its fields.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_order_with_their_fields_and_none_is_lost_without_a_word() {
        let lines = Lines::default();
        let log = tracing_subscriber::registry().with(lines.clone());
        tracing::subscriber::with_default(log, || {
            tracing::warn!(clientid = "c\n1", number = 3, "first");
            for _ in 0..MOST_LINES {
                tracing::info!("more");
            }
        });
        let mut got = Vec::new();
        lines.drain(|level, line| got.push((level, line.to_owned())));
        assert_eq!(got[0], (Level::WARN, "1 lines of the log were dropped".to_owned()));
        assert_eq!(got.len(), MOST_LINES + 1);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines.clone()), || {
            tracing::warn!(clientid = "c\n1", number = 3, "first");
        });
        lines.drain(|_, line| assert_eq!(line, "first clientid=\"c\\n1\" number=3"));
    }
}
