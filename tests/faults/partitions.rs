//! Gateway and nodes on hosts of their own, whose links lose packets, are slow, or part, one way and both ways.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rollcall_tests::asker::{Asked, Kind, SLACK};
use rollcall_tests::hosts::{Host, Loss, Network};
use rollcall_tests::http::{self, Response};
use rollcall_tests::process::Process;
use rollcall_tests::proxy::{Proxy, Rules, Way};
use rollcall_tests::rows;
use rollcall_tests::sandbox::OPERATOR;
use rollcall_tests::wait::{pause, within};
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::network::HEALED;
use crate::signals::{ARGUMENTS, TIMEOUT, ask_during, names, table};

/// Dropped in this order: processes before the network they are on.
struct Bed {
    /// On the gateway's host, one before each agent, where asked for.
    proxies: Vec<Proxy>,
    gateway: Process,
    agents: Vec<Process>,
    asked: Asked,
    network: Network,
    _table: NamedTempFile,
}

impl Drop for Bed {
    fn drop(&mut self) {
        // A proxy's own listener is reached only from its host.
        let proxies = std::mem::take(&mut self.proxies);
        self.gateway_host().run(|| drop(proxies));
    }
}

impl Bed {
    /// `None`, said aloud, where this machine has no hosts to give.
    fn new() -> Option<Self> {
        Self::with(false)
    }

    fn with(is_proxied: bool) -> Option<Self> {
        if let Err(why) = Network::possible() {
            println!("SKIPPED: hosts of the test's own: {why}");
            return None;
        }
        let (mut random, _) = rows::generator();
        let (table, mut asked) = table(&mut random, &names(), 300, 1000);
        let network = Network::of(4);
        let path = table.path().to_str().unwrap();
        let agents: Vec<Process> = (0..3)
            .map(|at| {
                let host = &network.hosts()[at + 1];
                let (name, listen) = (names()[at].clone(), host.at(0).to_string());
                let arguments = [
                    "--node-name",
                    &name,
                    "--listen",
                    &listen,
                    "--insecure",
                    "--broker",
                    "file",
                    "--file",
                    path,
                ];
                host.start("rollcall-agent", &arguments)
            })
            .collect();
        let mut addresses: Vec<SocketAddr> = agents.iter().map(|agent| agent.address).collect();
        let mut proxies = Vec::new();
        if is_proxied {
            proxies = network.hosts()[0].run(|| addresses.iter().copied().map(Proxy::to).collect::<Vec<_>>());
            addresses = proxies.iter().map(|proxy| proxy.address).collect();
        }
        asked.truth.addresses = addresses.iter().map(ToString::to_string).collect();
        let listen = network.hosts()[0].at(0).to_string();
        let key = format!("{}:{}:operator", OPERATOR.0, OPERATOR.1);
        let mut arguments = vec!["--listen", &listen, "--insecure", "--key", &key];
        arguments.extend(asked.truth.addresses.iter().flat_map(|address| ["--node", address]));
        arguments.extend(ARGUMENTS);
        let gateway = network.hosts()[0].start("rollcall-gateway", &arguments);
        let bed = Self { proxies, gateway, agents, asked, network, _table: table };
        bed.await_all_answering("at the beginning");
        Some(bed)
    }

    fn gateway_host(&self) -> &Host {
        &self.network.hosts()[0]
    }

    fn get(&self, target: &str) -> Response {
        let (address, key) = (self.gateway.address, http::basic(OPERATOR.0, OPERATOR.1));
        self.gateway_host().run(|| http::request(address, "GET", target, &[("authorization", &key)]))
    }

    fn await_all_answering(&self, when: &str) {
        within(HEALED + SLACK, &format!("answer of every node {when}"), || {
            let body = self.get("/api/v4/clients?_limit=0").json();
            if body["meta"]["nodes"]["answered"] == 3 { Ok(()) } else { Err(body.to_string()) }
        });
    }

    /// Asks for everything during `disturb`.
    fn ask_during(&self, disturb: impl FnOnce() + Send) {
        let (mut random, _) = rows::generator();
        self.gateway_host()
            .run(|| ask_during(&self.asked, self.gateway.address, &mut random, false, disturb));
        self.asked.assert_right();
    }

    fn assert_running(&mut self) {
        assert!(self.gateway.is_running() && self.agents.iter_mut().all(Process::is_running));
    }
}

/// The nodes that an answer over the whole cluster names as failed.
fn failed(body: &Value) -> Vec<&str> {
    let failed = body["meta"]["nodes"]["failed"].as_array().unwrap();
    failed.iter().map(|node| node["node"].as_str().unwrap()).collect()
}

