//! Habits of the house that a compiler does not see.

use std::path::{Path, PathBuf};

/// A longer file holds more than one idea.
const MAX_LINES: usize = 800;

#[test]
fn source_files_stay_readable() {
    let files = sources();
    assert!(files.len() > 6, "only found {files:?}");
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a source file");
        let path = path.display();
        let lines = text.lines().count();
        assert!(
            lines <= MAX_LINES,
            "{path} has {lines} lines, more than {MAX_LINES}: split it by idea"
        );
        // Spelled apart, so that this file may be searched too.
        assert!(!text.contains(concat!("todo", "!")), "{path} is not done");
    }
}

/// Every Rust file in the `src` folders of the root package and the crates beside it.
fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    collect(&root.join("src"), &mut found);
    for member in ["data", "views", "batch", "speed", "serving"] {
        collect(&root.join(member).join("src"), &mut found);
    }
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}
