//! Something live: a frame that is drawn anew every while, until Ctrl-C.
//!
//! On a terminal it has the alternate screen, which is left however this ends, so that the terminal is as it was. Elsewhere
//! one frame follows the other.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::text::{cut, shown};
use super::{print, size};
use crate::exit::{Exit, Failure};

/// The alternate screen, without a cursor.
const OPEN: &str = "\x1b[?1049h\x1b[?25l";
const CLOSE: &str = "\x1b[?25h\x1b[?1049l";

/// The room a frame has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Lines, if it is a terminal.
    pub(crate) lines: Option<usize>,
}

/// Draws frames until a signal ends it, which is an end as good as any. A frame that fails for now is told, and tried again;
/// the first one has to succeed.
///
/// # Errors
/// The first frame's failure, one that would come again, or stdout's.
pub(crate) async fn live(
    interval: Duration,
    mut frame: impl AsyncFnMut(Room) -> Result<String, Failure>,
) -> Result<Exit, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut resize = signal(SignalKind::window_change())?;
    let mut screen: Option<Screen> = None;
    let mut last: Option<String> = None;
    loop {
        let room = Room { lines: size().map(|(_, lines)| lines) };
        let drawn = tokio::select! {
            drawn = frame(room) => drawn,
            () = any(&mut interrupt, &mut terminate, &mut hang_up) => return Ok(Exit::Whole),
        };
        let text = match drawn {
            Ok(text) => {
                last = Some(text.clone());
                text
            }
            Err(failure) => match &last {
                Some(last) if is_passing(&failure) => format!("{}\n{last}", shown(&failure.to_string())),
                _ => return Err(failure),
            },
        };
        if io::stdout().is_terminal() {
            if screen.is_none() {
                screen = Some(Screen::open()?);
            }
            draw(&text)?;
        } else {
            print(&format!("{text}\n"))?;
        }
        tokio::select! {
            () = sleep(interval) => {}
            _ = resize.recv() => {}
            () = any(&mut interrupt, &mut terminate, &mut hang_up) => return Ok(Exit::Whole),
        }
    }
}

async fn any(interrupt: &mut Signal, terminate: &mut Signal, hang_up: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
}

/// Whether the next try may succeed.
fn is_passing(failure: &Failure) -> bool {
    match failure {
        Failure::Unreachable { .. } => true,
        Failure::Answered(refusal) => refusal.status >= 500 || refusal.status == 429,
        _ => false,
    }
}

/// Writes over the frame before, line by line, so that nothing flickers. Lines that have no room are left out.
fn draw(text: &str) -> io::Result<()> {
    let (columns, lines) = size().unwrap_or((80, 24));
    let mut out = String::from("\x1b[H");
    for (at, line) in text.lines().take(lines).enumerate() {
        if at > 0 {
            out.push_str("\r\n");
        }
        // Coloured lines come from a table, which fits already.
        if line.contains('\x1b') {
            out.push_str(line);
        } else {
            out.push_str(&cut(line, columns));
        }
        out.push_str("\x1b[K");
    }
    out.push_str("\x1b[J");
    print(&out)
}

/// The alternate screen, as long as this lives.
struct Screen;

impl Screen {
    fn open() -> io::Result<Self> {
        print(OPEN)?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout().lock();
        // If the terminal is gone, there is nothing to restore.
        let _ = out.write_all(CLOSE.as_bytes()).and_then(|()| out.flush());
    }
}
