//! TLS towards gateways: the agent shows its certificate, and asks for the gateway's where it is told to.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rollcall_node_agent::broker::synthetic::SyntheticBroker;
use rollcall_node_agent::config::{BrokerConfig, Config, Tls};
use rollcall_node_agent::run::{RunError, bind, run};
use rollcall_proto::v1::DescribeRequest;
use rollcall_proto::v1::node_client::NodeClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key, PEM.
fn issue(name: &str, authority: &Authority) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

async fn start(tls: Tls) -> Result<String, RunError> {
    start_with(Some(tls), None).await
}

async fn start_with(tls: Option<Tls>, token_file: Option<PathBuf>) -> Result<String, RunError> {
    let mut config = Config::new("a@127.0.0.1", BrokerConfig::Synthetic { clients: 3, seed: 0, churn: 0 });
    let scheme = if tls.is_some() { "https" } else { "http" };
    config.tls = tls;
    config.token_file = token_file;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let broker = Arc::new(SyntheticBroker::new(3, 0, &config.node_name));
    let serving = tokio::spawn(run(config, listener, broker, std::future::pending()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    if serving.is_finished() {
        serving.await.unwrap()?;
    }
    Ok(format!("{scheme}://{address}"))
}

async fn describe(address: &str, tls: ClientTlsConfig) -> Result<String, tonic::Status> {
    let endpoint = Endpoint::from_shared(address.to_owned()).unwrap();
    let channel = endpoint.tls_config(tls.domain_name("agent.example")).unwrap().connect_lazy();
    let answer = NodeClient::new(channel).describe(DescribeRequest {}).await?;
    Ok(answer.into_inner().identity.unwrap().name)
}

/// Waits for something that happens a second or two after a file has changed.
async fn eventually<F: Future<Output = bool>>(what: &str, mut attempt: impl FnMut() -> F) {
    for _ in 0..200 {
        if attempt().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within 20 s: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_let_in_by_its_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let (agents, gateways) = (authority(), authority());
    let (cert, key) = issue("agent.example", &agents);
    let tls = Tls {
        cert: write(directory.path(), "agent.pem", &cert),
        key: write(directory.path(), "agent.key", &key),
        client_ca: None,
        client_names: Vec::new(),
    };
    let trusting = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(agents.pem()));
    let open = start(tls.clone()).await.unwrap();
    assert_eq!(describe(&open, trusting.clone()).await.unwrap(), "a@127.0.0.1");
    let other = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(gateways.pem()));
    assert!(describe(&open, other).await.is_err(), "an agent of an unknown authority was trusted");

    let client_ca = Some(write(directory.path(), "gateways.pem", &gateways.pem()));
    let closed = start(Tls { client_ca, ..tls }).await.unwrap();
    let identity = |(cert, key): (String, String)| trusting.clone().identity(Identity::from_pem(cert, key));
    let known = identity(issue("gateway.example", &gateways));
    assert_eq!(describe(&closed, known).await.unwrap(), "a@127.0.0.1");
    let unknown = identity(issue("gateway.example", &agents));
    assert!(describe(&closed, unknown).await.is_err(), "a gateway of an unknown authority was let in");
    assert!(describe(&closed, trusting.clone()).await.is_err(), "a gateway without certificate was let in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_let_in_by_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let (agents, gateways) = (authority(), authority());
    let (cert, key) = issue("agent.example", &agents);
    let address = start(Tls {
        cert: write(directory.path(), "agent.pem", &cert),
        key: write(directory.path(), "agent.key", &key),
        client_ca: Some(write(directory.path(), "gateways.pem", &gateways.pem())),
        client_names: vec!["one.example".to_owned(), "10.0.0.9".to_owned()],
    });
    let address = address.await.unwrap();
    let trusting = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(agents.pem()));
    for (name, is_let_in) in
        [("one.example", true), ("10.0.0.9", true), ("two.example", false), ("10.0.0.8", false)]
    {
        let (cert, key) = issue(name, &gateways);
        let outcome = describe(&address, trusting.clone().identity(Identity::from_pem(cert, key))).await;
        assert_eq!(outcome.is_ok(), is_let_in, "{name}: {outcome:?}");
    }
    let (cert, key) = issue("one.example", &agents);
    let other = trusting.identity(Identity::from_pem(cert, key));
    assert!(describe(&address, other).await.is_err(), "a name of another authority was let in");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_authorities_are_followed_and_open_connections_stay() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (authority(), authority());
    let put = |authority: &Authority| {
        let (cert, key) = issue("agent.example", authority);
        (write(directory.path(), "agent.pem", &cert), write(directory.path(), "agent.key", &key))
    };
    let ((cert, key), ca) =
        (put(&first), |of: &Authority| write(directory.path(), "gateways.pem", &of.pem()));
    let tls = Tls { cert, key, client_ca: Some(ca(&first)), client_names: Vec::new() };
    let address = start(tls).await.unwrap();
    let of = |authority: &Authority, identity: &Authority| {
        let (cert, key) = issue("gateway.example", identity);
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem()));
        tls.identity(Identity::from_pem(cert, key)).domain_name("agent.example")
    };
    let channel = Endpoint::from_shared(address.clone()).unwrap().tls_config(of(&first, &first)).unwrap();
    let mut open = NodeClient::new(channel.connect_lazy());
    open.describe(DescribeRequest {}).await.unwrap();

    put(&second);
    eventually("the new certificate is shown", || async {
        describe(&address, of(&second, &first)).await.is_ok()
    })
    .await;
    assert!(describe(&address, of(&first, &first)).await.is_err(), "the old certificate is still shown");
    assert!(describe(&address, of(&second, &second)).await.is_err(), "a new authority counts too early");
    ca(&second);
    eventually("the new authority counts", || async {
        describe(&address, of(&second, &second)).await.is_ok()
    })
    .await;
    assert!(describe(&address, of(&second, &first)).await.is_err(), "the old authority still counts");
    open.describe(DescribeRequest {}).await.unwrap();

    write(directory.path(), "agent.key", "half a key");
    write(directory.path(), "gateways.pem", "no authority");
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    describe(&address, of(&second, &second)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_to_greet_holds_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let agents = authority();
    let (cert, key) = issue("agent.example", &agents);
    let cert = write(directory.path(), "agent.pem", &cert);
    let key = write(directory.path(), "agent.key", &key);
    let address = start(Tls { cert, key, client_ca: None, client_names: Vec::new() }).await.unwrap();
    let host = address.strip_prefix("https://").unwrap();
    let mut silent = Vec::new();
    for _ in 0..1_500 {
        let connecting = tokio::net::TcpStream::connect(host);
        let connected = tokio::time::timeout(Duration::from_secs(8), connecting).await;
        silent.push(connected.expect("connections are taken in").unwrap());
    }
    let trusting = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(agents.pem()));
    let answer = tokio::time::timeout(Duration::from_secs(8), describe(&address, trusting)).await;
    assert_eq!(answer.expect("the silent are not waited for").unwrap(), "a@127.0.0.1");
    // And they are sent away.
    let mut byte = [0];
    for stream in &mut silent {
        let read = tokio::io::AsyncReadExt::read(stream, &mut byte);
        let ended = tokio::time::timeout(Duration::from_secs(30), read).await.expect("it is sent away");
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_let_in_by_a_token() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = ("o".repeat(32), "n".repeat(32));
    let file = write(directory.path(), "tokens", &old);
    let address = start_with(None, Some(file)).await.unwrap();
    let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
    let ask = async |authorization: Option<&str>| {
        let mut request = Request::new(DescribeRequest {});
        if let Some(text) = authorization {
            request.metadata_mut().insert("authorization", text.parse().unwrap());
        }
        NodeClient::<Channel>::new(channel.clone()).describe(request).await.map(drop)
    };
    let bearer = |token: &str| format!("Bearer {token}");
    ask(Some(&bearer(&old))).await.unwrap();
    for wrong in
        [None, Some(""), Some("Bearer "), Some(bearer(&new).as_str()), Some(old.as_str()), Some("Basic abc")]
    {
        let status = ask(wrong).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{wrong:?}: {status}");
        assert!(status.message().contains("token_file") && !status.message().contains(&old), "{status}");
    }
    // A probe of Kubernetes has no token.
    HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap();

    write(directory.path(), "tokens", &format!("{new}\n{old}\n"));
    eventually("the new token counts", || async { ask(Some(&bearer(&new))).await.is_ok() }).await;
    ask(Some(&bearer(&old))).await.unwrap();
    write(directory.path(), "tokens", "");
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    ask(Some(&bearer(&new))).await.unwrap();
    write(directory.path(), "tokens", &new);
    eventually("the old token counts no more", || async { ask(Some(&bearer(&old))).await.is_err() }).await;
}

