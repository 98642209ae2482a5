//! What operators and their tools touch, over real processes.

mod openapi;
mod page;
