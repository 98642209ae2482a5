//! What a user of the whole sees: real programs, real clients, real failures.

mod bad_input;
