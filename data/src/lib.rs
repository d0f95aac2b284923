//! x

pub mod input;
