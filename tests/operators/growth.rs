//! A scrape costs the same however many clients there are.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rollcall_tests::http;
use rollcall_tests::sandbox::{Agent, Cluster, OPERATOR};
use rollcall_tests::wait::pause;

/// Two agents with so many made-up clients together, behind a gateway.
fn cluster(clients: u64) -> Cluster {
    let half = (clients / 2).to_string();
    let agent = |(name, seed)| {
        let arguments = [
            "--broker",
            "synthetic",
            "--clients",
            half.as_str(),
            "--seed",
            seed,
            "--metrics-listen",
            "127.0.0.1:0",
        ];
        Agent::start(name, &arguments)
    };
    Cluster::of([("a@127.0.0.1", "1"), ("b@127.0.0.1", "2")].map(agent).into())
}

/// How long a scrape takes, and its text.
fn scrape(address: SocketAddr) -> (Duration, String) {
    let authorization = http::basic(OPERATOR.0, OPERATOR.1);
    let begun = Instant::now();
    let response = http::request(address, "GET", "/metrics", &[("authorization", authorization.as_str())]);
    let took = begun.elapsed();
    assert_eq!(response.status, 200);
    (took, String::from_utf8(response.body).unwrap())
}

/// Samples of a page that are about clients. Others are of what has happened so far, such as calls that took longer.
fn samples(text: &str) -> usize {
    text.lines().filter(|line| !line.starts_with('#') && line.contains("clients")).count()
}

/// The least of many, in turn, so that whatever else the machine does hits both.
#[test]
fn a_million_clients_are_scraped_in_twice_the_time_of_a_thousand_at_most() {
    let clusters = [cluster(1_000), cluster(1_000_000)];
    for pick in [
        |cluster: &Cluster| cluster.gateway.address(),
        |cluster: &Cluster| cluster.agents[0].process.metrics.unwrap(),
    ] {
        let mut least = [Duration::MAX; 2];
        for _ in 0..12 {
            for (least, cluster) in least.iter_mut().zip(&clusters) {
                *least = scrape(pick(cluster)).0.min(*least);
            }
            // The nodes' answer is shared by scrapes within a second; each of these is to have one of its own.
            pause(Duration::from_millis(1_050));
        }
        println!("a scrape of 1,000 clients takes {:?}, of 1,000,000 {:?}", least[0], least[1]);
        assert!(least[1] <= least[0] * 2, "{least:?}");
    }
    let pages = clusters.each_ref().map(|cluster| scrape(cluster.gateway.address()).1);
    assert!(pages[1].contains("\nrollcall_cluster_clients 1000000\n"), "{}", pages[1]);
    // A thousand times the clients, and a few kinds more of which there is not one among a thousand.
    let [few, many] = pages.map(|page| samples(&page));
    assert!(many < few + 100, "{few} samples, and {many}");
}
