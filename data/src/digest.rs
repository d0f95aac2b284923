//! Digests of what clients send: two bodies with one digest count as the same.
//!
//! BLAKE3 cut to 128 bits: it runs at the speed of memory, and nobody can make two bodies of
//! one digest on purpose, as with a checksum. It is in the build already, for SQL's `digest`.

use std::fmt;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

const BYTES: usize = 16;

/// 128 bits that stand for a text of any length; as hexadecimal digits in files.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; BYTES]);

impl Digest {
    /// Of nothing: the digest of the end of a body.
    pub fn empty() -> Self {
        Digester::default().finish()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a digest of {BYTES} bytes");
        if text.len() != 2 * BYTES || !text.is_ascii() {
            return Err(bad());
        }
        let mut bytes = [0; BYTES];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let digits = &text[2 * index..2 * index + 2];
            *byte = u8::from_str_radix(digits, 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

/// Makes a digest out of parts. Their borders do not count, but for [`Digester::part`].
#[derive(Default)]
pub struct Digester(blake3::Hasher);

impl Digester {
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds a part whose length counts, so that what follows cannot pass for a piece of it.
    pub fn part(&mut self, bytes: &[u8]) {
        self.add(&(bytes.len() as u64).to_le_bytes());
        self.add(bytes);
    }

    pub fn finish(&self) -> Digest {
        let mut digest = [0; BYTES];
        self.0.finalize_xof().fill(&mut digest);
        Digest(digest)
    }
}

impl Write for Digester {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_json_and_tells_parts_apart() {
        let of = |parts: &[&str]| {
            let mut digester = Digester::default();
            parts.iter().for_each(|part| digester.part(part.as_bytes()));
            digester.finish()
        };
        let digest = of(&["a", "bc"]);
        assert_ne!(digest, of(&["ab", "c"]));
        assert_ne!(digest, Digest::empty());
        let text = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&text).unwrap(), digest);
        for bad in ["\"\"", "\"zz\"", "\"€€€€€€€€€€€\""] {
            assert!(serde_json::from_str::<Digest>(bad).is_err(), "{bad}");
        }
    }
}
