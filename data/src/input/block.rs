//! A part of a body that can be parsed on its own.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::csv::Header;
use super::cut::Skipped;
use super::text::column;
use super::{Format, InputError, InputOptions};

/// Whole records of one body, and where in it they are.
pub enum Block {
    #[doc(hidden)]
    Lines(Lines),
    #[doc(hidden)]
    Documents(Documents),
    #[doc(hidden)]
    Csv(CsvRecords),
    #[doc(hidden)]
    Table(Table),
}

/// The stream a block is read for.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The stream's columns without the engine's hidden ones; empty if there are none yet.
    pub schema: &'a SchemaRef,
    /// The stream's event-time column.
    pub event_time: Option<&'a str>,
    pub options: &'a InputOptions,
}

/// Lines of NDJSON or of an access log.
pub struct Lines {
    pub(super) format: Format,
    pub(super) bytes: Vec<u8>,
    /// Number of the first line.
    pub(super) first: u64,
    pub(super) skipped: Vec<Skipped>,
}

/// Objects of JSON documents, with what is between them.
pub struct Documents {
    pub(super) bytes: Vec<u8>,
    pub(super) rows: Vec<Range<usize>>,
    /// Number of the first object.
    pub(super) first: u64,
    pub(super) skipped: Vec<Skipped>,
    /// Where in the body the block starts.
    pub(super) place: Place,
}

/// Records of a CSV file.
pub struct CsvRecords {
    pub(super) header: Arc<Header>,
    pub(super) bytes: Vec<u8>,
    /// Line of the first record.
    pub(super) first: u64,
    pub(super) skipped: Vec<Skipped>,
}

/// Rows that come as columns.
pub struct Table {
    pub(super) format: Format,
    pub(super) batches: Vec<RecordBatch>,
    /// Number of the first row.
    pub(super) first: u64,
}

impl Table {
    pub(super) fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// Line and column, from 1.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub(super) line: u64,
    pub(super) column: u64,
}

impl Place {
    /// The place after these bytes.
    pub(super) fn after(self, bytes: &[u8]) -> Place {
        match memchr::memrchr(b'\n', bytes) {
            Some(end) => Place {
                line: self.line + memchr::memchr_iter(b'\n', bytes).count() as u64,
                column: column(&bytes[end + 1..]),
            },
            None => Place {
                column: self.column + column(bytes) - 1,
                ..self
            },
        }
    }

    pub(super) fn syntax(self, message: &str) -> InputError {
        InputError::Syntax {
            line: self.line,
            column: self.column,
            message: message.to_owned(),
        }
    }
}
