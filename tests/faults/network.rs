//! Connections that are cut, stalled, slowed down, split and spoiled, between gateway and nodes and before the gateway.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rollcall_tests::asker::{Asked, Kind, SLACK};
use rollcall_tests::proxy::{Proxy, Rules, Way};
use rollcall_tests::rows;
use rollcall_tests::sandbox::{Agent, Gateway};
use rollcall_tests::wait::{eventually, pause, within};
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

use crate::signals::{ARGUMENTS, TIMEOUT, ask_during, names, table};

/// By when a node answers again whose link is well again: keep-alive finds a dead connection within 8 s, and a probe makes
/// a new one within 2 s.
pub(crate) const HEALED: Duration = Duration::from_secs(12);

/// Three nodes, each behind a proxy, and a gateway over the proxies.
struct Bed {
    gateway: Gateway,
    proxies: Vec<Proxy>,
    agents: Vec<Agent>,
    asked: Asked,
    random: StdRng,
    _table: NamedTempFile,
    _certificates: TempDir,
}

impl Bed {
    fn new(tls: bool, count: usize) -> Self {
        let (mut random, _) = rows::generator();
        let (table, mut asked) = table(&mut random, &names(), count, 2000);
        let certificates = tempfile::tempdir().unwrap();
        let [ca, cert, key] = certificates_in(&certificates);
        let path = table.path().to_str().unwrap();
        let mut of_agent = vec!["--broker", "file", "--file", path];
        let mut of_gateway = ARGUMENTS.to_vec();
        if tls {
            of_agent.extend(["--tls-cert", &cert, "--tls-key", &key]);
            of_gateway.extend(["--node-ca", &ca]);
        }
        let agents: Vec<Agent> = names().iter().map(|name| Agent::start(name, &of_agent)).collect();
        let proxies: Vec<Proxy> = agents.iter().map(|agent| Proxy::to(agent.process.address)).collect();
        let addresses: Vec<SocketAddr> = proxies.iter().map(|proxy| proxy.address).collect();
        asked.truth.addresses = addresses.iter().map(SocketAddr::to_string).collect();
        let gateway = Gateway::start(&addresses, &of_gateway);
        let bed =
            Self { gateway, proxies, agents, asked, random, _table: table, _certificates: certificates };
        bed.await_all_answering(HEALED);
        bed
    }

    fn await_all_answering(&self, limit: Duration) {
        within(limit + SLACK, "answer of every node", || {
            let body = self.gateway.get("/clients?_limit=0").json();
            if body["meta"]["nodes"]["answered"] == 3 { Ok(()) } else { Err(body.to_string()) }
        });
    }

    fn assert_running(&mut self) {
        assert!(self.gateway.process.is_running(), "the gateway has ended");
        for agent in &mut self.agents {
            assert!(agent.process.is_running(), "{} has ended", agent.name);
        }
    }
}

/// An authority's certificate, and a certificate for 127.0.0.1 with its key, as paths.
fn certificates_in(folder: &TempDir) -> [String; 3] {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertifiedIssuer::self_signed(authority, authority_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = own.signed_by(&key, &authority).unwrap();
    [("ca", authority.pem()), ("cert", certificate.pem()), ("key", key.serialize_pem())].map(
        |(name, text)| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        },
    )
}

/// How many answers named a node as missing.
fn lacking(bed: &Bed) -> u64 {
    let of = |kind: &Kind| {
        let tally = bed.asked.tally(*kind);
        tally.partial.load(Ordering::Relaxed) + tally.refused.load(Ordering::Relaxed)
    };
    Kind::ALL.iter().map(of).sum()
}

/// Something that links do, other than spoiling bytes.
fn bad_day(random: &mut StdRng) -> Rules {
    let mut way = || match random.random_range(0..8) {
        0 => Way { stalled: true, ..Way::default() },
        1 => Way { delay: Duration::from_millis(random.random_range(1..400)), ..Way::default() },
        2 => Way { rate: Some(random.random_range(2_000..200_000)), ..Way::default() },
        3 => Way { piece: Some(1), ..Way::default() },
        4 => Way { piece: Some(random.random_range(2..300)), ..Way::default() },
        5 => Way { cut_after: Some(random.random_range(0..50_000)), ..Way::default() },
        _ => Way::default(),
    };
    let (up, down) = (way(), way());
    Rules { refuse: random.random_bool(0.1), up, down }
}

