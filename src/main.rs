use std::process::ExitCode;

use clap::Parser;
use lambdalake::cli::args::{Cli, Command};
use lambdalake::cli::{Exit, generate, ingest, recompute, settings, sql, status};
use lambdalake::{demo, serve};

/// Gives freed memory back to the system, which the C library's allocator keeps after a large
/// body, and is quicker with many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => args.settings().and_then(serve::run).map(|()| Exit::Ok),
        Command::Ingest(args) => ingest::run(args),
        Command::Sql(args) => sql::run(args),
        Command::Recompute(args) => recompute::run(args),
        Command::Status(args) => status::run(args),
        Command::Demo(args) => demo::run(args).map(|()| Exit::Ok),
        Command::Settings(args) => settings::run(args),
        Command::Generate(args) => generate::run(args).map(|()| Exit::Ok),
    };
    Exit::report(outcome).into()
}
