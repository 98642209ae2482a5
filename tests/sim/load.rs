//! What clients ask the gateways, and that every answer is held against the truth.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rollcall_tests::http::encode;
use serde_json::json;
use tokio::time::sleep;

use crate::check::{self, Place, Selection, Sort};
use crate::http::{Answered, Asked, Bulk, ask};
use crate::kicks::{self, Whom};
use crate::truth::{Window, ZONES};
use crate::world::{Shared, State, now};

/// Sessions that a bulk kick by filter may end.
const MOST_KICKED: u64 = 16;

/// Pages a walk may have.
const LONGEST_WALK: usize = 60;

/// One client of the API.
pub(crate) struct Client {
    pub(crate) world: Shared,
    pub(crate) gateways: usize,
    pub(crate) rng: StdRng,
}

impl Client {
    /// Asks one thing after the other until a moment.
    pub(crate) async fn work(mut self, until: u64) {
        while now() < until {
            match self.rng.random_range(0..100) {
                0..28 => self.list().await,
                28..39 => self.walk().await,
                39..53 => self.get().await,
                53..65 => self.kick().await,
                65..75 => self.kick_many().await,
                75..83 => self.count().await,
                83..90 => self.export().await,
                90..93 => self.nodes().await,
                _ => self.leave().await,
            }
            sleep(Duration::from_millis(self.rng.random_range(0..120))).await;
        }
    }

    fn asked(&mut self, method: &'static str, target: String) -> Asked {
        let timeout_ms = *[None, Some(60), Some(200), Some(500), Some(1000), Some(1500)]
            .choose(&mut self.rng)
            .unwrap_or(&None);
        let gateway = self.rng.random_range(0..self.gateways);
        Asked { gateway, method, target, timeout_ms, leaves_after: None, bulk: None }
    }

    async fn get_from(&mut self, target: String) -> Answered {
        let asked = self.asked("GET", target);
        ask(&self.world, asked).await
    }

    /// Holds an answer against the truth.
    fn check<T>(&self, answered: &Answered, check: impl FnOnce(&mut State, &mut Vec<String>) -> T) -> T {
        let mut wrong = Vec::new();
        let outcome = check(&mut self.world.lock(), &mut wrong);
        check::blame(&self.world.lock(), answered, &mut wrong);
        for wrong in wrong {
            let Asked { method, target, gateway, .. } = &answered.asked;
            let Window { from, to } = answered.window;
            self.world
                .wrong(format!("{wrong}; {method} {target} of gateway {gateway} from {from} to {to} ms"));
        }
        outcome
    }

    fn selection(&mut self) -> Selection {
        let rng = &mut self.rng;
        Selection {
            sort: *Sort::ALL.choose(rng).unwrap_or(&Sort::Clientid),
            descending: rng.random(),
            zone: rng.random_bool(0.3).then(|| *ZONES.choose(rng).unwrap_or(&ZONES[0])),
            like: rng.random_bool(0.2).then(|| rng.random_range(0..10).to_string()),
            connected: rng.random_bool(0.2).then(|| rng.random()),
        }
    }

    fn limit(&mut self) -> u64 {
        *[0, 1, 3, 10, 50, 1000].choose(&mut self.rng).unwrap_or(&10)
    }

    async fn list(&mut self) {
        let (selection, limit) = (self.selection(), self.limit());
        let present: usize =
            self.world.lock().truth.present.iter().map(std::collections::BTreeMap::len).sum();
        let pages = (present as u64).checked_div(limit).unwrap_or(0) + 2;
        let page = if self.rng.random_bool(0.4) { 1 } else { self.rng.random_range(1..=pages) };
        let partial = if self.rng.random_bool(0.1) { "&_partial=false" } else { "" };
        let target = format!("/clients?_limit={limit}&_page={page}{partial}{}", selection.parameters());
        let answered = self.get_from(target).await;
        let place = Place::Page { page, limit };
        self.check(&answered, |state, wrong| {
            let seen = check::list(state, &answered, &selection, place, wrong);
            let is_success = answered.answer.as_ref().is_some_and(|answer| answer.status == 200);
            if !partial.is_empty() && is_success && seen.is_none() {
                // What was read from live data may come from all nodes.
                let answer = answered.answer.as_ref().map(crate::http::Answer::json).unwrap_or_default();
                if answer["meta"]["consistent"] == true {
                    wrong.push("an answer that lacks a node, though that was not allowed".to_owned());
                }
            }
        });
    }

