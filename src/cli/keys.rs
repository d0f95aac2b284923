//! Idempotency keys of the requests of one `lambdalake ingest`.
//!
//! Without a prefix they only make retries inside one command harmless. With a prefix they say
//! what is sent: the file's name, which time in the command it is sent, the line and the bytes.
//! So a repeated command sends the same keys for what has not changed, and other keys for what
//! has: a log that has grown since loses nothing.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Bytes of the digest that go into a key: enough that two chunks never share one.
const DIGEST_BYTES: usize = 16;
/// Bytes of a file digested at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Makes the key of each request.
pub enum Keys {
    /// Unlike those of any other run.
    Unique { run: Uuid, sent: u64 },
    /// Made of what is sent, to be the same when it is sent again.
    Repeatable {
        prefix: String,
        /// How often each file was begun.
        begun: HashMap<PathBuf, u64>,
    },
}

impl Keys {
    pub fn new(prefix: Option<&str>) -> Keys {
        match prefix {
            None => Keys::Unique {
                run: Uuid::new_v4(),
                sent: 0,
            },
            Some(prefix) => Keys::Repeatable {
                prefix: prefix.to_owned(),
                begun: HashMap::new(),
            },
        }
    }

    /// Must be called once for each file, in the order in which they are sent.
    pub fn begin(&mut self, path: &Path) {
        if let Keys::Repeatable { begun, .. } = self {
            *begun.entry(path.to_path_buf()).or_default() += 1;
        }
    }

    /// The key of a chunk that begins at this line of the file.
    pub fn chunk(&mut self, path: &Path, first_line: u64, bytes: &[u8]) -> String {
        match self {
            Keys::Unique { run, sent } => {
                *sent += 1;
                format!("{run}-{sent}")
            }
            Keys::Repeatable { prefix, begun } => {
                let mut digest = begin_digest(path, begun, first_line);
                digest.update(bytes);
                end_digest(prefix, digest)
            }
        }
    }

    /// The key of a whole file, which is read for it and left at its end.
    pub fn file(&mut self, path: &Path, mut file: &File) -> io::Result<String> {
        let Keys::Repeatable { prefix, begun } = self else {
            return Ok(self.chunk(path, 1, b""));
        };
        let mut digest = begin_digest(path, begun, 1);
        let mut buffer = vec![0; BUFFER_BYTES];
        file.rewind()?;
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(end_digest(prefix, digest)),
                read => digest.update(&buffer[..read]),
            }
        }
    }
}

fn begin_digest(path: &Path, begun: &HashMap<PathBuf, u64>, first_line: u64) -> Sha256 {
    let mut digest = Sha256::new();
    digest.update(path.as_os_str().as_encoded_bytes());
    let time = begun.get(path).copied().unwrap_or_default();
    digest.update([0]);
    digest.update(time.to_le_bytes());
    digest.update(first_line.to_le_bytes());
    digest
}

fn end_digest(prefix: &str, digest: Sha256) -> String {
    let mut key = format!("{prefix}-");
    for byte in digest.finalize().iter().take(DIGEST_BYTES) {
        // Writing to a String cannot fail.
        let _ = write!(key, "{byte:02x}");
    }
    key
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn keys_with_a_prefix_say_what_is_sent() {
        let path = Path::new("a.log");
        let keys_of = |chunks: &[(u64, &str)]| {
            let mut keys = Keys::new(Some("load"));
            keys.begin(path);
            let keys = chunks
                .iter()
                .map(|(line, bytes)| keys.chunk(path, *line, bytes.as_bytes()));
            keys.collect::<Vec<String>>()
        };
        let first = keys_of(&[(1, "x\n"), (2, "x\n"), (3, "y")]);
        assert_eq!(first, keys_of(&[(1, "x\n"), (2, "x\n"), (3, "y")]));
        assert_ne!(
            first[0], first[1],
            "equal lines at two places are two events"
        );
        assert!(first.iter().all(|key| key.starts_with("load-")));
        let grown = keys_of(&[(1, "x\n"), (2, "x\n"), (3, "yz\n")]);
        assert_eq!(grown[..2], first[..2]);
        assert_ne!(grown[2], first[2]);

        let mut keys = Keys::new(Some("load"));
        keys.begin(path);
        let once = keys.chunk(path, 1, b"x");
        keys.begin(path);
        assert_ne!(
            once,
            keys.chunk(path, 1, b"x"),
            "the same file twice is meant"
        );
    }

    #[test]
    fn keys_without_a_prefix_are_never_the_same() {
        let path = Path::new("a.log");
        let key = || Keys::new(None).chunk(path, 1, b"x");
        assert_ne!(key(), key());
    }

    #[test]
    fn a_file_has_the_key_of_its_bytes() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"PAR1...").unwrap();
        let path = Path::new("a.parquet");
        let mut keys = Keys::new(Some("p"));
        let key = keys.file(path, &file).unwrap();
        assert_eq!(keys.file(path, &file).unwrap(), key);
        assert_eq!(keys.chunk(path, 1, b"PAR1..."), key);
    }
}
