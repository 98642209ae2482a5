//! Hosts of the test's own: network namespaces behind one switch, with links that can be slow, lossy, one-way or down.
//!
//! Nothing outside is touched: the switch, too, is a namespace, and all of them go when a [`Network`] is dropped. What a test
//! that was killed left behind goes when the next begins, told by the process number in the names. Needs root, `ip` and
//! `tc` of iproute2, and `nft`; [`Network::possible`] says what is missing. Losses are nft's, as not every kernel has `netem`, which
//! delays packets as well: [`Network::has_netem`] says why not, and [`crate::proxy`] delays what is said where there is none.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::Process;

/// What the names of namespaces begin with.
const PREFIX: &str = "rollcall-test";

/// Networks of this process so far.
static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// A switch and the hosts behind it.
#[derive(Debug)]
pub struct Network {
    name: String,
    hosts: Vec<Host>,
}

/// A host of its own.
#[derive(Debug)]
pub struct Host {
    /// Where the others reach it.
    pub address: Ipv4Addr,
    namespace: String,
}

/// Which packets of a host are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All that come in from these.
    From(Ipv4Addr),
    /// All that go out to these.
    To(Ipv4Addr),
    /// Of a hundred that come in, and of a hundred that go out, so many.
    Percent(u8),
}

impl Network {
    /// Why there can be no network here, if so.
    ///
    /// # Errors
    /// What is missing, for people.
    pub fn possible() -> Result<(), String> {
        Self::try_out(|probe| {
            vec![
                format!("ip -n {probe} link add probe2 type bridge"),
                format!("tc -n {probe} qdisc add dev probe0 root tbf rate 1mbit burst 4kb latency 400ms"),
                format!("ip netns exec {probe} nft add table inet probe"),
                format!(
                    "ip netns exec {probe} nft add chain inet probe in {{ type filter hook input priority 0 ; }}"
                ),
                format!("ip netns exec {probe} nft add rule inet probe in numgen random mod 100 < 1 drop"),
            ]
        })
    }

    /// Why packets cannot be delayed here, if so.
    ///
    /// # Errors
    /// What is missing, for people.
    pub fn has_netem() -> Result<(), String> {
        Self::try_out(|probe| {
            vec![format!("tc -n {probe} qdisc add dev probe0 root netem delay 10ms 5ms loss 1%")]
        })
    }

    /// Tries commands out on a link, `probe0`, in a namespace of their own.
    fn try_out(commands: impl FnOnce(&str) -> Vec<String>) -> Result<(), String> {
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root".to_owned());
        }
        // Tests try things out at the same time.
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let probe = format!("{PREFIX}-{}-probe{number}", std::process::id());
        let mut steps = vec![
            format!("ip netns add {probe}"),
            format!("ip -n {probe} link add probe0 type veth peer name probe1"),
        ];
        steps.extend(commands(&probe));
        let outcome = steps.iter().try_for_each(|step| run(step));
        let _ = run(&format!("ip netns delete {probe}"));
        outcome
    }

    /// A network of so many hosts, all of which reach each other.
    ///
    /// # Panics
    /// If it cannot be made; see [`possible`](Self::possible).
    #[must_use]
    pub fn of(hosts: u8) -> Self {
        remove_left_behind();
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{number}", std::process::id());
        // Whatever has been made goes when this is dropped, also if the rest fails.
        let mut network = Self { name: name.clone(), hosts: Vec::new() };
        must(&format!("ip netns add {name}"));
        must(&format!("ip -n {name} link add switch type bridge"));
        must(&format!("ip -n {name} link set switch up"));
        for at in 1..=hosts {
            let host = Host { address: Ipv4Addr::new(10, 99, 0, at), namespace: format!("{name}-{at}") };
            let (namespace, address) = (host.namespace.clone(), host.address);
            network.hosts.push(host);
            must(&format!("ip netns add {namespace}"));
            must(&format!("ip -n {name} link add port{at} type veth peer name eth0 netns {namespace}"));
            must(&format!("ip -n {name} link set port{at} master switch"));
            must(&format!("ip -n {name} link set port{at} up"));
            must(&format!("ip -n {namespace} link set lo up"));
            must(&format!("ip -n {namespace} addr add {address}/24 dev eth0"));
            must(&format!("ip -n {namespace} link set eth0 up"));
        }
        network
    }

    /// The hosts.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in &self.hosts {
            let _ = run(&format!("ip netns delete {}", host.namespace));
        }
        let _ = run(&format!("ip netns delete {}", self.name));
    }
}

