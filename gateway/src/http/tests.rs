//! The router on its own, over one node that nobody listens for.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::*;
use crate::audit::Audit;
use crate::cluster::{Cluster, ClusterSettings};
use crate::http::limits::{KickLimits, Limits};
use crate::keys::Key;
use crate::live_keys::LiveKeys;

const LIMITS: Limits = Limits {
    requests: 8,
    heavy_requests: 1,
    exports: 1,
    export_node_timeout: Duration::from_secs(5),
    export_client_timeout: Duration::from_secs(5),
    wrong_keys: 20,
    connections: 8,
    url_bytes: 1000,
    head_bytes: 3000,
    body_bytes: 100,
    read_timeout: Duration::from_secs(1),
    kicks: KickLimits {
        at_once: 1,
        most: 10,
        default_most: 5,
        most_rate: 1000,
        default_rate: 100,
        body_bytes: 300,
    },
};

struct Gateway {
    router: Router,
    drain: Drain,
}

impl Gateway {
    fn new(base_path: &str, limits: Limits) -> Self {
        let settings = ClusterSettings {
            probe_interval: Duration::from_secs(3600),
            ..ClusterSettings::over(vec!["127.0.0.1:1".into()])
        };
        let keys = ["dash:s1:viewer", "ops:s2:operator"].map(|text| Key::from_argument(text).unwrap());
        let keys = Arc::new(LiveKeys::load(None, keys.to_vec()).unwrap());
        let cluster = Cluster::start(&settings).unwrap();
        let drain = Drain::default();
        let (base_path, timeout) = (base_path.to_owned(), Duration::from_secs(5));
        let api = Api::new(cluster, keys, Audit::default(), base_path, timeout, limits, drain.clone());
        Self { router: router(api, drain.clone()), drain }
    }

    async fn send(&self, request: Request<Body>) -> (u16, HeaderMap, Value) {
        let head = request.method() == Method::HEAD;
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        assert_eq!(parts.headers[CONTENT_TYPE], "application/json");
        assert_eq!(parts.headers[CACHE_CONTROL], "no-store");
        assert!(parts.headers.contains_key("x-request-id"));
        let body = body.collect().await.unwrap().to_bytes();
        let body = if head {
            assert!(body.is_empty());
            Value::Null
        } else {
            serde_json::from_slice(&body).unwrap()
        };
        (parts.status.as_u16(), parts.headers, body)
    }
}

fn gateway() -> Gateway {
    Gateway::new("/api/v4", LIMITS)
}

fn request(method: Method, url: &str) -> Request<Body> {
    Request::builder().method(method).uri(url).header(AUTHORIZATION, "Bearer s2").body(Body::empty()).unwrap()
}

fn get(url: &str) -> Request<Body> {
    request(Method::GET, url)
}

#[tokio::test]
async fn each_refusal_has_its_status_and_code() {
    let gateway = gateway();
    for (method, url, status, code) in [
        (Method::GET, "/nothing", 404, 102),
        (Method::GET, "/api/v4", 404, 102),
        (Method::GET, "/api/v4/", 404, 102),
        (Method::GET, "/api/v4/nothing", 404, 102),
        (Method::GET, "/api/v4//clients", 404, 102),
        (Method::GET, "/api/v4x/clients", 404, 102),
        (Method::POST, "/api/v4/clients", 405, 102),
        (Method::DELETE, "/api/v4/clients", 405, 102),
        (Method::PUT, "/api/v4/clients/c", 405, 102),
        (Method::DELETE, "/api/v4/client_counts", 405, 102),
        (Method::POST, "/api/v4/client_counts", 405, 102),
        (Method::GET, "/api/v4/client_counts/zone", 404, 102),
        (Method::GET, "/api/v4/client_counts?_page=1", 400, 108),
        (Method::GET, "/api/v4/client_counts?_group_by=port", 400, 108),
        (Method::GET, "/api/v4/client_counts", 503, 101),
        (Method::HEAD, "/api/v4/client_counts/", 503, 101),
        (Method::GET, "/api/v4/client_kicks", 405, 102),
        (Method::DELETE, "/api/v4/client_kicks", 405, 102),
        (Method::POST, "/api/v4/client_kicks", 400, 108),
        (Method::POST, "/api/v4/client_kicks/x", 404, 102),
        (Method::POST, "/api/v4/nodes/x/client_kicks", 404, 102),
        (Method::POST, "/health/live", 405, 102),
        (Method::GET, "/api/v4/clients/%zz", 400, 108),
        (Method::GET, "/api/v4/clients/%ff", 400, 108),
        (Method::GET, "/api/v4/clients?clientid=%zz", 400, 108),
        (Method::GET, "/api/v4/clients?foo=bar", 400, 108),
        (Method::GET, "/api/v4/clients/c?zone=x", 400, 108),
        (Method::DELETE, "/api/v4/clients/c?zone=x", 400, 108),
        (Method::GET, "/api/v4/nodes?x=1", 400, 108),
        (Method::GET, "/api/v4/clients", 503, 101),
        (Method::GET, "/api/v4/clients/c", 503, 101),
        (Method::DELETE, "/api/v4/clients/c", 503, 101),
        (Method::GET, "/api/v4/clients/username/u", 503, 101),
        (Method::GET, "/api/v4/clients?_node=x", 503, 101),
        (Method::GET, "/api/v4/nodes/x/clients", 503, 101),
        (Method::GET, "/api/v4/nodes/x", 503, 101),
    ] {
        let (got, headers, body) = gateway.send(request(method.clone(), url)).await;
        assert_eq!(got, status, "{method} {url}: {body}");
        if method != Method::HEAD {
            assert_eq!(body["code"], Value::from(code), "{method} {url}: {body}");
            assert!(!body["message"].as_str().unwrap().is_empty());
        }
        assert_eq!(headers.contains_key(ALLOW), status == 405, "{method} {url}");
    }
}

