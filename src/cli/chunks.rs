//! A file as a sequence of request bodies.
//!
//! Line formats are cut at line ends: each chunk has about the wanted size, begins at the
//! beginning of a line, and knows the number of that line in the file, so that a server
//! that counts from 1 in each request can still be quoted in lines of the file.
//!
//! ```text
//! file    a\nbb\nccc\ndd         wanted size 5
//! chunks  [line 1: a\nbb\n] [line 3: ccc\n] [line 4: dd]
//! ```

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use serde::de::IgnoredAny;

use super::args::IngestFormat;

/// Longest line that is looked for the end of. Above what any server takes.
const MAX_LINE_BYTES: usize = 64 << 20;
/// Largest input in a format that cannot be cut.
const MAX_WHOLE_BYTES: usize = 1 << 30;
/// How much of a file is looked at to tell its format.
const HEAD_BYTES: u64 = 64 << 10;

/// A piece of a file that begins at the beginning of its line `first_line` (from 1).
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk {
    pub first_line: u64,
    pub bytes: Vec<u8>,
}

/// A file or stdin, decompressed.
pub struct Input {
    pub reader: Box<dyn Read>,
    /// Bytes read so far, counted before decompression.
    pub read_bytes: Arc<AtomicU64>,
}

impl Input {
    /// Opens a file, or stdin for `-`.
    pub fn open(path: &Path) -> io::Result<Input> {
        let read_bytes = Arc::new(AtomicU64::new(0));
        let count = |inner: Box<dyn Read>| Counted {
            inner,
            read_bytes: Arc::clone(&read_bytes),
        };
        if path == Path::new("-") {
            return Ok(Input {
                reader: Box::new(count(Box::new(io::stdin()))),
                read_bytes,
            });
        }
        let file = File::open(path)?;
        let counted = count(Box::new(file));
        let reader: Box<dyn Read> = match path.extension() {
            Some(extension) if extension == "gz" => Box::new(MultiGzDecoder::new(
                io::BufReader::with_capacity(256 << 10, counted),
            )),
            _ => Box::new(counted),
        };
        Ok(Input { reader, read_bytes })
    }
}

struct Counted {
    inner: Box<dyn Read>,
    read_bytes: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Looks at the beginning of the input if the format is to be found out; gives back the
/// format and the whole input. `Auto` stays where only the server can tell.
pub fn settle_format(
    format: IngestFormat,
    mut reader: Box<dyn Read>,
) -> io::Result<(IngestFormat, Box<dyn Read>)> {
    if format != IngestFormat::Auto {
        return Ok((format, reader));
    }
    let mut head = Vec::new();
    reader.by_ref().take(HEAD_BYTES).read_to_end(&mut head)?;
    let format = sniff(&head);
    Ok((format, Box::new(Cursor::new(head).chain(reader))))
}

/// The format of an input that begins like this. It must hold for every chunk, so it is
/// told here once and not by the server for each chunk.
fn sniff(head: &[u8]) -> IngestFormat {
    let head = head.trim_ascii_start();
    let end = head.iter().position(|byte| *byte == b'\n');
    let first_line = &head[..end.unwrap_or(head.len())];
    match first_line.first() {
        Some(b'[') => IngestFormat::Json,
        Some(b'{') => match serde_json::from_slice::<IgnoredAny>(first_line) {
            // The object goes on after the line: one that is spread over lines.
            Err(error) if error.is_eof() && end.is_some() => IngestFormat::Json,
            _ => IngestFormat::Ndjson,
        },
        Some(_) => match unescaped_quotes(first_line) {
            2 => IngestFormat::Common,
            6.. => IngestFormat::Combined,
            _ => IngestFormat::Auto,
        },
        None => IngestFormat::Auto,
    }
}

fn unescaped_quotes(line: &[u8]) -> usize {
    let mut quotes = 0;
    let mut bytes = line.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'"' => quotes += 1,
            _ => {}
        }
    }
    quotes
}

/// Cuts an input into chunks of at least `target_bytes`, whole lines each. After an error
/// there is nothing more.
pub struct LineChunks<R> {
    reader: R,
    target_bytes: usize,
    /// Read and not yet given out; begins at the beginning of a line.
    pending: Vec<u8>,
    next_line: u64,
    has_ended: bool,
}

impl<R: Read> LineChunks<R> {
    pub fn new(reader: R, target_bytes: usize) -> LineChunks<R> {
        LineChunks {
            reader,
            target_bytes: target_bytes.max(1),
            pending: Vec::new(),
            next_line: 1,
            has_ended: false,
        }
    }

