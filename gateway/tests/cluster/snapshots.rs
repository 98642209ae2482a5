//! Pages that take several calls of each node, of nodes that change between them or lose what the calls refer to.

use super::*;

/// Nodes of 12,000 clients each.
fn nodes(behaviours: &[Behaviour]) -> Vec<Arc<FakeNode>> {
    let node = |(n, behaviour): (usize, &Behaviour)| {
        FakeNode::new(&format!("n{n}"), rows(n, 12_000, false), *behaviour)
    };
    behaviours.iter().enumerate().map(node).collect()
}

const LIMIT: u32 = 100;

/// In the middle of two nodes' clients, where it takes a survey or more to find the rows.
const PAGE: u64 = 120;

/// Rows before the page.
const OFFSET: usize = 11_900;

fn sent(nodes: &[Arc<FakeNode>]) -> usize {
    nodes.iter().map(|node| node.calls.rows_sent.load(Relaxed)).sum()
}

fn page_of(all: Vec<(String, String)>) -> Vec<(String, String)> {
    all.into_iter().skip(OFFSET).take(LIMIT as usize).collect()
}

#[tokio::test]
async fn a_page_is_of_one_state_of_nodes_that_change_between_its_calls() {
    let nodes = nodes(&[Behaviour::Changes; 2]);
    let before = model(&nodes, Order::default());
    let cluster = cluster_of(&nodes).await;
    let answer = list(&cluster, &query(PAGE, LIMIT, Order::default())).await.unwrap();
    assert!(answer.consistent && answer.completeness.is_whole());
    assert!(ids(&answer) == page_of(before.clone()), "the page is not of the state that was surveyed");
    assert_eq!(answer.count, 24_000);
    assert!(page_of(model(&nodes, Order::default())) != page_of(before), "the test tells nothing otherwise");
    // The last call about it has released it.
    assert_eq!(nodes.iter().map(|node| node.snapshots()).collect::<Vec<_>>(), [0, 0]);
}

#[tokio::test]
async fn a_snapshot_that_is_lost_once_costs_another_selection_and_not_the_consistency() {
    for behaviours in [
        [Behaviour::ForgetsOneSnapshot, Behaviour::Honest],
        // Both lose theirs in the first try, so one more try is enough again.
        [Behaviour::ForgetsOneSnapshot, Behaviour::ForgetsOneSnapshot],
    ] {
        let nodes = nodes(&behaviours);
        let cluster = cluster_of(&nodes).await;
        let answer = list(&cluster, &query(PAGE, LIMIT, Order::default())).await.unwrap();
        assert!(answer.consistent, "{behaviours:?}");
        assert!(answer.completeness.is_whole(), "{behaviours:?}: {:?}", answer.completeness);
        assert!(ids(&answer) == page_of(model(&nodes, Order::default())), "{behaviours:?}");
        // What came before it was known that the page cannot be made of it counts too.
        assert!(sent(&nodes) <= 3 * LIMIT as usize + 200, "{} rows for {behaviours:?}", sent(&nodes));
        for node in &nodes {
            // Two selections of three waves at the most, the fetches included.
            let surveys = node.calls.surveys.load(Relaxed);
            assert!((2..=4).contains(&surveys), "{surveys} surveys of {} for {behaviours:?}", node.name());
        }
    }
}

#[tokio::test]
async fn a_live_page_of_changing_nodes_says_what_it_is_and_is_near_its_place() {
    let nodes = nodes(&[Behaviour::ChangesAndForgets; 2]);
    let cluster = cluster_of(&nodes).await;
    let answer = list(&cluster, &query(PAGE, LIMIT, Order::default())).await.unwrap();
    assert!(!answer.consistent && answer.completeness.is_whole());
    let shown = ids(&answer);
    assert_eq!(shown.len(), LIMIT as usize);
    assert!(shown.is_sorted_by(|a, b| a < b), "{shown:?}");
    let calls: usize =
        nodes.iter().map(|node| node.calls.surveys.load(Relaxed) + node.calls.lists.load(Relaxed)).sum();
    // Every call moves the others of its node by twenty.
    let off = 20 * calls;
    let now = model(&nodes, Order::default());
    let first = now.iter().position(|row| *row == shown[0]).unwrap();
    assert!(first.abs_diff(OFFSET) <= off, "the page begins at {first}, more than {off} off {OFFSET}");
    assert!((24_000..=24_000 + off as u64).contains(&answer.count), "{} clients", answer.count);
    assert!(nodes.iter().all(|node| node.calls.surveys.load(Relaxed) <= 8));
}
