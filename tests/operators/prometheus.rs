//! A Prometheus server of the test's own, and promtool.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rollcall_tests::http;
use rollcall_tests::sandbox::{OPERATOR, VIEWER};
use rollcall_tests::wait::{eventually, within};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Whether Prometheus and promtool are there; says SKIPPED if not.
pub(crate) fn is_here() -> bool {
    let runs = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let is_here = runs("prometheus") && runs("promtool");
    if !is_here {
        println!("SKIPPED: prometheus or promtool is missing (Debian: prometheus)");
    }
    is_here
}

/// Where the project's files are.
pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Runs promtool on something it reads from its input, which must be to its liking.
pub(crate) fn promtool(arguments: &[&str], folder: &Path, input: &str) -> Output {
    let mut tool = Command::new("promtool")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    tool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    tool.wait_with_output().unwrap()
}

/// A server that scrapes these targets every second, with the alert rules of `deploy/`, whose alerts fire at once.
pub(crate) struct Prometheus {
    process: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    pub(crate) fn start(gateways: &[SocketAddr], agents: &[SocketAddr]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rules = std::fs::read_to_string(project().join("deploy/prometheus/rollcall.rules.yml")).unwrap();
        // As they are, but for how long something must be so before it is told.
        let rules: Vec<String> = rules
            .lines()
            .map(|line| match line.split_once("for: ") {
                Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 2s"),
                _ => line.to_owned(),
            })
            .collect();
        std::fs::write(folder.path().join("rules.yml"), rules.join("\n")).unwrap();
        let texts = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        // A viewer's key by basic authentication for half of the gateways' scrapes, a bearer's for the other half.
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {"job_name": "rollcall-gateway", "basic_auth": {"username": VIEWER.0, "password": VIEWER.1},
                 "static_configs": [{"targets": texts(gateways)}]},
                {"job_name": "by-bearer", "authorization": {"credentials": OPERATOR.1},
                 "static_configs": [{"targets": texts(gateways)}]},
                {"job_name": "without-a-key", "static_configs": [{"targets": texts(gateways)}]},
                {"job_name": "rollcall-agent", "static_configs": [{"targets": texts(agents)}]},
            ],
        });
        // JSON is YAML.
        std::fs::write(folder.path().join("prometheus.yml"), config.to_string()).unwrap();
        let log = folder.path().join("log");
        let process = Command::new("prometheus")
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg("--web.listen-address=127.0.0.1:0")
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut prometheus =
            Self { process, address: SocketAddr::from(([127, 0, 0, 1], 0)), _folder: folder };
        prometheus.address = eventually("address of Prometheus", || {
            let log = std::fs::read_to_string(&log).unwrap();
            let line =
                log.lines().find(|line| line.contains("msg=\"Listening on\"")).ok_or_else(|| log.clone())?;
            let address = line.rsplit_once("address=").and_then(|(_, address)| address.trim().parse().ok());
            address.ok_or(log)
        });
        // It listens before it answers.
        within(rollcall_tests::wait::SOON * 2, "readiness of Prometheus", || {
            let status = http::request(prometheus.address, "GET", "/-/ready", &[]).status;
            if status == 200 { Ok(()) } else { Err(status.to_string()) }
        });
        prometheus
    }

    fn get(&self, target: &str) -> Value {
        let response = http::request(self.address, "GET", target, &[]);
        let body = response.json();
        assert_eq!((response.status, &body["status"]), (200, &json!("success")), "{target}: {body}");
        body["data"].clone()
    }

    /// What an instant query gives: labels and value of each sample.
    pub(crate) fn query(&self, expression: &str) -> Vec<(Value, f64)> {
        let data = self.get(&format!("/api/v1/query?query={}", http::encode(expression)));
        let value = |sample: &Value| sample["value"][1].as_str().unwrap().parse().unwrap();
        let samples = data["result"].as_array().unwrap();
        samples.iter().map(|sample| (sample["metric"].clone(), value(sample))).collect()
    }

    /// The one value of a query, `None` if there is no sample.
    #[track_caller]
    pub(crate) fn value(&self, expression: &str) -> Option<f64> {
        let samples = self.query(expression);
        assert!(samples.len() <= 1, "{expression}: {samples:?}");
        samples.first().map(|(_, value)| *value)
    }

    /// Waits until a query gives this.
    #[track_caller]
    pub(crate) fn await_value(&self, expression: &str, expected: Option<f64>) {
        eventually(&format!("{expression} = {expected:?}"), || {
            let value = self.value(expression);
            if value == expected { Ok(()) } else { Err(format!("{value:?}")) }
        });
    }

    /// Alerts of this name in this state, by their labels.
    pub(crate) fn alerts(&self, name: &str, state: &str) -> Vec<Value> {
        let data = self.get("/api/v1/alerts");
        let alerts = data["alerts"].as_array().unwrap().iter();
        let is_it = |alert: &&Value| alert["labels"]["alertname"] == name && alert["state"] == state;
        alerts.filter(is_it).map(|alert| alert["labels"].clone()).collect()
    }

    /// Waits until so many alerts of a name are in a state, and gives their labels.
    pub(crate) fn await_alerts(&self, name: &str, state: &str, number: usize) -> Vec<Value> {
        within(rollcall_tests::wait::SOON * 2, &format!("{number} alerts {name} {state}"), || {
            let alerts = self.alerts(name, state);
            if alerts.len() == number { Ok(alerts) } else { Err(self.get("/api/v1/alerts").to_string()) }
        })
    }

    /// Every rule's health.
    pub(crate) fn rules(&self) -> Vec<(String, String)> {
        let data = self.get("/api/v1/rules");
        let groups = data["groups"].as_array().unwrap().iter();
        let text = |rule: &Value, key: &str| rule[key].as_str().unwrap().to_owned();
        let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
        rules
            .map(|rule| (text(rule, "name"), format!("{} {}", text(rule, "health"), rule["lastError"])))
            .collect()
    }
}
