//! JSON and newline-delimited JSON.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::error::ArrowError;
use serde_json::{Value, json};

use super::{Encoder, cells, with_unique_names};

/// `{"meta": [...], "data": [...], "rows": n, "stats": {...}}`, streamed.
pub(super) struct JsonDocument {
    schema: SchemaRef,
    has_rows: bool,
}

impl JsonDocument {
    pub(super) fn new(schema: &SchemaRef) -> Self {
        Self {
            schema: with_unique_names(schema),
            has_rows: false,
        }
    }
}

impl Encoder for JsonDocument {
    fn start(&mut self) -> Result<Vec<u8>, ArrowError> {
        let meta: Vec<Value> = self
            .schema
            .fields()
            .iter()
            .map(|field| json!({"name": field.name(), "type": field.data_type().to_string()}))
            .collect();
        Ok(format!("{{\"meta\":{},\"data\":[", Value::from(meta)).into_bytes())
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        let has_rows = &mut self.has_rows;
        write_rows(&self.schema, batch, |out| {
            out.extend_from_slice(if *has_rows { b",\n" } else { b"\n" });
            *has_rows = true;
        })
    }

    fn finish(&mut self, rows: u64, stats: &Value) -> Result<Vec<u8>, ArrowError> {
        Ok(format!("\n],\"rows\":{rows},\"stats\":{stats}}}\n").into_bytes())
    }
}

/// One object a line; no meta, no stats.
pub(super) struct JsonLines {
    schema: SchemaRef,
}

impl JsonLines {
    pub(super) fn new(schema: &SchemaRef) -> Self {
        Self {
            schema: with_unique_names(schema),
        }
    }
}

impl Encoder for JsonLines {
    fn start(&mut self) -> Result<Vec<u8>, ArrowError> {
        Ok(Vec::new())
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        let mut is_first = true;
        let mut out = write_rows(&self.schema, batch, |out| {
            if !is_first {
                out.push(b'\n');
            }
            is_first = false;
        })?;
        if !out.is_empty() {
            out.push(b'\n');
        }
        Ok(out)
    }

    fn finish(&mut self, _rows: u64, _stats: &Value) -> Result<Vec<u8>, ArrowError> {
        Ok(Vec::new())
    }
}

/// Writes each row as an object, calling `before` ahead of each.
fn write_rows(
    schema: &SchemaRef,
    batch: &RecordBatch,
    mut before: impl FnMut(&mut Vec<u8>),
) -> Result<Vec<u8>, ArrowError> {
    let mut out = Vec::new();
    if batch.num_columns() == 0 {
        for _ in 0..batch.num_rows() {
            before(&mut out);
            out.extend_from_slice(b"{}");
        }
        return Ok(out);
    }
    // The batch's own types, under names that are unique: a plan's declared types may differ in
    // nullability, and the arrays are the truth.
    let fields: Vec<Arc<Field>> = schema
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| Arc::new(Field::new(field.name(), column.data_type().clone(), true)))
        .collect();
    let rows = StructArray::try_new(fields.into(), batch.columns().to_vec(), None)?;
    let field = Arc::new(Field::new(
        "row",
        DataType::Struct(rows.fields().clone()),
        false,
    ));
    let rows: ArrayRef = Arc::new(rows);
    let options = cells::options();
    let mut encoder = cells::encoder(&field, &rows, &options)?;
    for row in 0..batch.num_rows() {
        before(&mut out);
        encoder.encode(row, &mut out);
    }
    Ok(out)
}
