//! The command line `rollcall`, as an operator types it: piped, and at a terminal.

mod documented;
mod kicks;
mod reading;
mod refusals;
mod run;
mod terminal;
mod whole;
