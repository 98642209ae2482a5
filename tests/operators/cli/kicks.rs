//! Kicks end the clients that are meant, are asked about before, and told of after.

use std::process::Stdio;

use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::sandbox::Cluster;
use rollcall_tests::wait::eventually;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::run::{ask, run_with, to, with};
use super::terminal::Terminal;

fn connect(cluster: &Cluster, at: usize, clientid: &str) -> Client {
    let client = Client::connect(cluster.agents[at].mqtt(), &Connect::new(5, clientid));
    // `row` wants one row of an id, which those that are on several nodes have not.
    eventually(clientid, || match cluster.gateway.find(clientid) {
        rows if rows.iter().any(|row| row["node"] == cluster.agents[at].name && row["connected"] == true) => {
            Ok(())
        }
        rows => Err(format!("{rows:?}")),
    });
    client
}

fn count(cluster: &Cluster) -> String {
    ask(cluster, &["count"]).whole()
}

#[test]
fn ids_are_kicked_wherever_they_are_and_each_is_told() {
    let cluster = Cluster::embedded();
    let mut kicked =
        [connect(&cluster, 0, "twin"), connect(&cluster, 2, "twin"), connect(&cluster, 1, "a/b ü")];
    let mut safe = connect(&cluster, 1, "twins");

    // Nobody can be asked, so nobody is kicked.
    let said = ask(&cluster, &["kick", "twin"]);
    said.failed(2, &["--yes"]);
    ask(&cluster, &["kick", "--yes"]).failed(2, &["--everybody"]);
    ask(&cluster, &["kick", "--yes", "a", "--like", "b"]).failed(2, &["both"]);
    ask(&cluster, &["kick", "--yes", "--like", ""]).failed(2, &["confirm", "--everybody"]);
    let said = ask(&cluster, &["kick", "--dry-run", "twin", "a/b ü"]);
    said.failed(0, &["3 sessions would be kicked: a@127.0.0.1 1, b@127.0.0.1 1, c@127.0.0.1 1"]);
    assert_eq!(said.out.lines().count(), 4, "{said:?}");
    assert_eq!(count(&cluster), "4\n");

    let said = ask(&cluster, &["kick", "--yes", "twin", "nobody", "a/b ü", "twin"]);
    said.failed(3, &["2 kicked, 1 not found of 3"]);
    let mut lines: Vec<&str> = said.out.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "kicked     a/b ü on b@127.0.0.1",
            "kicked     twin on a@127.0.0.1, c@127.0.0.1",
            "not_found  nobody: client \"nobody\" is on no node"
        ]
    );
    kicked.iter_mut().for_each(Client::await_close);
    safe.ping();
    assert_eq!(count(&cluster), "1\n");

    // Out of a file, and told as the gateway does.
    let said = run_with(
        to(cluster.gateway.address(), &["kick", "--yes", "--from", "-", "-o", "ndjson"]),
        "twins\n\n",
    );
    assert_eq!(said.status, 0, "{said:?}");
    let lines: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({"clientid": "twins", "outcome": "kicked", "kicked_on": ["b@127.0.0.1"]}));
    assert_eq!((lines.len(), &lines[1]["meta"]["complete"]), (2, &json!(true)));
    safe.await_close();
}

#[test]
fn a_filter_kicks_those_who_match_within_its_bounds() {
    let cluster = Cluster::embedded();
    let mut fleet: Vec<Client> = (0..6).map(|at| connect(&cluster, at % 3, &format!("fleet-{at}"))).collect();
    let mut safe = [0, 1].map(|at| connect(&cluster, at, &format!("safe-{at}")));
    let said = ask(&cluster, &["kick", "--like", "fleet-", "--dry-run", "-o", "ndjson"]);
    said.failed(0, &["6 sessions would be kicked: a@127.0.0.1 2, b@127.0.0.1 2, c@127.0.0.1 2"]);
    assert_eq!(said.out.lines().count(), 7);
    ask(&cluster, &["kick", "--like", "fleet-", "--max", "5", "--dry-run"]).failed(1, &["6", "5", "--max"]);
    ask(&cluster, &["kick", "--like", "fleet-", "--max", "5", "--yes"]).failed(1, &["6", "5"]);
    assert_eq!(count(&cluster), "8\n");

    // Everybody on that node.
    ask(&cluster, &["kick", "--like", "fleet-", "--node", "c@127.0.0.1", "--yes"])
        .failed(2, &["--everybody"]);
    let said = ask(&cluster, &["kick", "--like", "fleet-", "--node", "b@127.0.0.1", "--yes"]);
    said.failed(0, &["2 kicked of 2"]);
    assert!(
        said.out
            .lines()
            .all(|line| line.starts_with("kicked     fleet-") && line.ends_with(" on b@127.0.0.1")),
        "{said:?}"
    );
    let begun = std::time::Instant::now();
    ask(&cluster, &["kick", "--like", "fleet-", "--yes", "--rate", "2"]).failed(0, &["4 kicked of 4"]);
    assert!(begun.elapsed() >= std::time::Duration::from_millis(1400), "{:?}", begun.elapsed());
    fleet.iter_mut().for_each(Client::await_close);
    safe.iter_mut().for_each(Client::ping);
    ask(&cluster, &["kick", "--yes", "--everybody"]).failed(0, &["2 kicked of 2"]);
    safe.iter_mut().for_each(Client::await_close);
    ask(&cluster, &["kick", "--like", "fleet-", "--yes"]).failed(0, &["0 kicked of 0"]);
}

