//! Every client can be addressed, whatever it is called and wherever it comes from.

use std::net::TcpListener;

use rollcall_tests::http::encode;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::sandbox::{Agent, Cluster};
use serde_json::{Value, json};

use crate::real::{Login, Real};

fn odd_names() -> Vec<String> {
    let names = [
        "a/b/c",
        "/",
        "per%cent",
        "%2F",
        "%",
        "plus+plus",
        "sp ace",
        " ",
        "Ünïcödé",
        "设备-1",
        "😀",
        "quote\"q",
        "back\\slash",
        "..",
        ".",
        "q?m&x=1",
        "hash#tag",
        "semi;colon",
        "pipe|pipe",
        "{brace}",
        "<tag>",
        "'",
        "`",
        "username",
        "clients",
        "nodes",
        "undefined",
        "null",
        "0",
        "-1",
        "a@b",
        "~",
        "e\u{301}",
        "\u{202e}rtl",
    ];
    let mut names = names.map(str::to_owned).to_vec();
    names.extend(["x".repeat(200), "ü/".repeat(100), "x".repeat(5000)]);
    names
}

#[test]
fn clients_of_any_name_are_found_listed_and_kicked() {
    let cluster = Cluster::embedded();
    let names = odd_names();
    let mut clients: Vec<Client> = names
        .iter()
        .enumerate()
        .map(|(number, name)| {
            let connect =
                Connect { username: Some(name.clone()), ..Connect::new(4 + (number % 2) as u8, name) };
            Client::connect(cluster.agents[number % 3].mqtt(), &connect)
        })
        .collect();
    for (number, name) in names.iter().enumerate() {
        let row = cluster.gateway.row(name);
        assert_eq!((&row["clientid"], &row["username"]), (&json!(name), &json!(name)));
        let node = &cluster.agents[number % 3].name;
        assert_eq!(row["node"], json!(node), "{name}");
        let encoded = encode(name);
        for target in [
            format!("/clients?clientid={encoded}"),
            format!("/clients?username={encoded}"),
            format!("/clients/username/{encoded}"),
            format!("/nodes/{node}/clients/{encoded}"),
            format!("/nodes/{node}/clients?clientid={encoded}"),
            format!("/nodes/{node}/clients/username/{encoded}"),
        ] {
            let rows = cluster.gateway.get(&target).rows();
            assert_eq!(
                rows.iter().map(|row| &row["clientid"]).collect::<Vec<_>>(),
                [name.as_str()],
                "{target}"
            );
        }
        for parameter in ["_like_clientid", "_like_username"] {
            let rows =
                cluster.gateway.get(&format!("/clients?{parameter}={encoded}&_fields=clientid")).rows();
            let mut expected: Vec<&String> =
                names.iter().filter(|other| other.contains(name.as_str())).collect();
            expected.sort();
            assert_eq!(
                rows.iter().map(|row| row["clientid"].as_str().unwrap()).collect::<Vec<_>>(),
                expected,
                "{name}"
            );
        }
    }
    let list = cluster.gateway.get("/clients?_fields=clientid").rows();
    let mut sorted: Vec<&str> = names.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    assert_eq!(list.iter().map(|row| row["clientid"].as_str().unwrap()).collect::<Vec<_>>(), sorted);

    for (name, client) in names.iter().zip(&mut clients) {
        let response = cluster.gateway.kick(name);
        assert_eq!(response.status, 200, "{name}: {}", String::from_utf8_lossy(&response.body));
        assert_eq!(response.json()["data"][0]["clientid"], json!(name));
        client.await_close();
        assert_eq!(cluster.gateway.find(name), [] as [Value; 0], "{name}");
    }
    assert_eq!(cluster.gateway.get("/clients?_limit=0").json()["meta"]["count"], 0);
}

#[test]
fn a_path_may_be_written_in_every_way_that_means_the_same() {
    let cluster = Cluster::embedded();
    let _dots = Client::connect(cluster.agents[0].mqtt(), &Connect::new(4, ".."));
    let _plus = Client::connect(cluster.agents[1].mqtt(), &Connect::new(4, "a+b"));
    let _slash = Client::connect(cluster.agents[2].mqtt(), &Connect::new(4, "a/b"));
    for (target, clientid) in [
        ("/clients/..", ".."),
        ("/clients/%2e%2E", ".."),
        ("/clients/a+b", "a+b"),
        ("/clients/a%2Bb", "a+b"),
        ("/clients/%61+b", "a+b"),
        ("/clients/a%2fb", "a/b"),
        ("/clients/a%2Fb", "a/b"),
        ("/clients/a%2Fb/", "a/b"),
        ("/clients?clientid=a%2Bb", "a+b"),
        ("/clients?clientid=a/b", "a/b"),
        ("/nodes/c%40127.0.0.1/clients/a%2Fb", "a/b"),
    ] {
        let rows = cluster.gateway.get(target).rows();
        assert_eq!(rows.iter().map(|row| &row["clientid"]).collect::<Vec<_>>(), [clientid], "{target}");
    }
    for target in ["/clients/a/b", "/clients/username/a/b", "/nodes/c@127.0.0.1/clients/a/b", "/../clients"] {
        let response = cluster.gateway.get(target);
        assert_eq!((response.status, response.code()), (404, 102), "{target}");
    }
}

#[test]
fn a_client_that_comes_by_ipv6_is_listed_under_its_address() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("SKIPPED: this machine has no IPv6 loopback address");
        return;
    }
    let v6 = Agent::start("six@127.0.0.1", &["--mqtt-listen", "[::1]:0"]);
    let cluster = Cluster::of(vec![v6, Agent::embedded("four@127.0.0.1")]);
    assert!(cluster.agents[0].mqtt().is_ipv6());
    let mut client = Client::connect(cluster.agents[0].mqtt(), &Connect::new(5, "by six"));
    let _other = Real::v4(cluster.agents[1].mqtt(), Login::clean("by four"));
    cluster.gateway.row("by four");
    let row = cluster.gateway.row_when("by six", |row| row["recv_oct"] == client.sent_bytes);
    assert_eq!((&row["ip_address"], &row["port"]), (&json!("::1"), &json!(client.local_address().port())));
    for (address, clientid) in [
        ("::1", "by six"),
        ("0:0:0:0:0:0:0:1", "by six"),
        ("%3A%3A1", "by six"),
        ("127.0.0.1", "by four"),
        ("::ffff:127.0.0.1", "by four"),
    ] {
        let rows = cluster.gateway.get(&format!("/clients?ip_address={address}")).rows();
        assert_eq!(rows.iter().map(|row| &row["clientid"]).collect::<Vec<_>>(), [clientid], "{address}");
    }
    let both = cluster.gateway.get("/clients?ip_address=::1&ip_address=127.0.0.1&_sort=ip_address").rows();
    assert_eq!(both.iter().map(|row| &row["clientid"]).collect::<Vec<_>>(), ["by four", "by six"]);
    assert_eq!(cluster.gateway.kick("by six").status, 200);
    client.await_close();
}
