//! What a stream of events is asked for: its query string, and the headers that browsers send.

use http::header::ACCEPT;
use http::request::Parts;
use rollcall_proto::Matcher;

use super::narrowing::{Narrowed, Narrowing};
use super::{BadParameter, FILTERS, Given, LIST, Parameter, bad_value, parameters, set, unknown};
use crate::cluster::{EventPosition, Scope};

/// The header by which a browser that lost its stream says where it was.
const LAST_EVENT_ID: &str = "last-event-id";

/// What a stream of events is asked for.
#[derive(Debug)]
pub(in crate::http) struct EventsRequest {
    /// Of which clients.
    pub(in crate::http) matcher: Matcher,
    /// On which nodes.
    pub(in crate::http) scope: Scope,
    /// Behind which event it takes up.
    pub(in crate::http) after: Option<EventPosition>,
    /// As Server-Sent Events, not as JSON lines.
    pub(in crate::http) is_sse: bool,
}

/// Parameters that a stream of events takes.
pub(in crate::http) fn events_names() -> impl Iterator<Item = &'static str> {
    LIST.into_iter().take(FILTERS).chain(["_node", "_after", "_format"])
}

/// Reads a request for a stream of events.
pub(in crate::http) fn events(parts: &Parts) -> Result<EventsRequest, BadParameter> {
    let known: Vec<&'static str> = events_names().collect();
    let mut narrowing = Narrowing::default();
    let (mut after, mut is_sse) = (None, None);
    for parameter in parameters(parts.uri.query().unwrap_or_default(), &known)? {
        let Some(Parameter { name, value }) = narrowing.take(parameter)? else { continue };
        match name {
            "_after" => set(&mut after, name, position(name, &value)?)?,
            "_format" => {
                let sse = match value.as_str() {
                    "sse" => true,
                    "ndjson" => false,
                    _ => return Err(bad_value(name, &value, "sse or ndjson")),
                };
                set(&mut is_sse, name, sse)?;
            }
            // Every known name stands above or was taken.
            _ => return Err(unknown(name.to_owned(), &known)),
        }
    }
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    if after.is_none()
        && let Some(id) = header(LAST_EVENT_ID).filter(|id| !id.is_empty())
    {
        after = Some(position("Last-Event-ID", id)?);
    }
    let Narrowed { filter, scope, .. } = narrowing.given(Given::default());
    let wants_lines = header(ACCEPT.as_str()).is_some_and(|accept| accept.contains("ndjson"));
    // Every filter that was read is of the contract.
    let matcher = Matcher::new(filter).map_err(|error| bad_value("filter", "", &error.to_string()))?;
    Ok(EventsRequest { matcher, scope, after, is_sse: is_sse.unwrap_or(!wants_lines) })
}

fn position(name: &'static str, text: &str) -> Result<EventPosition, BadParameter> {
    let parts = text.split_once('-').filter(|(epoch, _)| epoch.len() == 16);
    let read = parts.and_then(|(epoch, number)| {
        let epoch = u64::from_str_radix(epoch, 16).ok()?;
        Some(EventPosition { epoch, number: number.parse().ok()? })
    });
    read.ok_or_else(|| bad_value(name, text, "the id of an event"))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn read(query: &str, headers: &[(&str, &str)]) -> Result<EventsRequest, BadParameter> {
        let mut request = Request::builder().uri(format!("/client_events?{query}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        events(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_stream_is_asked_for_as_browsers_and_scripts_do() {
        let all = read("", &[]).unwrap();
        assert!(all.is_sse && all.after.is_none() && all.matcher.is_unconditional());
        let position = EventPosition { epoch: 0xab, number: 7 };
        let back = read("", &[("last-event-id", "00000000000000ab-7")]).unwrap();
        assert_eq!(back.after, Some(position));
        let lines = read("zone=x&_node=a@h&_after=00000000000000ab-7", &[("accept", "application/x-ndjson")])
            .unwrap();
        assert!(!lines.is_sse && !lines.matcher.is_unconditional());
        assert_eq!((lines.after, lines.scope), (Some(position), Scope::Only(vec!["a@h".into()])));
        assert!(!read("_format=ndjson", &[]).unwrap().is_sse);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for query in [
            "_after=1",
            "_after=ab-7",
            "_after=00000000000000zz-7",
            "_format=xml",
            "_page=1",
            "_partial=maybe",
        ] {
            assert!(read(query, &[]).is_err(), "{query}");
        }
        assert!(read("", &[("last-event-id", "x")]).is_err());
    }
}
