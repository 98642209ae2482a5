//! `rollcall-agent passwd`: users of the embedded broker's password file.

use std::io::{BufRead as _, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rollcall_node_agent::broker::embedded::passwords::add_user;

pub(crate) fn add(file: &Path, user: &str) -> ExitCode {
    match try_add(file, user) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn try_add(file: &Path, user: &str) -> Result<(), String> {
    let cannot =
        |what: &str, path: &Path, error: std::io::Error| format!("cannot {what} {}: {error}", path.display());
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(cannot("read", file, error)),
    };
    eprintln!("password for {user:?}, on one line:");
    let mut password = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut password)
        .map_err(|error| format!("cannot read stdin: {error}"))?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err("no password on stdin, expected one on the first line".to_owned());
    }
    let text = add_user(&text, user, password.as_bytes()).map_err(|error| error.to_string())?;
    // Beside the file and then in its place, so that no reader sees half of it.
    let mut beside = file.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
        .open(&beside)
        .and_then(|mut new| new.write_all(text.as_bytes()).and_then(|()| new.sync_all()))
        .and_then(|()| std::fs::rename(&beside, file))
        .map_err(|error| cannot("write", file, error))
}