    async fn walk(&mut self) {
        let selection = self.selection();
        let limit = *[5, 20, 60].choose(&mut self.rng).unwrap_or(&20);
        let (begun, mut seen, mut cursor) = (now(), Vec::new(), String::new());
        for _ in 0..LONGEST_WALK {
            let target = format!("/clients?_limit={limit}&_cursor={cursor}{}", selection.parameters());
            let answered = self.get_from(target).await;
            let place = Place::Cursor { limit };
            let page =
                self.check(&answered, |state, wrong| check::list(state, &answered, &selection, place, wrong));
            let Some(page) = page else { return };
            seen.extend(page);
            let answer = answered.answer.as_ref().map(crate::http::Answer::json).unwrap_or_default();
            cursor = answer["meta"]["cursor"].as_str().unwrap_or_default().to_owned();
            if cursor.is_empty() {
                let window = Window { from: begun, to: now() };
                return self.check(&answered, |state, wrong| {
                    check::walk(state, window, &selection, &seen, wrong);
                });
            }
            sleep(Duration::from_millis(self.rng.random_range(0..40))).await;
        }
    }

    /// A client that is there, or has been, or never was.
    fn someone(&mut self) -> String {
        let state = self.world.lock();
        let sessions = state.truth.sessions();
        let someone = match self.rng.random_range(0..10) {
            0 => None,
            1 | 2 => sessions.choose(&mut self.rng),
            _ => {
                let present: Vec<_> = sessions.iter().filter(|session| session.ended.is_none()).collect();
                present.choose(&mut self.rng).copied()
            }
        };
        someone.map_or_else(|| "nobody".to_owned(), |session| session.clientid.clone())
    }

    async fn get(&mut self) {
        let clientid = self.someone();
        let answered = self.get_from(format!("/clients/{}", encode(&clientid))).await;
        self.check(&answered, |state, wrong| check::get(state, &answered, &clientid, wrong));
    }

    async fn kick(&mut self) {
        let clientid = self.someone();
        let asked = self.asked("DELETE", format!("/clients/{}", encode(&clientid)));
        let whom = Whom::Clients(vec![clientid.clone()]);
        let Some(kick) = self.world.lock().kicks.begin(whom, &asked, now()) else { return };
        let answered = ask(&self.world, asked).await;
        self.check(&answered, |state, wrong| {
            if answered.answer.is_some() {
                state.kicks.asked[kick].to = answered.window.to;
            }
            kicks::one(state, &answered, &clientid, wrong);
        });
    }

    async fn kick_many(&mut self) {
        let is_dry_run = self.rng.random_bool(0.1);
        // Whom nobody else is kicking is looked for some times.
        for _ in 0..4 {
            let (whom, bulk) = self.many(is_dry_run);
            let most = bulk.most;
            // Some leave midway. What has begun by then comes to its end, and nothing is left behind.
            let leaves_after = self.rng.random_bool(0.1).then(|| self.rng.random_range(5..300));
            let asked = self.asked("POST", "/client_kicks".to_owned());
            let asked = Asked { bulk: Some(bulk), leaves_after, ..asked };
            if is_dry_run {
                let answered = ask(&self.world, asked).await;
                return self.check(&answered, |state, wrong| {
                    kicks::dry_run(state, &answered, &whom, most, wrong);
                });
            }
            let Some(kick) = self.world.lock().kicks.begin(whom, &asked, now()) else { continue };
            let answered = ask(&self.world, asked).await;
            return self.check(&answered, |state, wrong| {
                if answered.answer.is_some() {
                    state.kicks.asked[kick].to = answered.window.to;
                }
                kicks::many(state, &answered, kick, most, wrong);
            });
        }
    }

