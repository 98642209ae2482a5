//! Messages of the wire: what a node says to the gateway, and what a gateway asks of an agent. The first byte of the
//! input says which message the rest is, the second the order or what is grouped by.
//!
//! - A list is read from its bytes as prost reads it, or refused by both.
//! - Rows that the gateway takes from a node are strictly increasing and all of that node; whichever way they are
//!   merged with another node's, every row is there once and in order.
//! - Fences that the gateway takes narrow the selection to ranks of the list.
//! - Groups that the gateway takes add up to the node's total, and so do the top ones with the others.
//! - An agent refuses a request or answers it as a plain list of its clients says, and the gateway takes that answer.

#![no_main]

use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use prost::Message as _;
use rollcall_fuzz::clients::{self, NODE};
use rollcall_fuzz::mutate;
use rollcall_gateway::page::groups::{Group, Tally, own_groups};
use rollcall_gateway::page::kinds::{Kind, largest, own_kinds};
use rollcall_gateway::page::merge::{merge, own_rows};
use rollcall_gateway::page::rows::{NodeRows, RowRef};
use rollcall_gateway::page::select::{Selection, Step, Surveyed};
use rollcall_gateway::page::streams::{self, Streams};
use rollcall_node_agent::index::{self, Index};
use rollcall_node_agent::query::{Count, List, Queries, Survey};
use rollcall_proto::group::GroupValue;
use rollcall_proto::v1::{
    Client, CountRequest, CountResponse, ExportRequest, GroupBy, Key, ListRequest, ListResponse, Statistics,
    SurveyRequest, SurveyResponse,
};
use rollcall_proto::{ClientRef, MAX_FENCES, MAX_RANKED, MAX_WINDOW, Matcher, Order, v1};

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate::mutate(data, size, max_size, seed, 2, mutate::message)
});

fuzz_target!(|data: &[u8]| {
    let [kind, choice, rest @ ..] = data else { return };
    let order = clients::order(*choice);
    match kind % 7 {
        0 => {
            check_rows(order, rest);
            Ok(())
        }
        1 => SurveyResponse::decode(rest).map(|said| check_fences(order, u64::from(kind / 7), &said)),
        2 => CountResponse::decode(rest).map(|said| check_groups(i32::from(choice % 8), said)),
        3 => ListRequest::decode(rest).map(answer_list),
        4 => SurveyRequest::decode(rest).map(answer_survey),
        5 => CountRequest::decode(rest).map(answer_count),
        _ => ExportRequest::decode(rest).map(answer_export),
    }
    .unwrap_or_default();
});

fn compare(order: Order, a: &Client, b: &Client) -> Ordering {
    order.compare(&order.key(&a.as_client_ref()), &order.key(&b.as_client_ref()))
}

fn is_before(order: Order, a: &Client, b: &Client) -> bool {
    compare(order, a, b).is_lt()
}

fn sorted(order: Order, mut rows: Vec<Client>) -> Vec<Client> {
    rows.sort_by(|a, b| compare(order, a, b));
    rows
}

// What a node says.

