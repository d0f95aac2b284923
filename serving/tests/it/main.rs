//! The serving layer as a client sees it: a real server on a real socket, a fake engine behind.

mod answers;
mod client;
mod closed;
mod errors;
mod fake;
mod formats;
mod ingest;
mod insert;
mod lifecycle;
mod naughty;
mod reading;
mod run_events;
mod statements;
