//! CSV as RFC 4180 has it, with a header line and `\n` line ends.
//!
//! A null is an empty field, an empty text is `""`. Timestamps, binary and nested values are
//! written as in JSON; floats as numbers, `NaN` and `inf` included.

use std::io::Write as _;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::writer::NullableEncoder;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::Value;

use super::{Encoder, cells};

pub(super) struct CsvText {
    schema: SchemaRef,
}

impl CsvText {
    pub(super) fn new(schema: SchemaRef) -> Self {
        Self { schema }
    }
}

impl Encoder for CsvText {
    fn start(&mut self) -> Result<Vec<u8>, ArrowError> {
        let mut out = Vec::new();
        for (index, field) in self.schema.fields().iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            push_text(field.name().as_bytes(), &mut out);
        }
        out.push(b'\n');
        Ok(out)
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        let json = cells::options();
        let display = FormatOptions::new();
        let schema = batch.schema();
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (field, array) in schema.fields().iter().zip(batch.columns()) {
            let writer = if is_written_as_json(array.data_type()) {
                Writer::Json(cells::encoder(field, array, &json)?)
            } else {
                Writer::Display(ArrayFormatter::try_new(array.as_ref(), &display)?)
            };
            columns.push((array.logical_nulls(), writer));
        }
        let mut out = Vec::new();
        let mut cell = Vec::new();
        for row in 0..batch.num_rows() {
            for (index, (nulls, writer)) in columns.iter_mut().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                    continue;
                }
                cell.clear();
                writer.write(row, &mut cell)?;
                push_text(&cell, &mut out);
            }
            out.push(b'\n');
        }
        Ok(out)
    }

    fn finish(&mut self, _rows: u64, _stats: &Value) -> Result<Vec<u8>, ArrowError> {
        Ok(Vec::new())
    }
}

enum Writer<'a> {
    Json(NullableEncoder<'a>),
    Display(ArrayFormatter<'a>),
}

impl Writer<'_> {
    fn write(&mut self, row: usize, cell: &mut Vec<u8>) -> Result<(), ArrowError> {
        match self {
            Self::Json(encoder) => {
                encoder.encode(row, cell);
                // A JSON text here is a timestamp or base64: nothing in it is escaped.
                if cell.first() == Some(&b'"') {
                    cell.remove(0);
                    cell.pop();
                }
            }
            Self::Display(formatter) => write!(cell, "{}", formatter.value(row).try_to_string()?)?,
        }
        Ok(())
    }
}

fn is_written_as_json(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_written_as_json(values),
        DataType::Timestamp(..)
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => true,
        other => other.is_nested(),
    }
}

/// Quotes a text if it needs it; an empty one does, to differ from null.
fn push_text(text: &[u8], out: &mut Vec<u8>) {
    let is_plain = !text.is_empty()
        && !text
            .iter()
            .any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r'));
    if is_plain {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for byte in text {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}
