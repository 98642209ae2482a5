//! TLS on every side: with certificates as `dev-certs` makes them, while they are replaced, and with those that must not
//! do. Tokens too.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rollcall_tests::certs::{Certs, over_tls};
use rollcall_tests::http::{self, Response};
use rollcall_tests::process::run;
use rollcall_tests::sandbox::{Agent, Cluster, Gateway, OPERATOR};
use rollcall_tests::wait::eventually;

/// What the sides of a cluster need of them.
trait Sides {
    /// An agent that shows its certificate and asks for the gateway's.
    fn agent(&self, name: &str) -> Agent;

    /// Arguments of a gateway that shows agents this certificate.
    fn to_agents(&self, stem: &str) -> Vec<String>;
}

impl Sides for Certs {
    fn agent(&self, name: &str) -> Agent {
        let (cert, key) = (self.text("agent-127.0.0.1.pem"), self.text("agent-127.0.0.1.key"));
        let ca = self.text("ca.pem");
        let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca];
        Agent::start(name, &[&["--broker", "synthetic", "--clients", "10"], &tls[..]].concat())
    }

    fn to_agents(&self, stem: &str) -> Vec<String> {
        let own = |end: &str| self.text(&format!("{stem}.{end}"));
        [
            "--node-ca".into(),
            self.text("ca.pem"),
            "--node-cert".into(),
            own("pem"),
            "--node-key".into(),
            own("key"),
        ]
        .into()
    }
}

fn as_strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// A request over TLS by a client that trusts what the file holds.
fn request(ca: &Path, address: SocketAddr, target: &str) -> std::io::Result<Response> {
    let authorization = http::basic(OPERATOR.0, OPERATOR.1);
    let head = http::head(address, "GET", target, &[("authorization", &authorization)]);
    http::send_over(&mut over_tls(ca, address, http::connect(address)?)?, head.as_bytes())
}

#[test]
fn certificates_for_development_carry_a_cluster() {
    let certs = Certs::new();
    let agents = vec![certs.agent("a@127.0.0.1"), certs.agent("b@127.0.0.1")];
    let mut arguments = certs.to_agents("gateway");
    arguments.extend([
        "--tls-cert".into(),
        certs.text("https.pem"),
        "--tls-key".into(),
        certs.text("https.key"),
    ]);
    let addresses: Vec<SocketAddr> = agents.iter().map(|agent| agent.process.address).collect();
    let gateway = Gateway::start(&addresses, &as_strs(&arguments));
    eventually("answer of both nodes", || {
        let answer = request(&certs.path("ca.pem"), gateway.address(), "/api/v4/clients?_limit=0").unwrap();
        let meta = &answer.json()["meta"];
        if meta["count"] == 20 && meta["nodes"]["answered"] == 2 { Ok(()) } else { Err(meta.to_string()) }
    });
    let other = Certs::new();
    assert!(
        request(&other.path("ca.pem"), gateway.address(), "/api/v4/nodes").is_err(),
        "trusted by another authority"
    );

    // More of the same authority are taken for what they are.
    let shown = certs.make(&["--agent", "localhost"]);
    assert!(
        shown.contains("FOR DEVELOPMENT ONLY") && shown.contains(&certs.text("agent-localhost.key")),
        "{shown}"
    );
    let _cluster = Cluster::with(agents, &as_strs(&certs.to_agents("gateway")));
}

/// What the gateway says of its only node, as soon as that contains the words.
fn says(gateway: &Gateway, words: &str) {
    eventually(&format!("word of {words:?}"), || {
        let nodes = gateway.get("/nodes").json();
        let node = &nodes["data"][0];
        match node["last_error"].as_str() {
            Some(error) if node["state"] == "unavailable" && error.contains(words) => Ok(()),
            _ => Err(nodes.to_string()),
        }
    });
}

fn logs(agent: &Agent, words: &str) {
    eventually(&format!("log of {words:?}"), || {
        let log = agent.process.log();
        if log.contains(words) { Ok(()) } else { Err(log) }
    });
}

/// Puts copies of these files beside each other, under the names they have in effect.
fn put(certs: &Certs, into: &Path, names: &[(&str, &str)]) {
    for (from, to) in names {
        // As whoever renews certificates should: a reader sees the old file or the new one.
        let new = into.join(format!("{to}.new"));
        std::fs::copy(certs.path(from), &new).unwrap();
        std::fs::rename(new, into.join(to)).unwrap();
    }
}

