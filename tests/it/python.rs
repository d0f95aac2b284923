//! The Python packages of tests/python/requirements.txt, for tests against other readers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A Python that has the packages; `None` after saying that the test is skipped. On a build
/// machine (`CI` is set) they are installed, and a failure to do so fails the test.
pub fn python(test: &str) -> Option<PathBuf> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let must_run = std::env::var_os("CI").is_some();
    match FOUND.get_or_init(|| find(must_run)) {
        Ok(python) => Some(python.clone()),
        Err(reason) if must_run => panic!("{test}: {reason}"),
        Err(reason) => {
            println!("SKIPPED: {test}: {reason}");
            None
        }
    }
}

/// A file in tests/python.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/python")
        .join(name)
}

fn find(install: bool) -> Result<PathBuf, String> {
    let mut command = Command::new("bash");
    command.arg(script("venv"));
    if install {
        command.arg("--install");
    }
    let output = command
        .output()
        .map_err(|error| format!("bash does not run: {error}"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(said(&output.stdout).into())
    } else {
        Err(said(&output.stderr))
    }
}
