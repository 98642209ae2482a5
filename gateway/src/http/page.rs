//! The page for operators at `/`: a client of the API like any other, which the gateway only hands out.
//!
//! It is files as they stand in `page/`: no build step, no framework, nothing from another host. Who has no key gets the page and
//! no more; the key stays in the browser's memory. The policy lets it load its own files and speak to its own gateway alone.

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use http::HeaderValue;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};

use super::openapi::Escaped;

/// What the page may do. A data URL is the icon, which is none.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// A file of `page/`: its path, its kind and its text.
macro_rules! file_of_page {
    ($name:literal, $kind:ident) => {
        (concat!("/", $name), $kind, include_str!(concat!("page/", $name)))
    };
}

/// Each file but the page itself.
const FILES: [(&str, &str, &str); 13] = [
    file_of_page!("page.css", STYLE),
    file_of_page!("page.js", SCRIPT),
    file_of_page!("api.js", SCRIPT),
    file_of_page!("asked.js", SCRIPT),
    file_of_page!("bulk.js", SCRIPT),
    file_of_page!("client.js", SCRIPT),
    file_of_page!("columns.js", SCRIPT),
    file_of_page!("confirm.js", SCRIPT),
    file_of_page!("dom.js", SCRIPT),
    file_of_page!("list.js", SCRIPT),
    file_of_page!("live.js", SCRIPT),
    file_of_page!("nodes.js", SCRIPT),
    file_of_page!("session.js", SCRIPT),
];

/// The routes of the page and its files, over the API at `base_path`.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(base_path: &str) -> Router<S> {
    let page = include_str!("page/index.html").replace("BASE_PATH", &Escaped(base_path).to_string());
    let files = FILES.map(|(path, kind, text)| (path, kind, Bytes::from_static(text.as_bytes())));
    let all = files.into_iter().chain([("/", "text/html; charset=utf-8", Bytes::from(page))]);
    all.fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(move || std::future::ready(file(kind, &text))))
    })
}

/// Whether a path is the page or a file of it.
pub(super) fn has(path: &str) -> bool {
    path == "/" || FILES.iter().any(|(own, ..)| *own == path)
}

fn file(kind: &'static str, text: &Bytes) -> Response {
    let mut response = Response::new(Body::from(text.clone()));
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::query::{FILTERS, LIST};
    use crate::http::row::KEYS;

    #[test]
    fn the_page_loads_nothing_from_elsewhere_and_runs_nothing_inline() {
        let page = include_str!("page/index.html");
        for text in FILES.iter().map(|(.., text)| *text).chain([page]) {
            for refused in
                ["http://", "https://", "innerHTML", "eval(", "document.write", " style=", " onclick="]
            {
                assert!(!text.contains(refused), "{refused}");
            }
        }
        assert_eq!(page.matches("<script").count(), 1, "{page}");
    }

    #[test]
    fn every_file_of_the_page_is_handed_out() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/page");
        for file in std::fs::read_dir(folder).unwrap() {
            let path = format!("/{}", file.unwrap().file_name().to_str().unwrap());
            assert!(path == "/index.html" || has(&path), "{path}");
        }
    }

    #[test]
    fn the_page_knows_every_field_and_every_filter() {
        let columns = include_str!("page/columns.js");
        for key in KEYS {
            assert!(columns.contains(&format!("\n  {key}: {{ title: ")), "{key}");
        }
        assert_eq!(columns.matches(": { title: ").count(), KEYS.len());
        let page = include_str!("page/index.html");
        for name in &LIST[..FILTERS] {
            assert!(page.contains(&format!("name=\"{name}\"")), "{name}");
        }
    }
}
