//! Cuts at line ends.

use super::super::Format;
use super::super::block::{Block, Lines};
use super::{MAX_SKIPPED, Record, Sizes, Skipped};

pub(in super::super) struct LineCutter {
    format: Format,
    sizes: Sizes,
    bytes: Vec<u8>,
    skipped: Vec<Skipped>,
    record: Record,
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
            first: 1,
            line: 1,
        }
    }

    pub fn push(&mut self, input: &mut &[u8]) -> Option<Block> {
        // One more, as the carriage return before a line end does not count.
        let limit = self.sizes.record_bytes.saturating_add(1);
        while !input.is_empty() {
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
