//! The `lambdalake` binary as a library: arguments, settings, client commands and the
//! wiring of the engine. The layers live in their own crates and never import this one.

pub mod cli;
pub mod demo;
pub mod engine;
pub mod generate;
pub mod logging;
pub mod selftest;
pub mod serve;
pub mod settings;
pub mod verify;
