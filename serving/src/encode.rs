//! Record batches to the bytes of an answer.
//!
//! An encoder is plain synchronous state: `start`, then `batch` for each batch, then `finish`.
//! The HTTP side runs it off the I/O runtime and sends what it returns.

mod arrow_stream;
mod cells;
mod csv;
mod json;
pub mod pack;
mod parquet;
pub(crate) mod slices;
mod table;
mod text;
mod times;

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use serde_json::Value;

/// The formats of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One object: `{"meta", "data", "rows", "stats"}`.
    Json,
    /// One object a line.
    Ndjson,
    /// RFC 4180 with a header line.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
    /// A Parquet file.
    Parquet,
    /// A drawn table for people; at most `Limits::table_rows` rows.
    Table,
}

/// How large a drawn table may be.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Rows that are drawn.
    pub rows: usize,
    /// Columns of the terminal; 0 is without end.
    pub width: u16,
}

impl Format {
    /// All formats. Where a client takes several alike, the earlier is what it gets.
    pub const ALL: [Self; 6] = [
        Self::Json,
        Self::Ndjson,
        Self::Csv,
        Self::Arrow,
        Self::Parquet,
        Self::Table,
    ];

    /// For the message of every refused format.
    pub const ALLOWED: &'static str = "json, ndjson, csv, arrow, parquet, table";

    /// The format of a `format=` parameter.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            "csv" => Some(Self::Csv),
            "arrow" => Some(Self::Arrow),
            "parquet" => Some(Self::Parquet),
            "table" => Some(Self::Table),
            _ => None,
        }
    }

    /// The media types a client may ask for it by, without parameters; the official one first.
    pub fn media_types(self) -> &'static [&'static str] {
        match self {
            Self::Json => &["application/json"],
            Self::Ndjson => &[
                "application/x-ndjson",
                "application/ndjson",
                "application/jsonl",
            ],
            Self::Csv => &["text/csv"],
            Self::Arrow => &["application/vnd.apache.arrow.stream"],
            Self::Parquet => &["application/vnd.apache.parquet"],
            Self::Table => &["text/plain"],
        }
    }

    /// The `Content-Type` of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Parquet => "application/vnd.apache.parquet",
            Self::Table => "text/plain; charset=utf-8",
        }
    }

    /// An encoder for one answer.
    pub fn encoder(self, schema: &SchemaRef, shape: Shape) -> Box<dyn Encoder> {
        match self {
            Self::Json => Box::new(json::JsonDocument::new(schema)),
            Self::Ndjson => Box::new(json::JsonLines::new(schema)),
            Self::Csv => Box::new(csv::CsvText::new(Arc::clone(schema))),
            Self::Arrow => Box::new(arrow_stream::ArrowStream::new(Arc::clone(schema))),
            Self::Parquet => Box::new(parquet::ParquetFile::new(schema)),
            Self::Table => Box::new(table::DrawnTable::new(Arc::clone(schema), shape)),
        }
    }
}

/// Turns the batches of one answer into bytes, piece by piece.
pub trait Encoder: Send {
    /// What stands before the first row.
    fn start(&mut self) -> Result<Vec<u8>, ArrowError>;
    /// The rows of one batch.
    fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError>;
    /// What stands after the last row. `rows` counts all batches.
    fn finish(&mut self, rows: u64, stats: &Value) -> Result<Vec<u8>, ArrowError>;
    /// False once more rows would not be shown; the query can stop.
    fn wants_more(&self) -> bool {
        true
    }
}

/// The schema with every column name used once, as JSON objects need: a later `x` becomes
/// `x_2`, `x_3`, ... (the first number that is free), so that no column is lost.
fn with_unique_names(schema: &Schema) -> SchemaRef {
    let used: HashSet<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    if used.len() == schema.fields().len() {
        return Arc::new(schema.clone());
    }
    let mut seen: HashSet<&str> = HashSet::new();
    let mut made: HashSet<String> = HashSet::new();
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| {
            if seen.insert(field.name()) {
                return field.as_ref().clone();
            }
            let mut number = 2_usize;
            let name = loop {
                let name = format!("{}_{number}", field.name());
                if !used.contains(name.as_str()) && made.insert(name.clone()) {
                    break name;
                }
                number += 1;
            };
            field.as_ref().clone().with_name(name)
        })
        .collect();
    Arc::new(Schema::new(fields))
}