#[tokio::test]
async fn a_silent_node_is_named() {
    let (_, _, body) = gateway().send(get("/api/v4/clients")).await;
    insta::assert_json_snapshot!(body, @r#"
    {
      "code": 101,
      "message": "no node answered: 127.0.0.1:1 (unreachable)",
      "meta": {
        "nodes": {
          "failed": [
            {
              "node": "127.0.0.1:1",
              "reason": "unreachable"
            }
          ]
        }
      }
    }
    "#);
}

#[tokio::test]
async fn nodes_are_shown_however_they_fare() {
    let gateway = gateway();
    for url in ["/api/v4/nodes", "/api/v4/nodes/", "/api/v4/nodes/127.0.0.1:1"] {
        let (status, _, body) = gateway.send(get(url)).await;
        assert_eq!((status, &body["meta"]["count"]), (200, &Value::from(1)), "{url}: {body}");
        let node = if body["data"].is_array() { &body["data"][0] } else { &body["data"] };
        assert_eq!((&node["node"], &node["address"]), (&Value::Null, &Value::from("127.0.0.1:1")));
    }
}

#[tokio::test]
async fn nothing_under_the_base_path_is_told_without_a_key() {
    let gateway = gateway();
    for url in ["/api/v4", "/api/v4/clients", "/api/v4/nothing", "/api/v4/clients/%zz", "/api/v4/nodes"] {
        for method in [Method::GET, Method::POST, Method::DELETE, Method::HEAD] {
            let mut request = request(method.clone(), url);
            request.headers_mut().remove(AUTHORIZATION);
            let (status, headers, _) = gateway.send(request).await;
            assert_eq!(status, 401, "{method} {url}");
            assert_eq!(headers[WWW_AUTHENTICATE], r#"Basic realm="rollcall""#);
        }
    }
}

#[tokio::test]
async fn a_viewer_reads_and_does_not_kick() {
    let gateway = gateway();
    let as_viewer = |method| {
        let mut request = request(method, "/api/v4/clients/c");
        request.headers_mut().insert(AUTHORIZATION, "Bearer s1".parse().unwrap());
        request
    };
    let (status, _, body) = gateway.send(as_viewer(Method::DELETE)).await;
    assert_eq!((status, body["code"].as_u64()), (403, Some(102)));
    assert_eq!(gateway.send(as_viewer(Method::GET)).await.0, 503);
}

#[tokio::test]
async fn the_base_path_is_what_was_configured() {
    for (base, url) in [("", "/nodes"), ("/x/y", "/x/y/nodes")] {
        let gateway = Gateway::new(base, LIMITS);
        assert_eq!(gateway.send(get(url)).await.0, 200, "{base}");
        assert_eq!(gateway.send(get("/api/v4/nodes")).await.0, 404, "{base}");
        assert_eq!(gateway.send(get("/health/live")).await.0, 200, "{base}");
    }
}

#[tokio::test]
async fn health_needs_no_key_and_no_node() {
    let gateway = gateway();
    let ask = |url: &str| Request::get(url).body(Body::empty()).unwrap();
    assert_eq!(gateway.send(ask("/health/live")).await.0, 200);
    assert_eq!(gateway.send(ask("/health/ready")).await.0, 200);
    gateway.drain.begin();
    assert_eq!(gateway.send(ask("/health/live")).await.0, 200);
    assert_eq!(gateway.send(ask("/health/ready")).await.0, 503);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_by_name() {
    let gateway = gateway();
    let (status, _, body) = gateway.send(get(&format!("/api/v4/clients?zone={}", "x".repeat(1000)))).await;
    assert_eq!((status, body["message"].as_str()), (413, Some("URL of 1021 bytes, expected at most 1000")));
    let mut large = get("/api/v4/clients");
    large.headers_mut().insert("x-large", "x".repeat(3000).parse().unwrap());
    let (status, _, body) = gateway.send(large).await;
    assert_eq!(status, 413);
    assert!(body["message"].as_str().unwrap().starts_with("request head, mostly x-large, of 30"), "{body}");
}

#[tokio::test]
async fn a_body_is_dropped_unless_it_is_too_large() {
    let gateway = gateway();
    for (length, status) in [(1, 200), (100, 200), (101, 413), (10_000, 413)] {
        let whole = get("/api/v4/nodes").map(|_| Body::from(vec![b'x'; length]));
        assert_eq!(gateway.send(whole).await.0, status, "{length}");
        let chunks = vec![Ok::<_, std::io::Error>(vec![b'x'; length])];
        let streamed = get("/api/v4/nodes").map(|_| Body::from_stream(futures::stream::iter(chunks)));
        assert_eq!(gateway.send(streamed).await.0, status, "{length} without content-length");
    }
    let broken = futures::stream::iter([Err::<Vec<u8>, _>(std::io::Error::other("gone"))]);
    assert_eq!(gateway.send(get("/api/v4/nodes").map(|_| Body::from_stream(broken))).await.0, 400);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let never = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    assert_eq!(gateway().send(get("/api/v4/nodes").map(|_| Body::from_stream(never))).await.0, 400);
}

#[tokio::test]
async fn requests_beyond_the_limit_are_told_to_come_again() {
    let gateway = Gateway::new("/api/v4", Limits { requests: 0, ..LIMITS });
    for (method, url) in [
        (Method::GET, "/clients"),
        (Method::GET, "/clients/c"),
        (Method::DELETE, "/clients/c"),
        (Method::GET, "/x"),
    ] {
        let (status, headers, body) = gateway.send(request(method, &format!("/api/v4{url}"))).await;
        assert_eq!((status, &headers["retry-after"]), (503, &"1".parse().unwrap()), "{url}: {body}");
    }
    // What an operator looks at then asks nobody.
    for url in ["/api/v4/nodes", "/api/v4/nodes/127.0.0.1:1", "/health/live", "/health/ready"] {
        assert_eq!(gateway.send(get(url)).await.0, 200, "{url}");
    }
}

#[tokio::test]
async fn a_request_id_is_kept_if_it_is_sane() {
    let gateway = gateway();
    for (id, is_kept) in [("abc-1", true), ("", false), ("a b", false), (&"x".repeat(129), false)] {
        let mut request = get("/health/live");
        request.headers_mut().insert("x-request-id", id.parse().unwrap());
        let (_, headers, _) = gateway.send(request).await;
        assert_eq!(headers["x-request-id"] == id, is_kept, "{id}");
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let gateway = gateway();
    for url in ["/api/v4/nodes", "/api/v4/nothing", "/health/live"] {
        let (status, headers, _) = gateway.send(request(Method::HEAD, url)).await;
        let (same, _, body) = gateway.send(get(url)).await;
        assert_eq!(status, same, "{url}");
        let length: usize = headers["content-length"].to_str().unwrap().parse().unwrap();
        assert!(length > 0 && (url == "/api/v4/nodes" || length == body.to_string().len()), "{url}");
    }
}

#[tokio::test]
async fn a_client_may_ask_for_an_earlier_deadline() {
    let gateway = gateway();
    let with = |value: &str| {
        let mut request = get("/api/v4/nodes");
        request.headers_mut().insert("rollcall-timeout-ms", value.parse().unwrap());
        request
    };
    for value in ["1", "5000", "18446744073709551615"] {
        assert_eq!(gateway.send(with(value)).await.0, 200, "{value}");
    }
    for value in ["0", "-1", "x", "", "1.5", "18446744073709551616"] {
        let (status, _, body) = gateway.send(with(value)).await;
        assert_eq!((status, body["code"].as_u64()), (400, Some(108)), "{value}");
    }
}

#[tokio::test]
async fn a_panic_is_an_internal_error_and_names_the_request() {
    let panics = Router::new()
        .route("/", routing::get(async || -> Response { panic!("the secret reason") }))
        .layer(from_fn_with_state(Observer::default(), observe::observe));
    let request = Request::get("/").header("x-request-id", "r1").body(Body::empty()).unwrap();
    let response = panics.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 500);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        std::str::from_utf8(&body).unwrap(),
        r#"{"code":102,"message":"internal error, see the gateway's log for request r1"}"#
    );
}
