//! The gateway's HTTP API, asked.
//!
//! Nothing is asked twice and no redirect is followed: a gateway answers itself, and a kick is not repeated unasked. What a
//! gateway sends is bounded in size, and in time between two pieces.

pub(crate) mod answer;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::time::timeout;

use crate::arguments::Parameter;
use crate::context::{Secret, Target};
use crate::exit::{Failure, Refusal};
use answer::{Answer, Rejection};

/// The largest answer that is read whole, bytes: 10,000 rows are a tenth of it.
const MAX_BODY: usize = 256 << 20;

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a gateway may take to answer if it was given no time, and to go on with an answer. It has limits of its own,
/// far below.
const SILENCE: Duration = Duration::from_secs(120);

/// What a gateway that was given a time gets beyond it, for the way.
const GRACE: Duration = Duration::from_secs(2);

/// All but letters, digits and `-._~`.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The header by which a request is given less time.
const TIMEOUT_HEADER: &str = "rollcall-timeout-ms";

/// Who is asked, and as whom.
pub(crate) struct Api {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    authorization: Option<HeaderValue>,
    timeout: Option<Duration>,
}

impl Api {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// Authorities or a key that cannot be used.
    pub(crate) fn new(target: Target) -> Result<Self, Failure> {
        let tls = match &target.ca {
            Some(pem) => tls(authorities(pem)?)?,
            None if target.base.starts_with("https:") => tls(system_authorities()?)?,
            None => tls(RootCertStore::empty())?,
        };
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let mut builder = Client::builder(TokioExecutor::new());
        builder.retry_canceled_requests(false);
        let authorization = target.key.as_ref().map(authorization).transpose()?;
        Ok(Self {
            client: builder.build(connector),
            base: target.base,
            authorization,
            timeout: target.timeout,
        })
    }

    /// A JSON answer to a GET. The path begins with a slash and is encoded.
    ///
    /// # Errors
    /// There is none, or it is an error.
    pub(crate) async fn get(&self, path: &str, parameters: &[Parameter]) -> Result<Answer, Failure> {
        self.json(self.open(Method::GET, path, parameters, None).await?).await
    }

    /// A JSON answer to a POST.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        self.json(self.post_stream(path, body).await?).await
    }

    /// An answer to a GET that is read while it comes.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) async fn stream(&self, path: &str, parameters: &[Parameter]) -> Result<Stream, Failure> {
        self.open(Method::GET, path, parameters, None).await
    }

    /// An answer to a POST that is read while it comes.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) async fn post_stream(&self, path: &str, body: &Value) -> Result<Stream, Failure> {
        self.open(Method::POST, path, &[], Some(body.to_string())).await
    }

    async fn json(&self, stream: Stream) -> Result<Answer, Failure> {
        let body = stream.whole().await?;
        serde_json::from_slice(&body).map_err(|error| self.not_rollcall(&error.to_string()))
    }

    async fn open(
        &self,
        method: Method,
        path: &str,
        parameters: &[Parameter],
        body: Option<String>,
    ) -> Result<Stream, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}{}", self.base, query(parameters)))
            .header(ACCEPT, "*/*")
            .header(USER_AGENT, concat!("rollcall/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if let Some(timeout) = self.timeout {
            request = request.header(TIMEOUT_HEADER, timeout.as_millis().to_string());
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::from(body.unwrap_or_default()))
            .map_err(|error| Failure::Usage(format!("{path}: {error}")))?;
        let within = self.timeout.map_or(SILENCE, |timeout| timeout + GRACE);
        let response = match timeout(within, self.client.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.unreachable(&chain(&error))),
            Err(_) => {
                return Err(
                    self.unreachable(&format!("no answer within {}", humantime::format_duration(within)))
                );
            }
        };
        let status = response.status();
        let stream = Stream { response, url: self.base.clone() };
        if status == StatusCode::OK { Ok(stream) } else { Err(self.refusal(status, stream).await) }
    }

    async fn refusal(&self, status: StatusCode, stream: Stream) -> Failure {
        let body = match stream.whole().await {
            Ok(body) => body,
            Err(failure) => return failure,
        };
        match serde_json::from_slice::<Rejection>(&body) {
            // No such path: what is asked is another version, or elsewhere.
            Ok(Rejection { code: 102, message, .. }) if status == StatusCode::NOT_FOUND => {
                self.not_rollcall(&message)
            }
            Ok(Rejection { code, message, meta }) => {
                let nodes = meta.and_then(|meta| meta.nodes);
                Failure::Answered(Refusal { status: status.as_u16(), code, message, nodes })
            }
            Err(_) => self.not_rollcall(&format!("status {status}")),
        }
    }

    fn unreachable(&self, reason: &str) -> Failure {
        Failure::Unreachable { url: self.base.clone(), reason: reason.to_owned() }
    }

    fn not_rollcall(&self, reason: &str) -> Failure {
        let reason = crate::output::text::shown(reason).into_owned();
        Failure::NotRollcall { url: self.base.clone(), reason }
    }
}

