//! What the cluster makes of the events of nodes that are late, break off, or lie.

use rollcall_gateway::cluster::{EventFollower, Happened};
use rollcall_proto::v1::event::Kind;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;
use tonic::Status;

use super::fake_node::Told;
use super::*;

/// Some node's events.
struct Node {
    fake: Arc<FakeNode>,
    stream: UnboundedSender<Told>,
}

impl Node {
    fn new(name: &str) -> Self {
        let fake = FakeNode::new(name, Vec::new(), Behaviour::Honest);
        let stream = fake.tells();
        Self { fake, stream }
    }

    fn tell(&self, position: u64, events: Vec<v1::Event>) {
        let identity = self.fake.identity();
        self.stream.send(Ok(v1::WatchResponse { identity, position, events, lost: false })).unwrap();
    }

    /// Ends the stream, and is ready for another.
    fn breaks(&mut self) {
        let next = self.fake.tells();
        std::mem::replace(&mut self.stream, next).send(Err(Status::unavailable("gone"))).unwrap();
    }
}

fn event(position: u64) -> v1::Event {
    let client = v1::Client { clientid: format!("c{position}"), ..v1::Client::default() };
    v1::Event { position, at_ms: 1, kind: Kind::Connected.into(), client: Some(client) }
}

/// What is told next, in short: `n0 c11` is an event, `+n0` and `-n0 protocol` a node that comes and goes, `?n0` a resync.
async fn next(follower: &mut EventFollower) -> String {
    timeout(PATIENCE, follower.more()).await.expect("nothing is told");
    match &*follower.next(1).items[0] {
        Happened::Client { client, .. } => format!("{} {}", client.node, client.clientid),
        Happened::Up { node } => format!("+{node}"),
        Happened::Down(failed) => format!("-{} {}", failed.node, failed.reason.as_str()),
        Happened::Resync { node } => format!("?{node}"),
    }
}

async fn all_of<const N: usize>(follower: &mut EventFollower) -> [String; N] {
    let mut all = [const { String::new() }; N];
    for told in &mut all {
        *told = next(follower).await;
    }
    all
}

async fn follow(cluster: &Cluster, patience: Duration) -> EventFollower {
    cluster.follow(None, Instant::now() + patience).await
}

#[tokio::test]
async fn a_node_that_is_late_is_named_and_told_when_it_is_up_and_what_came_before_is_not_known() {
    let (prompt, late) = (Node::new("n0"), Node::new("n1"));
    let cluster = cluster_of(&[Arc::clone(&prompt.fake), Arc::clone(&late.fake)]).await;
    // So that both have told their names.
    list(&cluster, &query(1, 1, Order::default())).await.unwrap();
    prompt.tell(7, vec![]);
    let mut follower = follow(&cluster, Duration::from_secs(1)).await;
    let completeness = follower.completeness(&Scope::All);
    let lacking: Vec<_> = completeness.failed.iter().map(|node| (&*node.node, node.reason)).collect();
    assert_eq!((completeness.total, &lacking[..]), (2, &[("n1", Reason::Timeout)][..]));
    let completeness = follower.completeness(&Scope::Only(vec!["n0".into()]));
    assert_eq!((completeness.total, completeness.answered), (1, 1), "of the nodes asked for");
    late.tell(30, vec![event(30)]);
    late.tell(31, vec![event(31)]);
    assert_eq!(all_of(&mut follower).await, ["+n1", "?n1", "n1 c30", "n1 c31"]);
    prompt.tell(8, vec![event(8)]);
    assert_eq!(next(&mut follower).await, "n0 c8");
}

