//! What a gateway tells of a kick, line by line.

use std::io;

use serde_json::Value;

use crate::api::answer::{Nodes, Object};
use crate::arguments::KickFormat;
use crate::exit::Exit;
use crate::output::table::{Tint, tinted};
use crate::output::text::shown;
use crate::output::{is_colourful, is_terminal, print};

/// What can become of a client, and in which colour.
const OUTCOMES: [(&str, Tint); 7] = [
    ("kicked", Tint::Good),
    ("gone", Tint::Odd),
    ("moved", Tint::Odd),
    ("not_found", Tint::Odd),
    ("failed", Tint::Bad),
    ("unknown", Tint::Bad),
    ("left", Tint::Bad),
];

/// Everything told so far.
pub(super) struct Told {
    format: KickFormat,
    colours: bool,
    /// Whether stdout takes no more. The kicks go on all the same, or it would depend on a pager who is kicked.
    is_closed: bool,
    /// Lines by outcome.
    seen: [u64; OUTCOMES.len()],
    end: Option<End>,
}

/// What the last line says.
#[derive(Debug)]
pub(super) struct End {
    complete: bool,
    count: u64,
    outcomes: [u64; OUTCOMES.len()],
    stopped: Option<String>,
    pub(super) nodes: Option<Nodes>,
}

impl Told {
    pub(super) fn new(format: KickFormat) -> Self {
        let colours = is_colourful(is_terminal());
        Self { format, colours, is_closed: false, seen: [0; OUTCOMES.len()], end: None }
    }

    /// Takes a line about a client, or the last one, and writes it.
    ///
    /// # Errors
    /// Stdout cannot be written, though its reader is there.
    pub(super) fn line(&mut self, line: &Object, text: &str) -> io::Result<()> {
        let written = match (line.get("meta"), self.format) {
            (Some(meta), format) => {
                self.end = Some(End::of(meta));
                match format {
                    KickFormat::Table => return Ok(()),
                    KickFormat::Ndjson => format!("{text}\n"),
                }
            }
            (None, format) => {
                let outcome = line.text("outcome");
                if let Some(at) = OUTCOMES.iter().position(|(name, _)| *name == outcome) {
                    self.seen[at] += 1;
                }
                match format {
                    KickFormat::Table => self.sentence(line),
                    KickFormat::Ndjson => format!("{text}\n"),
                }
            }
        };
        if self.is_closed {
            return Ok(());
        }
        match print(&written) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(())
            }
            other => other,
        }
    }

    /// `kicked     meter-1 on a@h`
    fn sentence(&self, line: &Object) -> String {
        let outcome = line.text("outcome");
        let tint = OUTCOMES.iter().find(|(name, _)| *name == outcome).map(|(_, tint)| *tint);
        let pad = " ".repeat(10_usize.saturating_sub(outcome.len()));
        let mut out =
            format!("{}{pad} {}", tinted(&shown(outcome), tint, self.colours), shown(line.text("clientid")));
        let kicked_on =
            line.get("kicked_on").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let mut nodes: Vec<&str> = kicked_on.iter().filter_map(Value::as_str).collect();
        if nodes.is_empty() {
            nodes.extend(line.get("node").and_then(Value::as_str));
        }
        if !nodes.is_empty() {
            out.push_str(" on ");
            out.push_str(&shown(&nodes.join(", ")));
        }
        let message = line.text("message");
        if !message.is_empty() {
            out.push_str(": ");
            out.push_str(&shown(message));
        }
        out.push('\n');
        out
    }

    /// What the last line said, if it has come.
    pub(super) fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Clients told of, and how many of them were kicked.
    pub(super) fn so_many(&self) -> (u64, u64) {
        (self.seen.iter().sum(), self.seen[0])
    }

    /// What is known without it, if anything was told.
    pub(super) fn so_far(&self) -> Option<String> {
        self.seen.iter().any(|count| *count > 0).then(|| format!("so far: {}", outcomes(&self.seen)))
    }
}

impl End {
    fn of(meta: &Value) -> Self {
        let count = |value: &Value| value.as_u64().unwrap_or(0);
        Self {
            complete: meta["complete"] == true,
            count: count(&meta["count"]),
            outcomes: OUTCOMES.map(|(name, _)| count(&meta["outcomes"][name])),
            stopped: meta["stopped"].as_str().map(str::to_owned),
            nodes: serde_json::from_value(meta["nodes"].clone()).ok(),
        }
    }

