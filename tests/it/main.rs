//! The one integration-test binary: one link instead of one for each file.

mod answers;
mod bad_input;
mod catalog;
mod cli;
mod client;
mod docs;
mod equivalence;
mod health;
mod insert;
mod invariant;
mod layering;
mod logs;
mod metrics;
mod old_formats;
mod openapi;
mod pruning;
mod python;
mod readers;
mod real_log;
mod restart;
mod schema_change;
mod server;
mod settings;
mod tidy;
mod torture_in;
mod views_sql;
