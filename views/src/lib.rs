//! One SQL definition, three verbs.
//!
//! A view is a `SELECT ... FROM stream [WHERE] [GROUP BY] [HAVING] [ORDER BY] [LIMIT]`. It is
//! written once and compiled to three steps of DataFusion's own aggregate operator:
//!
//! ```text
//!     map      AggregateMode::Partial         raw events  -> states
//!     combine  AggregateMode::PartialReduce   states      -> states
//!     finish   AggregateMode::Final           states      -> rows
//!
//!     events 0..40   --map-->  states ─┐
//!     events 40..70  --map-->  states ─┼─combine-->  states  --finish-->  rows
//!     events 70..71  --map-->  states ─┘                        │
//!                                                  answer_plan: HAVING, ORDER BY, LIMIT
//! ```
//!
//! However the events are split and in whatever order states are combined, finish gives the
//! rows of a direct run over all events: bit for bit for the classes where that is possible,
//! within rounding for floats ([`Class`]). What cannot be split that way is refused by
//! [`View::compile`] with a reason and a hint; it is never answered approximately in silence.
//!
//! How it is done: the SELECT is planned over a placeholder leaf (`input`); below the one
//! Aggregate only projections, filters and the scan are allowed (`shape`); aggregates whose
//! result depends on the order of events get the event's position appended to their ORDER BY
//! (`order`); floats get a hidden scale beside them, for the audit (`scale`); the Partial
//! operator is taken from the physical plan (`plan`) and the other two are made from the
//! same expressions.
//!
//! This crate plans. It knows no files, no network and no clock; it runs nothing by itself
//! except the comparison of rows in [`differences`].

mod aggregates;
mod answer;
mod audit;
mod date_trunc;
mod error;
mod finished;
mod fold;
mod input;
mod order;
mod plan;
mod relabel;
mod scale;
mod session;
mod shape;
mod sketches;
mod view;

pub use aggregates::{AggregateInfo, AggregateRule, Class, aggregate_table};
pub use audit::{Difference, differences};
pub use date_trunc::scalar_functions;
pub use error::ViewError;
pub use finished::{FINISHED_LAYOUT, Finished, UniqueKeys};
pub use session::session_state;
pub use sketches::aggregate_functions;
pub use view::{STATE_FORMAT_VERSION, View};

/// Stack of a thread that parses or plans statements, which recurses as deep as they are
/// nested. Only what is used of it takes memory.
pub const PLANNING_STACK_BYTES: usize = 64 << 20;

/// Hidden column of every stream: the shard an event belongs to, Int32.
pub const SHARD: &str = "_shard";
/// Hidden column of every stream: the event's offset in its shard, Int64.
pub const OFFSET: &str = "_offset";
