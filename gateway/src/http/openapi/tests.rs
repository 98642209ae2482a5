use std::collections::BTreeSet;

use super::*;
use crate::config::{Layer, kick_limits};
use crate::http::query;

fn limits() -> KickLimits {
    kick_limits(&Layer::default()).unwrap()
}

fn described() -> Value {
    document("/api/v4", &limits())
}

#[test]
fn the_document_that_is_checked_in_is_this_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let now = format!("{:#}\n", described());
    if std::env::var_os("ROLLCALL_WRITE_OPENAPI").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let then = std::fs::read_to_string(path).unwrap();
    assert!(
        then == now,
        "docs/openapi.json is another: run this test with ROLLCALL_WRITE_OPENAPI=1 and look at the change"
    );
}

#[test]
fn every_parameter_is_described_and_no_reference_leads_nowhere() {
    let document = described();
    for (name, parameter) in document["components"]["parameters"].as_object().unwrap() {
        assert!(parameter["schema"].is_object(), "{name}");
        assert!(parameter["description"].as_str().unwrap().len() > 5, "{name}");
    }
    let mut open = vec![&document];
    let mut used = BTreeSet::new();
    while let Some(value) = open.pop() {
        match value {
            Value::Object(members) => {
                if let Some(target) = members.get("$ref") {
                    let target = target.as_str().unwrap();
                    assert!(document.pointer(target.strip_prefix('#').unwrap()).is_some(), "{target}");
                    used.insert(target);
                }
                open.extend(members.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    for kind in ["parameters", "responses"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            assert!(used.contains(format!("#/components/{kind}/{name}").as_str()), "{name} is nowhere used");
        }
    }
}

#[test]
fn the_operations_are_the_routes() {
    use crate::http::route::Route;
    let document = described();
    for (path, item) in document["paths"].as_object().unwrap() {
        let concrete = path.replace("{node}", "n").replace("{clientid}", "c").replace("{username}", "u");
        let mut is_found = BTreeSet::new();
        for method in ["GET", "POST", "DELETE", "PUT", "PATCH"] {
            let method_is_here = item.get(method.to_lowercase()).is_some();
            let method: Method = method.parse().unwrap();
            let own = Described::new("/api/v4", &limits()).answer(&method, &concrete);
            let routed = match own {
                Some(answer) => answer.is_ok(),
                None => Route::find(&method, &concrete).is_ok(),
            };
            assert_eq!(routed, method_is_here, "{method} {path}");
            is_found.insert(routed);
        }
        assert!(is_found.contains(&true), "{path}");
    }
}

#[test]
fn values_that_the_document_allows_are_read() {
    let parameters = described()["components"]["parameters"].clone();
    for name in query::LIST.into_iter().chain(query::COUNT).chain(["_format"]) {
        let schema = &parameters[name]["schema"];
        let item = schema.get("items").unwrap_or(schema);
        let values: Vec<String> = match (&item["enum"], item["type"].as_str()) {
            (Value::Array(values), _) => {
                values.iter().map(|value| value.as_str().unwrap().to_owned()).collect()
            }
            (_, Some("boolean")) => vec!["true".into(), "false".into()],
            (_, Some("integer")) => {
                ["minimum", "maximum"].iter().filter_map(|end| item.get(end)).map(Value::to_string).collect()
            }
            _ if name == "ip_address" => vec!["::1".into(), "10.0.0.1".into()],
            // A cursor is of its list.
            _ if name == "_cursor" => vec![String::new()],
            _ => vec!["x".into()],
        };
        for value in values {
            let asked = format!("{name}={value}");
            let outcome = if name == "_format" {
                query::export(&asked).map(drop)
            } else if name == "_top" {
                query::count(&format!("{asked}&_group_by=node")).map(drop)
            } else if query::LIST.contains(&name) {
                query::list(&asked, query::Given::default()).map(drop)
            } else {
                query::count(&asked).map(drop)
            };
            assert_eq!(outcome, Ok(()), "{asked}");
        }
        if item["type"] == "integer" {
            let refused = query::list(&format!("{name}=x"), query::Given::default());
            assert!(refused.is_err(), "{name}=x");
        }
    }
}

#[test]
fn the_page_loads_nothing_and_shows_every_operation() {
    let document = described();
    let (page, policy) = page::write(&document);
    for refused in ["<script", "http://", "https://", "url(", "@import", " style="] {
        assert!(!page.contains(refused), "{refused}");
    }
    assert!(policy.to_str().unwrap().starts_with("default-src 'none'; style-src 'sha256-"));
    for path in document["paths"].as_object().unwrap().keys() {
        assert!(page.contains(&format!("<code>{path}</code>")), "{path}");
    }
}
