//! One program under test.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use tempfile::TempPath;

use crate::binaries;
use crate::wait::{eventually, within};

/// How long a program may take until it says that it serves. Debug builds on a busy machine are slow.
const READY: Duration = Duration::from_secs(60);

/// Lines of a log that are shown.
const TAIL: usize = 60;

/// A running program. Dropping it kills it; if that is because a test failed, the end of its log is printed.
#[derive(Debug)]
pub struct Process {
    /// Where it serves, from its `ready` line.
    pub address: SocketAddr,
    /// Where its first MQTT listener is, if it has one.
    pub mqtt: Option<SocketAddr>,
    /// Where all of its MQTT listeners are, in the order of its configuration.
    pub mqtt_all: Vec<SocketAddr>,
    /// Where its metrics are scraped, of an agent that was told to show any.
    pub metrics: Option<SocketAddr>,
    label: String,
    log: TempPath,
    child: Child,
}

impl Process {
    /// Starts a program of this workspace and waits until it says `ready`. The label is for failures.
    ///
    /// # Panics
    /// If it does not become ready, with the end of its log.
    #[must_use]
    pub fn start(program: &str, label: &str, arguments: &[String]) -> Self {
        Self::start_at(&binaries::path(program), label, arguments)
    }

    /// Starts the program at this path, which must say `ready` as those of this workspace do.
    ///
    /// # Panics
    /// If it does not become ready, with the end of its log.
    #[must_use]
    pub fn start_at(program: &Path, label: &str, arguments: &[String]) -> Self {
        let (file, log) = tempfile::NamedTempFile::new().expect("a file for the log").into_parts();
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", program.display()));
        let stdout = child.stdout.take().expect("its output is piped");
        // Dropped, and so the child killed, if what follows panics.
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        let label = label.to_owned();
        let (mqtt, mqtt_all, metrics) = (None, Vec::new(), None);
        let mut process = Self { address: unspecified, mqtt, mqtt_all, metrics, label, log, child };
        let lines = read_lines(stdout);
        let line = lines.recv_timeout(READY).unwrap_or_else(|_| {
            panic!("{} with {arguments:?} is not ready within {READY:?}, or has ended", process.label)
        });
        let Some((serves, mqtt, metrics)) = addresses(&line) else {
            panic!(
                "{} said {line:?}, expected `ready ADDR`, `mqtt ADDR` for each listener, and `metrics ADDR`",
                process.label
            )
        };
        process.metrics = metrics;
        process.address = serves;
        process.mqtt = mqtt.first().copied();
        process.mqtt_all = mqtt;
        process
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is still running.
    ///
    /// # Panics
    /// If the system does not know it.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.status().is_none()
    }

    /// Ends it as a crash would (SIGKILL) and waits for that. Does nothing if it has ended.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Panics
    /// If it does not end soon.
    #[must_use]
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let end = format!("end of {} after SIGTERM", self.label);
        eventually(&end, || self.status().ok_or_else(|| "it is running".to_owned()))
    }

    /// Stops it where it is (SIGSTOP): its connections stay open and nothing answers on them.
    ///
    /// # Panics
    /// If it has ended.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        // The signal is on its way when it has been sent; a thread that runs on another core goes on for a moment.
        eventually("standstill", || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).map_err(|e| e.to_string())?;
            let stats = tasks.flatten().flat_map(|task| std::fs::read_to_string(task.path().join("stat")));
            // The state stands behind the name, which may hold anything but ends with the last parenthesis.
            let is_running =
                |stat: &String| stat.rsplit_once(") ").is_none_or(|(_, rest)| !rest.starts_with('T'));
            stats.into_iter().find(is_running).map_or(Ok(()), Err)
        });
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    ///
    /// # Panics
    /// If it has ended.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its resident memory in bytes.
    ///
    /// # Panics
    /// If it has ended, or the system has no `/proc`.
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most resident memory it ever had, bytes.
    ///
    /// # Panics
    /// If it has ended, or the system has no `/proc`.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, key: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.unwrap_or_else(|| panic!("no {key} in {path}")) * 1024
    }

    /// How many file descriptors it has open.
    ///
    /// # Panics
    /// If it has ended, or the system has no `/proc`.
    #[must_use]
    pub fn descriptors(&self) -> u64 {
        let path = format!("/proc/{}/fd", self.pid());
        let open = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        open.count() as u64
    }

    /// CPU time it has used so far, in user and kernel mode.
    ///
    /// # Panics
    /// If it has ended, or the system has no `/proc`.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let path = format!("/proc/{}/task", self.pid());
        let tasks = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let spent = |task: std::fs::DirEntry| {
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
        };
        Duration::from_nanos(tasks.flatten().map(spent).sum())
    }

    /// Lets it have no more than so many file descriptors from now on. Those it has beyond that stay open.
    ///
    /// # Panics
    /// If it has ended, or may not be limited.
    pub fn limit_descriptors(&self, most: u64) {
        let limit = Rlimit { current: Some(most), ..getrlimit(Resource::Nofile) };
        prlimit(Some(self.id()), Resource::Nofile, limit)
            .unwrap_or_else(|error| panic!("{most} descriptors for {}: {error}", self.label));
    }

    fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap_or_else(|error| panic!("status of {}: {error}", self.label))
    }

    fn id(&self) -> Pid {
        i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id")
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.id(), signal)
            .unwrap_or_else(|error| panic!("{signal:?} to {}: {error}", self.label));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL)..];
            eprintln!("--- the end of what {} logged\n{}\n---", self.label, tail.join("\n"));
        }
    }
}

