//! Idempotency keys of the requests of one `lambdalake ingest`.
//!
//! ```text
//!   file-<digest of path, format, first line>-<number of the request in the file>
//!   PREFIX-<digest of path, format>-<number>
//!   <random>-<number>                                    stdin, --no-idempotency-key
//! ```
//!
//! The content has no part in them: a second run of the same command repeats all keys, and the
//! server tells what it has already from what it has not. A file that has changed since repeats
//! them as well, with other bytes, which the server refuses. The first line tells a log from the
//! one that was there before its rotation.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Bytes of the digest that go into a key: enough that two files never share one.
const DIGEST_BYTES: usize = 16;

/// Makes the key of each request.
pub struct Keys {
    prefix: Option<String>,
    /// How often each file was begun: one that is named twice is meant twice.
    begun: HashMap<PathBuf, u64>,
    /// What all keys of the file begin with.
    file: String,
    sent: u64,
}

impl Keys {
    pub fn new(prefix: Option<&str>) -> Keys {
        Keys {
            prefix: prefix.map(str::to_owned),
            begun: HashMap::new(),
            file: String::new(),
            sent: 0,
        }
    }

    /// From here on keys are unlike those of any other run.
    pub fn begin_unique(&mut self) {
        self.file = Uuid::new_v4().to_string();
        self.sent = 0;
    }

    /// From here on keys are those of this file, the same in every run.
    pub fn begin_file(&mut self, path: &Path, format: &str, first_line: &[u8]) {
        // A path that cannot be resolved, such as that of stdin, stands for itself.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let mut digest = Sha256::new();
        let mut part = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        part(path.as_os_str().as_encoded_bytes());
        part(format.as_bytes());
        if self.prefix.is_none() {
            part(first_line.trim_ascii_end());
        }
        let time = self.begun.entry(path).or_default();
        *time += 1;
        digest.update(time.to_le_bytes());
        self.file = format!("{}-", self.prefix.as_deref().unwrap_or("file"));
        for byte in digest.finalize().iter().take(DIGEST_BYTES) {
            // Writing to a String cannot fail.
            let _ = write!(self.file, "{byte:02x}");
        }
        self.sent = 0;
    }

    /// The key of the next request.
    pub fn next(&mut self) -> String {
        self.sent += 1;
        format!("{}-{}", self.file, self.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(prefix: Option<&str>, path: &str, format: &str, line: &str) -> String {
        let mut keys = Keys::new(prefix);
        keys.begin_file(Path::new(path), format, line.as_bytes());
        keys.next()
    }

    #[test]
    fn keys_of_a_file_say_which_file_it_is() {
        let key = first(None, "a.log", "csv", "x");
        assert_eq!(key, first(None, "a.log", "csv", "x"));
        assert_eq!(
            key,
            first(None, "a.log", "csv", "x\r\n"),
            "once it is whole"
        );
        assert!(key.starts_with("file-") && key.ends_with("-1"), "{key}");
        assert_ne!(key, first(None, "b.log", "csv", "x"));
        assert_ne!(key, first(None, "a.log", "ndjson", "x"));
        assert_ne!(key, first(None, "a.log", "csv", "y"), "after a rotation");

        let named = first(Some("load"), "a.log", "csv", "x");
        assert!(named.starts_with("load-"), "{named}");
        assert_eq!(named, first(Some("load"), "a.log", "csv", "y"));
        assert_ne!(named, first(Some("load"), "b.log", "csv", "x"));
    }

    #[test]
    fn a_file_that_is_named_twice_is_sent_twice() {
        let mut keys = Keys::new(None);
        keys.begin_file(Path::new("a.log"), "csv", b"x");
        let (once, next) = (keys.next(), keys.next());
        assert_ne!(once, next);
        keys.begin_file(Path::new("a.log"), "csv", b"x");
        assert_ne!(once, keys.next());
    }

    #[test]
    fn unique_keys_are_never_the_same() {
        let key = || {
            let mut keys = Keys::new(Some("p"));
            keys.begin_unique();
            keys.next()
        };
        assert_ne!(key(), key());
    }
}
