//! The same bytes from a plain axum route: what HTTP itself costs on this machine.

use std::path::Path;

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use rollcall_tests::process::Process;
use tempfile::NamedTempFile;
use tokio::net::TcpListener;

use crate::subject::Subject;

/// Makes this program serve instead of measure.
pub(crate) const COMMAND: &str = "serve-page";

/// A process that serves these bytes.
#[derive(Debug)]
pub(crate) struct Still {
    pub(crate) subject: Subject,
    _process: Process,
    _file: NamedTempFile,
}

impl Still {
    pub(crate) fn start(body: &[u8]) -> Self {
        let file = NamedTempFile::new().expect("a file for the page");
        std::fs::write(file.path(), body).expect("the page can be written");
        let own = std::env::current_exe().expect("a program knows its own path");
        let path = file.path().to_str().expect("a path in UTF-8").to_owned();
        let process = Process::start_at(&own, "static route", &[COMMAND.to_owned(), path]);
        Self { subject: Subject::bare(process.address.to_string()), _process: process, _file: file }
    }
}

/// Serves a file's bytes until it is killed. Says `ready ADDR` like the programs of this workspace.
pub(crate) fn serve(page: &Path) {
    let page = Bytes::from(std::fs::read(page).expect("the page can be read"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let route = get(move || async move { ([(CONTENT_TYPE, "application/json")], page.clone()) });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("ready {}", listener.local_addr().expect("a bound socket"));
        axum::serve(listener, Router::new().route("/", route)).await.expect("serving goes on");
    });
}
