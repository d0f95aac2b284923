//! A file as a sequence of request bodies.
//!
//! Line formats are cut at line ends: each chunk has about the wanted size, begins at the
//! beginning of a line, and knows the number of that line in the file, so that a server
//! that counts from 1 in each request can still be quoted in lines of the file. CSV is cut at
//! the ends of its records, which may hold line ends in quotes, and each chunk after the first
//! begins with the header line again.
//!
//! ```text
//! file    a\nbb\nccc\ndd         wanted size 5
//! chunks  [line 1: a\nbb\n] [line 3: ccc\n] [line 4: dd]
//!
//! file    x,y\n1,2\n3,4\n        CSV, wanted size 8
//! chunks  [line 1: x,y\n1,2\n] [line 3: x,y\n 3,4\n]
//! ```

use std::io::{self, Read};

/// Longest line or record that is looked for the end of. Above what any server takes.
const MAX_LINE_BYTES: usize = 64 << 20;

/// A piece of a file that begins at the beginning of its line `first_line` (from 1).
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk {
    pub first_line: u64,
    /// Lines at the beginning of `bytes` that are repeated from the top of the file.
    pub repeated_lines: u64,
    pub bytes: Vec<u8>,
}

impl Chunk {
    /// The line of the file that a server means, which counts from 1 in each request.
    pub fn file_line(&self, line: u64) -> u64 {
        match line.checked_sub(self.repeated_lines) {
            Some(own @ 1..) => self.first_line + own - 1,
            _ if self.repeated_lines == 0 => self.first_line,
            _ => line, // In the header, which is at the top of the file too.
        }
    }
}

/// Where an input may be cut.
enum Cut {
    /// After any line.
    Lines,
    /// After a line end outside quotes.
    Csv(CsvRecords),
}

/// What has been seen of a CSV file.
#[derive(Default)]
struct CsvRecords {
    /// How far the pending bytes were looked at, and whether that is inside quotes.
    scanned: usize,
    is_quoted: bool,
    /// One past the last record that ends in them.
    last_end: Option<usize>,
    header: Vec<u8>,
    has_begun: bool,
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
    cut: Cut,
}

impl<R: Read> LineChunks<R> {
    pub fn new(reader: R, target_bytes: usize) -> LineChunks<R> {
        LineChunks {
            reader,
            target_bytes: target_bytes.max(1),
            pending: Vec::new(),
            next_line: 1,
            has_ended: false,
            cut: Cut::Lines,
        }
    }

    /// The same for CSV with a header line.
    pub fn csv(reader: R, target_bytes: usize) -> LineChunks<R> {
        LineChunks {
            cut: Cut::Csv(CsvRecords::default()),
            ..LineChunks::new(reader, target_bytes)
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
            let end = self.cut.last_end(&self.pending);
            if read < missing {
                self.has_ended = true;
                return Ok(self.pending.len());
            }
            if let Some(end) = end {
                return Ok(end);
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
        let own = std::mem::replace(&mut self.pending, rest);
        let first_line = self.next_line;
        self.next_line += line_ends(&own);
        let (bytes, repeated_lines) = match &mut self.cut {
            Cut::Lines => (own, 0),
            Cut::Csv(records) => records.with_header(own),
        };
        Some(Ok(Chunk {
            first_line,
            repeated_lines,
            bytes,
        }))
    }
}

impl Cut {
    /// One past the last place in `pending` where a chunk may end.
    fn last_end(&mut self, pending: &[u8]) -> Option<usize> {
        match self {
            Cut::Lines => {
                let at = pending.iter().rposition(|byte| *byte == b'\n');
                at.map(|at| at + 1)
            }
            Cut::Csv(records) => records.last_end(pending),
        }
    }
}

impl CsvRecords {
    fn last_end(&mut self, pending: &[u8]) -> Option<usize> {
        for (at, byte) in pending.iter().enumerate().skip(self.scanned) {
            match byte {
                // A quote inside quotes is written twice, which changes nothing here.
                b'"' => self.is_quoted = !self.is_quoted,
                b'\n' if !self.is_quoted => {
                    if self.header.is_empty() {
                        self.header = pending[..=at].to_vec();
                    }
                    self.last_end = Some(at + 1);
                }
                _ => {}
            }
        }
        self.scanned = pending.len();
        self.last_end
    }

    /// A chunk's bytes as they are sent, and how many lines were put before them.
    fn with_header(&mut self, own: Vec<u8>) -> (Vec<u8>, u64) {
        // The chunk is gone from the front of the pending bytes, and no record ends after it.
        self.scanned -= own.len();
        self.last_end = None;
        if !self.has_begun {
            self.has_begun = true;
            return (own, 0);
        }
        let lines = line_ends(&self.header);
        ([self.header.as_slice(), &own].concat(), lines)
    }
}

fn line_ends(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<R: Read>(chunks: LineChunks<R>) -> Vec<(u64, String)> {
        chunks
            .map(|chunk| chunk.unwrap())
            .map(|chunk| (chunk.first_line, String::from_utf8(chunk.bytes).unwrap()))
            .collect()
    }

    fn chunks(text: &str, target_bytes: usize) -> Vec<(u64, String)> {
        texts(LineChunks::new(text.as_bytes(), target_bytes))
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
    fn chunks_of_csv_have_whole_records_under_the_header() {
        let header = "x,\"the\ny\"\r\n";
        let records = [
            "1,plain\r\n",
            "2,\"two\nlines\"\r\n",
            "3,\"a \"\"quote\"\"\n\n\"\r\n",
            "4,end",
        ];
        let text = format!("{header}{}", records.concat());
        for target_bytes in 1..text.len() + 2 {
            let mut seen = String::new();
            for chunk in LineChunks::csv(text.as_bytes(), target_bytes) {
                let chunk = chunk.unwrap();
                let bytes = String::from_utf8(chunk.bytes.clone()).unwrap();
                let own = bytes.strip_prefix(header).unwrap();
                assert!(records.concat().contains(own), "{own}");
                seen.push_str(own);
                // The first line after the header, as the server counts and in the file.
                let line = chunk.file_line(3);
                let before: String = text.split_inclusive('\n').take(line as usize - 1).collect();
                assert!(text[before.len()..].starts_with(own), "{line} {own}");
                assert_eq!(chunk.file_line(1), 1);
            }
            assert_eq!(seen, records.concat(), "{target_bytes}");
        }
        let only_header = texts(LineChunks::csv("x,y\n".as_bytes(), 100));
        assert_eq!(only_header, [(1, "x,y\n".to_owned())]);
    }
}
