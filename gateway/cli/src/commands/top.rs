//! `rollcall top`: who has the most of something.

use super::Asking;
use super::clients::frame;
use crate::arguments::Top;
use crate::exit::{Exit, Failure};
use crate::output::screen::{Room, live};
use crate::output::{is_terminal, print};

/// What stands beside the statistic that is sorted by.
const BESIDE: [&str; 6] =
    ["mqueue_len", "inflight", "subscriptions_cnt", "recv_msg", "send_msg", "connected_at"];

/// Clients, where there is no terminal.
const ROWS: u32 = 20;

/// Lines of a frame that are no client: when, which nodes are missing, the titles.
const AROUND: usize = 3;

pub(super) async fn run(asking: &Asking, top: Top) -> Result<Exit, Failure> {
    let statistic = top.statistic.as_str();
    let mut fields: Vec<String> = ["clientid", "node", "username"].map(str::to_owned).into();
    let beside = BESIDE.into_iter().filter(|field| *field != statistic);
    fields.extend(std::iter::once(statistic).chain(beside).map(str::to_owned));
    let fixed = {
        let mut parameters = top.filter.parameters();
        parameters.push(("_sort", statistic.to_owned()));
        parameters.push(("_order", "desc".to_owned()));
        parameters.push(("_fields", fields.join(",")));
        parameters
    };
    let ask = async |room: Room| {
        let room = room.lines.and_then(|lines| u32::try_from(lines.saturating_sub(AROUND)).ok());
        let mut parameters = fixed.clone();
        parameters.push(("_limit", top.limit.or(room).unwrap_or(ROWS).max(1).to_string()));
        asking.api.get("/clients", &parameters).await
    };
    if top.once || !is_terminal() {
        let answer = ask(Room { lines: None }).await?;
        let exit = asking.completeness(answer.meta.nodes().as_ref());
        print(&frame(&answer, &fields, false))?;
        return Ok(exit);
    }
    live(top.interval.interval, async |room| Ok(frame(&ask(room).await?, &fields, false))).await
}
