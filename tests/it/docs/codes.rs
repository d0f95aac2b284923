//! The error codes of the sources, found by how they are written there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{read, root, shown};

/// Where errors are made that clients of HTTP see.
const SOURCES: [&str; 6] = [
    "data/src",
    "views/src",
    "batch/src",
    "speed/src",
    "serving/src",
    "src/engine",
];

/// What stands before the code in a call or match that makes an error.
const BEFORE: [&str; 8] = [
    "bad_request(",
    "not_found(",
    "Flaw::new(",
    "InputError::invalid(",
    "code: ",
    "ErrorKind::",
    "Self::Starting =>",
    "Self::Stopping =>",
];

/// How codes begin, wherever they stand.
const BEGINNINGS: [&str; 7] = [
    "invalid_",
    "unknown_",
    "unsupported_",
    "too_many_",
    "view_cannot_",
    "missing_",
    "wrong_",
];

/// Labels of metrics that begin like a code.
const NO_CODES: [&str; 2] = ["unsupported_media", "unknown"];

#[test]
fn the_guide_lists_every_error_code() {
    let guide = ["docs/http.md", "docs/ingest.md"].map(|path| read(&root().join(path)));
    let found = codes();
    for known in [
        "syntax_error",
        "no_valid_rows",
        "not_ready",
        "view_cannot_be_split",
        "unknown_stream",
        "disk_full",
        "too_deep",
        "schema_moving",
        "starting",
        "invalid_zstd",
        "memory_limit",
    ] {
        assert!(found.contains_key(known), "{known} is not found: {found:?}");
    }
    let missing: Vec<String> = found
        .iter()
        .filter(|(code, _)| !guide.iter().any(|text| text.contains(&format!("`{code}`"))))
        .map(|(code, path)| format!("{code} ({})", shown(path)))
        .collect();
    assert!(
        missing.is_empty(),
        "neither in docs/http.md nor in docs/ingest.md: {missing:#?}"
    );
}

/// Each code, and a file that has it.
fn codes() -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for source in SOURCES {
        walk(&root().join(source), &mut found);
    }
    found
}

fn walk(folder: &Path, found: &mut BTreeMap<String, PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.file_name().is_some_and(|name| name != "tests.rs")
        {
            let text = read(&path);
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            for code in codes_of(text) {
                found.insert(code.to_owned(), path.clone());
            }
        }
    }
}

/// The codes among the strings of a source.
fn codes_of(text: &str) -> Vec<&str> {
    let pieces: Vec<&str> = text.split('"').collect();
    let is_code = |(index, word): &(usize, &&str)| {
        let before = pieces[..*index].last().unwrap_or(&"").trim_end();
        // In JSON the name before it is a string, too.
        let is_member = before == ":" && *index > 1 && pieces[index - 2] == "code";
        let is_made = BEFORE.iter().any(|mark| is_after(before, mark.trim_end()));
        let begins = BEGINNINGS.iter().any(|start| word.starts_with(start));
        is_word(word) && (is_member || is_made || begins) && !NO_CODES.contains(word)
    };
    let words = pieces.iter().enumerate().filter(is_code);
    words.map(|(_, word)| *word).collect()
}

/// Whether a text ends with the mark; after `ErrorKind::` comes the kind and a comma.
fn is_after(text: &str, mark: &str) -> bool {
    if mark != "ErrorKind::" {
        return text.ends_with(mark);
    }
    let Some((_, kind)) = text.rsplit_once(mark) else {
        return false;
    };
    let kind = kind.strip_suffix(',');
    kind.is_some_and(|kind| kind.chars().all(char::is_alphabetic))
}

fn is_word(text: &str) -> bool {
    text.len() > 3
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

#[test]
fn a_code_is_told_from_other_strings() {
    let text = r#"EngineError::new(ErrorKind::Busy, "creating", message);
        let name = "created"; bad_request(
            "some_thing", "a sentence"); None => "invalid_zstd","#;
    assert_eq!(codes_of(text), ["creating", "some_thing", "invalid_zstd"]);
}
