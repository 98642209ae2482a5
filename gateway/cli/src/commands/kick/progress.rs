//! How far a kick has come, in one line of a terminal on stderr.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Instant;

use serde_json::Value;

/// Characters of the bar itself.
const WIDTH: u64 = 24;

/// The line, which is wiped before anything else is written.
pub(super) struct Bar {
    is_terminal: bool,
    is_drawn: bool,
    /// How many there are in all, once that was told.
    of: Option<u64>,
    begun: Instant,
}

impl Bar {
    pub(super) fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), is_drawn: false, of: None, begun: Instant::now() }
    }

    /// Takes what a line of progress says of the whole.
    pub(super) fn expect(&mut self, progress: &Value) {
        self.of = progress["of"].as_u64();
    }

    /// Shows how many were told of, and how many of them were kicked.
    pub(super) fn draw(&mut self, done: u64, kicked: u64) {
        let (Some(of), true) = (self.of, self.is_terminal) else { return };
        let text = text(done, of, kicked, self.begun.elapsed().as_secs());
        self.write(&format!("\r{text}\x1b[K"));
        self.is_drawn = true;
    }

    /// Leaves the line to others.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            self.write("\r\x1b[K");
        }
    }

    fn write(&self, text: &str) {
        let mut err = io::stderr().lock();
        // Nobody has to see it.
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }
}

fn text(done: u64, of: u64, kicked: u64, seconds: u64) -> String {
    let full = done.min(of).saturating_mul(WIDTH).checked_div(of).unwrap_or(WIDTH);
    let bar: String = (0..WIDTH).map(|at| if at < full { '#' } else { '.' }).collect();
    format!("[{bar}] {done} of {of}, {kicked} kicked, {seconds} s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills() {
        assert_eq!(text(0, 4, 0, 0), "[........................] 0 of 4, 0 kicked, 0 s");
        assert_eq!(text(2, 4, 1, 3), "[############............] 2 of 4, 1 kicked, 3 s");
        assert_eq!(text(9, 4, 4, 3), "[########################] 9 of 4, 4 kicked, 3 s");
        assert!(text(0, 0, 0, 0).starts_with("[####"));
    }
}
