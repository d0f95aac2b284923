//! Integration tests of the views crate: one binary, one module per promise.

#[path = "it/audit.rs"]
mod audit;
#[path = "it/equivalence.rs"]
mod equivalence;
#[path = "it/finished.rs"]
mod finished;
#[path = "it/plans.rs"]
mod plans;
#[path = "it/random.rs"]
mod random;
#[path = "it/refusals.rs"]
mod refusals;
#[path = "it/support.rs"]
mod support;