#[test]
fn whatever_links_to_nodes_do_every_answer_is_right_or_names_what_it_lacks() {
    let mut bed = Bed::new(false, 400);
    let mut faults = StdRng::seed_from_u64(bed.random.random());
    let Bed { gateway, proxies, asked, random, .. } = &mut bed;
    ask_during(asked, gateway.address(), random, false, || {
        // One at least that nobody can miss.
        let stalled = Way { stalled: true, ..Way::default() };
        proxies[0].set(Rules { up: stalled, down: stalled, ..Rules::default() });
        pause(TIMEOUT * 2);
        proxies[0].set(Rules::default());
        for _ in 0..12 {
            let proxy = &proxies[faults.random_range(0..3)];
            proxy.set(bad_day(&mut faults));
            if faults.random_bool(0.3) {
                proxy.cut();
            }
            pause(Duration::from_millis(faults.random_range(200..2500)));
            if faults.random_bool(0.7) {
                proxy.set(Rules::default());
            }
        }
        for proxy in &*proxies {
            proxy.set(Rules::default());
        }
    });
    bed.asked.assert_right();
    assert!(lacking(&bed) > 0, "no answer lacked a node, so this tells little");
    bed.await_all_answering(HEALED);
    bed.assert_running();
}

#[test]
fn a_dead_link_is_named_by_the_deadline_and_forgotten_once_it_heals() {
    let bed = Bed::new(false, 60);
    let stalled = Way { stalled: true, ..Way::default() };
    for (what, up, down) in [
        ("nothing goes up", stalled, Way::default()),
        ("nothing comes down", Way::default(), stalled),
        ("nothing goes either way", stalled, stalled),
    ] {
        bed.proxies[1].set(Rules { up, down, ..Rules::default() });
        for _ in 0..2 {
            let begun = Instant::now();
            let body = bed.gateway.get("/clients?_limit=0").json();
            let took = begun.elapsed();
            assert!(took < TIMEOUT + SLACK, "{what}: {took:?}");
            let failed = &body["meta"]["nodes"]["failed"];
            assert_eq!(failed[0]["node"], "b@127.0.0.1", "{what}: {body}");
            assert!(
                ["timeout", "unreachable"].contains(&failed[0]["reason"].as_str().unwrap()),
                "{what}: {body}"
            );
        }
        bed.proxies[1].set(Rules::default());
        bed.await_all_answering(HEALED);
    }
    // A link that refuses is found out at once, and is well again at once.
    bed.proxies[1].set(Rules { refuse: true, ..Rules::default() });
    bed.proxies[1].cut();
    eventually("news of the refused link", || {
        let body = bed.gateway.get("/clients?_limit=0").json();
        let failed = &body["meta"]["nodes"]["failed"];
        if failed[0]["reason"] == "unreachable" { Ok(()) } else { Err(body.to_string()) }
    });
    bed.proxies[1].set(Rules::default());
    bed.await_all_answering(HEALED);
}

/// Asks until the byte has been passed on, which any answer of some size brings about.
fn ask_until_spoiled(bed: &mut Bed, at: usize, mut ask: impl FnMut(&Bed, &mut StdRng)) {
    let mut random = StdRng::seed_from_u64(bed.random.random());
    for _ in 0..100 {
        ask(bed, &mut random);
        if !bed.proxies[at].is_pending() {
            ask(bed, &mut random);
            break;
        }
    }
    bed.proxies[at].set(Rules::default());
}

/// A rule that spoils one byte of either way, within so many from now.
fn spoil(random: &mut StdRng, within: u64) -> Rules {
    let way = Way { spoil_after: Some(random.random_range(0..within)), ..Way::default() };
    match random.random_bool(0.7) {
        true => Rules { down: way, ..Rules::default() },
        false => {
            Rules { up: Way { spoil_after: way.spoil_after.map(|at| at / 20), ..way }, ..Rules::default() }
        }
    }
}