#[test]
fn partitions_of_every_kind_are_named_by_the_deadline_and_healed_in_time() {
    let Some(mut bed) = Bed::new() else { return };
    let (gateway, agent): (Ipv4Addr, Ipv4Addr) = (bed.gateway_host().address, bed.network.hosts()[2].address);
    for (what, on_gateway, on_agent, link) in [
        ("nothing reaches the node", vec![], vec![Loss::From(gateway)], true),
        ("nothing of the node arrives", vec![Loss::From(agent)], vec![], true),
        ("the node cannot send", vec![], vec![Loss::To(gateway)], true),
        ("both ways", vec![Loss::From(agent), Loss::To(agent)], vec![], true),
        ("its link is down", vec![], vec![], false),
    ] {
        let host = &bed.network.hosts()[2];
        bed.ask_during(|| {
            bed.gateway_host().lose(&on_gateway);
            host.lose(&on_agent);
            host.set_link(link);
            pause(TIMEOUT + Duration::from_secs(1));
        });
        let begun = Instant::now();
        let response = bed.get("/api/v4/clients?_limit=0");
        assert!(begun.elapsed() < TIMEOUT + SLACK, "{what}: {:?}", begun.elapsed());
        let body = response.json();
        assert_eq!((response.status, failed(&body)), (200, vec!["b@127.0.0.1"]), "{what}: {body}");
        let absent = bed.get("/api/v4/clients/nobody");
        assert_eq!((absent.status, absent.code()), (503, 101), "{what}");
        bed.gateway_host().lose(&[]);
        host.heal();
        bed.await_all_answering(&format!("after: {what}"));
    }
    let tally = bed.asked.tally(Kind::List);
    assert!(tally.partial.load(Ordering::Relaxed) > 0, "{tally:?}");
    bed.assert_running();
}

#[test]
fn a_gateway_cut_off_from_every_node_says_so_and_stays_ready() {
    let Some(bed) = Bed::new() else { return };
    bed.gateway_host().set_link(false);
    for target in
        ["/api/v4/clients", "/api/v4/clients/nobody", "/api/v4/client_counts", "/api/v4/client_export"]
    {
        let begun = Instant::now();
        let response = bed.get(target);
        assert!(begun.elapsed() < TIMEOUT + SLACK, "{target}: {:?}", begun.elapsed());
        let body = response.json();
        assert_eq!(
            (response.status, failed(&body)),
            (503, names().iter().map(String::as_str).collect()),
            "{body}"
        );
    }
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(bed.get(path).status, 200, "{path}");
    }
    bed.gateway_host().heal();
    bed.await_all_answering("after the gateway's link came back");
}

#[test]
fn over_lossy_and_slow_links_every_answer_is_right_or_names_what_it_lacks() {
    let Some(mut bed) = Bed::new() else { return };
    bed.ask_during(|| {
        let hosts = bed.network.hosts();
        hosts[1].lose(&[Loss::Percent(5)]);
        hosts[2].set_rate(200_000);
        pause(Duration::from_secs(5));
        hosts[1].lose(&[Loss::Percent(30)]);
        pause(Duration::from_secs(4));
        hosts[3].set_rate(50_000);
        hosts[3].lose(&[Loss::Percent(2)]);
        pause(Duration::from_secs(4));
    });
    for host in bed.network.hosts() {
        host.heal();
    }
    bed.await_all_answering("after all");
    bed.assert_running();
    assert!(bed.asked.requests() > 30, "{} requests tell little", bed.asked.requests());
}

/// How long packets, or what proxies pass on, are under way to the gateway.
const DELAY: Duration = Duration::from_millis(150);

#[test]
fn over_delayed_and_lossy_links_every_answer_is_right_or_names_what_it_lacks() {
    let netem = Network::has_netem();
    let Some(mut bed) = Bed::with(netem.is_err()) else { return };
    if let Err(why) = &netem {
        println!("SKIPPED: delay by netem, in place of which proxies have delayed what is said: {why}");
    }
    // Of one node so many packets in a hundred are lost too.
    let impair = |delay: Duration, lost: [u8; 3]| {
        for (at, lost) in lost.into_iter().enumerate() {
            let host = &bed.network.hosts()[at + 1];
            if let Some(proxy) = bed.proxies.get(at) {
                let down = Way { delay, ..Way::default() };
                proxy.set(Rules { down, ..Rules::default() });
                let losses = [Loss::Percent(lost)];
                host.lose(if lost == 0 { &[] } else { &losses });
            } else {
                host.set_delay(delay, delay / 5, lost);
            }
        }
    };
    impair(DELAY, [0, 0, 0]);
    let begun = Instant::now();
    let body = bed.get("/api/v4/clients?_limit=0").json();
    assert_eq!(failed(&body), Vec::<&str>::new(), "{body}");
    let took = begun.elapsed();
    assert!(took > DELAY / 2, "nothing is delayed: {took:?}");
    bed.ask_during(|| {
        pause(Duration::from_secs(4));
        impair(DELAY, [0, 3, 0]);
        pause(Duration::from_secs(3));
        // An answer takes a connection and a call or two: most are too late now.
        impair(TIMEOUT * 2 / 3, [0, 3, 10]);
        pause(Duration::from_secs(4));
    });
    for proxy in &bed.proxies {
        proxy.set(Rules::default());
    }
    for host in bed.network.hosts() {
        host.heal();
    }
    bed.await_all_answering("after all");
    bed.assert_running();
    assert!(bed.asked.requests() > 30, "{} requests tell little", bed.asked.requests());
}
