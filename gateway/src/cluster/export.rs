//! Every client of the cluster, as one stream.
//!
//! Each node streams its clients in order out of one state of its index; the streams are merged row by row as they are
//! read. The states of two nodes are not of the same moment, so a client that moves between nodes meanwhile may be seen
//! on both or on neither; a page has the same bound.
//!
//! Memory: of a node, what its connection lets it send ahead (512 KiB) and one chunk (500 rows or 1 MiB and the row that
//! passes it), whatever it has in all. Each stream has a connection of its own for the time it lasts: a reader that is
//! slow leaves its window unread, and on a connection shared with other calls it would hold those up.
//!
//! Failures: a node that fails before its first rows are in is named and left out. One that fails later ends the export,
//! because what follows would have gaps in its middle. A stream has no deadline, but whenever a node is waited for, its
//! next chunk has to come within the time allowed; while nobody reads, nobody waits for a node.
//!
//! The calls live in [`Export`]: dropping it ends them.

use std::sync::Arc;
use std::time::Duration;

use rollcall_proto::{Order, v1};
use tokio::time::Instant;
use tonic::{Request, Streaming};

use super::bearer::Link;
use super::call::{self, CallError};
use super::fanout;
use super::kick::Owner;
use super::node::Node;
use super::{Cluster, ClusterError, Scope};
use crate::page::completeness::{Completeness, FailedNode};
use crate::page::merge::own_rows;
use crate::page::streams::{Step, Streams};

/// What an export is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportQuery {
    /// Which clients.
    pub filter: v1::Filter,
    /// In which order.
    pub order: Order,
    /// On which nodes.
    pub scope: Scope,
    /// Whether rows come with live figures.
    pub with_statistics: bool,
}

/// A running export.
#[derive(Debug)]
pub struct Export {
    order: Order,
    rows: Streams,
    /// Of the nodes whose rows are merged, in the same order.
    sources: Vec<Source>,
    node_timeout: Duration,
    /// The last moment at which a node is waited for, if there is one.
    until: Option<Instant>,
    total: usize,
    failed: Vec<FailedNode>,
    broke_off: bool,
}

/// One node's stream.
#[derive(Debug)]
struct Source {
    owner: Arc<Owner>,
    /// Rows that are still to come, by the node's own count.
    left: u64,
    chunks: Streaming<v1::ListResponse>,
    /// Holds the stream's connection.
    _client: v1::node_client::NodeClient<Link>,
}

pub(super) async fn export(
    cluster: &Cluster,
    query: &ExportQuery,
    start_by: Instant,
    node_timeout: Duration,
) -> Result<Export, ClusterError> {
    let nodes = cluster.in_scope(&query.scope, start_by).await?;
    let start_by = cluster.reserve(start_by);
    let total = nodes.len();
    let (answers, failures) = fanout::ask_all(&nodes, start_by, |node| {
        call::by(start_by, async move {
            let (source, first) = begin(node, query).await?;
            Ok((source.name().to_owned(), (source, first)))
        })
    })
    .await;
    let failed = fanout::failed_nodes(&failures);
    if answers.is_empty() {
        return Err(ClusterError::NobodyAnswered { failed: fanout::completeness(total, failed).failed });
    }
    let mut export = Export {
        order: query.order,
        rows: Streams::new(query.order, answers.len()),
        sources: Vec::with_capacity(answers.len()),
        node_timeout,
        until: None,
        total,
        failed,
        broke_off: false,
    };
    for (at, answer) in answers.into_iter().enumerate() {
        let (source, first) = answer.body;
        export.sources.push(source);
        // A first chunk was checked as it came, and nothing came before it.
        export.take_in(at, first).unwrap_or_else(|error| export.break_off(at, error));
    }
    Ok(export)
}

