//! The serving layer as a client sees it: a real server on a real socket, a fake engine behind.

mod answers;
mod client;
mod errors;
mod fake;
mod ingest;
mod insert;
mod lifecycle;
mod statements;
