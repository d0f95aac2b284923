//! The one integration-test binary: one link instead of one for each file.

mod client;
mod equivalence;
mod layering;
mod tidy;