    /// For the user, in one line.
    pub(super) fn summary(&self) -> String {
        let mut text = format!("{} of {}", outcomes(&self.outcomes), self.count);
        if let Some(why) = &self.stopped {
            let why = match why.as_str() {
                "draining" => "the gateway is shutting down",
                "unrecorded" => "a kick could not be put on record",
                other => other,
            };
            text = format!("{text}; stopped, since {}", shown(why));
        }
        text
    }

    /// How it ended, missing nodes aside.
    pub(super) fn exit(&self) -> Exit {
        let of = |outcome: &str| {
            OUTCOMES
                .iter()
                .zip(self.outcomes)
                .filter(|((name, _), _)| *name == outcome)
                .map(|(_, n)| n)
                .sum::<u64>()
        };
        let nodes_are_missing = self.nodes.as_ref().is_some_and(|nodes| !nodes.failed.is_empty());
        if self.stopped.is_some() || ["failed", "unknown", "left"].into_iter().any(|outcome| of(outcome) > 0)
        {
            Exit::Failed
        } else if of("not_found") > 0 {
            Exit::NotFound
        } else if !self.complete && !nodes_are_missing {
            Exit::Failed
        } else {
            Exit::Whole
        }
    }
}

/// `2 kicked, 1 moved`
fn outcomes(counts: &[u64; OUTCOMES.len()]) -> String {
    let said: Vec<String> = OUTCOMES
        .iter()
        .zip(counts)
        // Kicked is always said, the others if there are any.
        .filter(|((name, _), count)| *name == "kicked" || **count > 0)
        .map(|((name, _), count)| format!("{count} {}", name.replace('_', " ")))
        .collect();
    said.join(", ")
}

/// `1 session`, `2 sessions`
pub(super) fn plural(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn end(outcomes: Value, complete: bool, stopped: Option<&str>, failed: Value) -> End {
        End::of(&json!({"complete": complete, "count": 9, "outcomes": outcomes, "stopped": stopped,
            "nodes": {"total": 3, "answered": 2, "failed": failed}}))
    }

    #[test]
    fn how_it_ended_is_the_worst_that_happened() {
        let silent = json!([{"node": "a", "reason": "timeout"}]);
        for (outcomes, complete, stopped, failed, expected) in [
            (json!({"kicked": 2, "moved": 1, "gone": 1}), true, None, json!([]), Exit::Whole),
            (json!({"kicked": 2, "not_found": 1}), true, None, json!([]), Exit::NotFound),
            (json!({"kicked": 2, "not_found": 1, "failed": 1}), false, None, silent.clone(), Exit::Failed),
            (json!({"unknown": 1}), false, None, json!([]), Exit::Failed),
            (json!({"left": 1}), false, Some("draining"), json!([]), Exit::Failed),
            (json!({"kicked": 1}), false, None, silent, Exit::Whole),
            (json!({"kicked": 1}), false, None, json!([]), Exit::Failed),
        ] {
            assert_eq!(end(outcomes.clone(), complete, stopped, failed).exit(), expected, "{outcomes}");
        }
        let end = end(json!({"kicked": 2, "left": 1, "not_found": 1}), false, Some("draining"), json!([]));
        assert_eq!(
            end.summary(),
            "2 kicked, 1 not found, 1 left of 9; stopped, since the gateway is shutting down"
        );
    }

    #[test]
    fn a_line_is_a_sentence() {
        let told =
            Told { format: KickFormat::Table, colours: false, is_closed: false, seen: [0; 7], end: None };
        for (line, expected) in [
            (r#"{"clientid":"m","outcome":"kicked","kicked_on":["a","b"]}"#, "kicked     m on a, b\n"),
            (
                r#"{"clientid":"m\u001b","node":"a","outcome":"moved","kicked_on":[],"message":"why"}"#,
                "moved      m\\u{1b} on a: why\n",
            ),
            (r#"{"clientid":"m","outcome":"not_found","kicked_on":[]}"#, "not_found  m\n"),
        ] {
            assert_eq!(told.sentence(&serde_json::from_str(line).unwrap()), expected);
        }
    }
}
