//! An export that is not whole never looks as if it were.

use std::path::Path;

use rollcall_tests::proxy::{Proxy, Rules, Way};
use rollcall_tests::sandbox::{Agent, Cluster};

use super::run::{ask, run, to};

fn synthetic(name: &str) -> Agent {
    Agent::start(name, &["--broker", "synthetic", "--clients", "20000"])
}

/// What is in the folder, sorted.
fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_has_its_name_only_when_it_is_whole() {
    let mut cluster = Cluster::of(vec![synthetic("a@127.0.0.1"), synthetic("b@127.0.0.1")]);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let lines = |name: &str| std::fs::read_to_string(path(name)).unwrap().lines().count();

    for (format, file, expected) in [("ndjson", "a.ndjson", 40_000), ("csv", "a.csv", 40_001)] {
        let said = ask(&cluster, &["export", "--format", format, "-o", &path(file)]);
        said.failed(0, &[file]);
        assert_eq!((lines(file), said.out.as_str()), (expected, ""));
    }
    let whole = std::fs::read_to_string(path("a.ndjson")).unwrap();
    assert_eq!(files(folder.path()), ["a.csv", "a.ndjson"]);

    // Cut on the way, early and late.
    for (format, file) in [("ndjson", "a.ndjson"), ("csv", "a.csv")] {
        for after in [100_000, 5_000_000] {
            let proxy = Proxy::to(cluster.gateway.address());
            proxy.set(Rules { down: Way { cut_after: Some(after), ..Way::default() }, ..Rules::default() });
            let said = run(to(proxy.address, &["export", "--format", format, "-o", &path(file)]));
            said.failed(1, &["broke off", ".part"]);
        }
    }
    assert_eq!(files(folder.path()), ["a.csv", "a.csv.part", "a.ndjson", "a.ndjson.part"]);
    assert!(whole.starts_with(&std::fs::read_to_string(path("a.ndjson.part")).unwrap()));
    assert_eq!(std::fs::read_to_string(path("a.ndjson")).unwrap(), whole, "the file before was touched");

    // Without a node.
    cluster.agents[1].process.kill();
    let said = ask(&cluster, &["export", "-o", &path("b.ndjson")]);
    said.failed(4, &["1 of 2 nodes answered; b@127.0.0.1: ", "b.ndjson.part"]);
    ask(&cluster, &["export", "--format", "csv", "-o", &path("b.csv")]).failed(4, &["b@127.0.0.1"]);
    assert_eq!(files(folder.path()), ["a.csv", "a.csv.part", "a.ndjson", "a.ndjson.part", "b.ndjson.part"]);
    let said = ask(&cluster, &["export", "-o", &path("b.ndjson"), "--partial-ok"]);
    said.failed(0, &["b@127.0.0.1", "b.ndjson"]);
    assert_eq!((lines("b.ndjson"), Path::new(&path("b.ndjson.part")).exists()), (20_000, false));

    ask(&cluster, &["export", "-o", &path("none/c.ndjson")]).failed(1, &["none/c.ndjson.part"]);
}
