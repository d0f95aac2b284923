//! Writes made-up but realistic events to stdout, the same ones for the same seed.

use crate::cli::args::GenerateArgs;

/// Writes the events.
pub fn run(_args: GenerateArgs) -> anyhow::Result<()> {
    Err(anyhow::anyhow!("generate is not written yet"))
}
