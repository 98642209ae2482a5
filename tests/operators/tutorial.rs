//! docs/tutorial.md, command by command, against the demo that it starts.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rollcall_tests::binaries;
use rollcall_tests::wait::eventually;

/// Ends the demo with the test.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The commands of the blocks marked `sh`, each with what it is shown to print.
fn steps(document: &str) -> Vec<(&str, &str)> {
    let blocks = document.split("\n```sh\n$ ").skip(1);
    blocks.map(|rest| rest.split_once("\n```").unwrap().0.split_once('\n').unwrap()).collect()
}

/// The words of a text that are the same every time: no numbers, times or ports among them.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_word = |word: &&str| word.chars().any(char::is_alphabetic) && !word.contains("127.0.0.1:");
    text.split(|character: char| character.is_whitespace() || "{}[],\"".contains(character)).filter(is_word)
}

#[test]
fn every_command_of_the_tutorial_does_what_it_says() {
    let mut demo =
        Demo(Command::new(binaries::path("rollcall-demo")).stdout(Stdio::piped()).spawn().unwrap());
    let banner: Vec<String> = BufReader::new(demo.0.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .take_while(|line| !line.starts_with("Ctrl-C"))
        .collect();
    let page = banner.iter().find(|line| line.starts_with("  page ")).unwrap();
    let gateway = page.split_once("http://").unwrap().1.split_once('/').unwrap().0;
    let path = binaries::path("rollcall").parent().unwrap().display().to_string();
    let run = |command: &str| {
        let output = Command::new("bash")
            .args(["-c", &format!("PATH={path}:$PATH; {}", command.replace("127.0.0.1:8081", gateway))])
            .env("ROLLCALL_URL", format!("http://{gateway}"))
            .env("ROLLCALL_KEY", "app_id:app_secret")
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status, String::from_utf8(text).unwrap())
    };
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/tutorial.md");
    let document = std::fs::read_to_string(document).unwrap();
    for line in banner.iter().filter(|line| line.starts_with("  page ") || line.starts_with("Rollcall is up"))
    {
        assert!(document.contains(&line.replace(gateway, "127.0.0.1:8081")), "{line}");
    }
    let steps = steps(&document);
    assert_eq!(steps.len(), 8, "{steps:?}");
    for (command, shown) in steps {
        // The household takes a moment to come in.
        eventually(command, || {
            let (status, said) = run(command);
            match words(shown).find(|word| !said.contains(word)) {
                None if status.success() => Ok(()),
                missing => Err(format!("{status}, without {missing:?}: {said}")),
            }
        });
    }
}