fn check_rows(order: Order, bytes: &[u8]) {
    let mut packed = NodeRows::default();
    let read = packed.read(bytes, usize::MAX);
    let said = ListResponse::decode(bytes);
    assert_eq!(read.is_ok(), said.is_ok(), "{read:?} and {said:?}");
    let (Ok(head), Ok(said)) = (read, said) else { return };
    assert_eq!((head.identity, head.count, head.first), (said.identity, said.count, said.first));
    let mut rows = said.clients;
    assert_eq!(packed.len(), rows.len());
    let is_taken = own_rows(order, NODE, &mut rows);
    assert_eq!(packed.belong_to(NODE, order), is_taken);
    if is_taken.is_err() {
        return;
    }
    assert!(rows.iter().all(|row| row.node == NODE));
    assert!(rows.windows(2).all(|pair| is_before(order, &pair[0], &pair[1])));
    assert!(packed.iter().map(packed_row).eq(rows.iter().map(whole_row)));

    let other = "b@127.0.0.1";
    let others = clients::some().into_iter().map(|client| Client { node: other.into(), ..client });
    let others = sorted(order, others.collect());
    let expected = sorted(order, [rows.clone(), others.clone()].concat());
    let message = ListResponse { clients: others.clone(), ..ListResponse::default() };
    let mut packed_others = NodeRows::default();
    packed_others.read(&message.encode_to_vec(), usize::MAX).expect("rows of ours are read");
    packed_others.belong_to(other, order).expect("rows of ours are in order");
    let merged = merge(order, vec![packed.clone(), packed_others.clone()], 0, usize::MAX);
    assert!(merged.iter().map(packed_row).eq(expected.iter().map(whole_row)));
    let (skip, take) = (expected.len() / 3, expected.len() / 2);
    let page = merge(order, vec![packed_others, packed], skip, take);
    assert!(page.iter().map(packed_row).eq(expected[skip..skip + take].iter().map(whole_row)));
    let chunks =
        |rows: Vec<Client>, size: usize| rows.chunks(size).map(<[Client]>::to_vec).collect::<Vec<_>>();
    let mut sources = [chunks(rows, 2).into_iter(), chunks(others, 7).into_iter()];
    let mut streams = Streams::new(order, sources.len());
    let mut streamed = Vec::new();
    loop {
        match streams.step() {
            streams::Step::Row(row) => streamed.push(row),
            streams::Step::Wait { node } => match sources[node].next() {
                Some(chunk) => streams.push(node, chunk).expect("the next rows come behind those before"),
                None => streams.end(node),
            },
            streams::Step::End => break,
        }
    }
    assert_eq!(streamed, expected);
}

fn packed_row(row: RowRef<'_>) -> (ClientRef<'_>, Statistics) {
    (ClientRef { statistics: None, ..row.client }, *row.statistics)
}

fn whole_row(client: &Client) -> (ClientRef<'_>, Statistics) {
    (ClientRef { statistics: None, ..client.as_client_ref() }, client.statistics.unwrap_or_default())
}

/// The answer to the first wave of a selection over this node and one without clients.
fn check_fences(order: Order, offset: u64, said: &SurveyResponse) {
    let keys = said.fences.iter().map(|fence| {
        let key = fence.key.as_ref()?;
        Some((fence.rank, order.key_from_wire(key).ok()?))
    });
    // The gateway refuses an answer in which a key is missing, or is none of the order.
    let Some(fences) = keys.collect::<Option<Vec<_>>>() else { return };
    let mut selection = Selection::new(order, offset, 10, 2);
    let empty = Surveyed { count: 0, first: 0, fences: Vec::new() };
    let said = Surveyed { count: said.count, first: said.first, fences };
    if selection.narrow(&[Some(said.clone()), Some(empty)]).is_err() {
        return;
    }
    assert!(said.first <= said.count && said.fences.len() <= MAX_FENCES as usize);
    assert_eq!((selection.total(), selection.total_ahead()), (said.count, said.count - said.first));
    let (Step::Survey(ranges) | Step::Fetch { windows: ranges, .. }) = selection.step();
    let range = &ranges[0];
    let ranked = if order.field.is_live() { said.count.min(MAX_RANKED.into()) } else { said.count };
    assert!(range.is_empty() || (said.first <= range.start && range.end <= ranked), "{range:?} of {said:?}");
    assert!(ranges[1].is_empty());
}

fn check_groups(group_by: i32, said: CountResponse) {
    let Ok(group_by) = GroupBy::try_from(group_by) else { return };
    let count = said.count;
    if let Ok(kinds) = own_kinds(count, said.groups.clone()) {
        let sum = |kinds: &[(Kind, u64)]| kinds.iter().map(|(_, count)| *count).fold(0, u64::saturating_add);
        assert_eq!(sum(&kinds), count);
        let shown = largest(kinds, 3);
        let names: HashSet<_> = shown.iter().map(|(kind, _)| kind).collect();
        // The largest, and one of the others for each connection state.
        assert!((sum(&shown), names.len()) == (count, shown.len()) && shown.len() <= 3 + 4);
    }
    let Ok(groups) = own_groups(group_by, count, said.groups) else { return };
    let sum = |groups: &[Group]| groups.iter().map(|group| group.count).fold(0, u64::saturating_add);
    assert_eq!(sum(&groups), if group_by == GroupBy::Unspecified { 0 } else { count });
    assert!(groups.iter().all(|group| group.count > 0));
    let values: HashSet<_> = groups.iter().map(|group| &group.value).collect();
    assert_eq!(values.len(), groups.len());
    for most in 1..=4 {
        let mut tally = Tally::default();
        tally.add(groups.clone());
        let top = tally.top(most);
        assert_eq!((top.total, top.groups.len()), (groups.len(), groups.len().min(most)));
        assert_eq!(sum(&top.groups).saturating_add(top.other), sum(&groups));
        assert!(top.groups.windows(2).all(|pair| pair[0].order(&pair[1]).is_lt()));
        let is_shown = |group: &&Group| top.groups.contains(group);
        let is_behind = |group: &Group| top.groups.last().is_some_and(|last| last.order(group).is_lt());
        assert!(groups.iter().filter(|group| !is_shown(group)).all(is_behind));
    }
}

