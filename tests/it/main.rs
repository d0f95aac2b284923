//! The one integration-test binary: one link instead of one for each file.

mod bad_input;
mod client;
mod docs;
mod equivalence;
mod invariant;
mod layering;
mod old_formats;
mod openapi;
mod python;
mod readers;
mod real_log;
mod restart;
mod schema_change;
mod server;
mod tidy;
mod views_sql;
