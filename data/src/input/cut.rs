//! Cuts the bytes of a body into blocks that can be parsed each on its own.
//!
//! A block ends with the first record that makes it as large as asked for. So borders depend
//! on the bytes alone, never on the pieces in which they arrived, and a body that is sent
//! again is cut in the same places: that is what lets every block have an idempotency key of
//! its own. A record longer than allowed is passed over without being held; the block only
//! remembers where it was.

mod arrow;
mod csv;
mod json;
mod lines;

use super::block::Block;
use super::{Format, InputError};

pub(super) use arrow::ArrowCutter;
pub(super) use csv::{Csv, CsvCutter, Step};
pub(super) use json::{JsonCutter, is_one_value};
pub(super) use lines::LineCutter;

/// Passed-over records that one block remembers; one more ends it.
const MAX_SKIPPED: usize = 4_096;

/// How large the parts of a body may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub block_bytes: usize,
    pub record_bytes: usize,
}

/// A record that was longer than allowed and is not in its block.
#[derive(Clone, Debug)]
pub(super) struct Skipped {
    /// Where in the block it would have been.
    pub at: usize,
    /// Its line, or its object.
    pub number: u64,
    pub bytes: u64,
    /// Line ends in it.
    pub lines: u64,
}

/// Cuts one body of one format.
pub(super) enum Cutter {
    Lines(LineCutter),
    Json(JsonCutter),
    Csv(CsvCutter),
    Arrow(Box<ArrowCutter>),
}

impl Cutter {
    /// `None` for Parquet, whose index is at its end.
    pub fn new(format: Format, sizes: Sizes) -> Option<Self> {
        Some(match format {
            Format::Ndjson | Format::Combined | Format::Common => {
                Cutter::Lines(LineCutter::new(format, sizes))
            }
            Format::Json => Cutter::Json(JsonCutter::new(sizes)),
            Format::Csv => Cutter::Csv(CsvCutter::new(sizes)),
            Format::Arrow => Cutter::Arrow(Box::new(ArrowCutter::new(sizes))),
            Format::Parquet => return None,
        })
    }

    /// At least so many bytes follow.
    pub fn expect(&mut self, bytes: usize) {
        if let Cutter::Lines(cutter) = self {
            cutter.expect(bytes);
        }
    }

    /// Takes bytes from the front of `input` until a block is complete.
    pub fn push(&mut self, input: &mut &[u8]) -> Result<Option<Block>, InputError> {
        match self {
            Cutter::Lines(cutter) => Ok(cutter.push(input)),
            Cutter::Json(cutter) => cutter.push(input),
            Cutter::Csv(cutter) => cutter.push(input),
            Cutter::Arrow(cutter) => cutter.push(input),
        }
    }

    /// What is left when the body has ended. Call it until there is nothing.
    pub fn finish(&mut self) -> Result<Option<Block>, InputError> {
        match self {
            Cutter::Lines(cutter) => Ok(cutter.finish()),
            Cutter::Json(cutter) => cutter.finish(),
            Cutter::Csv(cutter) => cutter.finish(),
            Cutter::Arrow(cutter) => cutter.finish(),
        }
    }
}

/// The bytes of the record being read, unless it grew too long.
#[derive(Default)]
pub(super) struct Record {
    /// Where it starts in the block.
    start: usize,
    /// Bytes and line ends of a record that is passed over.
    skipping: Option<(u64, u64)>,
}

impl Record {
    /// Appends a part of the record to the block, or passes it over.
    pub fn add(&mut self, part: &[u8], block: &mut Vec<u8>, limit: usize) {
        let line_ends = |bytes: &[u8]| memchr::memchr_iter(b'\n', bytes).count() as u64;
        if let Some((bytes, lines)) = &mut self.skipping {
            *bytes += part.len() as u64;
            *lines += line_ends(part);
            return;
        }
        let length = block.len() - self.start + part.len();
        if length > limit {
            let lines = line_ends(&block[self.start..]) + line_ends(part);
            block.truncate(self.start);
            self.skipping = Some((length as u64, lines));
        } else {
            block.extend_from_slice(part);
        }
    }

    /// Ends a record that was passed over.
    pub fn end(&mut self, number: u64, block: &[u8]) -> Option<Skipped> {
        let skipped = self.skipping.take().map(|(bytes, lines)| Skipped {
            at: self.start,
            number,
            bytes,
            lines,
        });
        self.start = block.len();
        skipped
    }

    pub fn is_skipping(&self) -> bool {
        self.skipping.is_some()
    }

    pub fn start(&self) -> usize {
        self.start
    }

    /// Says where the next record starts.
    pub fn begin(&mut self, block: &[u8]) {
        self.start = block.len();
    }
}
