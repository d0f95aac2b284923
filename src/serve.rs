//! Opens the engine on its data folder and serves it over HTTP.

use crate::settings::Settings;

/// Runs the engine until it is told to stop.
pub fn run(_settings: Settings) -> anyhow::Result<()> {
    Err(anyhow::anyhow!("serve is not wired to the engine yet"))
}
