//! A drawn table for people at a terminal.
//!
//! The widths need all rows, so it holds them: at most `max_rows`, then it says so.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::util::pretty::pretty_format_batches_with_schema;
use serde_json::Value;

use super::Encoder;

pub(super) struct DrawnTable {
    schema: SchemaRef,
    max_rows: usize,
    batches: Vec<RecordBatch>,
    rows: usize,
    is_cut: bool,
}

impl DrawnTable {
    pub(super) fn new(schema: SchemaRef, max_rows: usize) -> Self {
        Self {
            schema,
            max_rows,
            batches: Vec::new(),
            rows: 0,
            is_cut: false,
        }
    }
}

impl Encoder for DrawnTable {
    fn start(&mut self) -> Result<Vec<u8>, ArrowError> {
        Ok(Vec::new())
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        let taken = batch.num_rows().min(self.max_rows - self.rows);
        self.is_cut |= taken < batch.num_rows();
        if taken > 0 {
            self.rows += taken;
            self.batches.push(batch.slice(0, taken));
        }
        Ok(Vec::new())
    }

    fn finish(&mut self, _rows: u64, _stats: &Value) -> Result<Vec<u8>, ArrowError> {
        let drawn = pretty_format_batches_with_schema(self.schema.clone(), &self.batches)?;
        let rows = self.rows;
        let footer = if self.is_cut {
            format!("(the first {rows} rows; there are more: add LIMIT, or ask for another format)")
        } else if rows == 1 {
            "(1 row)".to_owned()
        } else {
            format!("({rows} rows)")
        };
        Ok(format!("{drawn}\n{footer}\n").into_bytes())
    }

    fn wants_more(&self) -> bool {
        !self.is_cut
    }
}
