//! The batch layer: the master dataset to a view version.
//!
//! A [`job::RecomputeJob`] is a plain description (which files, which cut, which view, where
//! to write); [`job::run`] maps and combines every event of the master dataset from scratch,
//! writes the states as immutable Parquet sorted by key, and [`audit`]s them against what
//! the older version and the panes say. It publishes nothing: the caller does, in one entry.
//! [`memory`] is shared by what runs at the same time, and a look at the events says how they are
//! best combined; [`shared`] reads events once for several views. [`progress`] tells how far a run
//! is; [`history`] keeps what every run did; [`schedule`] says which views are due.
//!
//! This crate knows neither HTTP nor the tail.

pub mod audit;
mod counted_files;
pub mod error;
pub mod history;
pub mod job;
pub mod memory;
mod plan;
pub mod progress;
pub mod schedule;
pub mod shared;
pub mod triggers;

pub use error::BatchError;
