//! A Mosquitto of the test's own, with the agent as its plugin or without.

use std::fmt::Write as _;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::binaries;
use crate::wait::eventually;

/// Lines of a log that are shown.
const TAIL: usize = 60;

/// A running Mosquitto. Dropping it kills it; if that is because a test failed, the end of its log is printed.
#[derive(Debug)]
pub struct Mosquitto {
    /// Where MQTT clients connect.
    pub mqtt: SocketAddr,
    /// Where gateways find the agent, if it is loaded.
    pub agent: Option<SocketAddr>,
    /// The node's name, if the agent is loaded.
    node: Option<String>,
    /// Lines of its configuration beside those it always has.
    lines: Vec<String>,
    folder: TempDir,
    child: Child,
}

impl Mosquitto {
    /// Where the broker is, if it is installed. Debian has it where only root's path looks.
    #[must_use]
    pub fn program() -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
        folders.map(|folder| folder.join("mosquitto")).find(|path| path.is_file())
    }

    /// Whether it is installed.
    #[must_use]
    pub fn is_installed() -> bool {
        Self::program().is_some()
    }

    /// Starts one on a free port; with the agent, if a node's name is given, on another. The lines stand in its
    /// configuration too. Without an option `logins` among them everybody may log in.
    ///
    /// # Panics
    /// If it does not come up, with the end of its log.
    #[must_use]
    pub fn start(node: Option<&str>, lines: &[&str]) -> Self {
        Self::start_with(node, lines, &[])
    }

    /// As [`start`](Self::start), with more in its environment.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_with(node: Option<&str>, lines: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the broker");
        let mqtt = free_address();
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        let node = node.map(str::to_owned);
        write_configuration(&folder, mqtt, node.as_deref(), None, &lines);
        let child = spawn(&folder, environment);
        let mut broker = Self { mqtt, agent: None, node, lines, folder, child };
        broker.await_start();
        broker
    }

    /// As [`start`](Self::start), of a broker that gives its plugins no time of their own.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_without_ticks(node: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the broker");
        let (mqtt, agent) = (free_address(), free_address());
        // It stands before the listener, to which it makes the plugin belong.
        write_configuration(
            &folder,
            mqtt,
            Some(node),
            Some(agent),
            &["per_listener_settings true".to_owned()],
        );
        let child = spawn(&folder, &[]);
        // What the agent has to say is written in the time that it does not get.
        let mut broker = Self { mqtt, agent: None, node: None, lines: Vec::new(), folder, child };
        broker.await_start();
        broker.agent = Some(agent);
        broker
    }

    /// What one logs that does not start with these lines in its configuration.
    ///
    /// # Panics
    /// If it starts.
    #[must_use]
    pub fn refused(lines: &[&str]) -> String {
        let folder = tempfile::tempdir().expect("a folder for the broker");
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        let mqtt = free_address();
        write_configuration(&folder, mqtt, Some("refused@127.0.0.1"), None, &lines);
        let child = spawn(&folder, &[]);
        let mut broker = Self { mqtt, agent: None, node: None, lines, folder, child };
        eventually("the end of a broker that cannot start", || {
            if broker.is_running() { Err(broker.log()) } else { Ok(broker.log()) }
        })
    }

    /// Kills it and starts it again on the same addresses.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn restart(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Asks it to end, has it save what it keeps, and starts it again on the same addresses.
    ///
    /// # Panics
    /// As [`start`](Self::start), and if it does not end.
    pub fn restart_in_order(&mut self) {
        self.ask_to_end();
        eventually("the end of Mosquitto", || if self.is_running() { Err(self.log()) } else { Ok(()) });
        self.start_again();
    }

    fn start_again(&mut self) {
        write_configuration(&self.folder, self.mqtt, self.node.as_deref(), self.agent, &self.lines);
        self.child = spawn(&self.folder, &[]);
        self.await_start();
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Panics
    /// If it has ended.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// Asks it to read its configuration again (SIGHUP).
    ///
    /// # Panics
    /// If it has ended.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("a process that can be signalled");
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it is still running.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged since it was started last.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn await_start(&mut self) {
        let mqtt = self.mqtt;
        eventually("Mosquitto", || {
            if !self.is_running() {
                return Err(format!("it has ended: {}", self.log()));
            }
            TcpStream::connect(mqtt).map(drop).map_err(|error| format!("{error}, {}", self.log()))
        });
        if self.node.is_some() {
            self.agent = Some(eventually("the agent's address in the broker's log", || {
                let log = self.log();
                let address = log
                    .split("the node-agent is up")
                    .nth(1)
                    .and_then(|line| line.split("address=").nth(1)?.split_whitespace().next()?.parse().ok());
                address.ok_or(log)
            }));
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL)..];
            eprintln!("--- the end of what Mosquitto logged\n{}\n---", tail.join("\n"));
        }
    }
}

/// An address that was free a moment ago: Mosquitto does not say which port it took if it is left to choose.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket")
}

fn write_configuration(
    folder: &TempDir,
    mqtt: SocketAddr,
    node: Option<&str>,
    agent: Option<SocketAddr>,
    lines: &[String],
) {
    let mut text = String::new();
    let (first, lines): (Vec<&String>, Vec<&String>) =
        lines.iter().partition(|line| line.starts_with("per_listener_settings"));
    for line in first {
        let _ = writeln!(text, "{line}");
    }
    let _ = writeln!(text, "listener {} {}", mqtt.port(), mqtt.ip());
    if !lines.iter().any(|line| line.starts_with("allow_anonymous")) {
        text += "allow_anonymous true\n";
    }
    text += "log_dest stderr\nlog_type error\nlog_type warning\nlog_type notice\nlog_type information\n";
    if let Some(node) = node {
        let plugin = binaries::path("librollcall_mosquitto.so");
        let listen = agent.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        let plugin = format!(
            "plugin {}\nplugin_opt_node_name {node}\nplugin_opt_listen {listen}\nplugin_opt_mqtt_address {mqtt}\n",
            plugin.display()
        );
        text += &plugin;
        if !lines.iter().any(|line| line.starts_with("plugin_opt_logins")) {
            text += "plugin_opt_logins open\n";
        }
    }
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
    // The broker gives up root's rights for those of this user, who could not read what the test wrote.
    if rustix::process::geteuid().is_root() {
        text += "user root\n";
    }
    std::fs::write(folder.path().join("mosquitto.conf"), text).expect("a configuration can be written");
}

fn spawn(folder: &TempDir, environment: &[(&str, &str)]) -> Child {
    let log = File::create(folder.path().join("log")).expect("a file for the log");
    let program = Mosquitto::program().expect("mosquitto is installed (Debian: mosquitto)");
    Command::new(program)
        .arg("-c")
        .arg(folder.path().join("mosquitto.conf"))
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("mosquitto can be started")
}
