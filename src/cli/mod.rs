//! The command line: what can be asked for ([`args`]) and the client commands that ask a
//! running server over its public HTTP interface.
//!
//! The client commands know nothing of the engine. What they can do, curl can do; they add
//! splitting of large files, retries, line numbers of the file and progress. They run on
//! one thread with a blocking HTTP client: one request at a time is what keeps "events of
//! one file arrive in the order of the file" true.

mod answer;
pub mod args;
mod caret;
pub mod chunks;
pub mod client;
mod describe;
mod exit;
mod follow;
pub mod generate;
pub mod ingest;
pub mod input;
mod interrupt;
mod keys;
mod meta;
mod moment;
mod output;
mod problems;
mod query;
pub mod recompute;
mod render;
mod run_events;
pub mod runs;
mod session;
pub mod settings;
mod shell;
pub mod sql;
mod statements;
pub mod status;
mod table;
pub mod verify_views;

pub use exit::{ClientError, Exit, Refusal};
