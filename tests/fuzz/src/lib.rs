//! What the fuzz targets share: clients, query strings, files whose content is input, and changes of an input.

pub mod clients;
pub mod file;
pub mod grpc;
pub mod mutate;
pub mod parameters;
