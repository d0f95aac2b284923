//! The self-test: thousands of random steps in a simulated world, against an obvious model.
//!
//! The engine is the real one, from the port that HTTP calls down to the last file operation,
//! with deltalake and DataFusion in it. Files, time and names are simulated: power cuts that
//! lose what was not synced, torn and short writes, failed syncs, a full disk. After every
//! step, everything acknowledged must be there once, and every view must equal a plain pass
//! over it. One seed always means the same run.

mod model;
mod shrink;
mod steps;
mod world;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::cli::Exit;
use crate::cli::args::SelftestArgs;
pub use steps::Step;
pub use world::Tally;
use world::World;

/// A run that did not hold.
#[derive(Debug)]
pub struct Failure {
    /// Number of the step after which it did not, from 1.
    pub step: usize,
    pub message: String,
    /// The faults that had happened until then.
    pub faults: Vec<String>,
}

/// What a run did, in a form that must be the same for the same steps.
pub type Trace = (Tally, (u64, u64), u32);

/// The steps of a seed.
pub fn plan(seed: u64, steps: usize) -> Vec<Step> {
    steps::plan(&mut StdRng::seed_from_u64(seed), steps)
}

/// Does the steps in a new world.
///
/// # Errors
///
/// The first thing that does not hold.
pub fn run(seed: u64, steps: &[Step]) -> Result<Trace, Failure> {
    let failed = |step, message, faults| Failure {
        step,
        message,
        faults,
    };
    let mut world =
        World::new(seed).map_err(|error| failed(0, format!("{error:#}"), Vec::new()))?;
    for (done, step) in steps.iter().enumerate() {
        if let Err(message) = world.step(step) {
            return Err(failed(done + 1, message, world.faults()));
        }
    }
    Ok(world.tally())
}

/// What a failed run says: enough to repeat it, and the few steps that matter.
pub fn report(seed: u64, steps: &[Step], failure: Failure, patience: Duration) -> String {
    let (few, failure) = shrink::shrink(seed, &steps[..failure.step], failure, patience);
    let mut text = format!("seed {seed}, step {}: {}\n", failure.step, failure.message);
    let _ = writeln!(text, "faults:");
    for fault in &failure.faults {
        let _ = writeln!(text, "  {fault}");
    }
    let _ = writeln!(
        text,
        "the shortest list of steps that was found ({}):",
        few.len()
    );
    for step in &few {
        let _ = writeln!(text, "  {step:?}");
    }
    text
}

/// The command: seeds one after the other, until the time is over or one fails.
///
/// # Errors
///
/// If a run does not hold.
#[expect(
    clippy::disallowed_methods,
    reason = "how long a person waits is real time"
)]
pub fn command(args: &SelftestArgs) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let mut seed = args.seed.unwrap_or_else(rand::random);
    let mut sum = Tally::default();
    let mut runs = 0;
    loop {
        let steps = plan(seed, args.steps as usize);
        let trace = match run(seed, &steps) {
            Ok(trace) => trace,
            Err(failure) => {
                let text = report(seed, &steps, failure, Duration::from_secs(120));
                anyhow::bail!(
                    "{text}repeat it with: lambdalake selftest --seed {seed} --steps {}",
                    args.steps
                );
            }
        };
        let tally = trace.0;
        runs += 1;
        sum.add(&tally);
        println!(
            "seed {seed}: {} steps, {} requests acknowledged, {} starts, {} faults: all holds",
            tally.steps, tally.acknowledged, tally.starts, tally.faults
        );
        if start.elapsed() >= Duration::from_secs(60 * args.minutes) {
            break;
        }
        seed = seed.wrapping_add(1);
    }
    println!(
        "{runs} runs, {} steps, {} requests acknowledged, {} starts, {} faults, {} checks: all holds",
        sum.steps, sum.acknowledged, sum.starts, sum.faults, sum.checks
    );
    Ok(Exit::Ok)
}