impl Host {
    /// Starts a program of this workspace on this host and waits until it says `ready`. Drop it before the network.
    #[must_use]
    pub fn start(&self, program: &str, arguments: &[&str]) -> Process {
        let program_path = crate::binaries::path(program);
        let program_path = program_path.to_str().expect("a path in UTF-8");
        // `ip netns exec` becomes the program, so the process is the program's.
        let all: Vec<String> = ["netns", "exec", &self.namespace, program_path]
            .iter()
            .chain(arguments)
            .map(ToString::to_string)
            .collect();
        Process::start_at(&executable("ip"), &format!("{program} on {}", self.address), &all)
    }

    /// Does something on this host, on a thread of its own.
    ///
    /// # Panics
    /// As what is done does.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.namespace);
        let moved = move || {
            let namespace = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .unwrap_or_else(|error| panic!("{path}: {error}"));
            action()
        };
        let done = std::thread::scope(|scope| scope.spawn(moved).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// An address of this host.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    /// Takes its link down, or up again.
    pub fn set_link(&self, is_up: bool) {
        let to = if is_up { "up" } else { "down" };
        must(&format!("ip -n {} link set eth0 {to}", self.namespace));
    }

    /// Sends so many bits a second at the most from now on.
    pub fn set_rate(&self, bits: u32) {
        must(&format!(
            "tc -n {} qdisc replace dev eth0 root tbf rate {bits}bit burst 4kb latency 400ms",
            self.namespace
        ));
    }

    /// Delays each packet that goes out by so much, give or take `jitter`, and loses so many of a hundred, from now on; in place of
    /// any limit. Ask [`Network::has_netem`] first.
    pub fn set_delay(&self, delay: Duration, jitter: Duration, lost: u8) {
        let (delay, jitter) = (delay.as_millis(), jitter.as_millis());
        must(&format!(
            "tc -n {} qdisc replace dev eth0 root netem delay {delay}ms {jitter}ms loss {lost}%",
            self.namespace
        ));
    }

    /// Loses these packets from now on, and no others.
    pub fn lose(&self, losses: &[Loss]) {
        let nft = |rest: &str| must(&format!("ip netns exec {} nft {rest}", self.namespace));
        nft("add table inet loss");
        nft("delete table inet loss");
        nft("add table inet loss");
        nft("add chain inet loss in { type filter hook input priority 0 ; }");
        nft("add chain inet loss out { type filter hook output priority 0 ; }");
        for loss in losses {
            match loss {
                Loss::From(address) => nft(&format!("add rule inet loss in ip saddr {address} drop")),
                Loss::To(address) => nft(&format!("add rule inet loss out ip daddr {address} drop")),
                Loss::Percent(percent) => {
                    nft(&format!("add rule inet loss in numgen random mod 100 < {percent} drop"));
                    nft(&format!("add rule inet loss out numgen random mod 100 < {percent} drop"));
                }
            }
        }
    }

    /// Ends every loss and limit, and takes the link up.
    pub fn heal(&self) {
        self.lose(&[]);
        self.set_link(true);
        // There is no limit to take away if none was set.
        let _ = run(&format!("tc -n {} qdisc delete dev eth0 root", self.namespace));
    }
}

/// Runs a command of words without blanks.
fn run(command: &str) -> Result<(), String> {
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program} cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`{command}` failed: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn must(command: &str) {
    run(command).unwrap_or_else(|error| panic!("{error}"));
}

/// Where a program of the system is.
fn executable(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("there is no {name}"))
}

/// Deletes the namespaces of tests that are over without having tidied up.
fn remove_left_behind() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-')) else { continue };
        let owner = rest.split('-').next().unwrap_or_default();
        if !std::path::Path::new(&format!("/proc/{owner}")).exists() {
            let _ = run(&format!("ip netns delete {name}"));
        }
    }
}