    /// Reads until the pending bytes have the wanted size and a line end, or all is read.
    /// Returns where to cut.
    fn fill(&mut self) -> io::Result<usize> {
        loop {
            let searched = self.pending.len();
            let missing = match self.target_bytes.saturating_sub(searched) {
                0 => self.target_bytes,
                missing => missing,
            };
            let read = (&mut self.reader)
                .take(missing as u64)
                .read_to_end(&mut self.pending)?;
            if read < missing {
                self.has_ended = true;
                return Ok(self.pending.len());
            }
            if let Some(at) = self.pending.iter().rposition(|byte| *byte == b'\n') {
                return Ok(at + 1);
            }
            if self.pending.len() > MAX_LINE_BYTES.max(self.target_bytes) {
                let line = self.next_line;
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("line {line} has no end within {} MiB", MAX_LINE_BYTES >> 20),
                ));
            }
        }
    }
}

impl<R: Read> Iterator for LineChunks<R> {
    type Item = io::Result<Chunk>;

    fn next(&mut self) -> Option<io::Result<Chunk>> {
        if self.has_ended {
            return None;
        }
        let cut = match self.fill() {
            Ok(0) => return None,
            Ok(cut) => cut,
            Err(error) => {
                self.has_ended = true;
                return Some(Err(error));
            }
        };
        let rest = self.pending.split_off(cut);
        let bytes = std::mem::replace(&mut self.pending, rest);
        let first_line = self.next_line;
        self.next_line += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        Some(Ok(Chunk { first_line, bytes }))
    }
}

/// The whole input as one chunk, for formats that cannot be cut.
pub fn whole(reader: impl Read) -> io::Result<Chunk> {
    let mut bytes = Vec::new();
    reader
        .take(MAX_WHOLE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > MAX_WHOLE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a JSON document cannot be cut into requests, and this one is larger than 1 GiB; \
             write one object per line (NDJSON)",
        ));
    }
    Ok(Chunk {
        first_line: 1,
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(text: &str, target_bytes: usize) -> Vec<(u64, String)> {
        LineChunks::new(text.as_bytes(), target_bytes)
            .map(|chunk| chunk.unwrap())
            .map(|chunk| (chunk.first_line, String::from_utf8(chunk.bytes).unwrap()))
            .collect()
    }

    #[test]
    fn chunks_are_whole_lines_and_together_the_file() {
        let text = "a\nbb\n\nccc\nlonger than a chunk\r\ndd";
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for target_bytes in 1..40 {
            let chunks = chunks(text, target_bytes);
            let joined: String = chunks.iter().map(|(_, bytes)| bytes.as_str()).collect();
            assert_eq!(joined, text);
            for (first_line, bytes) in chunks {
                let first = bytes.split_inclusive('\n').next().unwrap();
                assert_eq!(lines[first_line as usize - 1], first, "{target_bytes}");
            }
        }
    }

    #[test]
    fn chunks_are_cut_at_the_wanted_size() {
        assert_eq!(
            chunks("a\nbb\nccc\ndd", 5),
            [
                (1, "a\nbb\n".to_owned()),
                (3, "ccc\n".to_owned()),
                (4, "dd".to_owned())
            ]
        );
        assert_eq!(chunks("", 5), []);
        assert_eq!(chunks("a\n", 2), [(1, "a\n".to_owned())]);
    }

    #[test]
    fn formats_are_told_from_the_beginning() {
        let common = "1.2.3.4 - - [01/Jan/2026:00:00:00 +0000] \"GET / HTTP/1.1\" 200 5";
        for (head, format) in [
            ("{\"a\": 1}\n{\"a\": 2}\n", IngestFormat::Ndjson),
            ("\n  {\"a\": 1}", IngestFormat::Ndjson),
            ("{\"a\": oops}\n{\"a\": 2}\n", IngestFormat::Ndjson),
            ("{\n  \"a\": 1\n}\n", IngestFormat::Json),
            ("[{\"a\": 1}]", IngestFormat::Json),
            (common, IngestFormat::Common),
            (
                &format!("{common} \"-\" \"a \\\"b\\\" c\"\n"),
                IngestFormat::Combined,
            ),
            ("no idea", IngestFormat::Auto),
            ("", IngestFormat::Auto),
        ] {
            assert_eq!(sniff(head.as_bytes()), format, "{head}");
        }
    }

    #[test]
    fn sniffing_loses_nothing() {
        let text = "{\"a\": 1}\n".repeat(20_000);
        let reader = Box::new(Cursor::new(text.clone()));
        let (format, mut reader) = settle_format(IngestFormat::Auto, reader).unwrap();
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!((format, read == text), (IngestFormat::Ndjson, true));
    }
}
