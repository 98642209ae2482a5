//! A client of brokers' HTTP endpoints: JSON in, bounded in time and size.
//!
//! No message of an error holds what the other side sent, because brokers send passwords too: a body that is not
//! understood is named by its place. Bodies are wiped once they are read.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::secret::Secret;

/// The largest body that is read.
const MAX_BODY: usize = 64 << 20;

/// Connections kept for later, and for how long; less than brokers keep theirs.
const IDLE: (usize, Duration) = (16, Duration::from_secs(20));

/// How often what failed inside the other side is asked again, and after what pause. RabbitMQ answers 500 now and then about
/// a connection whose statistics it is just collecting. Everything that is asked here may be asked twice.
const RETRIES: u32 = 3;
const BEFORE_RETRY: Duration = Duration::from_millis(100);

/// All but letters, digits and `-._~`.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum HttpError {
    #[error("{path}: {reason}")]
    Unreachable { path: String, reason: String },
    #[error("{path}: no answer within {} ms", within.as_millis())]
    Timeout { path: String, within: Duration },
    #[error("{path}: status {status}")]
    Status { path: String, status: StatusCode },
    #[error("{path}: the answer is not understood: {reason}")]
    Body { path: String, reason: String },
}

impl HttpError {
    /// Whether the other side says that there is no such thing.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status: StatusCode::NOT_FOUND, .. })
    }
}

/// Where requests go, and as whom.
pub(super) struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    /// Scheme, host and the path before all paths, without a slash at its end.
    base: String,
    authorization: Option<HeaderValue>,
    within: Duration,
}