#[test]
fn certificates_and_their_authority_are_replaced_and_no_request_fails() {
    let (first, second) = (Certs::new(), Certs::new());
    let live = Certs::none();
    let dir = live.folder.path();
    let own = [
        ("agent-127.0.0.1.pem", "agent-127.0.0.1.pem"),
        ("agent-127.0.0.1.key", "agent-127.0.0.1.key"),
        ("gateway.pem", "gateway.pem"),
        ("gateway.key", "gateway.key"),
    ];
    put(&first, dir, &own);
    put(&first, dir, &[("ca.pem", "ca.pem")]);
    let agents = vec![live.agent("a@127.0.0.1"), live.agent("b@127.0.0.1")];
    let cluster = Cluster::with(agents, &as_strs(&live.to_agents("gateway")));
    // Each side says once for every change that it counts from now on.
    let count = AtomicU64::new(0);
    let counts = || {
        let expected = count.fetch_add(1, Ordering::Relaxed) + 1;
        let logs =
            || cluster.agents.iter().map(|agent| agent.process.log()).chain([cluster.gateway.process.log()]);
        eventually("word of the change", || {
            let said: Vec<usize> = logs().map(|log| log.matches("from now on they count").count()).collect();
            if said.iter().all(|said| *said as u64 >= expected) { Ok(()) } else { Err(format!("{said:?}")) }
        });
    };
    let (is_over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let list = cluster.gateway.get("/clients?_limit=5");
                let meta = &list.json()["meta"];
                assert_eq!((list.status, &meta["count"]), (200, &20.into()), "{meta}");
                assert_eq!(meta["nodes"]["answered"], 2, "{meta}");
                // An export opens connections of its own, so it meets what is there now.
                let export = cluster.gateway.get("/client_export?_partial=false");
                let text = String::from_utf8(export.body).unwrap();
                assert!(text.contains("\"complete\":true,\"count\":20"), "{text}");
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        let both =
            [first.path("ca.pem"), second.path("ca.pem")].map(|path| std::fs::read_to_string(path).unwrap());
        std::fs::write(live.path("ca.both"), both.concat()).unwrap();
        std::fs::rename(live.path("ca.both"), live.path("ca.pem")).unwrap();
        counts();
        put(&second, dir, &own);
        counts();
        put(&second, dir, &[("ca.pem", "ca.pem")]);
        counts();
        let before = asked.load(Ordering::Relaxed);
        eventually("more requests", || match asked.load(Ordering::Relaxed) {
            now if now > before + 2 || load.is_finished() => Ok(()),
            now => Err(now.to_string()),
        });
        is_over.store(true, Ordering::Relaxed);
    });
    // What was there before counts no more.
    let old = Gateway::start(&[cluster.agents[0].process.address], &as_strs(&first.to_agents("gateway")));
    says(&old, "of no authority in node-ca");
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("authority {}", rand::random::<u32>()));
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes a certificate and its key and gives the options that name them.
fn issue(
    folder: &Path,
    stem: &str,
    authority: &Authority,
    change: impl FnOnce(&mut CertificateParams),
) -> [String; 2] {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["127.0.0.1".to_owned(), "gateway.example".to_owned()]).unwrap();
    change(&mut params);
    let certificate = params.signed_by(&key, authority).unwrap().pem();
    [("pem", certificate), ("key", key.serialize_pem())].map(|(end, text)| {
        let path = folder.join(format!("{stem}.{end}"));
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    })
}

#[test]
fn who_cannot_be_trusted_is_refused_and_both_sides_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let (agents, gateways, others) = (authority(), authority(), authority());
    let ca = |name: &str, of: &Authority| {
        let path = folder.path().join(name);
        std::fs::write(&path, of.pem()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (agents_ca, gateways_ca, others_ca) =
        (ca("a.pem", &agents), ca("g.pem", &gateways), ca("o.pem", &others));
    let [cert, key] = issue(folder.path(), "agent", &agents, |_| {});
    let agent = |more: &[&str]| {
        let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &gateways_ca];
        Agent::start("a@127.0.0.1", &[&["--broker", "synthetic", "--clients", "1"], &tls[..], more].concat())
    };
    let one = agent(&["--tls-client-name", "gateway.example"]);
    let shows = |[cert, key]: [String; 2]| {
        [
            "--node-ca".to_owned(),
            agents_ca.clone(),
            "--node-cert".to_owned(),
            cert,
            "--node-key".to_owned(),
            key,
        ]
    };
    let over =
        |agent: &Agent, arguments: &[String]| Gateway::start(&[agent.process.address], &as_strs(arguments));

    let good = over(&one, &shows(issue(folder.path(), "good", &gateways, |_| {})));
    eventually("answer", || {
        let nodes = good.get("/nodes").json();
        if nodes["data"][0]["state"] == "connected" { Ok(()) } else { Err(nodes.to_string()) }
    });
    // One refusal at a time: the agent's log leaves some out where there are many.
    for (stem, of, change, gateway_says, agent_says) in [
        (
            "other",
            &others,
            (|_| {}) as fn(&mut CertificateParams),
            "refuses node-cert, which is of no authority in its client_ca",
            "is of no authority in client_ca",
        ),
        (
            "expired",
            &gateways,
            |params| params.not_after = date_time_ymd(2020, 1, 1),
            "refuses node-cert, which has expired",
            "the gateway's certificate has expired",
        ),
        (
            "name",
            &gateways,
            |params| params.subject_alt_names.truncate(1),
            "has none of its client_names",
            "carries none of client_names",
        ),
        (
            "server",
            &gateways,
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            "is not one for clients",
            "is not one for clients",
        ),
    ] {
        let gateway = over(&one, &shows(issue(folder.path(), stem, of, change)));
        says(&gateway, gateway_says);
        logs(&one, agent_says);
        let list = gateway.get("/clients");
        assert_eq!((list.status, list.code()), (503, 101), "{stem}");
    }
    let none = over(&one, &["--node-ca".to_owned(), agents_ca.clone()]);
    says(&none, "asks for a certificate: give node-cert and node-key");
    drop(none);
    let distrustful = over(&one, &["--node-ca".to_owned(), others_ca]);
    says(&distrustful, "the agent's certificate is of no authority in node-ca");
    drop(distrustful);
    let plain = over(&one, &[]);
    says(&plain, "the agent speaks TLS: give node-ca");
    drop(plain);
    let elsewhere = ["--node-domain".to_owned(), "elsewhere.example".to_owned()];
    let good_files = shows(issue(folder.path(), "good", &gateways, |_| {}));
    let elsewhere = over(&one, &[&good_files[..], &elsewhere].concat());
    says(&elsewhere, "the agent's certificate is for another name");
    drop(elsewhere);
    let open = Agent::start("b@127.0.0.1", &["--broker", "synthetic"]);
    says(&over(&open, &good_files), "does not speak TLS");
    // All the while the one that may went on.
    assert_eq!(good.get("/clients").json()["meta"]["count"], 1);
}

