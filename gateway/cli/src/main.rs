//! `rollcall`: the clients of a whole cluster at a prompt, over the gateway's HTTP API.
//!
//! In reading order: [`arguments`] is what is typed, [`context`] which gateway is asked and as whom, [`api`] asks it,
//! [`commands`] are one file each, [`output`] writes what comes, [`exit`] says how it ended.
//!
//! What is promised: rows go to stdout and everything said about them to stderr; an answer that lacks nodes names them and
//! ends with a status of its own; nothing that a client is called reaches a terminal unescaped; no key is shown.
//!
//! Decided against: generated code from the OpenAPI document, since rows are shown as they come, also those of a newer
//! gateway.

mod api;
mod arguments;
mod commands;
mod context;
mod exit;
mod output;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::Arguments;
use output::say;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match commands::run(Arguments::parse()).await {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if !failure.is_closed_output() {
                say(&format!("rollcall: {failure}"));
            }
            failure.exit().into()
        }
    }
}
