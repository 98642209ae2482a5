//! `rollcall clients`: a page, all pages, or a page again and again.

use std::time::SystemTime;

use super::Asking;
use crate::api::answer::{Answer, Nodes, Object};
use crate::arguments::{Clients, Format, Parameter};
use crate::exit::{Exit, Failure};
use crate::output::csv::CLIENT_FIELDS;
use crate::output::screen::live;
use crate::output::table::{Columns, Tint, tinted};
use crate::output::{Rows, View, cells, look, missing, say, warn};

pub(super) const VIEW: View = View {
    table: &["clientid", "node", "username", "ip_address", "port", "connected", "connected_at", "proto_ver"],
    wide: &[
        "clientid",
        "node",
        "username",
        "ip_address",
        "port",
        "connected",
        "connected_at",
        "proto_ver",
        "zone",
        "keepalive",
        "clean_start",
        "expiry_interval",
        "subscriptions_cnt",
        "inflight",
        "mqueue_len",
        "mqueue_dropped",
        "recv_msg",
        "send_msg",
    ],
    csv: &CLIENT_FIELDS,
};

/// Rows of a page.
const PAGE: u32 = 100;

/// Rows of a page on the way through all of them.
const WALK: u32 = 1000;

pub(super) async fn run(asking: &Asking, clients: Clients) -> Result<Exit, Failure> {
    let fields = match clients.fields.as_slice() {
        [] => VIEW.fields(clients.output.format),
        fields => fields.to_vec(),
    };
    let parameters = parameters(&clients, &fields);
    if clients.watch {
        return watch(asking, &clients, &fields, &parameters).await;
    }
    let rows = Rows::new(&clients.output, fields);
    if clients.all {
        walk(asking, &clients, rows, parameters).await
    } else {
        page(asking, &clients, rows, parameters).await
    }
}

fn parameters(clients: &Clients, fields: &[String]) -> Vec<Parameter> {
    let mut parameters = clients.filter.parameters();
    parameters.push(("_sort", clients.sort.clone()));
    if clients.desc {
        parameters.push(("_order", "desc".to_owned()));
    }
    let rows = clients.limit.unwrap_or(if clients.all { WALK } else { PAGE });
    parameters.push(("_limit", rows.to_string()));
    if let Some(page) = clients.page {
        parameters.push(("_page", page.to_string()));
    }
    // Each figure that is not shown need not be read from a broker. A CSV of all fields is of those this program knows.
    if !fields.is_empty() {
        parameters.push(("_fields", fields.join(",")));
    }
    parameters
}

async fn page(
    asking: &Asking,
    clients: &Clients,
    mut rows: Rows,
    parameters: Vec<Parameter>,
) -> Result<Exit, Failure> {
    let Answer { meta, data } = asking.api.get("/clients", &parameters).await?;
    rows.page(&data)?;
    rows.end(&meta)?;
    if matches!(clients.output.format, Format::Table | Format::Wide) {
        let has_next = meta.get("hasnext").is_some_and(|has_next| *has_next == true);
        match (data.len(), has_next) {
            (0, _) if clients.limit != Some(0) => say(&format!("no client on this page, {}", counted(&meta))),
            (0, _) => say(&counted(&meta)),
            (shown, true) => {
                let next = meta.count("page").unwrap_or(1) + 1;
                say(&format!("{shown} of {}; more by --page {next} or --all", counted(&meta)));
            }
            (..) => {}
        }
        if !is_consistent(&meta) {
            warn("clients came and went while this page was read: one may be missing or on two pages");
        }
    }
    Ok(asking.completeness(meta.nodes().as_ref()))
}

/// How many clients match.
fn counted(meta: &Object) -> String {
    let count = meta.count("count").unwrap_or(0);
    let clients = if count == 1 { "client" } else { "clients" };
    let at_least = if meta.text("count_is") == "at_least" { "at least " } else { "" };
    format!("{at_least}{count} {clients}")
}

/// Whether a page is of one state of each node.
fn is_consistent(meta: &Object) -> bool {
    meta.get("consistent").is_none_or(|consistent| *consistent != false)
}

/// All pages by cursor. A node that fails one of them is missing in the whole, and nodes that changed under one of them
/// changed under the whole.
async fn walk(
    asking: &Asking,
    clients: &Clients,
    mut rows: Rows,
    mut parameters: Vec<Parameter>,
) -> Result<Exit, Failure> {
    let mut nodes: Option<Nodes> = None;
    let mut all_consistent = true;
    parameters.push(("_cursor", String::new()));
    loop {
        let Answer { mut meta, data } = asking.api.get("/clients", &parameters).await?;
        rows.page(&data)?;
        all_consistent &= is_consistent(&meta);
        if let Some(page) = meta.nodes() {
            nodes.get_or_insert_with(|| page.clone()).join(page);
        }
        let cursor = meta.text("cursor").to_owned();
        if cursor.is_empty() {
            meta.remove(&["page", "limit", "hasnext", "cursor"]);
            if let Some(nodes) = nodes.as_ref().and_then(|nodes| serde_json::to_value(nodes).ok()) {
                meta.set("nodes", nodes);
            }
            meta.set("consistent", all_consistent.into());
            rows.end(&meta)?;
            if !all_consistent && matches!(clients.output.format, Format::Table | Format::Wide) {
                warn(
                    "nodes changed while a page was read: a client that reconnected may be missing or shown twice",
                );
            }
            return Ok(asking.completeness(nodes.as_ref()));
        }
        if let Some((_, value)) = parameters.last_mut() {
            *value = cursor;
        }
    }
}

async fn watch(
    asking: &Asking,
    clients: &Clients,
    fields: &[String],
    parameters: &[Parameter],
) -> Result<Exit, Failure> {
    if !matches!(clients.output.format, Format::Table | Format::Wide) {
        return Err(Failure::Usage("--watch shows a table, expected -o table or -o wide with it".to_owned()));
    }
    live(clients.interval.interval, async |_| {
        let answer = asking.api.get("/clients", parameters).await?;
        Ok(frame(&answer, fields, clients.output.no_headers))
    })
    .await
}

/// A page below a line that says when it was and what it lacks.
pub(super) fn frame(Answer { meta, data }: &Answer, fields: &[String], no_headers: bool) -> String {
    let look = look(no_headers);
    let mut out = format!(
        "{}   {}\n",
        humantime::format_rfc3339_seconds(SystemTime::now()),
        if data.is_empty() { counted(meta) } else { format!("{} of {}", data.len(), counted(meta)) }
    );
    if let Some(missing) = meta.nodes().as_ref().and_then(missing) {
        let missing = match look.columns {
            Some(columns) => crate::output::text::cut(&missing, columns).into_owned(),
            None => missing,
        };
        out.extend([tinted(&missing, Some(Tint::Odd), look.colours).as_str(), "\n"]);
    }
    let cells = cells(fields, data);
    let columns = Columns::fit(fields, &cells, look);
    columns.header(&mut out);
    columns.rows(&cells, &mut out);
    out
}
