//! The speed layer: new events to panes.
//!
//! One [`writer`] thread per stream numbers events, logs them, and appends them to the
//! tail; nothing is acknowledged before it is durable and visible. The tail's states are
//! made *lazily*: the first reader after an event maps what no reader mapped before
//! ([`open_states`]), so ingest never waits for a view and a burst is mapped once, in bulk
//! (docs/decisions/0004). A flush seals a part of the tail; its states become a stored pane.
//!
//! This crate knows neither HTTP nor the master dataset's files.

pub mod error;
pub mod keys;
pub mod mapper;
pub mod meters;
pub mod open_states;
pub mod shard;
pub mod writer;

pub use error::SpeedError;
pub use mapper::Mapper;
pub use open_states::OpenStates;
