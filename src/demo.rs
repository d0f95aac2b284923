//! Starts an engine on a temporary folder and shows it at work.

use crate::cli::args::DemoArgs;

/// Runs the demo.
pub fn run(_args: DemoArgs) -> anyhow::Result<()> {
    Err(anyhow::anyhow!("demo is not wired to the engine yet"))
}
