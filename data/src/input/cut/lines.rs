//! Cuts at line ends.

use super::super::Format;
use super::super::block::{Block, Lines};
use super::{MAX_SKIPPED, Record, Sizes, Skipped};

/// A block that outgrows this gets the memory of a whole one at once: growing step by step would
/// copy it, and touch new memory, several times over.
const SMALL_BYTES: usize = 1024 * 1024;
/// Blocks may be allowed to be larger than any body.
const MOST_RESERVED_BYTES: usize = 16 * 1024 * 1024;

pub(in super::super) struct LineCutter {
    format: Format,
    sizes: Sizes,
    bytes: Vec<u8>,
    skipped: Vec<Skipped>,
    record: Record,
    /// Bytes that are known to follow.
    expected: usize,
    /// Number of the block's first line.
    first: u64,
    /// Number of the line being read.
    line: u64,
}

impl LineCutter {
    pub fn new(format: Format, sizes: Sizes) -> Self {
        LineCutter {
            format,
            sizes,
            bytes: Vec::new(),
            skipped: Vec::new(),
            record: Record::default(),
            expected: 0,
            first: 1,
            line: 1,
        }
    }

    /// At least so many bytes follow: the memory for them is taken at once.
    pub fn expect(&mut self, bytes: usize) {
        self.expected = bytes;
    }

    pub fn push(&mut self, input: &mut &[u8]) -> Option<Block> {
        // One more, as the carriage return before a line end does not count.
        let limit = self.sizes.record_bytes.saturating_add(1);
        while !input.is_empty() {
            if self.take_lines(input, limit) {
                if self.bytes.len() >= self.sizes.block_bytes {
                    return self.take();
                }
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', input) else {
                self.record.add(input, &mut self.bytes, limit);
                *input = &[];
                return None;
            };
            self.record.add(&input[..end], &mut self.bytes, limit);
            *input = &input[end + 1..];
            self.end_line(b"\n");
            if self.bytes.len() >= self.sizes.block_bytes || self.skipped.len() >= MAX_SKIPPED {
                return self.take();
            }
        }
        None
    }

    /// Takes whole lines at once, as many as the block has room for, if none can be too long.
    /// False: there was no such line.
    fn take_lines(&mut self, input: &mut &[u8], limit: usize) -> bool {
        let begun = self.bytes.len() - self.record.start();
        if self.record.is_skipping() || begun.saturating_add(input.len()) > limit {
            return false;
        }
        // The block ends with the first line that makes it as large as asked for.
        let room = self.sizes.block_bytes.saturating_sub(self.bytes.len());
        let last = room.saturating_sub(1).min(input.len());
        let end = memchr::memchr(b'\n', &input[last..])
            .map(|end| last + end)
            .or_else(|| memchr::memrchr(b'\n', &input[..last]));
        let Some(end) = end else {
            return false;
        };
        let lines = &input[..=end];
        if self.bytes.capacity() - self.bytes.len() < lines.len() {
            let is_large = self.bytes.len() + lines.len() > SMALL_BYTES;
            let expected = if is_large {
                room
            } else {
                self.expected.min(room)
            };
            self.bytes
                .reserve(expected.min(MOST_RESERVED_BYTES) + lines.len());
        }
        self.bytes.extend_from_slice(lines);
        self.expected = self.expected.saturating_sub(lines.len());
        self.line += memchr::memchr_iter(b'\n', lines).count() as u64;
        self.record.begin(&self.bytes);
        *input = &input[end + 1..];
        true
    }

    pub fn finish(&mut self) -> Option<Block> {
        if self.record.is_skipping() {
            self.end_line(b"");
        }
        self.take()
    }

    fn end_line(&mut self, end: &[u8]) {
        if !self.record.is_skipping() {
            self.bytes.extend_from_slice(end);
        }
        self.skipped.extend(self.record.end(self.line, &self.bytes));
        self.line += 1;
    }

    fn take(&mut self) -> Option<Block> {
        if self.bytes.is_empty() && self.skipped.is_empty() {
            return None;
        }
        let lines = Lines {
            format: self.format,
            bytes: std::mem::take(&mut self.bytes),
            first: self.first,
            skipped: std::mem::take(&mut self.skipped),
        };
        self.first = self.line;
        self.record = Record::default();
        Some(Block::Lines(lines))
    }
}
