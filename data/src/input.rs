//! From the bytes of one request body to Arrow batches of good rows and a list of the rows
//! that were turned away.
//!
//! ```text
//!                                  ┌─ JSON rows that fit as they are (direct) ────┐
//!                                  │                                              ▼
//!  bytes ─▶ Inflate ─▶ Cutter ─▶ Block ─▶ Value tree per row ─▶ Shape (types) ─▶ RecordBatch
//!       (compression)  (cut)     (block)   (json, csv, access_log) (shape, column)  (build)
//!  └──────── Decoder ────────┘     │                 │                 │             ▲
//!                                  │                 └── one Rejection per bad row   │
//!                                  └─ columns of Arrow and Parquet (table) ──────────┘
//! ```
//!
//! A body of any size is read in bounded memory: [`Decoder`] takes its bytes as they arrive
//! and hands out blocks, each of which is parsed on its own. Where blocks end depends on the
//! bytes alone.
//!
//! A row is good or rejected as a whole, and a rejected row leaves no trace: neither a
//! column nor a wider type. Types of known columns stay, but for integers that meet a fraction
//! ([`crate::widen`]); a stream with a column `_rest` keeps rows that do not fit. Fields the
//! stream does not know yet get a type from the rows of this block, in their order:
//!
//! - The first non-null value decides. Integers and floats mixed make a `Float64`; every
//!   other mixture rejects the rows that do not fit.
//! - A string field whose every value is an RFC 3339 date-time with a zone is a timestamp;
//!   digits finer than a microsecond are cut off.
//! - A field that is only ever null, `{}`, `[]`, or nested such, makes no column: it is as if
//!   it had been null. Inside a column that exists, `{}` and `[]` keep their meaning.
//! - No number changes silently. An integer beyond 2^53 does not fit a `Float64` column, an
//!   integer beyond 64 bits fits nothing; `1e30` is a float.
//!
//! This module is synchronous and does no I/O. It does not know streams, offsets, HTTP or
//! which names Delta refuses; hidden columns are known only as reserved names.

mod access_log;
mod block;
mod build;
mod column;
mod compression;
mod csv;
mod cut;
mod decoder;
mod direct;
mod error;
mod identity;
mod json;
mod options;
mod parquet;
mod parse;
mod rest;
mod shape;
mod sniff;
mod table;
mod text;
mod time;
mod value;

use std::fmt;
use std::str::FromStr;

use arrow::record_batch::RecordBatch;

pub use block::{Block, Target};
pub use compression::Encoding;
pub use decoder::{Decoder, DecoderOptions, Piece};
pub use error::InputError;
pub use options::{EpochUnit, InputOptions};
pub use parquet::ParquetBlocks;
pub use parse::parse;
pub use sniff::sniff;

/// How a request body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One JSON object per line.
    Ndjson,
    /// One JSON object, an array of objects, or several of these one after the other.
    Json,
    /// Combined Log Format, the usual one of Apache and nginx.
    Combined,
    /// Common Log Format: Combined without referer and user agent.
    Common,
    /// Comma-separated values (RFC 4180) with a header.
    Csv,
    /// Arrow IPC, as a stream or a file.
    Arrow,
    Parquet,
}

impl Format {
    /// No text: a few bytes of it may be many rows.
    fn is_binary(self) -> bool {
        matches!(self, Format::Arrow | Format::Parquet)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Ndjson => "ndjson",
            Format::Json => "json",
            Format::Combined => "combined",
            Format::Common => "common",
            Format::Csv => "csv",
            Format::Arrow => "arrow",
            Format::Parquet => "parquet",
        })
    }
}

impl FromStr for Format {
    type Err = InputError;

    fn from_str(name: &str) -> Result<Self, InputError> {
        match name {
            "ndjson" => Ok(Format::Ndjson),
            "json" => Ok(Format::Json),
            "combined" => Ok(Format::Combined),
            "common" => Ok(Format::Common),
            "csv" => Ok(Format::Csv),
            "arrow" => Ok(Format::Arrow),
            "parquet" => Ok(Format::Parquet),
            _ => Err(InputError::UnknownFormat {
                name: name.to_owned(),
            }),
        }
    }
}

/// What one request may contain. A row over a limit is rejected, its neighbours are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many rejections are kept with their message; all are counted.
    pub max_rejections: usize,
    /// Bytes of one line, or of one element of a JSON array.
    pub max_line_bytes: usize,
    /// Columns of the resulting batch, nested ones and list elements counted, and members
    /// of one object. Known columns count, and are never refused.
    pub max_fields: usize,
    /// Levels of objects and arrays in a row, its own object being the first. More than
    /// [`MAX_DEPTH`] has no effect.
    pub max_depth: usize,
}

/// Upper bound of [`Limits::max_depth`]: parsing recurses, and must not exhaust the stack.
pub const MAX_DEPTH: usize = 128;

/// Cells (rows times columns, nested ones included) one request may make. A small body can
/// name few of very many columns in each row, and every cell costs memory, also a null.
pub const MAX_CELLS: usize = 1 << 25;

/// Why one row was turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// 1-based line of the body; in format `json` the 1-based object, in `arrow` and `parquet`
    /// the 1-based row.
    pub line: u64,
    /// One of `duplicate_key`, `invalid_csv`, `invalid_json`, `invalid_log_line`,
    /// `invalid_utf8`, `line_too_long`, `missing_value`, `not_an_object`, `out_of_range`,
    /// `reserved_field`, `too_deep`, `too_many_fields`, `type_conflict`, `wrong_field_count`.
    pub code: &'static str,
    /// Where in the row, such as `payload.user.id` or `tags[2]`.
    pub field: Option<String>,
    /// For the client, line and field included.
    pub message: String,
}

/// The outcome of [`Block::parse`].
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The good rows in their order. Its schema has the known columns first.
    pub batch: RecordBatch,
    /// The batch's schema has columns, or members of nested columns, the stream lacks.
    pub new_fields: bool,
    /// How many rows were turned away.
    pub rejected: u64,
    /// The first of them, by line, [`Limits::max_rejections`] at most.
    pub rejections: Vec<Rejection>,
}