    /// Whom to kick by one request.
    fn many(&mut self, is_dry_run: bool) -> (Whom, Bulk) {
        let someone = self.someone();
        let rng = &mut self.rng;
        let rate = *[20, 200, 1000].choose(rng).unwrap_or(&1000);
        let mut body = json!({"rate": rate, "dry_run": is_dry_run});
        let mut most = MOST_KICKED;
        let whom = if rng.random_bool(0.4) {
            let mut ids = vec![someone];
            for _ in 0..rng.random_range(0..6) {
                ids.push(self.someone());
            }
            ids.sort();
            ids.dedup();
            most = ids.len() as u64;
            body["clientids"] = json!(ids);
            Whom::Clients(ids)
        } else {
            // By the end of somebody's id: so many that others can still be kicked meanwhile.
            let end = someone.char_indices().rev().nth(1).map_or(0, |(at, _)| at);
            let selection = Selection {
                zone: rng.random_bool(0.2).then(|| *ZONES.choose(rng).unwrap_or(&ZONES[0])),
                like: Some(someone[end..].to_owned()),
                connected: rng.random_bool(0.2).then(|| rng.random()),
                ..check::everyone()
            };
            body["filter"] = selection.members();
            body["confirm"] = json!("all");
            body["partial"] = json!(rng.random::<bool>());
            body["max"] = json!(most);
            Whom::Matching(selection)
        };
        (whom, Bulk { body, most, rate })
    }

    async fn count(&mut self) {
        let selection = self.selection();
        let group = if self.rng.random() { "&_group_by=zone" } else { "" };
        let parameters = format!("{}{group}", selection.filter());
        let answered = self.get_from(format!("/client_counts?{}", parameters.trim_start_matches('&'))).await;
        self.check(&answered, |state, wrong| check::count(state, &answered, &selection, wrong));
    }

    async fn export(&mut self) {
        let selection = self.selection();
        let is_csv = self.rng.random_bool(0.4);
        let format = if is_csv { "csv&_fields=clientid,expiry_interval" } else { "ndjson" };
        let answered =
            self.get_from(format!("/client_export?_format={format}{}", selection.parameters())).await;
        let check = if is_csv { check::csv } else { check::ndjson };
        self.check(&answered, |state, wrong| check(state, &answered, &selection, wrong));
    }

    async fn nodes(&mut self) {
        let answered = self.get_from("/nodes".to_owned()).await;
        self.check(&answered, |state, wrong| {
            let Some(answer) = &answered.answer else { return };
            let body = answer.json();
            let shown = body["data"].as_array().map_or(0, Vec::len);
            if answer.status != 200 || shown != state.truth.occupants.len() {
                wrong.push(format!("{shown} nodes shown in {body}"));
            }
        });
    }

    /// Asks for something and leaves before the answer.
    async fn leave(&mut self) {
        let target = match self.rng.random_range(0..3) {
            0 => "/client_export?_fields=clientid,mqueue_len".to_owned(),
            1 => "/client_counts?_group_by=username".to_owned(),
            _ => format!("/clients?_limit=5&_page={}", self.rng.random_range(1..60)),
        };
        let leaves_after = self.rng.random_range(5..60);
        let asked = Asked { leaves_after: Some(leaves_after), ..self.asked("GET", target) };
        ask(&self.world, asked).await;
    }

    /// With every fault mended and nothing happening, every gateway shows exactly what is so.
    pub(crate) async fn verify(&mut self) {
        for gateway in 0..self.gateways {
            let selection = Selection {
                sort: Sort::Clientid,
                descending: false,
                zone: None,
                like: None,
                connected: None,
            };
            let target = format!("/clients?_limit=10000{}", selection.parameters());
            let asked =
                Asked { gateway, method: "GET", target, timeout_ms: None, leaves_after: None, bulk: None };
            let answered = ask(&self.world, asked).await;
            self.check(&answered, |state, wrong| {
                let place = Place::Page { page: 1, limit: 10_000 };
                let seen = check::list(state, &answered, &selection, place, wrong);
                let present: usize = state.truth.present.iter().map(std::collections::BTreeMap::len).sum();
                if seen.as_ref().map(Vec::len) != Some(present) {
                    let answer = answered.answer.as_ref().map(crate::http::Answer::json).unwrap_or_default();
                    let meta = &answer["meta"];
                    wrong.push(format!("with every fault mended, {present} clients are not shown: {meta}"));
                }
            });
        }
    }
}