/// An answer that is being read.
pub(crate) struct Stream {
    response: Response<Incoming>,
    url: String,
}

impl Stream {
    /// The next piece; `None` once all has come.
    ///
    /// # Errors
    /// It broke off, or nothing comes any more.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = match timeout(SILENCE, self.response.body_mut().frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    return Err(self.broken(&format!("the answer broke off: {}", chain(&error))));
                }
                Err(_) => return Err(self.broken("the answer does not go on")),
            };
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    async fn whole(self) -> Result<Bytes, Failure> {
        let broken = |reason: String| Failure::Unreachable { url: self.url.clone(), reason };
        match timeout(SILENCE, Limited::new(self.response.into_body(), MAX_BODY).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => Err(broken(format!("the answer broke off: {}", chain(error.as_ref())))),
            Err(_) => Err(broken("the answer does not end".to_owned())),
        }
    }

    /// The failure of an answer that is not all there.
    pub(crate) fn broken(&self, reason: &str) -> Failure {
        Failure::Unreachable { url: self.url.clone(), reason: reason.to_owned() }
    }
}

/// Cuts a stream into lines.
#[derive(Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes a piece, and gives the lines that have come to their end with it, with what ends them.
    pub(crate) fn take(&mut self, piece: &[u8]) -> Vec<u8> {
        match piece.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => {
                let mut lines = std::mem::take(&mut self.rest);
                lines.extend_from_slice(&piece[..=end]);
                self.rest.extend_from_slice(&piece[end + 1..]);
                lines
            }
            None => {
                self.rest.extend_from_slice(piece);
                Vec::new()
            }
        }
    }

    /// Whether a line has begun that did not end.
    pub(crate) fn is_torn(&self) -> bool {
        !self.rest.is_empty()
    }
}

/// A segment of a path or a value of a query.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

fn query(parameters: &[Parameter]) -> String {
    let mut query = String::new();
    for (name, value) in parameters {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(name);
        query.push('=');
        query.push_str(&encode(value));
    }
    query
}

fn authorization(key: &Secret) -> Result<HeaderValue, Failure> {
    let key = key.reveal();
    let text =
        if key.contains(':') { format!("Basic {}", STANDARD.encode(key)) } else { format!("Bearer {key}") };
    let mut value =
        HeaderValue::from_str(&text).map_err(|error| Failure::Local(format!("the key: {error}")))?;
    value.set_sensitive(true);
    Ok(value)
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, Failure> {
    let failed = |why: String| Failure::Local(format!("the authorities to trust: {why}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if roots.is_empty() { Err(failed("there is no certificate in PEM".to_owned())) } else { Ok(roots) }
}

fn system_authorities() -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    // Some of a system's may be unusable, which matters only if none is left.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Failure::Local("the system has no authorities to trust, expected --ca FILE".to_owned()));
    }
    Ok(roots)
}

fn tls(roots: RootCertStore) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Local(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some say what their cause says.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_come() {
        let text = b"one\ntwo\n\nthree";
        for size in 1..=text.len() {
            let (mut lines, mut out) = (Lines::default(), Vec::new());
            for piece in text.chunks(size) {
                let whole = lines.take(piece);
                assert!(whole.is_empty() || whole.ends_with(b"\n"));
                out.extend(whole);
            }
            assert_eq!((out.as_slice(), lines.is_torn()), (&b"one\ntwo\n\n"[..], true));
        }
    }

    #[test]
    fn what_is_typed_is_encoded() {
        assert_eq!(
            query(&[("a", "x y&z=ü/%".into()), ("b", String::new())]),
            "?a=x%20y%26z%3D%C3%BC%2F%25&b="
        );
        assert_eq!(query(&[]), "");
    }

    #[test]
    fn a_key_is_sent_but_not_shown() {
        for (key, expected) in [("guest:s3cret", "Basic Z3Vlc3Q6czNjcmV0"), ("s3cret", "Bearer s3cret")] {
            let value = authorization(&Secret::new(key).unwrap()).unwrap();
            assert_eq!(value, expected);
            assert_eq!(format!("{value:?}"), "Sensitive");
        }
    }
}