impl HttpClient {
    /// For a URL that [`check_url`] took. `ca` holds the authorities to trust, in PEM.
    ///
    /// # Errors
    /// Authorities that cannot be used, or a user name that cannot be sent.
    pub(super) fn new(
        url: &str,
        ca: Option<&[u8]>,
        login: Option<(&str, &Secret)>,
        within: Duration,
    ) -> Result<Self, String> {
        let tls = client_tls(ca)?;
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(within));
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE.0)
            .pool_idle_timeout(IDLE.1)
            .build(connector);
        let authorization =
            login.map(|(username, password)| authorization(username, password)).transpose()?;
        Ok(Self { client, base: url.trim_end_matches('/').to_owned(), authorization, within })
    }

    /// The value at a path, which begins with a slash and is encoded.
    ///
    /// # Errors
    /// No answer in time, another status than 200, or another value than expected.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, HttpError> {
        let body = self.request(Method::GET, path).await?;
        // Where, not what: the text may be a secret.
        let explain = |error: serde_json::Error| HttpError::Body {
            path: bare(path),
            reason: format!("{:?} at line {}, column {}", error.classify(), error.line(), error.column()),
        };
        serde_json::from_slice(&body).map_err(explain)
    }

    /// As [`get`](Self::get), with `None` for what is not there.
    pub(super) async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, HttpError> {
        match self.get(path).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes what is at a path; false if there was nothing.
    ///
    /// # Errors
    /// No answer in time, or a refusal.
    pub(super) async fn delete(&self, path: &str) -> Result<bool, HttpError> {
        match self.request(Method::DELETE, path).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn request(&self, method: Method, path: &str) -> Result<Zeroizing<Vec<u8>>, HttpError> {
        let attempts = async {
            let mut again = RETRIES;
            loop {
                match self.exchange(method.clone(), path).await {
                    Err(HttpError::Status { status, .. }) if status.is_server_error() && again > 0 => {
                        again -= 1;
                        sleep(BEFORE_RETRY).await;
                    }
                    answered => return answered,
                }
            }
        };
        match timeout(self.within, attempts).await {
            Ok(answered) => answered,
            Err(_) => Err(HttpError::Timeout { path: bare(path), within: self.within }),
        }
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<Zeroizing<Vec<u8>>, HttpError> {
        let unreachable = |reason: String| HttpError::Unreachable { path: bare(path), reason };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(ACCEPT, "application/json")
            .body(Empty::new())
            .map_err(|error| unreachable(error.to_string()))?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        let response = self.client.request(request).await.map_err(|error| unreachable(chain(&error)))?;
        let status = response.status();
        if !status.is_success() {
            return Err(HttpError::Status { path: bare(path), status });
        }
        let body = Limited::new(response.into_body(), MAX_BODY);
        let collected = body.collect().await.map_err(|error| unreachable(chain(error.as_ref())))?;
        Ok(Zeroizing::new(collected.to_bytes().into()))
    }
}

/// Whether a URL can be asked; if not, what was expected.
///
/// # Errors
/// For the operator, without the value.
pub(super) fn check_url(url: &str, has_ca: bool) -> Result<(), String> {
    let uri: Uri = url.parse().map_err(|_| "expected a URL such as http://127.0.0.1:15672".to_owned())?;
    let authority = uri.authority().ok_or("expected a URL with a host, such as http://127.0.0.1:15672")?;
    if authority.as_str().contains('@') {
        return Err(
            "expected no user name and password in it: they stand in settings of their own".to_owned()
        );
    }
    if uri.query().is_some() {
        return Err("expected no query in it".to_owned());
    }
    match uri.scheme_str() {
        Some("http") if !has_ca => Ok(()),
        Some("http") => Err("expected https, as authorities to trust are given".to_owned()),
        Some("https") if has_ca => Ok(()),
        Some("https") => {
            Err("expected a file with the authorities to trust as well, such as tls_ca = \"ca.pem\""
                .to_owned())
        }
        _ => Err("expected http or https".to_owned()),
    }
}

/// A segment of a path or a value of a query.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// A configuration that trusts the authorities of a PEM file, or nobody.
///
/// # Errors
/// What is wrong with them.
pub(super) fn client_tls(ca: Option<&[u8]>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = ca {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| error.to_string())?;
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
        if roots.is_empty() {
            return Err("there is no certificate in it".to_owned());
        }
    }
    // Named, because a second provider may be linked in.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn authorization(username: &str, password: &Secret) -> Result<HeaderValue, String> {
    if username.contains(':') {
        return Err(format!("username is {username:?}, expected one without a colon"));
    }
    let pair = Zeroizing::new(format!("{username}:{}", password.reveal()));
    let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
    let mut value = HeaderValue::from_str(&value).map_err(|error| error.to_string())?;
    value.set_sensitive(true);
    Ok(value)
}

/// A path without its query, for messages.
fn bare(path: &str) -> String {
    path.split('?').next().unwrap_or_default().to_owned()
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_cannot_be_asked_are_told_why() {
        for (url, has_ca, expected) in [
            ("http://127.0.0.1:15672", false, ""),
            ("https://rabbit.example/base/", true, ""),
            ("https://rabbit.example", false, "authorities"),
            ("http://127.0.0.1:1", true, "expected https"),
            ("127.0.0.1:15672", false, "expected"),
            ("ftp://host", false, "http or https"),
            ("http://u:p@host", false, "no user name"),
            ("http://host/?a=b", false, "no query"),
            ("http://", false, "expected a URL"),
        ] {
            let outcome = check_url(url, has_ca).err().unwrap_or_default();
            assert!(
                outcome.contains(expected) && outcome.is_empty() == expected.is_empty(),
                "{url}: {outcome}"
            );
        }
    }

    /// Answers so many connections with these, one each, and gives the requests' first lines.
    async fn answer(listener: tokio::net::TcpListener, answers: &[&str]) -> Vec<String> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            asked.push(request.lines().next().unwrap_or_default().to_owned());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    }

    async fn ask(answers: &[&str]) -> (Result<Option<Vec<u8>>, HttpError>, Vec<String>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/base/", listener.local_addr().unwrap());
        let client = HttpClient::new(&url, None, None, Duration::from_secs(5)).unwrap();
        tokio::join!(client.find("/a?b=c"), answer(listener, answers))
    }

    #[tokio::test]
    async fn what_fails_inside_the_other_side_is_asked_again() {
        const FAILED: &str = "HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        const FOUND: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n[1,2]";
        const NONE: &str = "HTTP/1.1 404 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        const SECRET: &str = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\n\"s3cret\"";
        let (found, asked) = ask(&[FAILED, FAILED, FOUND]).await;
        assert_eq!(found.unwrap(), Some(vec![1, 2]));
        assert_eq!(asked, ["GET /base/a?b=c HTTP/1.1"; 3]);
        assert_eq!(ask(&[NONE]).await.0.unwrap(), None);
        let (failed, _) = ask(&[FAILED; 4]).await;
        assert_eq!(failed.unwrap_err().to_string(), "/a: status 500 Internal Server Error");
        let (secret, _) = ask(&[SECRET]).await;
        assert_eq!(
            secret.unwrap_err().to_string(),
            "/a: the answer is not understood: Data at line 1, column 8"
        );
    }

    #[tokio::test]
    async fn an_answer_has_a_size_and_a_time() {
        let endless = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", MAX_BODY + 1);
        assert!(matches!(ask(&[&endless]).await.0, Err(HttpError::Unreachable { .. })));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let client = HttpClient::new(&url, None, None, Duration::from_millis(100)).unwrap();
        assert!(matches!(client.get::<u8>("/").await, Err(HttpError::Timeout { .. })));
    }

    #[test]
    fn a_password_is_sent_but_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, "s3cret").unwrap();
        let secret = Secret::read(&path).unwrap();
        let value = authorization("guest", &secret).unwrap();
        assert_eq!(value.as_bytes(), b"Basic Z3Vlc3Q6czNjcmV0");
        assert_eq!(format!("{value:?}"), "Sensitive");
        assert!(authorization("a:b", &secret).is_err());
    }

    #[test]
    fn authorities_that_are_none_are_refused() {
        assert!(client_tls(Some(b"nonsense")).unwrap_err().contains("no certificate"));
        assert!(client_tls(None).is_ok());
    }
}