#[test]
fn over_tls_a_spoiled_byte_is_a_named_failure_and_never_a_wrong_row() {
    let mut bed = Bed::new(true, 300);
    for round in 0..60 {
        let at = bed.random.random_range(0..3);
        // Of a new connection, so its handshake too, or of one that is in use.
        let within = if round % 3 == 0 { 3_000 } else { 40_000 };
        bed.proxies[at].set(spoil(&mut bed.random, within));
        if round % 3 == 0 {
            bed.proxies[at].cut();
        }
        ask_until_spoiled(&mut bed, at, |bed, random| {
            let seed = random.random();
            let mut asker = bed.asked.asker(bed.gateway.address(), StdRng::seed_from_u64(seed), false);
            asker.ask_any();
        });
    }
    bed.asked.assert_right();
    let lacking = lacking(&bed);
    assert!(lacking > 3, "{lacking} answers lacked a node, so nothing was spoiled");
    bed.assert_running();
    bed.await_all_answering(HEALED);
}

/// Without TLS nothing tells a client id of which a bit was turned over from the right one. What is left to hold is that no
/// answer is out of order or late, that nothing crashes, and that the next answers are right again.
#[test]
fn over_plain_http2_a_spoiled_byte_breaks_no_more_than_one_answer() {
    let mut bed = Bed::new(false, 300);
    let mut lacking = 0;
    for round in 0..80 {
        let at = bed.random.random_range(0..3);
        let within = if round % 2 == 0 { 400 } else { 40_000 };
        bed.proxies[at].set(spoil(&mut bed.random, within));
        if round % 2 == 0 {
            bed.proxies[at].cut();
        }
        ask_until_spoiled(&mut bed, at, |bed, _| {
            let begun = Instant::now();
            let response = bed.gateway.get("/clients?_limit=200");
            assert!(begun.elapsed() < TIMEOUT + SLACK, "{:?}", begun.elapsed());
            let body = response.json();
            assert_eq!(response.status, 200, "the other two nodes are well: {body}");
            let keys: Vec<_> = response.rows().iter().map(rollcall_tests::model::identity).collect();
            assert!(keys.is_sorted_by(|a, b| a < b), "out of order");
            assert!(keys.len() <= 200 && keys.len() as u64 <= body["meta"]["count"].as_u64().unwrap());
            lacking += body["meta"]["nodes"]["failed"].as_array().map_or(0, Vec::len);
        });
    }
    assert!(lacking > 3, "{lacking} nodes were named as missing, so nothing was spoiled");
    bed.assert_running();
    bed.await_all_answering(HEALED);
    let expected: Value = bed.asked.truth.nodes.clone().into();
    let told = |row: &Value| row["node"].clone();
    within(HEALED, "the nodes' right names", || {
        let names: Value = bed.gateway.get("/nodes").rows().iter().map(told).collect();
        if names == expected { Ok(()) } else { Err(names.to_string()) }
    });
    let mut asker = bed.asked.asker(bed.gateway.address(), StdRng::seed_from_u64(1), false);
    for kind in Kind::ALL {
        asker.ask(kind);
    }
    bed.asked.assert_right();
}

#[test]
fn whatever_links_to_clients_do_no_whole_answer_is_wrong_and_nothing_is_left_behind() {
    let mut bed = Bed::new(false, 400);
    let before: Vec<u64> = descriptors(&bed);
    let front = Proxy::to(bed.gateway.address());
    let mut faults = StdRng::seed_from_u64(bed.random.random());
    // A slow link makes answers late that the gateway gave in time.
    bed.asked.timeout += Duration::from_secs(20);
    let Bed { asked, random, .. } = &mut bed;
    ask_during(asked, front.address, random, true, || {
        for _ in 0..14 {
            front.set(bad_day(&mut faults));
            pause(Duration::from_millis(faults.random_range(100..1000)));
            front.cut();
        }
        front.set(Rules::default());
        pause(Duration::from_secs(1));
    });
    bed.asked.assert_right();
    let lists = bed.asked.tally(Kind::List);
    assert!(lists.broken.load(Ordering::Relaxed) > 0 && lists.whole.load(Ordering::Relaxed) > 0, "{lists:?}");
    front.cut();
    drop(front);
    bed.assert_running();
    within(Duration::from_secs(30), "every descriptor closed", || {
        let now = descriptors(&bed);
        // One more request may be on its way: a probe, or this test's own.
        let is_back = now.iter().zip(&before).all(|(now, before)| *now <= before + 2);
        if is_back { Ok(()) } else { Err(format!("{before:?} before, {now:?} now")) }
    });
}

/// Descriptors of gateway and agents.
fn descriptors(bed: &Bed) -> Vec<u64> {
    let agents = bed.agents.iter().map(|agent| agent.process.descriptors());
    std::iter::once(bed.gateway.process.descriptors()).chain(agents).collect()
}
