//! `rollcall kick`: by ids or by filters, asked before and told after.
//!
//! Who would be kicked is looked up first and shown, unless `--yes` is said. Between that and the kick somebody may come or
//! go: what counts is what the gateway finds then, and `--max` bounds it.

mod progress;
mod told;

use std::collections::HashSet;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use serde_json::{Value, json};
use tokio::signal::ctrl_c;

use super::Asking;
use crate::api::Lines;
use crate::api::answer::{Answer, Object};
use crate::arguments::{Kick, KickFormat, Output};
use crate::exit::{Exit, Failure};
use crate::output::text::{json as json_text, shown};
use crate::output::{Rows, say, warn};
use progress::Bar;
use told::{Told, plural};

const PATH: &str = "/client_kicks";

/// Nodes and clients that are shown before it is asked whether to go on.
const SHOWN: usize = 10;

pub(super) async fn run(asking: &Asking, mut kick: Kick) -> Result<Exit, Failure> {
    read_ids(&mut kick)?;
    let mut body = body(asking, &kick)?;
    if kick.dry_run {
        body["dry_run"] = true.into();
        return dry_run(asking, &kick, &body).await;
    }
    if !kick.yes {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(Failure::Usage(
                "there is no terminal to ask at whether to kick, expected --yes (or --dry-run first)"
                    .to_owned(),
            ));
        }
        if !confirm(asking, &kick, &mut body).await? {
            say("nobody was kicked");
            return Ok(Exit::Failed);
        }
    }
    kick_all(asking, &kick, &body).await
}

/// Adds the ids of a file.
fn read_ids(kick: &mut Kick) -> Result<(), Failure> {
    let Some(path) = &kick.from else { return Ok(()) };
    let failed = |error: io::Error| Failure::Local(format!("{}: {error}", path.display()));
    let input: Box<dyn io::BufRead> = if path.as_os_str() == "-" {
        if !kick.yes && !kick.dry_run {
            return Err(Failure::Usage(
                "ids come from stdin, so nobody can be asked: expected --yes with it".to_owned(),
            ));
        }
        Box::new(io::stdin().lock())
    } else {
        Box::new(io::BufReader::new(std::fs::File::open(path).map_err(failed)?))
    };
    for line in input.lines() {
        let line = line.map_err(failed)?;
        if !line.is_empty() {
            kick.clientids.push(line);
        }
    }
    if kick.clientids.is_empty() {
        return Err(Failure::Usage(format!("{}: there is no id in it, expected one a line", path.display())));
    }
    Ok(())
}

fn body(asking: &Asking, kick: &Kick) -> Result<Value, Failure> {
    let mut body = json!({});
    match (kick.clientids.is_empty(), kick.filter.is_empty()) {
        (false, true) => {
            // Each once, in the order they were named.
            let mut seen = HashSet::new();
            let ids: Vec<&String> = kick.clientids.iter().filter(|id| seen.insert(id.as_str())).collect();
            body["clientids"] = json!(ids);
        }
        (true, false) => body["filter"] = kick.filter.body().into(),
        (true, true) if kick.everybody || !kick.filter.nodes().is_empty() => body["filter"] = json!({}),
        (true, true) => {
            return Err(Failure::Usage(
                "nobody is named, expected client ids, filters or --everybody".to_owned(),
            ));
        }
        (false, false) => {
            return Err(Failure::Usage(
                "both client ids and filters are given, expected one of them".to_owned(),
            ));
        }
    }
    if !kick.filter.nodes().is_empty() {
        body["nodes"] = json!(kick.filter.nodes());
    }
    if kick.everybody && body.get("filter").is_some() {
        body["confirm"] = "all".into();
    }
    if asking.partial_ok && body.get("filter").is_some() {
        body["partial"] = true.into();
    }
    for (name, value) in [("max", kick.max), ("rate", kick.rate)] {
        if let Some(value) = value {
            body[name] = value.into();
        }
    }
    Ok(body)
}

async fn dry_run(asking: &Asking, kick: &Kick, body: &Value) -> Result<Exit, Failure> {
    let Answer { meta, data } = asking.api.post(PATH, body).await?;
    let format = match kick.format {
        KickFormat::Table => crate::arguments::Format::Table,
        KickFormat::Ndjson => crate::arguments::Format::Ndjson,
    };
    let output = Output { format, no_headers: false };
    let mut rows = Rows::new(&output, ["clientid", "node"].map(str::to_owned).into());
    rows.page(&data)?;
    match kick.format {
        KickFormat::Table => rows.end(&meta)?,
        KickFormat::Ndjson => {
            let mut last = Object::default();
            last.set("meta", serde_json::to_value(&meta).unwrap_or_default());
            rows.page(&[last])?;
        }
    }
    say(&format!(
        "{} would be kicked{}",
        plural(meta.count("count").unwrap_or(0), "session"),
        by_node(&meta)
    ));
    let exit = asking.completeness(meta.nodes().as_ref());
    if !within_max(&meta) {
        return Err(Failure::Local(too_many(&meta)));
    }
    Ok(exit)
}

