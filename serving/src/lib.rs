//! The serving layer: SQL over HTTP on one snapshot.
//!
//! ```text
//!   request -> http/      routes, limits, errors as one JSON shape
//!           -> statement  what the SQL text asks for: DDL, a query, or nothing we do
//!           -> engine     the port that the binary implements
//!           -> params     values in the place of its placeholders
//!           -> encode/    record batches -> json, ndjson, csv, arrow, parquet, table
//! ```
//!
//! This crate does not know the log, the batch layer or the speed layer, and nothing outside
//! `http/` knows HTTP. A failure is a value with a kind (`error`); one file turns kinds into
//! statuses.

mod coded_aggregate;
pub mod encode;
pub mod engine;
pub mod error;
mod group_by_codes;
pub mod http;
mod insert;
pub mod limits;
pub mod metrics;
pub mod params;
mod per_value;
pub mod provenance;
pub mod query;
mod running;
mod scan_stats;
pub mod snapshot;
pub mod statement;
pub mod system;
mod tables;
mod text_filters;
mod touched;
mod view_table;

pub use engine::{Engine, EngineError, ErrorKind};
pub use http::server::serve;
pub use limits::Limits;
