//! A broker's process and what it starts.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::wait::within;

/// How long a broker may take until it listens.
const READY: Duration = Duration::from_secs(180);

/// A process in a group of its own, which is killed as a whole when this is dropped.
#[derive(Debug)]
pub struct BrokerProcess {
    name: String,
    log: PathBuf,
    child: Child,
}

impl BrokerProcess {
    /// Starts it; what it says is added to a log in this directory.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn spawn(name: &str, command: &mut Command, directory: &Path) -> Self {
        let log = directory.join(format!("{name}.out"));
        let file = File::options().create(true).append(true).open(&log).expect("a file for the log");
        let errors = file.try_clone().expect("the same file");
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        Self { name: name.to_owned(), log, child }
    }

    /// Waits until all of these take connections.
    ///
    /// # Panics
    /// If it ends before, or that takes too long; with its log.
    pub fn await_listening(&mut self, addresses: &[SocketAddr]) {
        let Self { name, log, child } = self;
        let log = || std::fs::read_to_string(&log).unwrap_or_default();
        within(READY, &format!("listener of {name}"), || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("{name} ended with {status}\n{}", log());
            }
            let open =
                |address: &SocketAddr| TcpStream::connect_timeout(address, Duration::from_secs(1)).map(drop);
            addresses.iter().try_for_each(open).map_err(|error: io::Error| format!("{error}\n{}", log()))
        });
    }

    /// Ends it and all of its group (SIGKILL), and waits for it.
    pub fn kill(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
