//! `rollcall completion`

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use crate::arguments::Arguments;
use crate::exit::{Exit, Failure};
use crate::output::print;

pub(super) fn run(shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    generate(shell, &mut Arguments::command(), "rollcall", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Whole)
}
