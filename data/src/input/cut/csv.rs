//! Cuts CSV (RFC 4180) at the ends of records; a line end in quotes is part of a value.
//!
//! The rules are those of the `csv` crate, which the tests compare with. That crate cannot
//! be used here: it does not tell an empty value from `""`, which are null and an empty
//! string, and it needs a whole record before it says where the record ends.

use std::sync::Arc;

use super::super::InputError;
use super::super::block::{Block, CsvRecords};
use super::super::csv::{self, Header};
use super::{MAX_SKIPPED, Record, Sizes, Skipped};

/// Where in a record the reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) enum Csv {
    #[default]
    FieldStart,
    Plain,
    Quoted,
    /// After a quote within quotes: it ends the value, or stands for a quote.
    QuoteInQuoted,
}

/// What a byte is to its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Step {
    /// Part of the value.
    Value,
    /// Only there to delimit the value.
    Quote,
    FieldEnd,
    RecordEnd,
}

impl Csv {
    pub fn step(&mut self, byte: u8) -> Step {
        let (next, step) = match (*self, byte) {
            (Csv::Quoted, b'"') => (Csv::QuoteInQuoted, Step::Quote),
            (Csv::Quoted, _) => (Csv::Quoted, Step::Value),
            (Csv::FieldStart, b'"') => (Csv::Quoted, Step::Quote),
            (Csv::QuoteInQuoted, b'"') => (Csv::Quoted, Step::Value),
            (_, b',') => (Csv::FieldStart, Step::FieldEnd),
            (_, b'\n') => (Csv::FieldStart, Step::RecordEnd),
            _ => (Csv::Plain, Step::Value),
        };
        *self = next;
        step
    }
}

pub(in super::super) struct CsvCutter {
    sizes: Sizes,
    header: Option<Arc<Header>>,
    state: Csv,
    bytes: Vec<u8>,
    skipped: Vec<Skipped>,
    record: Record,
    /// Line of the block's first record.
    first: u64,
    /// Line at which the record being read starts.
    line: u64,
}

impl CsvCutter {
    pub fn new(sizes: Sizes) -> Self {
        CsvCutter {
            sizes,
            header: None,
            state: Csv::default(),
            bytes: Vec::new(),
            skipped: Vec::new(),
            record: Record::default(),
            first: 1,
            line: 1,
        }
    }

    pub fn push(&mut self, input: &mut &[u8]) -> Result<Option<Block>, InputError> {
        while !input.is_empty() {
            let (length, ended) = self.scan(input);
            let (part, rest) = input.split_at(length);
            let limit = self.sizes.record_bytes.saturating_add(2);
            self.record.add(part, &mut self.bytes, limit);
            *input = rest;
            if !ended {
                continue;
            }
            self.end_record()?;
            if self.bytes.len() >= self.sizes.block_bytes || self.skipped.len() >= MAX_SKIPPED {
                return Ok(self.take());
            }
        }
        Ok(None)
    }

    /// How many bytes belong to the record being read, and whether they end it.
    fn scan(&mut self, input: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while at < input.len() {
            // Most bytes change nothing; these are passed over at once.
            let plain = match self.state {
                Csv::Plain => memchr::memchr2(b',', b'\n', &input[at..]),
                Csv::Quoted => memchr::memchr(b'"', &input[at..]),
                Csv::FieldStart | Csv::QuoteInQuoted => Some(0),
            };
            let Some(plain) = plain else {
                return (input.len(), false);
            };
            at += plain + 1;
            if self.state.step(input[at - 1]) == Step::RecordEnd {
                return (at, true);
            }
        }
        (at, false)
    }

    pub fn finish(&mut self) -> Result<Option<Block>, InputError> {
        if self.record.is_skipping() || self.bytes.len() > self.record.start() {
            self.end_record()?;
        }
        Ok(self.take())
    }

    fn end_record(&mut self) -> Result<(), InputError> {
        let record = &self.bytes[self.record.start()..];
        let mut lines = memchr::memchr_iter(b'\n', record).count() as u64;
        let is_blank = record.iter().all(u8::is_ascii_whitespace) && !self.record.is_skipping();
        if self.header.is_none() && !is_blank {
            if self.record.is_skipping() {
                let limit = self.sizes.record_bytes;
                let message = format!("the header is longer than {limit} bytes");
                return Err(InputError::invalid("invalid_csv", message));
            }
            self.header = Some(Arc::new(csv::header(record, self.line)?));
            self.bytes.clear();
        } else if self.header.is_none() {
            self.bytes.clear();
        }
        let header_is_new = self.bytes.is_empty();
        if let Some(skipped) = self.record.end(self.line, &self.bytes) {
            lines = skipped.lines;
            self.skipped.push(skipped);
        }
        self.line += lines;
        if header_is_new && self.skipped.is_empty() {
            self.first = self.line;
        }
        Ok(())
    }

    fn take(&mut self) -> Option<Block> {
        let header = self.header.as_ref()?;
        if self.bytes.is_empty() && self.skipped.is_empty() {
            return None;
        }
        let records = CsvRecords {
            header: Arc::clone(header),
            bytes: std::mem::take(&mut self.bytes),
            first: self.first,
            skipped: std::mem::take(&mut self.skipped),
        };
        self.first = self.line;
        self.record = Record::default();
        Some(Block::Csv(records))
    }
}
