//! HTTPS: what a client is shown, and that a new certificate needs no restart.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // clippy knows tests by #[test], not by file

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rollcall_gateway::Config;
use rollcall_gateway::config::Layer;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

struct Gateway {
    address: SocketAddr,
    folder: TempDir,
    running: JoinHandle<()>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Gateway {
    /// A gateway over one node that nobody listens for, and its certificate.
    async fn start() -> (Self, CertificateDer<'static>) {
        let folder = tempfile::tempdir().unwrap();
        let certificate = renew(&folder);
        let told = Layer {
            node: Some(vec!["127.0.0.1:1".parse().unwrap()]),
            key: Some(vec!["id:secret:viewer".into()]),
            read_timeout: Some("1s".parse().unwrap()),
            tls_cert: Some(path(&folder, "cert.pem")),
            tls_key: Some(path(&folder, "key.pem")),
            ..Layer::default()
        };
        let config = Config::new(told).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let running = tokio::spawn(async move {
            rollcall_gateway::run(config, listener, std::future::pending()).await.unwrap();
        });
        (Self { address, folder, running }, certificate)
    }

    /// A connection that trusts nothing but this certificate.
    async fn connect(
        &self,
        trusted: &CertificateDer<'static>,
        protocols: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
    }
}

fn path(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

/// A new certificate and its key, in place of those before.
fn renew(folder: &TempDir) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path(folder, "cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(path(folder, "key.pem"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

async fn ask(stream: &mut TlsStream<TcpStream>, target: &str) -> String {
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn requests_are_answered_over_tls_by_either_protocol() {
    let (gateway, certificate) = Gateway::start().await;
    let mut stream = gateway.connect(&certificate, &["http/1.1"]).await.unwrap();
    let answer = ask(&mut stream, "/api/v4/nodes").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains(r#""code":0"#), "{answer}");
    // A head that hyper refuses is answered with JSON over TLS too.
    let mut stream = gateway.connect(&certificate, &[]).await.unwrap();
    stream.write_all(b"GET\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(r#"{"code":102,"message":"the request is not HTTP"#), "{answer}");

    let stream = gateway.connect(&certificate, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request =
        http::Request::get("https://localhost/health/live").body(axum::body::Body::empty()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
}

#[tokio::test]
async fn who_does_not_speak_tls_or_says_nothing_is_sent_away() {
    let (gateway, certificate) = Gateway::start().await;
    let mut plain = TcpStream::connect(gateway.address).await.unwrap();
    plain.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(10), plain.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    for has_tls in [false, true] {
        let begun = Instant::now();
        let mut byte = [0];
        if has_tls {
            let mut silent = gateway.connect(&certificate, &[]).await.unwrap();
            let _ = timeout(Duration::from_secs(10), silent.read(&mut byte)).await.unwrap();
        } else {
            let mut silent = TcpStream::connect(gateway.address).await.unwrap();
            let _ = timeout(Duration::from_secs(10), silent.read(&mut byte)).await.unwrap();
        }
        assert!(begun.elapsed() >= Duration::from_millis(900), "with TLS: {has_tls}");
    }
}

#[tokio::test]
async fn a_new_certificate_needs_no_restart_and_open_connections_stay() {
    let (gateway, first) = Gateway::start().await;
    let mut open = gateway.connect(&first, &["http/1.1"]).await.unwrap();
    let second = renew(&gateway.folder);
    let until = Instant::now() + Duration::from_secs(20);
    while gateway.connect(&second, &[]).await.is_err() {
        assert!(Instant::now() < until, "the new certificate is not shown");
        // The open connection must not idle for as long as the read timeout.
        open.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut answer = [0; 4096];
        assert!(open.read(&mut answer).await.unwrap() > 0);
        sleep(Duration::from_millis(100)).await;
    }
    assert!(gateway.connect(&first, &[]).await.is_err());
    assert!(ask(&mut open, "/health/live").await.contains("200 OK"));
}
