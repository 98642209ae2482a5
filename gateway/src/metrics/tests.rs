use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use rollcall_metrics::{Format, reference, render};
use rollcall_proto::v1::{DescribeResponse, Identity};

use super::*;
use crate::audit::Audit;
use crate::cluster::{Cluster, ClusterSettings, NodeView};
use crate::page::kinds::Kind;

/// A view of a node that was never reached.
fn silent(address: &str) -> NodeView {
    let settings = ClusterSettings {
        probe_interval: Duration::from_secs(3600),
        ..ClusterSettings::over(vec![address.to_owned()])
    };
    Cluster::start(&settings).unwrap().nodes().remove(0)
}

fn known(address: &str, name: &str) -> NodeView {
    let description = DescribeResponse {
        identity: Some(Identity { name: name.into(), incarnation: 1 }),
        broker_kind: "embedded".into(),
        broker_version: "0.24\n\"".into(),
        agent_version: "1".into(),
        resynced_at_ms: Some(1_500),
        ..DescribeResponse::default()
    };
    let last_seen = Some(SystemTime::now());
    NodeView { name: Some(name.into()), description: Some(description), last_seen, ..silent(address) }
}

fn kinds(count: u64) -> Vec<(Kind, u64)> {
    let kind =
        |conn_state| Kind { zone: "edge".into(), proto_name: "MQTT".into(), conn_state, ..Kind::default() };
    vec![(kind("connected"), count), (kind("disconnected"), 1)]
}

fn page(nodes: Vec<NodeView>, answered: &[(&str, u64)]) -> Page {
    let nodes = nodes.into_iter().map(|view| (view, Arc::default())).collect();
    let answered: HashMap<_, _> =
        answered.iter().map(|(address, count)| ((*address).to_owned(), kinds(*count))).collect();
    let metrics = Metrics::default();
    metrics.answered("/clients", &Method::GET, StatusCode::OK, Duration::from_millis(3));
    Page::new(Arc::new(metrics), Audit::default(), nodes, Arc::new(answered))
}

fn samples(page: Page) -> Vec<String> {
    let text = render(Format::Prometheus, page).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

fn has(samples: &[String], sample: &str) -> bool {
    samples.iter().any(|line| line == sample)
}

#[tokio::test]
async fn the_catalog_is_what_is_written() {
    let text = render(Format::Prometheus, page(vec![silent("127.0.0.1:1")], &[])).unwrap();
    let written: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let names: Vec<&str> = catalog::metrics().map(|metric| metric.name).collect();
    assert_eq!(written, names);
}

/// `docs/metrics.md` has the table that this prints when it fails.
#[test]
fn the_documentation_lists_every_metric() {
    let table = reference(catalog::metrics());
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let text = std::fs::read_to_string(document).unwrap();
    assert!(text.contains(&table), "docs/metrics.md does not have this table:\n{table}");
}

#[tokio::test]
async fn a_silent_node_is_there_and_has_no_clients() {
    let nodes = || vec![known("127.0.0.1:1", "a@h"), silent("127.0.0.1:2")];
    let shown = samples(page(nodes(), &[("127.0.0.1:1", 5)]));
    for sample in [
        "rollcall_nodes_expected 2.0",
        "rollcall_nodes_available 1.0",
        r#"rollcall_node_up{node="a@h"} 1"#,
        r#"rollcall_node_up{node="127.0.0.1:2"} 0"#,
        r#"rollcall_node_state{node="127.0.0.1:2",state="unknown"} 1"#,
        r#"rollcall_node_state{node="127.0.0.1:2",state="connected"} 0"#,
        r#"rollcall_clients{node="a@h",zone="edge",proto_name="MQTT",conn_state="connected"} 5"#,
        r#"rollcall_node_broker_up{node="a@h"} 1.0"#,
        r#"rollcall_node_resynced_timestamp_seconds{node="a@h"} 1.5"#,
        r#"rollcall_node_info{node="a@h",address="127.0.0.1:1",broker="embedded",broker_version="0.24\n\"",agent_version="1"} 1"#,
        r#"rollcall_http_requests_total{route="/clients",method="GET",code="200"} 1"#,
    ] {
        assert!(has(&shown, sample), "{sample} is not in {shown:#?}");
    }
    let about = |name: &str| shown.iter().filter(|line| line.starts_with(name)).count();
    assert_eq!((about("rollcall_clients{"), about("rollcall_cluster_")), (2, 0));
    assert_eq!((about("rollcall_node_last_seen"), about("rollcall_node_broker_up")), (1, 1));
    // What an agent said that is not heard any more is not known to be so.
    let long_ago = SystemTime::now().checked_sub(Duration::from_secs(61));
    let gone = NodeView { last_seen: long_ago, ..known("127.0.0.1:1", "a@h") };
    assert!(!samples(page(vec![gone], &[])).iter().any(|line| line.starts_with("rollcall_node_broker_up")));
    let whole = samples(page(nodes(), &[("127.0.0.1:1", 5), ("127.0.0.1:2", 7)]));
    assert!(
        has(&whole, "rollcall_cluster_clients 14") && has(&whole, "rollcall_cluster_connected_clients 12")
    );
}

#[tokio::test]
async fn no_two_samples_have_one_name_however_nodes_call_themselves() {
    let nodes = vec![
        known("127.0.0.1:1", "127.0.0.1:2"),
        silent("127.0.0.1:2"),
        known("127.0.0.1:3", "127.0.0.1:2'"),
    ];
    let shown = samples(page(nodes, &[("127.0.0.1:1", 1), ("127.0.0.1:2", 2), ("127.0.0.1:3", 3)]));
    let names: HashSet<&str> = shown.iter().filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect();
    assert_eq!(names.len(), shown.len());
}

#[test]
fn what_callers_make_up_gives_no_new_samples() {
    let metrics = Metrics::default();
    for method in ["GET", "BREW", "X-1", "X-2"] {
        for status in 100..999 {
            let (method, status) = (method.parse().unwrap(), StatusCode::from_u16(status).unwrap());
            metrics.answered("other", &method, status, Duration::ZERO);
        }
    }
    let page = Page::new(Arc::new(metrics), Audit::default(), Vec::new(), Arc::default());
    let shown = samples(page);
    assert_eq!(shown.iter().filter(|line| line.starts_with("rollcall_http_requests_total")).count(), 2 * 14);
}
