//! The files of `deploy/`: they parse, and refer only to metrics and labels that there are. Which there are, docs/metrics.md
//! says, which other tests hold true.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::Value;

use crate::prometheus::{self, project, promtool};

/// Labels that Prometheus adds, or that Kubernetes' discovery does.
const ADDED: [&str; 6] = ["job", "instance", "pod", "alertname", "alertstate", "severity"];

/// Every family's labels, and the names of its samples.
fn documented() -> BTreeMap<String, HashSet<String>> {
    let text = std::fs::read_to_string(project().join("docs/metrics.md")).unwrap();
    let mut known: BTreeMap<String, HashSet<String>> = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, ..] = cells[..] else { continue };
        let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
        let labels =
            || labels.split(", ").map(|label| label.trim_matches('`').to_owned()).filter(|it| !it.is_empty());
        match kind {
            "histogram" => {
                for suffix in ["_bucket", "_sum", "_count"] {
                    known.insert(format!("{name}{suffix}"), labels().chain(["le".to_owned()]).collect());
                }
            }
            "counter" | "gauge" | "info" => drop(known.insert(name.to_owned(), labels().collect())),
            _ => {}
        }
    }
    assert!(known.len() > 40, "{known:?}");
    for added in ["up", "ALERTS"] {
        known.insert(added.to_owned(), HashSet::new());
    }
    known
}

/// The words of an expression outside of texts, and the labels that each selector matches.
fn selectors(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    let (mut word, mut in_braces, mut in_text) = (String::new(), false, false);
    for character in expression.chars().chain([' ']) {
        if in_text {
            in_text = character != '"';
        } else if character.is_ascii_alphanumeric() || "_:$".contains(character) {
            word.push(character);
        } else {
            let word = std::mem::take(&mut word);
            if in_braces && "=!".contains(character) && !word.is_empty() {
                found.last_mut().unwrap().1.push(word);
            } else if !in_braces && !word.is_empty() {
                found.push((word, Vec::new()));
            }
            match character {
                '"' => in_text = true,
                '{' => in_braces = true,
                '}' => in_braces = false,
                _ => {}
            }
        }
    }
    found
}

/// Whether a word is a metric's name rather than a function's or a label's.
fn is_metric(word: &str) -> bool {
    ["rollcall_", "process_"].iter().any(|prefix| word.starts_with(prefix))
        || ["up", "ALERTS"].contains(&word)
}

fn check(expression: &str, known: &BTreeMap<String, HashSet<String>>) {
    let mut metrics = 0;
    for (word, labels) in selectors(expression) {
        if !is_metric(&word) {
            continue;
        }
        metrics += 1;
        let own =
            known.get(&word).unwrap_or_else(|| panic!("{word} in {expression} is not in docs/metrics.md"));
        for label in labels {
            assert!(
                own.contains(&label) || ADDED.contains(&label.as_str()),
                "{word} has no label {label}: {expression}"
            );
        }
    }
    assert!(metrics > 0, "{expression} is about no metric");
}

fn dashboard() -> Value {
    let text = std::fs::read_to_string(project().join("deploy/grafana/rollcall.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn targets(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let texts = panels.flat_map(|panel| {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| (title.to_owned(), target["expr"].as_str().unwrap().to_owned()))
    });
    texts.collect()
}

/// The dashboard's queries, with what Grafana would put in place of its variables.
pub(crate) fn dashboard_expressions() -> Vec<String> {
    let put = |(_, expression): (String, String)| {
        let expression = expression.replace("$__rate_interval", "1m");
        ["$gateway_job", "$agent_job", "$node"].iter().fold(expression, |text, name| text.replace(name, ".*"))
    };
    targets(&dashboard()).into_iter().map(put).collect()
}

#[test]
fn expressions_are_taken_apart() {
    let own = |word: &str, labels: &[&str]| {
        (word.to_owned(), labels.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(
        selectors(r#"sum by (le) (rate(a_b{x="y{z=1}",k!~"v"}[5m])) > on (n) up{} * 1e3"#),
        [
            own("sum", &[]),
            own("by", &[]),
            own("le", &[]),
            own("rate", &[]),
            own("a_b", &["x", "k"]),
            own("5m", &[]),
            own("on", &[]),
            own("n", &[]),
            own("up", &[]),
            own("1e3", &[])
        ]
    );
    let known = documented();
    let unknown = std::panic::catch_unwind(|| check("sum(rollcall_clientz)", &known));
    let no_label = std::panic::catch_unwind(|| check(r#"rollcall_clients{clientid="x"}"#, &known));
    assert!(unknown.is_err() && no_label.is_err());
}

#[test]
fn the_dashboard_parses_and_knows_its_metrics() {
    let (dashboard, known) = (dashboard(), documented());
    let targets = targets(&dashboard);
    assert!(targets.len() > 30);
    let mut used = BTreeSet::new();
    for (title, expression) in &targets {
        check(expression, &known);
        used.extend(selectors(expression).into_iter().map(|(word, _)| word).filter(|word| is_metric(word)));
        assert!(!title.is_empty());
    }
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: HashSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "no two panels have one id");
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["definition"].as_str() {
            let metric = query.strip_prefix("label_values(").and_then(|rest| rest.split(',').next()).unwrap();
            assert!(known.contains_key(metric), "{query}");
        }
        let name = format!("${}", variable["name"].as_str().unwrap());
        let is_used = targets.iter().any(|(_, expression)| expression.contains(&name));
        assert!(is_used || name == "$datasource", "{name} is of no use");
    }
    for expected in
        ["rollcall_clients", "rollcall_node_up", "rollcall_kicks_total", "rollcall_agent_index_bytes"]
    {
        assert!(used.contains(expected), "{expected} is not shown");
    }
}

#[test]
fn the_alert_rules_know_their_metrics() {
    let text = std::fs::read_to_string(project().join("deploy/prometheus/rollcall.rules.yml")).unwrap();
    let known = documented();
    let mut expressions = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(rest) = line.trim_start().strip_prefix("expr: ") else { continue };
        if rest != "|" {
            expressions.push(rest.to_owned());
            continue;
        }
        let mut block = String::new();
        let indent = line.len() - line.trim_start().len();
        while let Some(more) = lines.next_if(|more| more.len() - more.trim_start().len() > indent) {
            block += more;
            block.push('\n');
        }
        expressions.push(block);
    }
    assert_eq!(expressions.len(), text.matches("- alert: ").count());
    expressions.iter().for_each(|expression| check(expression, &known));
}

#[test]
fn promtool_takes_the_rules_and_their_tests_pass() {
    if !prometheus::is_here() {
        return;
    }
    let folder = project().join("deploy/prometheus");
    for arguments in [["check", "rules", "rollcall.rules.yml"], ["test", "rules", "rollcall.rules.test.yml"]]
    {
        let checked = promtool(&arguments, &folder, "");
        let said =
            String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success() && said.contains("SUCCESS") && !said.contains("FAILED"), "{said}");
    }
    // Every alert has a test in which it fires.
    let rules = std::fs::read_to_string(folder.join("rollcall.rules.yml")).unwrap();
    let tests = std::fs::read_to_string(folder.join("rollcall.rules.test.yml")).unwrap();
    for name in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let fires = tests.split("alertname: ").skip(1).any(|rest| {
            rest.lines().next() == Some(name)
                && rest.lines().nth(1).is_some_and(|line| line.trim() == "exp_alerts:")
        });
        assert!(fires, "{name} fires in no test");
    }
}