/// The agent's samples of a metric, by the address for scrapers.
async fn samples(metrics: SocketAddr, name: &str) -> Vec<String> {
    let mut stream = tokio::net::TcpStream::connect(metrics).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    page.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_tokens_is_slowed_down_and_a_gateway_with_the_wrong_one_locks_out_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let right = "r".repeat(32);
    let mut config = Config::new("a@127.0.0.1", BrokerConfig::Synthetic { clients: 3, seed: 0, churn: 0 });
    config.token_file = Some(write(directory.path(), "tokens", &right));
    (config.listen, config.metrics_listen) = ("127.0.0.1:0".parse().unwrap(), "127.0.0.1:0".parse().ok());
    let listeners = bind(&config).await.unwrap();
    let (address, metrics) = (listeners.local_addr().unwrap(), listeners.metrics_addr().unwrap().unwrap());
    let broker = Arc::new(SyntheticBroker::new(3, 0, &config.node_name));
    tokio::spawn(run(config, listeners, broker, std::future::pending()));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let from = |host: [u8; 4]| endpoint.clone().local_address(Some(host.into())).connect_lazy();
    let (ours, theirs) = (from([127, 0, 0, 1]), from([127, 0, 0, 2]));
    let ask = async |channel: &Channel, token: &str| {
        let mut request = Request::new(DescribeRequest {});
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        NodeClient::new(channel.clone()).describe(request).await.map(drop)
    };
    // A gateway that was given the wrong file, and another one on its host.
    for _ in 0..100 {
        let status = ask(&ours, &"w".repeat(32)).await.unwrap_err();
        assert!(status.message().contains("another token"), "{status}");
    }
    ask(&ours, &right).await.unwrap();

    // Whoever guesses is soon not even listened to.
    let mut guesses = 0;
    loop {
        guesses += 1;
        assert!(guesses < 2_000, "somebody guesses on and on");
        let status = ask(&theirs, &format!("{guesses:032}")).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        match ask(&theirs, &right).await {
            Ok(()) => {}
            Err(status) => {
                assert!(status.message().contains("too many wrong tokens"), "{status}");
                break;
            }
        }
    }
    assert!(guesses >= 20, "after {guesses} guesses");
    ask(&ours, &right).await.unwrap();
    let told = samples(metrics, "rollcall_agent_token_refusals_total").await;
    let number = |reason: &str| -> f64 {
        let sample = told.iter().find(|sample| sample.contains(&format!("reason=\"{reason}\"")));
        sample.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(number("too_many") >= 1.0 && number("wrong") >= 120.0 && number("missing") == 0.0, "{told:?}");
    eventually("it is listened to again", || async { ask(&theirs, &right).await.is_ok() }).await;
}

#[tokio::test]
async fn files_that_are_no_certificate_or_key_refuse_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = issue("agent.example", &authority());
    let (_, other_key) = issue("agent.example", &authority());
    let cert = write(directory.path(), "agent.pem", &cert);
    let tls = |key: PathBuf| Tls { cert: cert.clone(), key, client_ca: None, client_names: Vec::new() };
    let missing = start(tls("/nowhere/agent.key".into())).await.unwrap_err().to_string();
    assert!(missing.starts_with("cannot read /nowhere/agent.key: "), "{missing}");
    for (name, text) in [("empty.key", ""), ("other.key", other_key.as_str())] {
        let key = write(directory.path(), name, text);
        let refused = start(tls(key.clone())).await.unwrap_err().to_string();
        assert!(refused.contains(&key.display().to_string()), "{refused}");
        assert!(!refused.contains("PRIVATE"), "{refused}");
    }
    let key = write(directory.path(), "agent.key", &key);
    assert!(start(tls(key)).await.is_ok());
}
