//! The command line: what can be asked for ([`args`]) and the client commands that ask a
//! running server over its public HTTP interface.
//!
//! The client commands know nothing of the engine. What they can do, curl can do; they add
//! splitting of large files, retries, line numbers of the file and progress. They run on
//! one thread with a blocking HTTP client: one request at a time is what keeps "events of
//! one file arrive in the order of the file" true.

pub mod args;
pub mod chunks;
pub mod client;
mod exit;
pub mod generate;
pub mod ingest;
pub mod recompute;
pub mod settings;
pub mod sql;
pub mod status;
mod table;

pub use exit::{ClientError, Exit};
