//! CSV as RFC 4180 has it, with a header line and `\n` line ends.
//!
//! A null is an empty field, an empty text is `""`; [`text`] says how the rest is written.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use serde_json::Value;

use super::{Encoder, text};

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
        let options = text::Options::new();
        let mut columns = text::columns(batch, &options)?;
        let mut out = Vec::new();
        let mut cell = Vec::new();
        for row in 0..batch.num_rows() {
            for (index, column) in columns.iter_mut().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                if column.write(row, &mut cell)? {
                    push_text(&cell, &mut out);
                }
            }
            out.push(b'\n');
        }
        Ok(out)
    }

    fn finish(&mut self, _rows: u64, _stats: &Value) -> Result<Vec<u8>, ArrowError> {
        Ok(Vec::new())
    }
}

/// Quotes a text if it needs it; an empty one does, to differ from null, and one with spaces at
/// an end, which some readers trim.
fn push_text(text: &[u8], out: &mut Vec<u8>) {
    let has_plain_ends = [text.first(), text.last()]
        .iter()
        .all(|end| end.is_some_and(|byte| !byte.is_ascii_whitespace()));
    let is_plain = has_plain_ends
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
