//! Disks and descriptors that run out.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rollcall_tests::asker::Asked;
use rollcall_tests::http;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::process::{Process, is_clean};
use rollcall_tests::sandbox::{Agent, Cluster, OPERATOR};
use rollcall_tests::wait::{eventually, pause};
use rollcall_tests::{binaries, rows};
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

/// Clients to be kicked, on one node.
const SPARES: usize = 200;

fn node() -> (Agent, NamedTempFile) {
    let table = rows::table(&Asked::spare_rows(&["a@127.0.0.1".to_owned()], SPARES));
    (Agent::file("a@127.0.0.1", table.path()), table)
}

fn spare(at: usize) -> String {
    format!("spare-{at}-of-a@127.0.0.1")
}

/// A small disk, mounted for as long as this lives.
struct Disk(TempDir);

impl Disk {
    /// `None`, said aloud, where this process may not mount.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        match mount.args(["-t", "tmpfs", "-o", "size=64k", "rollcall"]).arg(folder.path()).output() {
            Ok(output) if output.status.success() => Some(Self(folder)),
            other => {
                println!("SKIPPED: a disk of the test's own cannot be mounted: {other:?}");
                None
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes until nothing more fits.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.path("filler")).unwrap();
        while file.write_all(&[b'x'; 512]).is_ok() {}
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

/// The records of a file, and how many lines are none.
fn records(path: &Path) -> (Vec<Value>, usize) {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().count();
    let records: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let torn = lines - records.len();
    (records, torn)
}

fn has(records: &[Value], clientid: &str, outcome: &str) -> bool {
    records.iter().any(|record| record["clientid"] == clientid && record["outcome"] == outcome)
}

#[test]
fn on_a_full_disk_no_kick_is_carried_out_without_a_record() {
    let Some(disk) = Disk::new() else { return };
    let audit = disk.path("audit.jsonl");
    let (agent, _table) = node();
    let cluster = Cluster::with(vec![agent], &["--audit-log", audit.to_str().unwrap()]);
    assert_eq!(cluster.gateway.kick(&spare(0)).status, 200);
    disk.fill();
    // What is left of the file's last page takes some lines yet; the line that does not fit is torn.
    let mut refused = 0;
    for at in 1..60 {
        let response = cluster.gateway.kick(&spare(at));
        let (records, _) = records(&audit);
        let is_there = !cluster.gateway.find(&spare(at)).is_empty();
        match response.status {
            200 => assert!(!is_there && has(&records, &spare(at), "asked"), "{at} went without a record"),
            503 => {
                assert_eq!(response.code(), 102);
                assert!(response.message().contains("cannot be put on record"), "{}", response.message());
                assert!(is_there, "{at} was refused and is gone");
                refused += 1;
            }
            other => panic!("{other}: {:?}", response.json()),
        }
    }
    assert!(refused > 20, "{refused} kicks were refused");
    assert_eq!(cluster.gateway.get("/clients?_limit=0").status, 200, "who reads needs no disk");
    let log = cluster.gateway.process.log();
    assert!(log.contains("cannot be put on record") && log.contains("No space left on device"), "{log}");

    std::fs::remove_file(disk.path("filler")).unwrap();
    assert_eq!(cluster.gateway.kick(&spare(100)).status, 200);
    let (records, torn) = records(&audit);
    assert!(has(&records, &spare(100), "asked") && has(&records, &spare(100), "kicked"));
    assert!(torn <= 1, "{torn} lines are torn; no record may be written onto the end of a torn one");
}

#[test]
fn a_gateway_whose_audit_disk_hangs_ends_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let audit = folder.path().join("audit.jsonl");
    assert!(Command::new("mkfifo").arg(&audit).status().unwrap().success());
    let (agent, _table) = node();
    let mut cluster = Cluster::with(vec![agent], &["--audit-log", audit.to_str().unwrap()]);
    // A pipe that nobody reads takes some lines, and then none.
    let mut kicks = (0..2000).map(|_| cluster.gateway.kick("nobody").status);
    assert_eq!(kicks.find(|status| *status != 404), Some(503), "the pipe takes no end of lines");
    // Kicks that wait for it when the end comes.
    let address = cluster.gateway.address();
    let waiting: Vec<_> = (0..5)
        .map(|at| {
            let target = format!("/api/v4/clients/{}", spare(at));
            let key = http::basic(OPERATOR.0, OPERATOR.1);
            let head = http::head(address, "DELETE", &target, &[("authorization", &key)]);
            std::thread::spawn(move || http::send(address, head.as_bytes()))
        })
        .collect();
    pause(Duration::from_millis(300));
    let begun = Instant::now();
    let status = cluster.gateway.process.terminate();
    assert!(is_clean(status), "{status}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    for answer in waiting {
        // Nobody waits longer than for 2 s for the disk, so all of them were told.
        assert_eq!(answer.join().unwrap().unwrap().status, 503);
    }
    let log = cluster.gateway.process.log();
    assert!(log.contains("records still wait for the disk at the end, and are lost"), "{log}");
}