#[test]
fn a_token_lets_a_gateway_in_and_can_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong) = ("r".repeat(40), "w".repeat(40));
    let (accepted, shown) = (write("accepted", &right), write("shown", &wrong));
    let agent =
        Agent::start("a@127.0.0.1", &["--broker", "synthetic", "--clients", "7", "--token-file", &accepted]);
    let gateway = Gateway::start(&[agent.process.address], &["--node-token-file", &shown]);
    says(&gateway, "protocol: the agent refuses the token of node-token-file");
    logs(&agent, "the call shows another token than those of the agent's token_file");
    let list = gateway.get("/clients");
    assert_eq!((list.status, list.code()), (503, 101));
    assert_eq!(list.json()["meta"]["nodes"]["failed"][0]["reason"], "protocol");
    says(&Gateway::start(&[agent.process.address], &[]), "the call shows no token");

    write("shown", &right);
    eventually("answer", || {
        let list = gateway.get("/clients?_limit=0").json();
        if list["meta"]["count"] == 7 { Ok(()) } else { Err(list.to_string()) }
    });
    for log in [agent.process.log(), gateway.process.log(), gateway.get("/nodes").json().to_string()] {
        assert!(!log.contains(&right) && !log.contains(&wrong), "{log}");
    }
}

#[test]
fn doors_that_would_stand_open_or_cannot_be_locked_are_refused() {
    let certs = Certs::new();
    let short = certs.text("short");
    std::fs::write(&short, "short").unwrap();
    let (cert, key, ca) =
        (certs.text("agent-127.0.0.1.pem"), certs.text("agent-127.0.0.1.key"), certs.text("ca.pem"));
    let other_key = certs.text("gateway.key");
    let agent = ["check-config", "--broker", "synthetic", "--tls-cert", &cert];
    let gateway = ["check-config", "--key", "id:secret:viewer"];
    for (program, arguments, more, expected) in [
        (
            "rollcall-agent",
            &agent[..],
            &["--tls-key", &key, "--listen", "0.0.0.0:0"][..],
            "anybody may list and kick",
        ),
        ("rollcall-agent", &agent, &["--tls-key", &other_key], "agent-127.0.0.1.pem and key"),
        (
            "rollcall-agent",
            &agent,
            &["--tls-key", &key, "--tls-client-ca", &key],
            "expected certificates in PEM",
        ),
        ("rollcall-agent", &agent, &["--tls-key", &key, "--token-file", &short], "line 1 has 5 bytes"),
        (
            "rollcall-gateway",
            &gateway,
            &["--node", "a:1", "--node-token-file", &short],
            "node-token-file without node-ca",
        ),
        (
            "rollcall-gateway",
            &gateway,
            &["--node", "a:1", "--node-ca", &ca, "--node-token-file", &short],
            "line 1 has 5 bytes",
        ),
        (
            "rollcall-gateway",
            &gateway,
            &["--node", "a:1", "--node-ca", &other_key],
            "expected certificates in PEM",
        ),
        (
            "rollcall-gateway",
            &gateway,
            &["--node", "a:1", "--node-ca", &ca, "--node-cert", &cert, "--node-key", &other_key],
            "agent-127.0.0.1.pem and key",
        ),
    ] {
        let (status, out, err) = run(program, &[arguments, more].concat());
        assert!(!status.success() && out.is_empty() && err.contains(expected), "{more:?}: {out}{err}");
        assert!(!err.contains("PRIVATE") && !err.contains("panicked"), "{err}");
    }
}
