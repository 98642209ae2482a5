//! Nothing secret is written anywhere: not to a log, at any level, of any crate, nor to the audit log, an error or an
//! answer.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rollcall_tests::http;
use rollcall_tests::mqtt::{Client, Connect, dial, packet, text};
use rollcall_tests::process::run;
use rollcall_tests::sandbox::{Agent, BASE, Gateway};
use rollcall_tests::wait::eventually;
use rollcall_tests::written::Written;

mod plugin;

const GATEWAY: &str = "rollcall-gateway";
const AGENT: &str = "rollcall-agent";

// Words that stand nowhere else.
const PASSWORD: &str = "Zq8passwordOfASensor";
const WRONG_PASSWORD: &str = "Zq8passwordThatIsWrong";
const PAYLOAD: &str = "Zq8payloadOfAMessage";
const WILL: &str = "Zq8payloadOfAWill";
const KEY: &str = "Zq8secretOfAnOperator";
const WRONG_KEY: &str = "Zq8secretThatIsWrong";
const TOKEN: &str = "Zq8tokenOfTheGateway-----------------";
const WRONG_TOKEN: &str = "Zq8tokenThatIsWrong------------------";
const MISPLACED: &str = "Zq8secretInTheWrongPlace";

struct Cluster {
    folder: tempfile::TempDir,
    agents: [Agent; 2],
    gateway: Gateway,
    /// One that the agents refuse.
    refused: Gateway,
    /// The secret numbers of the private keys.
    numbers: Vec<Vec<u8>>,
}