/// Reads a `ready` line: where the program serves, where its MQTT listeners are, and where its metrics.
fn addresses(line: &str) -> Option<(SocketAddr, Vec<SocketAddr>, Option<SocketAddr>)> {
    let mut words = line.strip_prefix("ready ")?.split(' ');
    let serves = words.next()?.parse().ok()?;
    let (mut mqtt, mut metrics) = (Vec::new(), None);
    while let Some(word) = words.next() {
        let address = words.next()?.parse().ok()?;
        match word {
            "mqtt" => mqtt.push(address),
            "metrics" if metrics.is_none() => metrics = Some(address),
            _ => return None,
        }
    }
    Some((serves, mqtt, metrics))
}

/// Reads a program's output to its end, so that it never writes into a closed pipe.
fn read_lines(stdout: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (lines, received) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = lines.send(line);
        }
    });
    received
}

/// Whether a status is an ordinary end with 0, not a signal.
#[must_use]
pub fn is_clean(status: ExitStatus) -> bool {
    status.code() == Some(0)
}

/// Runs a program of this workspace that should end by itself, such as `check-config`: status, output, log.
///
/// # Panics
/// If it cannot be started or does not end soon.
#[must_use]
pub fn run(program: &str, arguments: &[&str]) -> (ExitStatus, String, String) {
    let open = || tempfile::NamedTempFile::new().expect("a file for the output").into_parts();
    let ((out, out_path), (err, err_path)) = (open(), open());
    let mut child = Command::new(binaries::path(program))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout::<File>(out)
        .stderr::<File>(err)
        .spawn()
        .unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        within(READY, &format!("end of {program} {arguments:?}"), || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        })
    }));
    let _ = child.kill();
    let _ = child.wait();
    let text = |path: &TempPath| std::fs::read_to_string(path).unwrap_or_default();
    match outcome {
        Ok(status) => (status, text(&out_path), text(&err_path)),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_line_names_every_listener() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (a, b, c) = (address("127.0.0.1:1"), address("127.0.0.1:2"), address("[::1]:3"));
        assert_eq!(addresses("ready 127.0.0.1:1"), Some((a, vec![], None)));
        assert_eq!(addresses("ready 127.0.0.1:1 mqtt 127.0.0.1:2 mqtt [::1]:3"), Some((a, vec![b, c], None)));
        let with_metrics = "ready 127.0.0.1:1 mqtt 127.0.0.1:2 metrics [::1]:3";
        assert_eq!(addresses(with_metrics), Some((a, vec![b], Some(c))));
        for line in ["", "ready", "ready x", "ready 127.0.0.1:1 ", "ready 127.0.0.1:1 mqtt", "127.0.0.1:1"] {
            assert_eq!(addresses(line), None, "{line:?}");
        }
    }
}
