use std::process::ExitCode;
use std::thread;

use anyhow::Context;
use lambdalake::cli::args::{Cli, Command};
use lambdalake::cli::{
    Exit, generate, ingest, recompute, runs, settings, sql, status, verify_views,
};
use lambdalake::{demo, selftest, serve, verify};
use lambdalake_views::PLANNING_STACK_BYTES;

/// Gives freed memory back to the system, which the C library's allocator keeps after a large
/// body, and is quicker with many threads.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // The main thread's own stack is too small for the views that are planned at the start.
    let main = thread::Builder::new()
        .name("main".to_owned())
        .stack_size(PLANNING_STACK_BYTES)
        .spawn(run);
    let outcome = main.context("start the main thread").and_then(|main| {
        // The panic was reported where it happened.
        main.join()
            .map_err(|_| anyhow::anyhow!("it panicked, which is a bug"))?
    });
    Exit::report(outcome).into()
}

/// Ends the process quietly when the reader of its output leaves, as in `| head`. The code is that
/// of a process which the signal for it has ended.
fn leave_with_the_reader() {
    const EXIT_CODE: i32 = 128 + 13;
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or_default();
        if message.starts_with("failed printing to stdout") && message.contains("Broken pipe") {
            std::process::exit(EXIT_CODE);
        }
        report(panic);
    }));
}

fn run() -> anyhow::Result<Exit> {
    leave_with_the_reader();
    match Cli::read().command {
        Command::Serve(args) => args.settings().and_then(serve::run).map(|()| Exit::Ok),
        Command::Ingest(args) => ingest::run(args),
        Command::Sql(args) => sql::run(args),
        Command::Recompute(args) => recompute::run(args),
        Command::Runs(args) => runs::run(args),
        Command::Status(args) => status::run(args),
        Command::Verify(args) if args.asks_a_server() => verify_views::run(args),
        Command::Verify(args) => verify::run(&args),
        Command::Demo(args) => demo::run(args).map(|()| Exit::Ok),
        Command::Settings(args) => settings::run(args),
        Command::Selftest(args) => selftest::command(&args),
        Command::Generate(args) => generate::run(args).map(|()| Exit::Ok),
    }
}
