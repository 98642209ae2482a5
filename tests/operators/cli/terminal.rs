//! At a terminal: a pseudo terminal of a size, whose user types and reads.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::rows;
use rollcall_tests::sandbox::{Agent, Cluster};
use rollcall_tests::wait::eventually;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;

use super::run::{to, with};

/// The alternate screen, and the way back out of it.
const OPEN: &str = "\x1b[?1049h";
const CLOSE: &str = "\x1b[?25h\x1b[?1049l";

/// A program whose stdin, stdout and stderr are a terminal.
pub(super) struct Terminal {
    master: File,
    child: Child,
    seen: Arc<Mutex<Vec<u8>>>,
    /// Taken when it has ended.
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    pub(super) fn start(mut command: Command, columns: u16, lines: u16) -> Self {
        // Not for the children of tests that run beside this one.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).unwrap();
        let slave = File::from(ioctl_tiocgptpeer(&master, flags).unwrap());
        let end = || Stdio::from(slave.try_clone().unwrap());
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        // The command keeps its ends of the terminal.
        drop((command, slave));
        let master = File::from(master);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (master.try_clone().unwrap(), Arc::clone(&seen));
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // It ends with an error once nobody has the other side.
            while let Ok(read @ 1..) = from.read(&mut piece) {
                to.lock().unwrap().extend_from_slice(&piece[..read]);
            }
        });
        Self { master, child, seen, reader: Some(reader) }
    }

    /// Everything that has been written to it.
    pub(super) fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    /// Waits until something has been written that begins after so many bytes.
    pub(super) fn await_text(&self, text: &str, from: usize) {
        eventually(text, || {
            let seen = self.seen();
            if seen[from..].contains(text) { Ok(()) } else { Err(format!("{:?}", &seen[from..])) }
        });
    }

    pub(super) fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its status once it has ended, and all that was written.
    pub(super) fn end(mut self) -> (Option<i32>, String) {
        let status = eventually("end", || match self.child.try_wait().unwrap() {
            Some(status) => Ok(status),
            None => Err(self.seen()),
        });
        // What was written last may still be on its way; the reader ends when nobody has the other side any more.
        self.reader.take().unwrap().join().unwrap();
        (status.code(), self.seen())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_table_fits_the_terminal_and_is_in_colours_if_they_are_wanted() {
    let long = "x".repeat(200);
    let row = |id: &str, state: &str| json!({"node": "a@127.0.0.1", "clientid": id, "conn_state": state, "zone": "z"});
    let table = rows::table(&[
        row(&long, "connected"),
        row("short", "disconnected"),
        row("\u{1b}[2J\u{202e}", "connected"),
    ]);
    let cluster = Cluster::of(vec![Agent::file("a@127.0.0.1", table.path())]);
    let clients = || to(cluster.gateway.address(), &["clients"]);

    let (status, seen) = Terminal::start(clients(), 140, 24).end();
    assert_eq!(status, Some(0));
    assert!(seen.contains("\x1b[1mCLIENTID\x1b[0m") && seen.contains("\x1b[32mtrue\x1b[0m"), "{seen:?}");
    assert!(
        seen.contains("\\u{1b}[2J\\u{202e}") && !seen.contains("\x1b[2J") && !seen.contains('\u{202e}'),
        "{seen:?}"
    );

    for command in [with(clients(), &[("NO_COLOR", "1")]), with(clients(), &[("TERM", "dumb")])] {
        let (_, seen) = Terminal::start(command, 90, 24).end();
        assert!(!seen.contains('\x1b'), "{seen:?}");
        assert!(seen.contains('…') && seen.lines().all(|line| line.chars().count() <= 90), "{seen:?}");
        assert!(seen.contains("CONNECTED_AT"), "{seen}");
    }
    let (_, seen) = Terminal::start(with(clients(), &[("NO_COLOR", "1")]), 30, 24).end();
    assert!(seen.contains("columns have no room"), "{seen}");
    // Through a pipe all of it is there, and no colour.
    let said = super::run::run(clients());
    assert!(said.out.contains(&long) && !said.out.contains('\x1b'), "{}", said.out);
    // JSON on a terminal is the same value, and harms it as little.
    let (_, seen) =
        Terminal::start(to(cluster.gateway.address(), &["export", "--fields", "clientid"]), 90, 24).end();
    assert!(seen.contains("\\u001b[2J\\u202e") && !seen.contains('\x1b'), "{seen:?}");
}

#[test]
fn what_is_live_shows_who_comes_and_leaves_the_terminal_as_it_was() {
    let cluster = Cluster::embedded();
    let address = cluster.gateway.address();
    let _first = Client::connect(cluster.agents[0].mqtt(), &Connect::new(5, "first"));
    cluster.gateway.row("first");
    for (arguments, end) in [
        (&["clients", "--watch", "--interval", "100ms"][..], Signal::INT),
        (&["top", "recv_msg", "--interval", "100ms"], Signal::TERM),
        (&["top", "--interval", "100ms"], Signal::HUP),
    ] {
        let terminal = Terminal::start(to(address, arguments), 120, 24);
        terminal.await_text("first", 0);
        assert!(terminal.seen().starts_with(OPEN), "{:?}", terminal.seen());
        let late = Client::connect(cluster.agents[2].mqtt(), &Connect::new(4, "late"));
        terminal.await_text("late", 0);
        terminal.await_text("2 of 2 clients", 0);
        let before = terminal.seen().len();
        late.disconnect();
        terminal.await_text("1 of 1 client\x1b", before);
        terminal.signal(end);
        let (status, seen) = terminal.end();
        assert_eq!(status, Some(0), "{arguments:?}");
        assert!(seen.ends_with(CLOSE), "{seen:?}");
    }
}

#[test]
fn what_is_live_goes_on_through_failures_and_names_what_is_missing() {
    let mut cluster = Cluster::embedded();
    let _client = Client::connect(cluster.agents[0].mqtt(), &Connect::new(5, "stays"));
    cluster.gateway.row("stays");
    let terminal = Terminal::start(
        to(cluster.gateway.address(), &["top", "--interval", "100ms", "--timeout", "2s"]),
        120,
        24,
    );
    terminal.await_text("stays", 0);
    cluster.agents[2].process.kill();
    terminal.await_text("2 of 3 nodes answered; c@127.0.0.1: unreachable", 0);
    cluster.gateway.process.kill();
    terminal.await_text("Connection refused", 0);
    let failed = terminal.seen().len();
    terminal.await_text("Connection refused", failed);
    // However often it fails, it is said once a frame.
    let frame = terminal.seen()[failed..].split("\x1b[H").last().unwrap().to_owned();
    assert!(frame.matches("Connection refused").count() <= 1, "{frame:?}");
    let before = terminal.seen().len();
    cluster.agents[2].restart();
    cluster.gateway.restart();
    terminal.await_text("1 of 1 client\x1b", before);
    terminal.signal(Signal::INT);
    let (status, seen) = terminal.end();
    assert_eq!(status, Some(0));
    assert!(seen.ends_with(CLOSE), "{seen:?}");
}
