//! The certificate that MQTT clients see is followed, behind the counting front and without it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rollcall_node_agent::broker::embedded::{EmbeddedSettings, ListenerSettings, TlsSettings, Transport};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::raw::{Connect, Raw};
use crate::sandbox::{Sandbox, listener, settings};

/// A certificate that vouches for itself, and its key, in PEM.
struct Made {
    der: CertificateDer<'static>,
    cert: String,
    key: String,
}

fn make() -> Made {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    Made { der: made.cert.der().clone(), cert: made.cert.pem(), key: made.signing_key.serialize_pem() }
}

/// Replaces a file as whoever renews certificates should.
fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

async fn secure(port: u16, trusted: &CertificateDer<'static>) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_counts_without_a_restart_and_who_is_in_stays() {
    let directory = tempfile::tempdir().unwrap();
    let tls = TlsSettings { cert: directory.path().join("cert.pem"), key: directory.path().join("key.pem") };
    let (first, second) = (make(), make());
    put(&tls.cert, &first.cert);
    put(&tls.key, &first.key);
    let tcp = ListenerSettings { tls: Some(tls.clone()), ..listener("127.0.0.1:0") };
    let web = ListenerSettings { protocol: Transport::WebSocket, ..tcp.clone() };
    let listeners = vec![tcp, web];
    let plain = EmbeddedSettings { listeners: listeners.clone(), ..settings() };
    let counted = EmbeddedSettings { listeners, counting_front: true, ..settings() };
    let sandboxes = [Sandbox::start(plain).await, Sandbox::start(counted).await];
    let ports: Vec<u16> =
        sandboxes.iter().flat_map(|sandbox| sandbox.addresses.iter().map(SocketAddr::port)).collect();
    let connect = |port: u16, what: &str| Connect::v4(&format!("{what}-{port}"));
    let mut clients = Vec::new();
    for sandbox in &sandboxes {
        let port = sandbox.addresses[0].port();
        let stream = secure(port, &first.der).await.unwrap();
        clients.push(Raw::over(stream, &connect(port, "before")).await.unwrap());
    }

    // A certificate without its key changes nothing, for longer than the files take to be looked at.
    put(&tls.cert, &second.cert);
    tokio::time::sleep(Duration::from_secs(3)).await;
    for port in &ports {
        secure(*port, &first.der).await.unwrap();
        secure(*port, &second.der).await.unwrap_err();
    }

    put(&tls.key, &second.key);
    for port in &ports {
        let begun = Instant::now();
        while let Err(error) = secure(*port, &second.der).await {
            assert!(begun.elapsed() < Duration::from_secs(60), "port {port}: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        secure(*port, &first.der).await.unwrap_err();
    }
    for (sandbox, client) in sandboxes.iter().zip(&mut clients) {
        client.ping().await;
        let port = sandbox.addresses[0].port();
        let stream = secure(port, &second.der).await.unwrap();
        Raw::over(stream, &connect(port, "after")).await.unwrap().ping().await;
        sandbox.until("both clients", |sandbox| sandbox.row(&format!("before-{port}")).is_some()).await;
    }
    // All of them end as ever.
    for sandbox in &sandboxes {
        sandbox.shutdown().await;
        for address in &sandbox.addresses {
            assert!(TcpStream::connect(address).await.is_err(), "nobody listens at {address}");
        }
    }
}