#[test]
fn an_audit_file_that_goes_away_comes_again_and_without_it_nobody_is_kicked() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("audit");
    std::fs::create_dir(&home).unwrap();
    let (audit, moved) = (home.join("audit.jsonl"), home.join("moved.jsonl"));
    let (agent, _table) = node();
    let gateway = gateway_without_privilege(&agent, &audit);
    let key = http::basic(OPERATOR.0, OPERATOR.1);
    let kick = |at: usize| {
        let target = format!("/api/v4/clients/{}", spare(at));
        http::request(gateway.address, "DELETE", &target, &[("authorization", &key)])
    };
    assert_eq!(kick(0).status, 200);
    std::fs::rename(&audit, &moved).unwrap();
    assert_eq!(kick(1).status, 200);
    std::fs::remove_file(&audit).unwrap();
    assert_eq!(kick(2).status, 200);
    assert!(has(&records(&moved).0, &spare(0), "kicked"));
    assert!(has(&records(&audit).0, &spare(2), "kicked") && !has(&records(&audit).0, &spare(1), "asked"));

    // A file that lost its permissions is still open, and still takes records.
    set_mode(&audit, 0);
    assert_eq!(kick(3).status, 200);
    set_mode(&audit, 0o600);
    assert!(has(&records(&audit).0, &spare(3), "kicked"));
    // One that cannot be made does not.
    std::fs::remove_file(&audit).unwrap();
    set_mode(&home, 0o500);
    let response = kick(4);
    set_mode(&home, 0o700);
    assert_eq!((response.status, response.code()), (503, 102), "{:?}", response.json());
    assert!(gateway.log().contains("Permission denied"), "{}", gateway.log());
    let target = format!("/api/v4/clients/{}", spare(4));
    let there = http::request(gateway.address, "GET", &target, &[("authorization", &key)]);
    assert_eq!(there.rows().len(), 1, "refused, and yet gone");
    assert_eq!(kick(4).status, 200);
    // Nor does a folder in its place.
    std::fs::remove_file(&audit).unwrap();
    std::fs::create_dir(&audit).unwrap();
    assert_eq!(kick(5).status, 503);
    std::fs::remove_dir(&audit).unwrap();
    assert_eq!(kick(5).status, 200);
    assert!(has(&records(&audit).0, &spare(5), "kicked"));
}

/// A gateway that permissions count for, also if root runs the tests.
fn gateway_without_privilege(agent: &Agent, audit: &Path) -> Process {
    let program = binaries::path("rollcall-gateway");
    let key = format!("{}:{}:operator", OPERATOR.0, OPERATOR.1);
    let (node, audit) = (agent.process.address.to_string(), audit.to_str().unwrap());
    let own = ["--listen", "127.0.0.1:0", "--node", &node, "--key", &key, "--audit-log", audit];
    let own = own.map(str::to_owned);
    let gateway = if rustix::process::geteuid().is_root() {
        let without = "-dac_override,-dac_read_search";
        let wrapper = [format!("--bounding-set={without}"), format!("--inh-caps={without}")];
        let program = program.to_str().unwrap().to_owned();
        let all: Vec<String> = wrapper.into_iter().chain([program]).chain(own).collect();
        Process::start_at(Path::new("/usr/bin/setpriv"), "gateway", &all)
    } else {
        Process::start_at(&program, "gateway", &own)
    };
    eventually("answer of the node", || {
        let key = http::basic(OPERATOR.0, OPERATOR.1);
        let target = "/api/v4/clients?_limit=0";
        let response = http::request(gateway.address, "GET", target, &[("authorization", &key)]);
        if response.status == 200 { Ok(()) } else { Err(response.message()) }
    });
    gateway
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A connection that stays open between its requests.
struct Kept(TcpStream);

impl Kept {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(stream)
    }

    /// Asks for a short answer, and gives it as text.
    fn get(&mut self, target: &str) -> String {
        let key = http::basic(OPERATOR.0, OPERATOR.1);
        let head = format!("GET /api/v4{target} HTTP/1.1\r\nhost: h\r\nauthorization: {key}\r\n\r\n");
        self.0.write_all(head.as_bytes()).unwrap();
        let mut text = String::new();
        let mut chunk = [0; 4096];
        while !text.ends_with('}') {
            let length = self.0.read(&mut chunk).unwrap();
            assert!(length > 0, "closed after {text:?}");
            text.push_str(std::str::from_utf8(&chunk[..length]).unwrap());
        }
        text
    }
}

