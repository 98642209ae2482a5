//! What the program says of itself, held against its document.

use std::path::Path;
use std::process::Command;

use super::run::{command, run, run_with};

/// The commands that have options of their own.
const COMMANDS: [&[&str]; 13] = [
    &["nodes"],
    &["clients"],
    &["client"],
    &["kick"],
    &["count"],
    &["export"],
    &["top"],
    &["context"],
    &["context", "list"],
    &["context", "use"],
    &["context", "set"],
    &["context", "remove"],
    &["completion"],
];

fn help(command_line: &[&str]) -> String {
    run(command(&[command_line, &["--help"]].concat())).whole()
}

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/cli.md");
    std::fs::read_to_string(path).unwrap()
}

/// The long options that a text names.
fn options(text: &str) -> Vec<&str> {
    let is_end = |character: char| !character.is_ascii_alphanumeric() && character != '-';
    let mut options: Vec<&str> = text
        .match_indices("--")
        .filter(|(at, _)| !text[..*at].ends_with(|before: char| before == '-' || before.is_alphanumeric()))
        .map(|(at, _)| text[at..].split(is_end).next().unwrap())
        .filter(|option| {
            option.len() > 2 && option[2..].starts_with(|first: char| first.is_ascii_lowercase())
        })
        .collect();
    options.sort_unstable();
    options.dedup();
    options
}

/// The section of a command, up to the next of its level.
fn section<'a>(document: &'a str, title: &str) -> &'a str {
    let begin = document.find(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no section {title}")) + 1;
    let rest = &document[begin..];
    &rest[..rest[1..].find("\n## ").map_or(rest.len(), |at| at + 1)]
}

#[test]
fn the_document_has_every_option_and_no_other() {
    let document = document();
    let everywhere =
        [section(&document, "Which gateway"), section(&document, "Filters"), section(&document, "Output")]
            .concat();
    // The last is cargo's.
    let mut known = vec!["--help", "--version", "--release"];
    let helps: Vec<(String, String)> = COMMANDS.iter().map(|line| (line.join(" "), help(line))).collect();
    for (name, help) in &helps {
        let own = format!(
            "{everywhere}{}",
            section(&document, &format!("rollcall {}", name.split(' ').next().unwrap()))
        );
        let documented = options(&own);
        // Options begin their lines.
        let defined = help.lines().filter(|line| line.trim_start().starts_with('-'));
        for option in defined
            .flat_map(|line| options(line.split("  ").find(|part| part.contains("--")).unwrap_or_default()))
        {
            assert!(
                option == "--help" || documented.contains(&option),
                "docs/cli.md lacks {option} of rollcall {name}"
            );
            known.push(option);
        }
    }
    for option in options(&document) {
        assert!(known.contains(&option), "docs/cli.md names {option}, which no command has");
    }
    let overview = run(command(&["--help"])).whole();
    for line in COMMANDS.iter().filter(|line| line.len() == 1) {
        assert!(overview.contains(&format!("\n  {}", line[0])), "{overview}");
    }
    for code in ["0", "1", "2", "3", "4", "5", "130"] {
        assert!(section(&document, "Exit status").contains(&format!("| {code} |")), "{code}");
    }
}

#[test]
fn completions_are_scripts_of_their_shells() {
    for (shell, check) in
        [("bash", Some("bash")), ("zsh", None), ("fish", None), ("elvish", None), ("powershell", None)]
    {
        let script = run(command(&["completion", shell])).whole();
        for word in ["clients", "partial-ok", "connected-after"] {
            assert!(script.contains(word), "{shell} does not complete {word}");
        }
        if let Some(program) = check {
            let said = run_with(Command::new(program), &format!("{script}\ncomplete -p rollcall\n"));
            assert!(said.status == 0 && said.err.is_empty() && said.out.contains("_rollcall"), "{said:?}");
        }
    }
    run(command(&["completion", "tcsh"])).failed(2, &["tcsh", "bash"]);
}
