//! What cannot be answered: how it is said, and the status it ends with.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;

use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::process;
use rollcall_tests::sandbox::{Agent, Cluster, VIEWER};
use rollcall_tests::wait::eventually;

use super::run::{ask, command, run, to, with};

#[test]
fn missing_nodes_are_named_and_have_a_status() {
    let mut cluster = Cluster::embedded();
    let _client = Client::connect(cluster.agents[0].mqtt(), &Connect::new(5, "on-a"));
    cluster.gateway.row("on-a");
    cluster.agents[2].process.kill();
    eventually("failure of c", || match cluster.failed_nodes() {
        failed if failed == ["c@127.0.0.1"] => Ok(()),
        failed => Err(format!("{failed:?}")),
    });
    let named = "2 of 3 nodes answered; c@127.0.0.1: unreachable";
    for (arguments, shown) in [
        (&["clients"][..], "on-a"),
        (&["clients", "--all"], "on-a"),
        (&["clients", "-o", "csv"], "on-a"),
        (&["client", "on-a"], "on-a"),
        (&["count"], "1\n"),
        (&["count", "--by", "node"], "a@127.0.0.1      1"),
        (&["top"], "on-a"),
        (&["export"], "\"on-a\""),
    ] {
        let said = ask(&cluster, arguments);
        said.failed(4, &[named]);
        assert!(said.out.contains(shown), "{said:?}");
        let said = ask(&cluster, &[arguments, &["--partial-ok"]].concat());
        said.failed(0, &[named]);
        assert!(said.out.contains(shown), "{said:?}");
    }
    // Nobody can say that it is nowhere.
    let said = ask(&cluster, &["client", "elsewhere"]);
    said.failed(4, &["c@127.0.0.1"]);
    assert_eq!(said.out, "");
    // A CSV could not say what it lacks.
    let said = ask(&cluster, &["export", "--format", "csv"]);
    said.failed(4, &["c@127.0.0.1"]);
    assert_eq!(said.out, "");
    let said = ask(&cluster, &["export", "--format", "csv", "--partial-ok", "--fields", "clientid"]);
    said.failed(0, &["--partial-ok"]);
    assert_eq!(said.out, "clientid\r\non-a\r\n");
    // The nodes are all told of, the silent one too.
    let nodes = ask(&cluster, &["nodes"]);
    assert!(nodes.status == 0 && nodes.out.contains("unavailable"), "{nodes:?}");
}

#[test]
fn every_refusal_says_what_was_expected() {
    let cluster =
        Cluster::of(vec![Agent::start("a@127.0.0.1", &["--broker", "synthetic", "--clients", "5"])]);
    let address = cluster.gateway.address();
    for (arguments, status, named) in [
        (&["clients", "--sort", "size"][..], 2, &["size", "_sort"][..]),
        (&["clients", "--fields", "clientid,size"], 2, &["size"]),
        (&["clients", "--state", "gone"], 2, &["gone", "connected"]),
        (&["clients", "--watch", "-o", "json"], 2, &["--watch", "table"]),
        (&["clients", "--connected-after", "soon"], 2, &["soon", "UTC"]),
        (&["clients", "--node", "z@127.0.0.1"], 2, &["z@127.0.0.1"]),
        (&["clientz"], 2, &["clientz"]),
        (&["count", "--by", "port"], 2, &["port"]),
        (&["export", "--sort", "mqueue_len"], 2, &["mqueue_len"]),
        (&["client", "nobody"], 3, &["nobody"]),
        (&["nodes", "z@127.0.0.1"], 3, &["z@127.0.0.1", "a@127.0.0.1"]),
        (&["count", "--context", "none"], 2, &["none"]),
        (&["count", "--ca", "/nowhere/ca.pem"], 1, &["/nowhere/ca.pem"]),
        (&["count", "--key-file", "/nowhere/key"], 1, &["/nowhere/key"]),
        (&["count", "--url", "gateway"], 2, &["gateway", "https://"]),
    ] {
        let said = run(with(to(address, arguments), &[("HOME", "/nowhere")]));
        said.failed(status, named);
        assert_eq!(said.out, "", "{arguments:?}");
    }
    let as_key = |key: &str, arguments: &[&str]| run(with(to(address, arguments), &[("ROLLCALL_KEY", key)]));
    let viewer = format!("{}:{}", VIEWER.0, VIEWER.1);
    assert_eq!(as_key(&viewer, &["count"]).whole(), "5\n");
    as_key(&viewer, &["kick", "--yes", "nobody"]).failed(5, &["operator"]);
    let wrong = as_key("app_id:hush-hush", &["count"]);
    wrong.failed(5, &[]);
    assert!(!wrong.err.contains("hush-hush"), "{wrong:?}");
    as_key("two words", &["count"]).failed(1, &["ROLLCALL_KEY"]);
    assert_eq!(as_key("app_secret", &["count"]).whole(), "5\n");
}

