//! How one value is written as plain text, for CSV and tables.
//!
//! Text, numbers and booleans stand as they are, floats with `NaN` and `inf`; everything else
//! is written as in JSON, without the quotes.

use std::io::Write as _;

use arrow::array::{Array, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::json::EncoderOptions;
use arrow::json::writer::NullableEncoder;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::cells;

/// What the writers of a batch borrow; make it once a batch.
pub(super) struct Options {
    json: EncoderOptions,
    display: FormatOptions<'static>,
}

impl Options {
    pub(super) fn new() -> Self {
        Self {
            json: cells::options(),
            display: FormatOptions::new(),
        }
    }
}

/// The writer of one column.
pub(super) struct Column<'a> {
    nulls: Option<NullBuffer>,
    writer: Writer<'a>,
}

enum Writer<'a> {
    Json(NullableEncoder<'a>),
    Display(ArrayFormatter<'a>),
}

/// A writer for each column of a batch.
pub(super) fn columns<'a>(
    batch: &'a RecordBatch,
    options: &'a Options,
) -> Result<Vec<Column<'a>>, ArrowError> {
    let fields = batch.schema_ref().fields().iter();
    fields
        .zip(batch.columns())
        .map(|(field, array)| {
            let writer = if is_written_as_json(array.data_type()) {
                Writer::Json(cells::encoder(field, array, &options.json)?)
            } else {
                Writer::Display(ArrayFormatter::try_new(array.as_ref(), &options.display)?)
            };
            Ok(Column {
                nulls: array.logical_nulls(),
                writer,
            })
        })
        .collect()
}

impl Column<'_> {
    /// Replaces what is in `cell` by the value of a row; false if the value is null.
    pub(super) fn write(&mut self, row: usize, cell: &mut Vec<u8>) -> Result<bool, ArrowError> {
        cell.clear();
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return Ok(false);
        }
        match &mut self.writer {
            Writer::Json(encoder) => {
                encoder.encode(row, cell);
                // A JSON text here is a time or base64: nothing in it is escaped.
                if cell.first() == Some(&b'"') {
                    cell.remove(0);
                    cell.pop();
                }
            }
            Writer::Display(formatter) => {
                write!(cell, "{}", formatter.value(row).try_to_string()?)?;
            }
        }
        Ok(true)
    }
}

fn is_written_as_json(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_written_as_json(values),
        DataType::RunEndEncoded(_, values) => is_written_as_json(values.data_type()),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => true,
        DataType::Union(..) => false,
        other => other.is_temporal() || other.is_nested(),
    }
}
