//! The pure core of a page: which rows to ask each node for ([`plan`], [`share`], by [`hints`]) and whether what came is the page
//! ([`cover`]), or else which ranks of which node make it up ([`select`]), how sorted rows become one list
//! ([`merge`], of [`rows`]) or one stream ([`streams`]), what an answer lacks ([`completeness`]), where a walk goes on ([`cursor`]), and
//! what the groups of a count add up to ([`groups`]; for metrics, [`kinds`]). Nothing here knows a network, a task or a clock.

pub mod completeness;
pub mod cover;
pub mod cursor;
pub mod groups;
pub mod hints;
pub mod kinds;
pub mod merge;
pub mod onward;
pub mod plan;
pub mod rows;
pub mod select;
pub mod share;
pub mod streams;