#[test]
fn what_is_no_gateway_is_told_so() {
    let said = run(to("127.0.0.1:1".parse().unwrap(), &["count"]));
    said.failed(1, &["127.0.0.1:1", "refused"]);
    for (answer, named) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "is that a Rollcall gateway"),
        ("HTTP/1.1 404 No\r\ncontent-length: 4\r\n\r\n<br>", "404"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"code\":0", "broke off"),
        ("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", "302"),
        ("SSH-2.0-OpenSSH_9\r\n", "127.0.0.1"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = std::io::Read::read(&mut stream, &mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        run(to(address, &["count"])).failed(1, &[named]);
        server.join().unwrap();
    }
    // A gateway that lets one wait has as long as it was given, and two seconds for the way.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let said = run(to(listener.local_addr().unwrap(), &["count", "--timeout", "100ms"]));
    said.failed(1, &["no answer within 2s 100ms"]);
}

#[test]
fn https_takes_the_authority_it_is_told_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let make = |name: &str| {
        let dir = path(name);
        let (status, _, err) =
            process::run("rollcall-gateway", &["dev-certs", "--dir", &dir, "--gateway", "127.0.0.1"]);
        assert!(status.success(), "{err}");
    };
    make("own");
    make("other");
    let agents = [Agent::start("a@127.0.0.1", &["--broker", "synthetic", "--clients", "5"])];
    let (cert, key) = (path("own/https.pem"), path("own/https.key"));
    let nodes = [agents[0].process.address];
    let gateway = rollcall_tests::sandbox::Gateway::start(&nodes, &["--tls-cert", &cert, "--tls-key", &key]);
    let url = format!("https://{}", gateway.address());
    let ask = |ca: &[&str]| {
        let arguments = [&["count", "--url", &url][..], ca].concat();
        run(to(gateway.address(), &arguments))
    };
    let own = path("own/ca.pem");
    eventually("answer of the node", || match ask(&["--ca", &own]) {
        said if said.out == "5\n" => Ok(()),
        said => Err(format!("{said:?}")),
    });
    ask(&["--ca", &path("other/ca.pem")]).failed(1, &["certificate"]);
    ask(&["--ca", &path("own/https.key")]).failed(1, &["no certificate"]);
    let system = ask(&[]);
    assert_eq!((system.status, system.out.as_str()), (1, ""), "{system:?}");
    // In a context, by a path beside its file.
    std::fs::write(
        path("config.toml"),
        format!(
            "current = \"x\"\n[contexts.x]\nurl = {url:?}\nca = \"own/ca.pem\"\nkey = \"app_id:app_secret\"\n"
        ),
    )
    .unwrap();
    let config: PathBuf = path("config.toml").into();
    std::fs::set_permissions(&config, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(run(with(command(&["count"]), &[("ROLLCALL_CONFIG", &config)])).whole(), "5\n");
}

#[test]
fn a_reader_who_leaves_ends_it_quietly() {
    let cluster =
        Cluster::of(vec![Agent::start("a@127.0.0.1", &["--broker", "synthetic", "--clients", "20000"])]);
    let address = cluster.gateway.address();
    for arguments in [
        &["clients", "--all"][..],
        &["clients", "--all", "-o", "json"],
        &["export"],
        &["export", "--format", "csv"],
        &["clients", "--watch", "--interval", "10ms"],
    ] {
        let mut command = to(address, arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = [0; 10];
        let mut out = child.stdout.take().unwrap();
        std::io::Read::read_exact(&mut out, &mut line).unwrap();
        drop(out);
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
    // A disk that is full is another thing.
    let full = std::fs::File::create("/dev/full").unwrap();
    let output = to(address, &["clients"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("stdout: "));
}
