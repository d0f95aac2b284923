//! `lambdalake settings`: every setting as a document.

use super::Exit;
use super::args::SettingsArgs;
use crate::settings::document;

/// Prints the page or the example file.
pub fn run(args: SettingsArgs) -> anyhow::Result<Exit> {
    let text = if args.markdown {
        document::markdown()
    } else {
        document::toml()
    };
    print!("{text}");
    Ok(Exit::Ok)
}