impl Cluster {
    fn write(folder: &Path, name: &str, text: &str) -> String {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let (status, _, err) = run(
            GATEWAY,
            &["dev-certs", "--dir", dir.to_str().unwrap(), "--agent", "127.0.0.1", "--gateway", "127.0.0.1"],
        );
        assert!(status.success(), "{err}");
        let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let users = path("users");
        add_user(&users);
        let tokens = Self::write(dir, "tokens", TOKEN);
        let agents = [("a@127.0.0.1", "text"), ("b@127.0.0.1", "json")].map(|(name, format)| {
            let config = format!(
                "token_file = {tokens:?}\n[log]\nformat = {format:?}\nfilter = \"trace\"\n\
                 [tls]\ncert = {:?}\nkey = {:?}\nclient_ca = {:?}\n\
                 [embedded]\nmax_packet_size = 4096\nmax_mqueue = 2\nauthentication = {{ password_file = {users:?} }}\n\
                 [[embedded.listeners]]\naddress = \"127.0.0.1:0\"\n\
                 [[embedded.listeners]]\naddress = \"127.0.0.1:0\"\ntls = {{ cert = {:?}, key = {:?} }}\n",
                path("agent-127.0.0.1.pem"),
                path("agent-127.0.0.1.key"),
                path("ca.pem"),
                path("agent-127.0.0.1.pem"),
                path("agent-127.0.0.1.key"),
            );
            Agent::start(name, &["--config", &Self::write(dir, &format!("{format}.toml"), &config)])
        });
        let nodes = [agents[0].process.address, agents[1].process.address];
        let (ca, pem, key) = (path("ca.pem"), path("gateway.pem"), path("gateway.key"));
        let (https, https_key, audit) = (path("https.pem"), path("https.key"), path("audit.jsonl"));
        let given = format!("given:{KEY}:operator");
        let common = [
            "--log-filter",
            "trace",
            "--node-ca",
            &ca,
            "--node-cert",
            &pem,
            "--node-key",
            &key,
            "--key",
            &given,
        ];
        let shown = Self::write(dir, "shown", TOKEN);
        let more = ["--node-token-file", &shown, "--audit-log", &audit, "--max-wrong-keys", "5"];
        let gateway = Gateway::start(&nodes, &[&common[..], &more].concat());
        let wrong = Self::write(dir, "wrong", WRONG_TOKEN);
        let more = [
            "--node-token-file",
            &wrong,
            "--log-format",
            "json",
            "--tls-cert",
            &https,
            "--tls-key",
            &https_key,
        ];
        let refused = Gateway::start(&nodes, &[&common[..], &more].concat());
        eventually("answer of both nodes", || {
            let list = gateway.get("/clients?_limit=0").json();
            if list["meta"]["nodes"]["answered"] == 2 { Ok(()) } else { Err(list.to_string()) }
        });
        let numbers = ["agent-127.0.0.1.key", "gateway.key", "https.key"].map(|name| {
            let text = std::fs::read_to_string(path(name)).unwrap();
            let body: String = text.lines().filter(|line| !line.starts_with("---")).collect();
            // In PKCS #8, the number of a P-256 key stands behind 36 bytes that are the same for all.
            STANDARD.decode(body).unwrap()[36..68].to_vec()
        });
        Self { folder, agents, gateway, refused, numbers: numbers.into() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
}

/// Adds the user `sensor`; the password comes on standard input.
fn add_user(file: &str) {
    let mut child = std::process::Command::new(rollcall_tests::binaries::path(AGENT))
        .args(["passwd", "--file", file, "--user", "sensor"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(format!("{PASSWORD}\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn login(level: u8, clientid: &str, password: &str) -> Connect {
    let (username, password) = (Some("sensor".to_owned()), Some(password.to_owned()));
    Connect { username, password, ..Connect::new(level, clientid) }
}

/// A CONNECT of 3.1.1 with a will that is retained.
fn with_will(clientid: &str) -> Vec<u8> {
    let mut body = text("MQTT");
    body.extend([4, 0b1110_0110, 0, 60]);
    for part in [clientid, "will/topic", WILL, "sensor", PASSWORD] {
        body.extend(text(part));
    }
    packet(0x10, &body)
}

/// What MQTT clients do, well and badly.
fn mqtt(agent: &Agent, gateway: &Gateway) {
    let (plain, tls) = (agent.process.mqtt_all[0], agent.process.mqtt_all[1]);
    // MQTT 3.1 allows 23 characters.
    let name = |what: &str| format!("{what}-{}", &agent.name[..1]);
    let mut subscriber = Client::connect(plain, &login(5, &name("subscriber"), PASSWORD));
    subscriber.subscribe("#", 1);
    // Goes away with messages to come: more than its queue holds.
    let mut sleeper = Client::connect(plain, &login(4, &name("sleeper"), PASSWORD).keep_session());
    sleeper.subscribe("t/#", 1);
    sleeper.disconnect();
    for level in [3, 4, 5] {
        let mut publisher = Client::connect(plain, &login(level, &name("publisher"), PASSWORD));
        for qos in 0..3 {
            publisher.publish(&format!("t/{qos}"), qos, PAYLOAD.as_bytes());
            let _ = subscriber.receive(true);
        }
        let retained =
            [text("t/retained"), [&[0][..usize::from(level == 5)], PAYLOAD.as_bytes()].concat()].concat();
        publisher.send(&packet(0x31, &retained)).unwrap();
        let _ = subscriber.receive(true);
        // Taken over by a second, whose wildcard subscription brings the retained message.
        let mut second = Client::connect(plain, &login(level, &name("publisher"), PASSWORD));
        second.subscribe("t/+", 0);
        let _ = second.receive(false);
        // No topic to publish to: sent away.
        let mut body = text("t/#");
        body.extend([&[0][..usize::from(level == 5)], PAYLOAD.as_bytes()].concat());
        second.send(&packet(0x30, &body)).unwrap();
        drop(second);
        let refused = Client::over(dial(plain), &login(level, &name("stranger"), WRONG_PASSWORD));
        assert!(refused.is_err(), "a wrong password is let in");
    }
    // A packet that is larger than allowed, and ones that are broken.
    let mut large = Client::connect(plain, &login(4, &name("large"), PASSWORD));
    let _ = large.send(&packet(0x30, &[text("t/large"), PAYLOAD.repeat(1000).into_bytes()].concat()));
    large.await_close();
    let connect = with_will(&name("broken"));
    let broken = [
        connect[..connect.len() - 3].to_vec(),
        [&connect[..8], &[9], &connect[9..]].concat(),
        connect.iter().map(|byte| if *byte == b'Z' { 0 } else { *byte }).collect(),
        [b"\x10\xff\xff\xff\xff\x7f", PASSWORD.as_bytes()].concat(),
        format!("GET /{PASSWORD} HTTP/1.1\r\n\r\n").into_bytes(),
    ];
    for bytes in broken {
        for address in [plain, tls] {
            let mut stream = dial(address);
            stream.write_all(&bytes).unwrap();
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read(&mut [0; 64]);
        }
    }
    // One that is kicked, so that its will is published, and one that vanishes.
    for is_kicked in [true, false] {
        let clientid = name(if is_kicked { "kicked" } else { "vanished" });
        let mut stream = dial(plain);
        stream.write_all(&with_will(&clientid)).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0x20, 2, 0, 0]);
        if is_kicked {
            gateway.row_when(&clientid, |row| row["connected"] == true);
            assert_eq!(
                gateway.request_as(("given", KEY), "DELETE", &format!("/clients/{clientid}")).status,
                200
            );
        }
    }
    assert_eq!(gateway.kick(&name("sleeper")).status, 200);
}

/// One request by HTTP/2 without TLS, whose frames and headers are logged by another crate than those of HTTP/1.1.
fn over_http2(address: SocketAddr, authorization: &str) {
    let fields = [(0x04, "/api/v4/nodes"), (0x01, "gateway"), (0x57, authorization)];
    http2(address, 0x82, &fields, None);
}

/// A bulk kick in the same way.
fn over_http2_post(address: SocketAddr, authorization: &str, body: &str) {
    let target = format!("{BASE}/client_kicks");
    let fields =
        [(0x04, target.as_str()), (0x01, "gateway"), (0x57, authorization), (0x5f, "application/json")];
    http2(address, 0x83, &fields, Some(body));
}

/// A request of this method with these fields; they are named by HPACK's table. The answer is awaited.
fn http2(address: SocketAddr, method: u8, fields: &[(u8, &str)], body: Option<&str>) {
    let mut block = vec![method, 0x86];
    for (name, value) in fields {
        block.push(*name);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.as_bytes());
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let flags = if body.is_some() { 4 } else { 5 };
    bytes.extend([0, 0, u8::try_from(block.len()).unwrap(), 1, flags, 0, 0, 0, 1]);
    bytes.extend(block);
    if let Some(body) = body {
        bytes.extend([0, 0, u8::try_from(body.len()).unwrap(), 0, 1, 0, 0, 0, 1]);
        bytes.extend(body.as_bytes());
    }
    let mut stream = http::connect(address).unwrap();
    stream.write_all(&bytes).unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).unwrap();
        if head[3] == 1 {
            return;
        }
    }
}

/// Bulk kicks, well and badly; gives what they were answered.
fn bulk_kicks(cluster: &Cluster) -> String {
    let gateway = &cluster.gateway;
    let json = "application/json";
    let mut answers = String::new();
    let mut post = |key: (&str, &str), content_type: &str, body: &str, status: u16| {
        let (authorization, length) = (http::basic(key.0, key.1), body.len().to_string());
        let headers = [
            ("authorization", authorization.as_str()),
            ("content-type", content_type),
            ("content-length", length.as_str()),
        ];
        let head = http::head(gateway.address(), "POST", &format!("{BASE}/client_kicks"), &headers);
        let answer = http::send(gateway.address(), (head + body).as_bytes()).unwrap();
        assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&answer.body));
        answers += &String::from_utf8_lossy(&answer.body);
    };
    // Clients that logged in with a password, and have messages to come.
    for agent in &cluster.agents {
        let (plain, at) = (agent.process.mqtt_all[0], &agent.name[..1]);
        let clientid = format!("doomed-{at}");
        let mut doomed = Client::connect(plain, &login(4, &clientid, PASSWORD).keep_session());
        doomed.subscribe("t/#", 1);
        doomed.disconnect();
        let mut publisher = Client::connect(plain, &login(5, &format!("last-{at}"), PASSWORD));
        publisher.publish("t/last", 1, PAYLOAD.as_bytes());
        gateway_row(gateway, &clientid);
    }
    let good = ("given", KEY);
    post(good, json, r#"{"filter":{"_like_clientid":"doomed-"},"dry_run":true}"#, 200);
    post(good, json, r#"{"filter":{"_like_clientid":"doomed-a"}}"#, 200);
    post(good, json, r#"{"clientids":["doomed-b","nobody"]}"#, 200);
    // Of what is refused no value is shown that has no meaning there, nor what is no JSON.
    let misplaced = format!(r#"{{"clientids":["nobody"],"password":"{MISPLACED}"}}"#);
    post(("given", WRONG_KEY), json, &misplaced, 401);
    post(good, "text/plain", &misplaced, 400);
    post(good, json, &misplaced, 400);
    post(good, json, &format!(r#"{{"clientids":[{MISPLACED}]}}"#), 400);
    post(good, json, MISPLACED, 400);
    post(good, json, &format!(r#"{{"token":"{}"}}"#, MISPLACED.repeat(100_000)), 413);
    over_http2_post(gateway.address(), &http::basic("given", KEY), &misplaced);
    answers
}

/// Waits until the gateway shows a client.
fn gateway_row(gateway: &Gateway, clientid: &str) {
    eventually(clientid, || {
        let rows = gateway.request_as(("given", KEY), "GET", &format!("/clients/{clientid}")).rows();
        if rows.len() == 1 { Ok(()) } else { Err(format!("{rows:?}")) }
    });
}

/// What users of the gateway send, well and badly; gives what they were answered.
fn users(cluster: &Cluster) -> String {
    let address = cluster.gateway.address();
    let bearer = |secret: &str| format!("Bearer {secret}");
    let mut answers = String::new();
    let mut ask = |target: &str, authorization: &str| {
        let answer = http::request(address, "GET", target, &[("authorization", authorization)]);
        answers += &String::from_utf8_lossy(&answer.body);
        answer.status
    };
    for authorization in [http::basic("given", KEY), bearer(KEY)] {
        for target in
            ["/nodes", "/clients", "/clients?_sort=nothing", "/client_counts", "/client_export", "/nothing"]
        {
            assert_ne!(ask(&format!("{BASE}{target}"), &authorization), 401);
        }
        over_http2(address, &authorization);
    }
    for authorization in [
        http::basic("given", WRONG_KEY),
        http::basic(KEY, "given"),
        bearer(WRONG_KEY),
        format!("Digest {KEY}"),
        format!("Basic {KEY}"),
        KEY.to_owned(),
    ] {
        for _ in 0..2 {
            assert_ne!(ask(&format!("{BASE}/nodes"), &authorization), 200);
        }
        over_http2(address, &authorization);
    }
    for bytes in [
        format!("GET {BASE}/nodes HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {KEY}\x01\r\n\r\n"),
        format!("GET {BASE}/nodes HTTP/1.1\r\nhost: g\r\nauthorization {KEY}\r\n\r\n"),
        format!("GET {BASE}/nodes HTTP/1.1\r\nhost: g\r\nauthorization: {}\r\n\r\n", KEY.repeat(10_000)),
        format!("GET {BASE}/nodes HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {KEY}"),
    ] {
        let mut stream = http::connect(address).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answers += &String::from_utf8_lossy(&answer);
    }
    answers
}

/// Secrets where they do not belong; gives what the programs said of that.
fn misplaced(cluster: &Cluster) -> String {
    let write = |name: &str, text: &str| Cluster::write(cluster.folder.path(), name, text);
    let good = ["--node", "127.0.0.1:1", "--key", "i:s:viewer"];
    let mut said = String::new();
    let mut refused = |program: &str, arguments: &[&str]| {
        let (status, out, err) = run(program, &[&["check-config"], arguments].concat());
        assert!(!status.success() && !err.contains("panicked"), "{program} {arguments:?}: {out}{err}");
        said += &format!("{out}{err}");
    };
    let hash = "0".repeat(40) + MISPLACED;
    for text in [
        format!("[[key]]\nid = \"a\"\nrole = \"viewer\"\nsecret = \"{MISPLACED}\"\n"),
        format!("[[key]]\nid = \"a\"\nrole = \"viewer\"\nsha256 = \"{hash}\"\ncreated_at = \"\"\n"),
        format!("a:{MISPLACED}:viewer\n"),
    ] {
        refused(GATEWAY, &["--node", "127.0.0.1:1", "--key-file", &write("bad-keys", &text)]);
    }
    for text in [format!("{MISPLACED}\n"), format!("{MISPLACED} {MISPLACED} {MISPLACED}\n")] {
        let tokens = write("bad-tokens", &text);
        refused(GATEWAY, &[&good[..], &["--node-token-file", &tokens]].concat());
        refused(AGENT, &["--broker", "synthetic", "--token-file", &tokens]);
    }
    for (key, line) in [
        ("key", format!("key = \"a:{MISPLACED}:viewer\"\n")),
        ("password", format!("password = \"{MISPLACED}\"\n")),
        ("token", format!("token = \"{MISPLACED}\"\n")),
        ("node_token", format!("node = [\"127.0.0.1:1\"]\nnode_token = \"{MISPLACED}\"\n")),
        ("broken", format!("secret = {MISPLACED}\n")),
        ("embedded", format!("[embedded]\nauthentication = {{ password = \"{MISPLACED}\" }}\n")),
        ("tls", format!("[tls]\nkey_pem = \"{MISPLACED}\"\n")),
    ] {
        let config = write(&format!("bad-{key}.toml"), &line);
        refused(GATEWAY, &["--config", &config]);
        refused(AGENT, &["--config", &config]);
    }
    for key in [
        format!("a:{MISPLACED}"),
        format!("{MISPLACED}:viewer"),
        format!("a:{MISPLACED}:king"),
        MISPLACED.into(),
    ] {
        refused(GATEWAY, &["--node", "127.0.0.1:1", "--key", &key]);
    }
    let users = write("bad-users", &format!("sensor:{MISPLACED}\n"));
    refused(AGENT, &["--mqtt-listen", "127.0.0.1:0", "--password-file", &users]);
    // A key that lost a line.
    let (cert, key) = (cluster.path("agent-127.0.0.1.pem"), cluster.path("agent-127.0.0.1.key"));
    let text = std::fs::read_to_string(&key).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let half = write("half.key", &format!("{}\n{}\n{}\n", lines[0], lines[1], lines[lines.len() - 1]));
    refused(AGENT, &["--broker", "synthetic", "--tls-cert", &cert, "--tls-key", &half]);
    refused(GATEWAY, &[&good[..], &["--tls-cert", &cert, "--tls-key", &half]].concat());
    said
}

#[test]
fn nothing_secret_is_written_anywhere() {
    let cluster = Cluster::start();
    let mut written = Written::default();
    for agent in &cluster.agents {
        mqtt(agent, &cluster.gateway);
    }
    written.add("an answer to a bulk kick", bulk_kicks(&cluster));
    written.add("an answer", users(&cluster));
    eventually("refusal of the token", || {
        let log = cluster.refused.process.log();
        if log.contains("refuses the token") { Ok(()) } else { Err(log.len().to_string()) }
    });
    written.add("check-config", misplaced(&cluster));
    // Files that go bad while the programs run.
    for name in ["tokens", "shown", "agent-127.0.0.1.key", "gateway.key"] {
        std::fs::write(cluster.path(name), format!("{MISPLACED} {MISPLACED}")).unwrap();
    }
    eventually("word of files that cannot be used", || {
        let logs = cluster.agents.iter().map(|agent| agent.process.log());
        let counts: Vec<usize> = logs
            .chain([cluster.gateway.process.log()])
            .map(|log| log.matches("what they held before stays").count())
            .collect();
        if counts.iter().all(|count| *count >= 2) { Ok(()) } else { Err(format!("{counts:?}")) }
    });

    let nodes = eventually("an answer after the guesses", || {
        let nodes = cluster.gateway.request_as(("given", KEY), "GET", "/nodes");
        if nodes.status == 200 { Ok(nodes.json().to_string()) } else { Err(nodes.status.to_string()) }
    });
    written.add("GET /nodes", nodes);
    written.add("the audit log", std::fs::read_to_string(cluster.path("audit.jsonl")).unwrap());
    for agent in &cluster.agents {
        written.add(&format!("the log of {}", agent.name), agent.process.log());
    }
    written.add("the gateway's log", cluster.gateway.process.log());
    written.add("the refused gateway's log", cluster.refused.process.log());
    // Otherwise nothing is proved.
    for (place, text) in
        written.0.iter().filter(|(place, _)| place.contains("log of") || place.contains("'s log"))
    {
        assert!(text.contains("TRACE") && text.contains("h2::"), "{place} is not at trace level");
    }
    for secret in [PASSWORD, WRONG_PASSWORD, PAYLOAD, WILL, KEY, WRONG_KEY, TOKEN, WRONG_TOKEN, MISPLACED] {
        written.lacks(secret.as_bytes());
    }
    for number in &cluster.numbers {
        written.lacks(number);
    }
}
