//! `rollcall client`: every session under one id, field by field.

use super::Asking;
use super::clients::VIEW;
use crate::api::answer::Object;
use crate::api::encode;
use crate::arguments::{Client, Format};
use crate::exit::{Exit, Failure};
use crate::output::table::Cell;
use crate::output::table::Columns;
use crate::output::text::shown;
use crate::output::{Rows, look, print, say};

pub(super) async fn run(asking: &Asking, client: Client) -> Result<Exit, Failure> {
    let mut parameters = Vec::new();
    let fields = match (client.fields.as_slice(), client.output.format) {
        // One client has room for all.
        ([], Format::Table | Format::Json | Format::Ndjson) => Vec::new(),
        ([], format) => VIEW.fields(format),
        (fields, _) => fields.to_vec(),
    };
    if !fields.is_empty() {
        parameters.push(("_fields", fields.join(",")));
    }
    // A proxy on the way would take a segment of dots for a path, and the list of all for the client.
    let answer = match client.clientid.as_str() {
        id @ ("." | "..") => {
            parameters.push(("clientid", id.to_owned()));
            asking.api.get("/clients", &parameters).await?
        }
        id => asking.api.get(&format!("/clients/{}", encode(id)), &parameters).await?,
    };
    if client.output.format == Format::Table {
        for (at, row) in answer.data.iter().enumerate() {
            let gap = if at == 0 { "" } else { "\n" };
            print(&format!("{gap}{}", detail(row)))?;
        }
    } else {
        let mut rows = Rows::new(&client.output, fields);
        rows.page(&answer.data)?;
        rows.end(&answer.meta)?;
    }
    let exit = asking.completeness(answer.meta.nodes().as_ref());
    if answer.data.is_empty() {
        say(&format!("no node has a client {}", shown(&client.clientid)));
        return Ok(if exit == Exit::Whole { Exit::NotFound } else { exit });
    }
    Ok(exit)
}

/// A line of each field.
fn detail(row: &Object) -> String {
    let titles = ["field", "value"].map(str::to_owned);
    let lines: Vec<Vec<Cell>> = row
        .0
        .iter()
        .map(|(name, value)| {
            let text = |text: &str| Cell::of(name, Some(&text.into()));
            // As a text, since figures stand right of each other only where they are of one kind.
            let value = match value {
                serde_json::Value::Null => text("-"),
                serde_json::Value::String(value) => text(value),
                other => text(&other.to_string()),
            };
            vec![Cell::of("", Some(&format!("{name}:").into())), value]
        })
        .collect();
    let mut look = look(true);
    // What one wants to know is not cut.
    look.columns = None;
    let columns = Columns::fit(&titles, &lines, look);
    let mut out = String::new();
    columns.rows(&lines, &mut out);
    out
}
