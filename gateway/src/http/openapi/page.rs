//! The document as a page: no script, no other host.

use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const STYLE: &str = include_str!("page.css");

/// The page, and the policy that lets it have its style and nothing else.
pub(super) fn write(document: &Value) -> (String, HeaderValue) {
    let mut page = String::new();
    // Writing to a String does not fail.
    let _ = put(&mut page, document);
    let style = STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    // Base64 and what stands above are characters of a header.
    let policy =
        HeaderValue::try_from(policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"));
    (page, policy)
}

fn put(page: &mut String, document: &Value) -> fmt::Result {
    let info = &document["info"];
    write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{title} API</title><style>{STYLE}</style></head><body>\n<header><h1>{title} API \
         <small>{version}</small></h1><p>{summary}.</p><p>{description}</p><p>Base path <code>{base}</code>. For programs: <a \
         href=\"openapi.json\">openapi.json</a></p></header>\n<nav aria-label=\"Operations\"><ul>",
        title = Text(&info["title"]),
        version = Text(&info["version"]),
        summary = Text(&info["summary"]),
        description = Text(&info["description"]),
        base = Text(&document["servers"][0]["url"]),
    )?;
    for (path, method, operation) in operations(document) {
        write!(
            page,
            "<li><a href=\"#{}\"><b>{}</b> {}</a></li>",
            Text(&operation["operationId"]),
            method.to_uppercase(),
            Escaped(path)
        )?;
    }
    page.push_str("</ul></nav>\n<main>");
    for (path, method, operation) in operations(document) {
        put_operation(page, document, path, method, operation)?;
    }
    page.push_str("\n<h2>Bodies</h2>");
    for (name, schema) in members(&document["components"]["schemas"]) {
        write!(
            page,
            "\n<details id=\"schema-{0}\"><summary>{0}</summary><pre>{1}</pre></details>",
            Escaped(name),
            Escaped(&serde_json::to_string_pretty(schema).unwrap_or_default())
        )?;
    }
    page.push_str("</main></body></html>\n");
    Ok(())
}

fn put_operation(
    page: &mut String,
    document: &Value,
    path: &str,
    method: &str,
    operation: &Value,
) -> fmt::Result {
    write!(
        page,
        "\n<section id=\"{}\"><h2><b>{}</b> <code>{}</code></h2><p>{}.</p>",
        Text(&operation["operationId"]),
        method.to_uppercase(),
        Escaped(path),
        Text(&operation["summary"])
    )?;
    if operation["description"].is_string() {
        write!(page, "<p>{}</p>", Text(&operation["description"]))?;
    }
    let of_path = document["paths"][path]["parameters"].as_array();
    let own = operation["parameters"].as_array();
    let parameters: Vec<&Value> =
        of_path.into_iter().chain(own).flatten().map(|it| resolve(document, it)).collect();
    if !parameters.is_empty() {
        page.push_str("<table><thead><tr><th>Parameter<th>In<th>Value<th>Meaning</thead><tbody>");
        for parameter in parameters {
            write!(
                page,
                "<tr><td><code>{}</code><td>{}<td><code>{}</code><td>{}",
                Text(&parameter["name"]),
                Text(&parameter["in"]),
                Escaped(&kind(&parameter["schema"])),
                Text(&parameter["description"])
            )?;
        }
        page.push_str("</tbody></table>");
    }
    if let Some(schema) = operation.pointer("/requestBody/content/application~1json/schema") {
        write!(page, "<p>Body: {}</p>", Link(schema))?;
    }
    page.push_str("<table><thead><tr><th>Status<th>Body<th>When</thead><tbody>");
    for (status, answer) in members(&operation["responses"]) {
        let answer = resolve(document, answer);
        write!(page, "<tr><td>{}<td>", Escaped(status))?;
        for (at, (media, content)) in members(&answer["content"]).enumerate() {
            let before = if at > 0 { "<br>" } else { "" };
            write!(page, "{before}<code>{}</code> {}", Escaped(media), Link(&content["schema"]))?;
        }
        write!(page, "<td>{}", Text(&answer["description"]))?;
    }
    page.push_str("</tbody></table></section>");
    Ok(())
}

/// A schema in a word or two.
fn kind(schema: &Value) -> String {
    if let Some(items) = schema.get("items") {
        return format!("{}, ...", kind(items));
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
        return values.join(" | ");
    }
    let named = schema["type"].as_str().unwrap_or("any");
    let least = schema.get("minimum").map(|least| format!(" from {least}")).unwrap_or_default();
    let formats: Vec<&str> =
        schema["anyOf"].as_array().into_iter().flatten().filter_map(|one| one["format"].as_str()).collect();
    if formats.is_empty() { format!("{named}{least}") } else { formats.join(" | ") }
}

fn operations(document: &Value) -> impl Iterator<Item = (&String, &String, &Value)> {
    members(&document["paths"]).flat_map(|(path, item)| {
        let operations = members(item).filter(|(_, operation)| operation["operationId"].is_string());
        operations.map(move |(method, operation)| (path, method, operation))
    })
}

fn members(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let target = value["$ref"].as_str().and_then(|target| target.strip_prefix('#'));
    target.and_then(|target| document.pointer(target)).unwrap_or(value)
}

/// A schema's name, leading to it.
struct Link<'a>(&'a Value);

impl fmt::Display for Link<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0["$ref"].as_str().and_then(|target| target.rsplit('/').next()) {
            Some(name) => write!(f, "<a href=\"#schema-{0}\">{0}</a>", Escaped(name)),
            None => Ok(()),
        }
    }
}

/// A value's text, for HTML.
struct Text<'a>(&'a Value);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(self.0.as_str().unwrap_or_default()).fmt(f)
    }
}

/// Text that means nothing in HTML.
pub(in crate::http) struct Escaped<'a>(pub(in crate::http) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(['&', '<', '>', '"', '\'']) {
            let Some(special) = part.chars().next_back() else { continue };
            let escaped = match special {
                '&' => "&amp;",
                '<' => "&lt;",
                '>' => "&gt;",
                '"' => "&quot;",
                '\'' => "&#39;",
                _ => {
                    f.write_str(part)?;
                    continue;
                }
            };
            f.write_str(&part[..part.len() - special.len_utf8()])?;
            f.write_str(escaped)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Escaped;

    #[test]
    fn what_is_written_means_nothing_in_html() {
        assert_eq!(Escaped("a<b>&\"'ü").to_string(), "a&lt;b&gt;&amp;&quot;&#39;ü");
        assert_eq!(Escaped("").to_string(), "");
    }
}