#[test]
fn a_kick_without_all_nodes_is_no_whole_one() {
    let mut cluster = Cluster::embedded();
    let mut clients = [connect(&cluster, 0, "fleet-1"), connect(&cluster, 1, "fleet-2")];
    cluster.agents[2].process.kill();
    eventually(
        "failure of c",
        || if cluster.failed_nodes().is_empty() { Err(String::new()) } else { Ok(()) },
    );
    ask(&cluster, &["kick", "--yes", "--like", "fleet-"]).failed(4, &["c@127.0.0.1"]);
    clients.iter_mut().for_each(Client::ping);
    // Found, and it may be on the silent node too.
    ask(&cluster, &["kick", "--yes", "fleet-1"])
        .failed(4, &["1 kicked of 1", "2 of 3 nodes answered; c@127.0.0.1"]);
    ask(&cluster, &["kick", "--yes", "fleet-1"]).failed(1, &["0 kicked, 1 failed of 1"]);
    let said = ask(&cluster, &["kick", "--yes", "--like", "fleet-", "--everybody", "--partial-ok"]);
    said.failed(0, &["1 kicked of 1", "c@127.0.0.1"]);
    clients.iter_mut().for_each(Client::await_close);
}

#[test]
fn a_kick_goes_on_without_a_reader_and_ends_by_ctrl_c() {
    let cluster = Cluster::embedded();
    let mut fleet: Vec<Client> = (0..6).map(|at| connect(&cluster, at % 3, &format!("fleet-{at}"))).collect();
    let mut command =
        to(cluster.gateway.address(), &["kick", "--like", "fleet-", "--everybody", "--yes", "--rate", "3"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), err.as_str()), (Some(0), "6 kicked of 6\n"));
    fleet.iter_mut().for_each(Client::await_close);

    let ids: Vec<String> = (0..9).map(|at| format!("slow-{at}")).collect();
    let mut slow: Vec<Client> = ids.iter().map(|id| connect(&cluster, 0, id)).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{}\r\n\n", ids.join("\n"))).unwrap();
    let from = file.path().to_str().unwrap();
    let command = to(cluster.gateway.address(), &["kick", "--from", from, "--rate", "1"]);
    let mut terminal = Terminal::start(command, 100, 24);
    // By ids it is asked as well.
    terminal.await_text("kick 9 sessions: a@127.0.0.1 9? [y/N] ", 0);
    terminal.type_in("y\n");
    terminal.await_text(" slow-1 on a@127.0.0.1", terminal.seen().len());
    terminal.signal(Signal::INT);
    let (status, seen) = terminal.end();
    assert_eq!(status, Some(130), "{seen}");
    assert!(seen.contains("so far: ") && seen.contains("interrupted"), "{seen}");
    // Those behind it stay.
    let left = slow.split_off(5);
    eventually("end of the kicks", || match count(&cluster).trim().parse::<u64>().unwrap() {
        left @ 4..9 => Ok(left),
        other => Err(other.to_string()),
    });
    left.into_iter().for_each(|mut client| client.ping());
}

#[test]
fn at_a_terminal_it_is_asked_and_shows_how_far_it_is() {
    let cluster = Cluster::embedded();
    let mut fleet: Vec<Client> = (0..6).map(|at| connect(&cluster, at % 3, &format!("fleet-{at}"))).collect();
    let kick = || {
        let command = to(cluster.gateway.address(), &["kick", "--like", "fleet-", "--rate", "3"]);
        Terminal::start(with(command, &[("NO_COLOR", "1")]), 100, 24)
    };
    for no in ["\n", "n\n", "maybe\n"] {
        let mut terminal = kick();
        terminal.await_text("kick 6 sessions: a@127.0.0.1 2, b@127.0.0.1 2, c@127.0.0.1 2? [y/N] ", 0);
        terminal.type_in(no);
        let (status, seen) = terminal.end();
        assert!(status == Some(1) && seen.contains("nobody was kicked"), "{seen}");
        assert!(seen.contains("  fleet-0 on a@127.0.0.1"), "{seen}");
    }
    fleet.iter_mut().for_each(Client::ping);

    // It is everybody, which the answer confirms.
    let mut terminal = kick();
    terminal.await_text("[y/N] ", 0);
    terminal.type_in("y\n");
    let (status, seen) = terminal.end();
    assert_eq!(status, Some(0), "{seen}");
    for line in ["[........................] 0 of 6, 0 kicked", "[############............] 3 of 6, 3 kicked"]
    {
        assert!(seen.contains(line), "{seen:?}");
    }
    assert!(seen.matches("] ").count() > 2 && seen.contains("\r\x1b[Kkicked     fleet-"), "{seen:?}");
    assert!(seen.ends_with("6 kicked of 6\r\n"), "{seen:?}");
    fleet.iter_mut().for_each(Client::await_close);
    assert_eq!(count(&cluster), "0\n");
}