/// Opens a node's stream and waits for its first rows, or for the news that there are none.
async fn begin(node: Arc<Node>, query: &ExportQuery) -> Result<(Source, Option<Vec<v1::Client>>), CallError> {
    let message = v1::ExportRequest {
        filter: Some(query.filter.clone()),
        order: Some(query.order.into()),
        without_statistics: !query.with_statistics,
    };
    let mut client = node.export_client();
    let mut chunks = client.export(Request::new(message)).await?.into_inner();
    let head =
        chunks.message().await?.ok_or_else(|| CallError::protocol("an export without a first chunk"))?;
    let identity = node.identified(head.identity, &query.scope)?;
    let owner = Arc::new(Owner { node, identity });
    let mut source = Source { owner, left: head.count, chunks, _client: client };
    let first = if head.clients.is_empty() {
        source.more(query.order).await?
    } else {
        Some(source.checked(query.order, head.clients)?)
    };
    Ok((source, first))
}

impl Source {
    fn name(&self) -> &str {
        &self.owner.identity.name
    }

    /// The next rows, at least one; `None` at the end.
    async fn more(&mut self, order: Order) -> Result<Option<Vec<v1::Client>>, CallError> {
        while let Some(chunk) = self.chunks.message().await? {
            if !chunk.clients.is_empty() {
                return self.checked(order, chunk.clients).map(Some);
            }
        }
        match self.left {
            0 => Ok(None),
            left => Err(CallError::protocol(format!("the export ended with {left} of its rows missing"))),
        }
    }

    fn checked(&mut self, order: Order, mut rows: Vec<v1::Client>) -> Result<Vec<v1::Client>, CallError> {
        self.left = (self.left.checked_sub(rows.len() as u64))
            .ok_or_else(|| CallError::protocol("more rows than the node's own count"))?;
        own_rows(order, self.name(), &mut rows).map_err(|error| CallError::protocol(error.to_string()))?;
        Ok(rows)
    }
}

impl Export {
    /// The same, in which no node is waited for past this moment.
    pub(super) fn by(self, until: Instant) -> Self {
        Self { until: Some(until), ..self }
    }

    /// The next client: strictly behind the one before in the export's order, with `node` set. `None` at the end, which
    /// is of everything only if [`Export::broke_off`] says no. Once a node has failed, no row follows.
    pub async fn next(&mut self) -> Option<v1::Client> {
        loop {
            if self.broke_off {
                return None;
            }
            let node = match self.rows.step() {
                Step::Row(row) => return Some(row),
                Step::End => return None,
                Step::Wait { node } => node,
            };
            let until = Instant::now() + self.node_timeout;
            let until = self.until.map_or(until, |end| until.min(end));
            let more = call::by(until, self.sources[node].more(self.order));
            let taken = more.await.and_then(|rows| self.take_in(node, rows));
            taken.unwrap_or_else(|error| self.break_off(node, error));
        }
    }

    /// Whether a node failed after the first rows were in, so that rows are missing from here on.
    #[must_use]
    pub fn broke_off(&self) -> bool {
        self.broke_off
    }

    /// Which nodes have answered to the end so far.
    #[must_use]
    pub fn completeness(&self) -> Completeness {
        fanout::completeness(self.total, self.failed.clone())
    }

    /// Who sends the rows of the node of this name.
    pub(super) fn owner(&self, name: &str) -> Option<&Arc<Owner>> {
        self.sources.iter().find(|source| source.name() == name).map(|source| &source.owner)
    }

    fn take_in(&mut self, node: usize, rows: Option<Vec<v1::Client>>) -> Result<(), CallError> {
        match rows {
            Some(rows) => self.rows.push(node, rows).map_err(|error| CallError::protocol(error.to_string())),
            None => {
                self.rows.end(node);
                Ok(())
            }
        }
    }

    fn break_off(&mut self, node: usize, error: CallError) {
        let node = &self.sources[node].owner.node;
        tracing::warn!(node = %node.label(), %error, "an export broke off");
        self.failed.push(node.failed(error.reason));
        node.note::<()>(&Err(error));
        self.broke_off = true;
    }
}
