//! What the fuzz targets share: input to queries, keys and clients, and files whose content is input.

pub mod clients;
pub mod file;
pub mod parameters;