fn within_max(meta: &Object) -> bool {
    meta.get("within_max").is_none_or(|within| *within == true)
}

fn too_many(meta: &Object) -> String {
    let count = |name| meta.count(name).unwrap_or(0);
    format!("that are {}, and at most {} may be kicked: expected --max N", count("count"), count("max"))
}

/// `: a@h 2, b@h 1`
fn by_node(meta: &Object) -> String {
    let nodes = meta.get("by_node").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text =
        |node: &Value| format!("{} {}", shown(node["node"].as_str().unwrap_or_default()), node["count"]);
    let mut said: Vec<String> = nodes.iter().take(SHOWN).map(text).collect();
    if nodes.len() > SHOWN {
        said.push("...".to_owned());
    }
    if said.is_empty() { String::new() } else { format!(": {}", said.join(", ")) }
}

/// Shows who is meant and asks.
async fn confirm(asking: &Asking, kick: &Kick, body: &mut Value) -> Result<bool, Failure> {
    let mut asked = body.clone();
    asked["dry_run"] = true.into();
    let Answer { meta, data } = asking.api.post(PATH, &asked).await?;
    let count = meta.count("count").unwrap_or(0);
    // What is kicked by ids is looked for by ids: who is not found now is told then.
    if count == 0 && kick.clientids.is_empty() {
        asking.completeness(meta.nodes().as_ref());
        say("no client matches");
        return Ok(false);
    }
    asking.completeness(meta.nodes().as_ref());
    if !within_max(&meta) {
        return Err(Failure::Local(too_many(&meta)));
    }
    for row in data.iter().take(SHOWN) {
        say(&format!("  {} on {}", shown(row.text("clientid")), shown(row.text("node"))));
    }
    if count > SHOWN as u64 {
        say("  ...");
    }
    // A filter that happens to match everybody is asked about, as the gateway wants it; who says yes to the number has
    // confirmed it.
    let everybody = body.get("filter").is_some();
    let mut err = io::stderr().lock();
    let _ = write!(err, "kick {}{}? [y/N] ", plural(count, "session"), by_node(&meta));
    let _ = err.flush();
    drop(err);
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|error| Failure::Local(format!("stdin: {error}")))?;
    let is_yes = matches!(answer.trim().to_lowercase().as_str(), "y" | "yes");
    if is_yes && everybody {
        body["confirm"] = "all".into();
    }
    Ok(is_yes)
}

/// What the gateway expects as `confirm` is an option here.
fn explained(failure: Failure, body: &Value) -> Failure {
    match failure {
        Failure::Answered(mut refusal)
            if refusal.status == 400
                && refusal.message.contains("\"confirm\"")
                && body.get("confirm").is_none() =>
        {
            refusal.message.push_str(" (--everybody)");
            Failure::Answered(refusal)
        }
        other => other,
    }
}

async fn kick_all(asking: &Asking, kick: &Kick, body: &Value) -> Result<Exit, Failure> {
    let mut told = Told::new(kick.format);
    let mut bar = Bar::new();
    let read = async {
        let mut stream = asking.api.post_stream(PATH, body).await?;
        let mut lines = Lines::default();
        while let Some(piece) = stream.piece().await? {
            for line in lines.take(&piece).split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let line: Object = serde_json::from_slice(line)
                    .map_err(|error| stream.broken(&format!("a line is not understood: {error}")))?;
                if let Some(progress) = line.get("progress") {
                    bar.expect(progress);
                } else {
                    bar.clear();
                    told.line(&line, &json_text(&line))?;
                }
            }
            let (done, kicked) = told.so_many();
            bar.draw(done, kicked);
        }
        if told.end().is_none() {
            return Err(
                stream.broken("the answer broke off: of some it is not known whether they were kicked")
            );
        }
        Ok(())
    };
    let read = tokio::select! {
        read = read => Some(read),
        _ = ctrl_c() => None,
    };
    bar.clear();
    if let (false, Some(text)) = (matches!(read, Some(Ok(()))), told.so_far()) {
        say(&text);
    }
    match read {
        Some(Ok(())) => {}
        Some(Err(failure)) => return Err(explained(failure, body)),
        None => {
            warn("interrupted: the gateway begins no more kicks, and finishes those it has begun");
            return Ok(Exit::Interrupted);
        }
    }
    let Some(end) = told.end() else { return Ok(Exit::Failed) };
    say(&end.summary());
    let nodes = asking.completeness(end.nodes.as_ref());
    Ok(match end.exit() {
        Exit::Failed => Exit::Failed,
        exit if nodes == Exit::Whole => exit,
        _ => nodes,
    })
}
