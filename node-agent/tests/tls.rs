//! TLS towards gateways: the agent shows its certificate, and asks for the gateway's where it is told to.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rollcall_node_agent::broker::synthetic::SyntheticBroker;
use rollcall_node_agent::config::{BrokerConfig, Config, Tls};
use rollcall_node_agent::run::{RunError, run};
use rollcall_proto::v1::DescribeRequest;
use rollcall_proto::v1::node_client::NodeClient;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

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
    let mut config = Config::new("a@127.0.0.1", BrokerConfig::Synthetic { clients: 3, seed: 0, churn: 0 });
    config.tls = Some(tls);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let broker = Arc::new(SyntheticBroker::new(3, 0, &config.node_name));
    let serving = tokio::spawn(run(config, listener, broker, std::future::pending()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    if serving.is_finished() {
        serving.await.unwrap()?;
    }
    Ok(format!("https://{address}"))
}

async fn describe(address: &str, tls: ClientTlsConfig) -> Result<String, tonic::Status> {
    let endpoint = Endpoint::from_shared(address.to_owned()).unwrap();
    let channel = endpoint.tls_config(tls.domain_name("agent.example")).unwrap().connect_lazy();
    let answer = NodeClient::new(channel).describe(DescribeRequest {}).await?;
    Ok(answer.into_inner().identity.unwrap().name)
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

#[tokio::test]
async fn files_that_are_no_certificate_or_key_refuse_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = issue("agent.example", &authority());
    let (_, other_key) = issue("agent.example", &authority());
    let cert = write(directory.path(), "agent.pem", &cert);
    let tls = |key: PathBuf| Tls { cert: cert.clone(), key, client_ca: None };
    let missing = start(tls("/nowhere/agent.key".into())).await.unwrap_err().to_string();
    assert!(missing.starts_with("cannot read /nowhere/agent.key: "), "{missing}");
    for (name, text) in [("empty.key", ""), ("other.key", other_key.as_str())] {
        let key = write(directory.path(), name, text);
        let refused = start(tls(key.clone())).await.unwrap_err().to_string();
        let expected = format!("TLS with certificate {} and key {}: ", cert.display(), key.display());
        assert!(refused.starts_with(&expected), "{refused}");
        assert!(!refused.contains("PRIVATE"), "{refused}");
    }
    let key = write(directory.path(), "agent.key", &key);
    assert!(start(tls(key)).await.is_ok());
}
