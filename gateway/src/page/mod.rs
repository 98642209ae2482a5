//! The pure core of a page: how much of each node its beginning needs ([`share`]), which ranks of
//! which node make it up ([`select`]), how sorted rows become one list
//! ([`merge`], of [`rows`]) or one stream ([`streams`]), what an answer lacks ([`completeness`]), where a walk goes on ([`cursor`]), and
//! what the groups of a count add up to ([`groups`]). Nothing here knows a network, a task or a clock.

pub mod completeness;
pub mod cursor;
pub mod groups;
pub mod merge;
pub mod rows;
pub mod select;
pub mod share;
pub mod streams;
