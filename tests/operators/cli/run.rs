//! Starting `rollcall`, and nothing of who runs the tests with it.

use std::ffi::OsStr;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use rollcall_tests::binaries;
use rollcall_tests::sandbox::{Cluster, OPERATOR};
use serde_json::Value;

/// How one ended, and what it wrote.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) status: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl Said {
    /// Stdout of one that did what it should, and said no more than that.
    pub(super) fn whole(self) -> String {
        assert_eq!((self.status, self.err.as_str()), (0, ""), "{}", self.out);
        self.out
    }

    /// The rows of `-o ndjson`.
    pub(super) fn rows(self) -> Vec<Value> {
        self.whole().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// That it ended with this status and named all of this on stderr.
    #[track_caller]
    pub(super) fn failed(&self, status: i32, named: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        for word in named {
            assert!(self.err.contains(word), "{word:?} is not named: {self:?}");
        }
        assert!(!self.err.contains("panicked"), "{self:?}");
    }
}

/// A command of which nothing is set by the environment that the tests run in.
pub(super) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binaries::path("rollcall"));
    for (name, _) in std::env::vars_os() {
        let known = |name: &str| {
            name.starts_with("ROLLCALL_") || matches!(name, "HOME" | "XDG_CONFIG_HOME" | "NO_COLOR")
        };
        if name.to_str().is_some_and(known) {
            command.env_remove(name);
        }
    }
    command.env("TERM", "xterm").args(arguments).stdin(Stdio::null());
    command
}

/// A command for this gateway, as the operator.
pub(super) fn to(address: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.env("ROLLCALL_URL", format!("http://{address}"));
    command.env("ROLLCALL_KEY", format!("{}:{}", OPERATOR.0, OPERATOR.1));
    command
}

/// Runs it to its end.
pub(super) fn run(mut command: Command) -> Said {
    let output = command.output().unwrap();
    said(output)
}

/// Runs it with this on stdin.
pub(super) fn run_with(mut command: Command, input: &str) -> Said {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    said(child.wait_with_output().unwrap())
}

fn said(output: std::process::Output) -> Said {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { status: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// Asks a cluster.
pub(super) fn ask(cluster: &Cluster, arguments: &[&str]) -> Said {
    run(to(cluster.gateway.address(), arguments))
}

/// With further variables of the environment.
pub(super) fn with<V: AsRef<OsStr>>(mut command: Command, variables: &[(&str, V)]) -> Command {
    command.envs(variables.iter().map(|(name, value)| (name, value.as_ref())));
    command
}
