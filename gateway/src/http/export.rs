//! Every client that matches, written while the nodes send them.
//!
//! A task of its own merges, writes and compresses, and hands over [`pieces`] of some 64 KiB: a client that reads slowly
//! stops the task there, and the nodes behind it. The task ends with the response's body, so a connection that is dropped
//! ends the nodes' calls; a client that takes no piece for [`Limits::export_client_timeout`] is given up.
//!
//! What lacks rows in its middle must not look whole: NDJSON ends with a line that says so, CSV ends without the end of
//! its body. HTTP/1.0 bodies have no end of their own, so there is no CSV over HTTP/1.0.
//!
//! Memory: some twenty pieces an export, of which hyper queues sixteen, besides what [`Export`] holds. The answer is
//! compressed where the client takes that.

use std::sync::Arc;

use axum::response::Response;
use http::Version;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use http::request::Parts;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::compress::{Coding, Compressor};
use super::csv;
use super::envelope::ExportEnd;
use super::error::ApiError;
use super::limits::Limits;
use super::observe::{Answered, RequestId};
use super::pieces::{ClientGone, Pieces, pieces};
use super::query::{self, BadParameter, ExportRequest, Format};
use super::row::{Fields, Row, json};
use crate::cluster::{Cluster, Export};
use crate::page::completeness::Completeness;

/// A piece is handed over once it has so many bytes; a row is never split.
const PIECE: usize = 64 << 10;

/// Answers with the beginning of an export, whose body goes on by itself. The nodes have until `start_by` to begin.
pub(super) async fn export(
    cluster: &Cluster,
    places: &Arc<Semaphore>,
    limits: Limits,
    parts: &Parts,
    start_by: Instant,
) -> Result<Response, ApiError> {
    let ExportRequest { query, fields, format, partial } =
        query::export(parts.uri.query().unwrap_or_default())?;
    let has_chunks = parts.version > Version::HTTP_10;
    if format == Format::Csv && !has_chunks {
        return Err(ApiError::BadParameter(BadParameter::Value {
            name: "_format",
            value: "csv".into(),
            expected: "ndjson over HTTP/1.0, by which a CSV that broke off would look whole".into(),
        }));
    }
    let full = |_| ApiError::TooManyExports { limit: limits.exports };
    let place = Arc::clone(places).try_acquire_owned().map_err(full)?;
    let export = cluster.export(&query, start_by, limits.export_node_timeout).await;
    let export = export.map_err(ApiError::of_query)?;
    let completeness = export.completeness();
    match (format, partial) {
        _ if completeness.is_whole() => {}
        (_, Some(false)) => return Err(ApiError::Partial(completeness)),
        (Format::Csv, None) => return Err(ApiError::PartialCsv(completeness)),
        _ => {}
    }

    let coding = Coding::taken_by(&parts.headers).filter(|_| has_chunks);
    let compressor = coding.and_then(|coding| match Compressor::new(coding) {
        Ok(compressor) => Some(compressor),
        Err(error) => {
            tracing::warn!(?coding, %error, "an export is not compressed");
            None
        }
    });
    let coding = coding.filter(|_| compressor.is_some());
    let (pieces, taken) = pieces(limits.export_client_timeout);
    let writer = Writer {
        fields,
        format,
        raw: Vec::new(),
        compressor,
        pieces,
        log: Log::new(parts.extensions.get().cloned()),
        _place: place,
    };
    let writing = AbortOnDropHandle::new(tokio::spawn(writer.write(export)));
    let mut response = Response::new(taken.body(writing));
    let Completeness { total, answered, .. } = completeness;
    response.extensions_mut().insert(Answered { answered, total });
    let headers = response.headers_mut();
    let content_type = match format {
        Format::Ndjson => "application/x-ndjson",
        Format::Csv => "text/csv; charset=utf-8",
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(coding) = coding {
        headers.insert(CONTENT_ENCODING, coding.name());
    }
    Ok(response)
}

/// Writes an export into pieces.
struct Writer {
    fields: Fields,
    format: Format,
    /// Written, not yet compressed or handed over.
    raw: Vec<u8>,
    compressor: Option<Compressor>,
    pieces: Pieces,
    log: Log,
    /// Taken until the end.
    _place: OwnedSemaphorePermit,
}

impl Writer {
    async fn write(mut self, mut export: Export) {
        if let Err(end) = self.write_all(&mut export).await {
            self.log.end = end;
        }
    }

    async fn write_all(&mut self, export: &mut Export) -> Result<(), End> {
        if self.format == Format::Csv {
            csv::header(self.fields, &mut self.raw);
        }
        while let Some(client) = export.next().await {
            let row = Row::of(&client, self.fields);
            match self.format {
                Format::Ndjson => {
                    json::write(&row, &mut self.raw);
                    self.raw.push(b'\n');
                }
                Format::Csv => csv::row(row, &mut self.raw),
            }
            self.log.rows += 1;
            if self.raw.len() >= PIECE {
                self.hand_over(false).await?;
            }
        }
        let completeness = export.completeness();
        self.log.end = if completeness.is_whole() { End::Complete } else { End::Incomplete };
        match self.format {
            Format::Ndjson => self.json_line(&ExportEnd::new(self.log.rows, &completeness)),
            Format::Csv if export.broke_off() => return Ok(()),
            Format::Csv => {}
        }
        self.hand_over(true).await?;
        Ok(self.pieces.end().await?)
    }

    fn json_line(&mut self, value: &impl serde::Serialize) {
        // Keys are text and writing to memory cannot fail.
        let _ = serde_json::to_writer(&mut self.raw, value);
        self.raw.push(b'\n');
    }

    /// Hands over what is written.
    async fn hand_over(&mut self, is_last: bool) -> Result<(), End> {
        let bytes = match &mut self.compressor {
            None => std::mem::replace(&mut self.raw, Vec::with_capacity(if is_last { 0 } else { PIECE })),
            Some(compressor) => {
                let written = compressor.write(&self.raw, is_last);
                self.raw.clear();
                match written {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        tracing::error!(%error, "an export cannot be compressed any further");
                        return Err(End::Failed);
                    }
                }
            }
        };
        if bytes.is_empty() {
            return Ok(());
        }
        self.log.bytes += bytes.len() as u64;
        Ok(self.pieces.send(bytes.into()).await?)
    }
}

/// How an export ended.
#[derive(Clone, Copy, Debug)]
enum End {
    Complete,
    Incomplete,
    /// Nobody takes the pieces any more.
    ClientGone,
    /// The gateway could not go on.
    Failed,
}

impl From<ClientGone> for End {
    fn from(ClientGone: ClientGone) -> Self {
        Self::ClientGone
    }
}

/// Logs an export when it ends, however that comes about.
struct Log {
    request: Option<RequestId>,
    begun: Instant,
    rows: u64,
    bytes: u64,
    end: End,
}

impl Log {
    fn new(request: Option<RequestId>) -> Self {
        // Being dropped is how the task learns that the client has gone.
        Self { request, begun: Instant::now(), rows: 0, bytes: 0, end: End::ClientGone }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        tracing::info!(
            target: "rollcall_gateway::access",
            request = self.request.as_ref().map(RequestId::shown),
            end = ?self.end,
            rows = self.rows,
            bytes = self.bytes,
            duration_ms = self.begun.elapsed().as_micros() as f64 / 1000.0,
            "export ended"
        );
    }
}