// What an agent answers.

/// The clients of the agent as it sends them, and the agent's questions.
fn agent() -> &'static (Vec<Client>, Queries) {
    static AGENT: OnceLock<(Vec<Client>, Queries)> = OnceLock::new();
    AGENT.get_or_init(|| {
        let index = Index::new(NODE);
        index.resync(clients::some().into_iter().collect());
        // The index has no live figures.
        let own = clients::some().into_iter().map(|client| Client {
            node: NODE.into(),
            statistics: None,
            ..client
        });
        (own.collect(), Queries::new(Arc::new(index), 1))
    })
}

/// The clients that match, with their node's name; `None` for a filter or an order that is refused.
fn model(filter: Option<v1::Filter>, order: Option<v1::Order>) -> Option<(Order, Vec<Client>)> {
    let matcher = Matcher::new(filter.unwrap_or_default()).ok()?;
    let order = Order::try_from(order.unwrap_or_default()).ok()?;
    let matching = agent().0.iter().filter(|client| matcher.matches(&client.as_client_ref()));
    Some((order, sorted(order, matching.cloned().collect())))
}

/// How many of the rows come before or at a key; `None` for a key that is refused.
fn rank_after(order: Order, rows: &[Client], after: Option<&Key>) -> Option<usize> {
    let Some(after) = after else { return Some(0) };
    let after = order.key_from_wire(after).ok()?;
    Some(rows.partition_point(|row| order.compare(&order.key(&row.as_client_ref()), &after).is_le()))
}

fn at(rank: u64) -> usize {
    usize::try_from(rank).unwrap_or(usize::MAX)
}

fn answer_list(request: ListRequest) {
    let list = List::try_from(request.clone());
    let ListRequest { filter, order, offset, limit, snapshot, after, from_end, .. } = request;
    let expected = model(filter, order)
        .and_then(|(order, rows)| Some((rank_after(order, &rows, after.as_ref())?, order, rows)))
        .filter(|_| limit <= MAX_WINDOW)
        .filter(|(_, order, _)| {
            !order.field.is_live() || (after.is_none() && !from_end && is_ranked(offset, limit))
        });
    let Some((first, order, rows)) = expected else {
        assert!(list.is_err(), "{list:?}");
        return;
    };
    let list = list.expect("a request that the contract allows");
    if snapshot != 0 || order.field.is_live() {
        // Nothing that the input guesses is the number of a snapshot, and whom to rank the index does not know.
        assert!(agent().1.listing(&list.selection, Instant::now(), &|| false).is_err());
        return;
    }
    let (skip, end) = (at(offset), at(offset.saturating_add(limit.into())));
    let ranks = if from_end {
        let left = |rows_at_end: usize| rows.len().saturating_sub(rows_at_end).saturating_sub(first);
        left(end)..left(skip)
    } else {
        skip..end
    };
    check_answer(order, &list, &rows, first, ranks);
}

fn is_ranked(offset: u64, limit: u32) -> bool {
    offset.saturating_add(limit.into()) <= MAX_RANKED.into()
}

fn answer_export(request: ExportRequest) {
    let list = List::try_from(request.clone());
    let expected = model(request.filter, request.order).filter(|(order, _)| !order.field.is_live());
    let Some((order, rows)) = expected else {
        assert!(list.is_err(), "{list:?}");
        return;
    };
    let list = list.expect("a request that the contract allows");
    check_answer(order, &list, &rows, 0, 0..usize::MAX);
}