/// What a log may say of descriptors that are short for some seconds.
fn assert_told_without_flood(process: &Process) {
    let log = process.log();
    let own =
        |line: &&str| line.contains("cannot accept connections") && line.contains("Too many open files");
    let told = log.lines().filter(own).count();
    assert!((1..=3).contains(&told), "{told} lines tell of descriptors: {log}");
}

#[test]
fn a_gateway_out_of_descriptors_goes_on_with_those_it_has_and_recovers() {
    let (agent, _table) = node();
    let mut cluster = Cluster::with(vec![agent], &["--export-node-timeout", "1s"]);
    let address = cluster.gateway.address();
    let mut kept = Kept::open(address);
    assert!(kept.get("/clients?_limit=0").contains(r#""answered":1"#));
    let gateway = &cluster.gateway.process;
    gateway.limit_descriptors(gateway.descriptors());
    // They are connected, by the kernel, and wait to be accepted.
    let mut waiting: Vec<Kept> = (0..50).map(|_| Kept::open(address)).collect();
    let before = gateway.cpu_time();
    for _ in 0..6 {
        let answer = kept.get("/clients?_limit=0");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""answered":1"#), "{answer}");
        pause(Duration::from_millis(500));
    }
    let spent = gateway.cpu_time() - before;
    assert!(spent < Duration::from_secs(1), "{spent:?} of CPU time in 3 s, so it spins");
    assert_told_without_flood(gateway);
    // An export needs a connection of its own to each node.
    let export = kept.get("/client_export");
    assert!(export.starts_with("HTTP/1.1 503") && export.contains("a@127.0.0.1"), "{export}");

    gateway.limit_descriptors(10_000);
    for kept in &mut waiting {
        assert!(kept.get("/clients?_limit=0").contains(r#""answered":1"#));
    }
    let export = cluster.gateway.get("/client_export");
    assert!(export.body.ends_with(b"\"failed\":[]}}}\n"), "{}", String::from_utf8_lossy(&export.body));
    assert!(cluster.gateway.process.is_running());
}

#[test]
fn an_agent_out_of_descriptors_goes_on_with_those_it_has_and_recovers() {
    let arguments = ["--export-node-timeout", "1s", "--request-timeout", "2s"];
    let mut cluster = Cluster::with(vec![Agent::embedded("a@127.0.0.1")], &arguments);
    let mut there = Client::connect(cluster.agents[0].mqtt(), &Connect::new(5, "there"));
    cluster.gateway.row("there");
    let agent = &cluster.agents[0].process;
    agent.limit_descriptors(agent.descriptors());
    // Gateways and clients that wait to be accepted.
    let waiting: Vec<TcpStream> = (0..20)
        .flat_map(|_| [agent.address, cluster.agents[0].mqtt()])
        .map(|address| TcpStream::connect(address).unwrap())
        .collect();
    let before = agent.cpu_time();
    for _ in 0..6 {
        there.ping();
        assert_eq!(cluster.gateway.find("there").len(), 1);
        pause(Duration::from_millis(500));
    }
    let spent = agent.cpu_time() - before;
    assert!(spent < Duration::from_millis(1500), "{spent:?} of CPU time in 3 s, so it spins");
    assert_told_without_flood(agent);
    let export = cluster.gateway.get("/client_export");
    assert_eq!((export.status, export.code()), (503, 101), "a stream of its own cannot be had");
    assert!(export.message().contains("a@127.0.0.1"));

    agent.limit_descriptors(10_000);
    drop(waiting);
    let next = eventually("another client", || {
        let stream = rollcall_tests::mqtt::dial(cluster.agents[0].mqtt());
        Client::over(stream, &Connect::new(5, "next")).map_err(|error| error.to_string())
    });
    cluster.gateway.row("next");
    drop(next);
    eventually("an export", || {
        let export = cluster.gateway.get("/client_export");
        if export.body.ends_with(b"\"failed\":[]}}}\n") { Ok(()) } else { Err(format!("{}", export.status)) }
    });
    assert!(cluster.agents[0].process.is_running());
}