#[tokio::test]
async fn a_node_whose_stream_breaks_tells_what_happened_meanwhile_or_that_it_is_not_known() {
    let mut node = Node::new("n0");
    node.breaks();
    let cluster = cluster_of(&[Arc::clone(&node.fake)]).await;
    let mut follower = follow(&cluster, PATIENCE).await;
    assert_eq!(follower.completeness(&Scope::All).failed.len(), 1, "down from the start");
    node.tell(10, vec![]);
    assert_eq!(all_of(&mut follower).await, ["+n0", "?n0"]);
    node.tell(11, vec![event(11)]);
    assert_eq!(next(&mut follower).await, "n0 c11");

    node.breaks();
    assert_eq!(next(&mut follower).await, "-n0 unreachable");
    node.tell(12, vec![event(12)]);
    assert_eq!(all_of(&mut follower).await, ["+n0", "n0 c12"], "nothing is missing");
    let asked: Vec<_> = node.fake.watches.lock().unwrap().iter().map(|asked| asked.after).collect();
    assert_eq!(asked, [None, None, Some(11)]);

    // Another agent knows nothing of what was before.
    node.breaks();
    assert_eq!(next(&mut follower).await, "-n0 unreachable");
    node.fake.becomes("n0");
    node.tell(3, vec![event(3)]);
    assert_eq!(all_of(&mut follower).await, ["+n0", "?n0", "n0 c3"]);
}

#[tokio::test]
async fn a_message_that_breaks_the_protocol_is_not_told_in_part_and_not_passed_over() {
    let without_client = v1::Event { client: None, ..event(12) };
    let mut foreign = event(12);
    foreign.client.as_mut().unwrap().node = "other".into();
    for (what, position, events) in [
        ("a gap", 13, vec![event(12), event(14)]),
        ("a gap to what was told", 13, vec![event(13)]),
        ("told twice", 12, vec![event(11), event(12)]),
        ("backwards", 9, vec![]),
        ("another end", 20, vec![event(12)]),
        ("no events", 12, vec![]),
        ("no client", 12, vec![without_client]),
        ("another node's client", 13, vec![foreign, event(13)]),
    ] {
        let mut node = Node::new("n0");
        node.tell(10, vec![]);
        let cluster = cluster_of(&[Arc::clone(&node.fake)]).await;
        let mut follower = follow(&cluster, PATIENCE).await;
        node.tell(11, vec![event(11)]);
        assert_eq!(next(&mut follower).await, "n0 c11", "{what}");
        let again = node.fake.tells();
        node.tell(position, events);
        assert_eq!(next(&mut follower).await, "-n0 protocol", "{what}");
        node.stream = again;
        node.tell(14, vec![event(14)]);
        assert_eq!(all_of(&mut follower).await, ["+n0", "?n0", "n0 c14"], "{what}");
        assert_eq!(node.fake.watches.lock().unwrap()[1].after, None, "{what}");
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_the_others_events_go_on() {
    let (node, honest) = (Node::new("n0"), Node::new("n1"));
    node.tell(1, vec![]);
    honest.tell(1, vec![]);
    let cluster = cluster_of(&[Arc::clone(&node.fake), Arc::clone(&honest.fake)]).await;
    let mut follower = follow(&cluster, PATIENCE).await;
    node.tell(400_001, (2..=400_001).map(event).collect());
    assert_eq!(next(&mut follower).await, "-n0 protocol");
    honest.tell(2, vec![event(2)]);
    assert_eq!(next(&mut follower).await, "n1 c2");
}

#[tokio::test]
async fn a_node_that_claims_another_ones_name_is_followed_no_more() {
    let (first, second) = (Node::new("n0"), Node::new("n1"));
    first.tell(1, vec![]);
    second.tell(1, vec![]);
    let nodes = [Arc::clone(&first.fake), Arc::clone(&second.fake)];
    let cluster = cluster_of(&nodes).await;
    let mut follower = follow(&cluster, PATIENCE).await;
    assert_eq!(follower.completeness(&Scope::All).failed, []);
    second.fake.becomes("n0");
    let address = cluster.nodes()[1].address.clone();
    // Until the cluster has noticed by its probes, and then at the next message.
    while timeout(Duration::from_millis(100), follower.more()).await.is_err() {
        second.tell(1, vec![]);
    }
    assert_eq!(next(&mut follower).await, format!("-{address} protocol"));
    first.tell(2, vec![event(2)]);
    assert_eq!(next(&mut follower).await, "n0 c2");
}
