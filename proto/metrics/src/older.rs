//! Prometheus' text format 0.0.4, made of OpenMetrics.
//!
//! The two differ in the lines that begin with `#`: the older one names a family as its samples are named, knows no infos
//! and no units, and has no end. Sources: Prometheus' "Exposition formats", and OpenMetrics 1.0, "Text format".

/// The same figures in the older format.
pub(crate) fn of(text: &str) -> String {
    let mut older = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, help)) = help.take().and_then(|help| help.split_once(' ')) {
                older += &format!("# HELP {name}{suffix} {help}\n");
            }
            older += &format!("# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            older.push_str(line);
            older.push('\n');
        }
    }
    older
}
