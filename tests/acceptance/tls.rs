//! TLS on every side, with certificates as `dev-certs` makes them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rollcall_tests::http::{self, Response};
use rollcall_tests::process::run;
use rollcall_tests::sandbox::{Agent, Cluster, Gateway, OPERATOR};
use rollcall_tests::wait::eventually;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A folder of certificates.
struct Certs {
    folder: tempfile::TempDir,
}

impl Certs {
    /// For an agent and a gateway at 127.0.0.1.
    fn new() -> Self {
        let certs = Self { folder: tempfile::tempdir().unwrap() };
        certs.make(&["--agent", "127.0.0.1", "--gateway", "127.0.0.1,localhost"]);
        certs
    }

    fn make(&self, hosts: &[&str]) -> String {
        let dir = self.folder.path().to_str().unwrap();
        let (status, out, err) = run("rollcall-gateway", &[&["dev-certs", "--dir", dir], hosts].concat());
        assert!(status.success(), "{err}");
        out
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// An agent that shows its certificate and asks for the gateway's.
    fn agent(&self, name: &str) -> Agent {
        let (cert, key) = (self.text("agent-127.0.0.1.pem"), self.text("agent-127.0.0.1.key"));
        let ca = self.text("ca.pem");
        let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca];
        Agent::start(name, &[&["--broker", "synthetic", "--clients", "10"], &tls[..]].concat())
    }

    /// Arguments of a gateway that shows agents this certificate.
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
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    let name = address.ip().into();
    let tls = ClientConnection::new(Arc::new(config), name).map_err(std::io::Error::other)?;
    let authorization = http::basic(OPERATOR.0, OPERATOR.1);
    let head = http::head(address, "GET", target, &[("authorization", &authorization)]);
    http::send_over(&mut StreamOwned::new(tls, http::connect(address)?), head.as_bytes())
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

#[test]
fn an_agents_certificate_makes_no_gateway() {
    let certs = Certs::new();
    let agent = certs.agent("a@127.0.0.1");
    let gateway = Gateway::start(&[agent.process.address], &as_strs(&certs.to_agents("agent-127.0.0.1")));
    eventually("refusal", || {
        let nodes = gateway.get("/nodes").json();
        match nodes["data"][0]["state"].as_str() {
            Some("unavailable") => Ok(()),
            _ => Err(nodes.to_string()),
        }
    });
    assert_eq!(gateway.get("/clients").status, 503);
}