/// The rows of a list are these of the model, and the gateway takes them.
fn check_answer(order: Order, list: &List, rows: &[Client], first: usize, ranks: Range<usize>) {
    let view = agent().1.listing(&list.selection, Instant::now(), &|| false).expect("what is there");
    assert_eq!((at(view.count()), at(list.selection.first(&view))), (rows.len(), first));
    let rank = |rank: usize| (first.saturating_add(rank)).min(rows.len());
    let expected = &rows[rank(ranks.start)..rank(ranks.end)];
    let ranks = list.ranks(list.selection.first(&view), view.count());
    let mut sent: Vec<Client> = view.refs(ranks).map(Client::from).collect();
    assert_eq!(own_rows(order, NODE, &mut sent), Ok(()));
    assert_eq!(sent, expected);
}

fn answer_survey(request: SurveyRequest) {
    let survey = Survey::try_from(request.clone());
    let SurveyRequest { filter, order, snapshot, start, end, fences, after, without_snapshot } =
        request.clone();
    let expected = model(filter, order)
        .and_then(|(order, rows)| Some((rank_after(order, &rows, after.as_ref())?, order, rows)))
        .filter(|_| (1..=MAX_FENCES).contains(&fences) && start <= end)
        .filter(|(_, order, _)| !order.field.is_live() || after.is_none());
    let Some((first, order, rows)) = expected else {
        assert!(survey.is_err(), "{survey:?}");
        return;
    };
    let survey = survey.expect("a request that the contract allows");
    let listing = agent().1.listing(&survey.selection, Instant::now(), &|| false);
    if snapshot != 0 || order.field.is_live() {
        assert!(listing.is_err(), "{listing:?}");
        return;
    }
    let answer = agent().1.survey(&survey, listing.expect("what is there"), Instant::now());
    assert_eq!((at(answer.count), at(answer.first)), (rows.len(), first));
    assert_eq!(answer.snapshot == 0, without_snapshot);
    let (start, end) = (at(start).max(first), at(end).min(rows.len()));
    let length = end.saturating_sub(start);
    let most = length.min(fences as usize);
    let expected = (0..most).map(|k| {
        let rank = start + k * length / most;
        v1::Fence { rank: rank as u64, key: Some(order.key(&rows[rank].as_client_ref()).into()) }
    });
    assert_eq!(answer.fences, expected.collect::<Vec<_>>());
    // The gateway takes the answer to its own question.
    let mut selection = Selection::new(order, 0, 1, 1);
    let all = SurveyRequest { snapshot: 0, start: 0, end: u64::MAX, fences: selection.fences(), ..request };
    let all = Survey::try_from(all).expect("a request that the contract allows");
    let listing = agent().1.listing(&all.selection, Instant::now(), &|| false).expect("what is there");
    let answer = agent().1.survey(&all, listing, Instant::now());
    let fences = answer
        .fences
        .iter()
        .filter_map(|fence| Some((fence.rank, order.key_from_wire(fence.key.as_ref()?).ok()?)));
    let said = Surveyed { count: answer.count, first: answer.first, fences: fences.collect() };
    assert_eq!(selection.narrow(&[Some(said)]), Ok(()));
}

fn answer_count(request: CountRequest) {
    let count = Count::try_from(request.clone());
    let expected = model(request.filter, None).zip(GroupBy::try_from(request.group_by).ok());
    let Some(((_, rows), group_by)) = expected else {
        assert!(count.is_err(), "{count:?}");
        return;
    };
    let count = count.expect("a request that the contract allows");
    let answer = agent().1.count(&count, &|| false).expect("few groups");
    let index::Count { count, groups } = answer;
    assert_eq!(at(count), rows.len());
    if group_by == GroupBy::Unspecified {
        assert!(groups.is_empty());
    }
    for group in &groups {
        let of_group = |row: &&Client| {
            GroupValue::of(group_by, &row.as_client_ref()).map(v1::group::Value::from) == group.value
        };
        assert_eq!(at(group.count), rows.iter().filter(of_group).count(), "{group:?}");
    }
    if group_by == GroupBy::Kind {
        own_kinds(count, groups).expect("the gateway takes the kinds");
    } else {
        own_groups(group_by, count, groups).expect("the gateway takes the groups");
    }
}
