//! Tables about the engine itself: the schemas `lambdalake` and `information_schema`.
//!
//! ```text
//!   docs     what each table and column is called, holds and means: the one place
//!   rows     their content, from the pinned snapshot and from what only the engine knows
//! ```
//!
//! A system table is an ordinary table of a query: it joins, filters and sorts, and shows the
//! same snapshot as the streams and views beside it. `lambdalake.columns` documents all of
//! them. Users' tables are in the schema `public`, so no name clashes.

mod docs;
mod rows;

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use lambdalake_data::schema::timestamp;

pub use docs::{TABLES, hidden_comment};
pub(crate) use rows::Source;

/// The schema of streams and views.
pub const PUBLIC: &str = "public";

/// What only the engine can tell. The binary implements it.
pub trait System: Send + Sync {
    /// Recomputes, newest first.
    fn runs(&self) -> Vec<RunRow>;
    /// Every setting, in the order of the documentation.
    fn settings(&self) -> Vec<SettingRow>;
}

/// A recompute, for `lambdalake.runs`.
#[derive(Debug, Clone)]
pub struct RunRow {
    pub run_id: String,
    pub view: String,
    pub kind: &'static str,
    pub status: String,
    pub started_by: String,
    pub started_at_micros: i64,
    pub duration_ms: u64,
    pub phase: Option<&'static str>,
    pub rows_read: u64,
    pub rows_total: u64,
    pub bytes_read: u64,
    pub bytes_total: u64,
    pub files_read: u64,
    pub files_total: u64,
    pub eta_ms: Option<u64>,
    pub states: u64,
    pub cut: String,
    pub audit: String,
    pub groups_compared: u64,
    pub version: Option<u64>,
    pub error: Option<String>,
}

/// A setting, for `lambdalake.settings`.
#[derive(Debug, Clone)]
pub struct SettingRow {
    pub name: &'static str,
    pub value: Option<String>,
    pub default: &'static str,
    pub unit: &'static str,
    pub about: &'static str,
}

/// A query that runs right now, for `lambdalake.queries`.
#[derive(Debug, Clone)]
pub(crate) struct QueryRow {
    pub(crate) query_id: String,
    pub(crate) sql: String,
    pub(crate) layer: String,
    pub(crate) started_at_micros: i64,
    pub(crate) rows: u64,
}

/// The type of a system column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Int,
    Bool,
    /// Microseconds, UTC.
    Time,
}

impl Kind {
    pub fn data_type(self) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Int => DataType::Int64,
            Self::Bool => DataType::Boolean,
            Self::Time => timestamp(),
        }
    }
}

/// A column of a system table.
#[derive(Debug, Clone, Copy)]
pub struct ColumnDoc {
    pub name: &'static str,
    pub kind: Kind,
    pub nullable: bool,
    /// What it holds, with its unit.
    pub about: &'static str,
}

/// A system table.
#[derive(Clone, Copy)]
pub struct TableDoc {
    pub schema: &'static str,
    pub name: &'static str,
    pub about: &'static str,
    pub columns: &'static [ColumnDoc],
    rows: fn(&Source<'_>) -> Vec<Vec<Cell>>,
}

impl TableDoc {
    /// Its columns as Arrow sees them.
    pub fn arrow_schema(&self) -> SchemaRef {
        let fields = self
            .columns
            .iter()
            .map(|column| Field::new(column.name, column.kind.data_type(), column.nullable));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Its rows at this moment.
    pub(crate) fn batch(&self, source: &Source<'_>) -> Result<RecordBatch, ArrowError> {
        let rows = (self.rows)(source);
        let columns = self.columns.iter().enumerate();
        let columns = columns.map(|(at, column)| array(column.kind, &rows, at));
        RecordBatch::try_new(self.arrow_schema(), columns.collect())
    }
}

/// The system table of this name, if there is one.
pub fn find(schema: &str, name: &str) -> Option<&'static TableDoc> {
    let mut tables = TABLES.iter();
    tables.find(|table| table.schema == schema && table.name == name)
}

/// True for a schema that only the engine fills.
pub fn is_system_schema(schema: &str) -> bool {
    TABLES.iter().any(|table| table.schema == schema)
}

/// One value of a system table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Null,
    Text(String),
    Int(i64),
    Bool(bool),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u64> for Cell {
    fn from(value: u64) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Cell {
    fn from(value: usize) -> Self {
        Self::from(value as u64)
    }
}

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

fn array(kind: Kind, rows: &[Vec<Cell>], at: usize) -> ArrayRef {
    let cells = rows.iter().map(|row| row.get(at).unwrap_or(&Cell::Null));
    let int = |cell: &Cell| match cell {
        Cell::Int(value) => Some(*value),
        _ => None,
    };
    match kind {
        Kind::Text => Arc::new(
            cells
                .map(|cell| match cell {
                    Cell::Text(text) => Some(text.as_str()),
                    _ => None,
                })
                .collect::<StringArray>(),
        ),
        Kind::Int => Arc::new(cells.map(int).collect::<Int64Array>()),
        Kind::Bool => Arc::new(
            cells
                .map(|cell| match cell {
                    Cell::Bool(value) => Some(*value),
                    _ => None,
                })
                .collect::<BooleanArray>(),
        ),
        Kind::Time => {
            let times: TimestampMicrosecondArray = cells.map(int).collect();
            Arc::new(times.with_timezone("UTC"))
        }
    }
}
