//! `rollcall export`: everybody, in one stream that says whether it is whole.
//!
//! A file has its name only once it is whole; until then, and if it never is, it is called FILE.part.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Asking;
use crate::api::answer::Nodes;
use crate::api::{Lines, Stream};
use crate::arguments::{Export, ExportFormat};
use crate::exit::{Exit, Failure};
use crate::output::text::escaped_json;
use crate::output::{is_terminal, missing, print, say, warn};

/// How the line begins that is no row.
const LAST: &[u8] = b"{\"meta\":";

/// The last line.
#[derive(Debug, Deserialize)]
struct End {
    meta: EndMeta,
}

#[derive(Debug, Deserialize)]
struct EndMeta {
    complete: bool,
    count: u64,
    nodes: Nodes,
}

pub(super) async fn run(asking: &Asking, export: Export) -> Result<Exit, Failure> {
    let mut parameters = export.filter.parameters();
    parameters.push(("_sort", export.sort.clone()));
    if export.desc {
        parameters.push(("_order", "desc".to_owned()));
    }
    if !export.fields.is_empty() {
        parameters.push(("_fields", export.fields.join(",")));
    }
    let format = match export.format {
        ExportFormat::Ndjson => "ndjson",
        ExportFormat::Csv => "csv",
    };
    parameters.push(("_format", format.to_owned()));
    // A CSV cannot say what it lacks, so it has to be asked for.
    if asking.partial_ok {
        parameters.push(("_partial", "true".to_owned()));
    }
    let stream = asking.api.stream("/client_export", &parameters).await?;
    let mut sink = Sink::open(export.output.as_deref())?;
    match export.format {
        ExportFormat::Ndjson => {
            let end = ndjson(stream, &mut sink).await.map_err(|failure| sink.explain(failure))?;
            finish(asking, &end, sink)
        }
        ExportFormat::Csv => {
            let rows = csv(stream, &mut sink).await.map_err(|failure| sink.explain(failure))?;
            if asking.partial_ok {
                warn("a CSV does not say which nodes it lacks: without --partial-ok it lacks none");
            }
            sink.keep(&format!("{rows} lines"))?;
            Ok(Exit::Whole)
        }
    }
}

/// Copies rows, and gives the line that ends them.
async fn ndjson(mut stream: Stream, sink: &mut Sink) -> Result<End, Failure> {
    let mut lines = Lines::default();
    let mut end: Option<End> = None;
    while let Some(piece) = stream.piece().await? {
        let whole = lines.take(&piece);
        // It can only be the last of them.
        let last = whole.strip_suffix(b"\n").and_then(|whole| whole.split(|byte| *byte == b'\n').next_back());
        match last {
            Some(last) if last.starts_with(LAST) => {
                sink.write(&whole[..whole.len() - last.len() - 1])?;
                end = serde_json::from_slice(last).ok();
            }
            _ => sink.write(&whole)?,
        }
    }
    end.filter(|_| !lines.is_torn())
        .ok_or_else(|| stream.broken("the export broke off: its last line is missing"))
}

/// Copies all, and gives the number of lines that ended.
async fn csv(mut stream: Stream, sink: &mut Sink) -> Result<u64, Failure> {
    let mut lines = 0;
    while let Some(piece) = stream.piece().await? {
        lines += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
        sink.write(&piece)?;
    }
    Ok(lines)
}

fn finish(asking: &Asking, End { meta }: &End, sink: Sink) -> Result<Exit, Failure> {
    let clients = format!("{} clients", meta.count);
    if meta.complete {
        sink.keep(&clients)?;
        return Ok(Exit::Whole);
    }
    let missing = missing(&meta.nodes).unwrap_or_else(|| "the gateway does not say which nodes".to_owned());
    warn(&format!("the export is incomplete: {missing}"));
    if asking.partial_ok {
        sink.keep(&clients)?;
        return Ok(Exit::Whole);
    }
    sink.give_up(&clients)?;
    Ok(Exit::NodesMissing)
}

/// Where an export goes.
enum Sink {
    Stdout {
        /// Then nothing of it may act on the terminal. What is cut between two pieces waits in `rest`.
        is_terminal: bool,
        rest: Vec<u8>,
    },
    File {
        file: BufWriter<File>,
        path: PathBuf,
        part: PathBuf,
    },
}

impl Sink {
    fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self::Stdout { is_terminal: is_terminal(), rest: Vec::new() });
        };
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).map_err(|error| failed(&part, &error))?;
        Ok(Self::File { file: BufWriter::new(file), path: path.to_owned(), part })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Stdout { is_terminal: false, .. } => Ok(io::stdout().lock().write_all(bytes)?),
            Self::Stdout { rest, .. } => {
                rest.extend_from_slice(bytes);
                // Whole lines are whole characters.
                let end = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                let lines: Vec<u8> = rest.drain(..end).collect();
                Ok(print(&escaped_json(&String::from_utf8_lossy(&lines)))?)
            }
            Self::File { file, part, .. } => file.write_all(bytes).map_err(|error| failed(part, &error)),
        }
    }

    /// All has come: the file gets its name.
    fn keep(self, what: &str) -> Result<(), Failure> {
        match self.end()? {
            None => {}
            Some((path, part)) => {
                std::fs::rename(&part, &path).map_err(|error| failed(&path, &error))?;
                say(&format!("{what} in {}", path.display()));
            }
        }
        Ok(())
    }

    /// Not all has come.
    fn give_up(self, what: &str) -> Result<(), Failure> {
        if let Some((_, part)) = self.end()? {
            say(&format!("{what} in {}, which has not become the file", part.display()));
        }
        Ok(())
    }

    /// Everything written is where it should be; gives path and present path of a file.
    fn end(self) -> Result<Option<(PathBuf, PathBuf)>, Failure> {
        match self {
            Self::Stdout { .. } => {
                io::stdout().lock().flush()?;
                Ok(None)
            }
            Self::File { file, path, part } => {
                let written = file.into_inner().map_err(io::IntoInnerError::into_error);
                written.and_then(|file| file.sync_all()).map_err(|error| failed(&part, &error))?;
                Ok(Some((path, part)))
            }
        }
    }

    /// Says where the beginning of what failed is.
    fn explain(&self, failure: Failure) -> Failure {
        if let Self::File { part, .. } = self {
            say(&format!("what came is in {}, which has not become the file", part.display()));
        }
        failure
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::Local(format!("{}: {error}", path.display()))
}
