//! A Parquet file, compressed with zstd, that is written while the query runs.
//!
//! Only the row group being filled is held. It is flushed when it has enough rows or bytes, and
//! its bytes leave with the next piece; the footer, which lists the groups, comes last.

use std::collections::HashMap;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, IntervalUnit, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::Value;

use super::{Encoder, with_unique_names};
use crate::error::EngineError;

/// Rows of a row group: enough for a reader to split the work, few enough to wait for.
const GROUP_ROWS: usize = 128 * 1024;

/// Bytes that a row group holds before it is flushed. With [`GROUP_ROWS`] it bounds what one
/// answer keeps in memory.
const GROUP_BYTES: usize = 8 * 1024 * 1024;

pub(super) struct ParquetFile {
    schema: SchemaRef,
    /// Made by `start`, so that its failure is an error of the answer.
    writer: Option<ArrowWriter<Vec<u8>>>,
}

impl ParquetFile {
    pub(super) fn new(schema: &SchemaRef) -> Self {
        Self {
            schema: nullable(&with_unique_names(schema)),
            writer: None,
        }
    }

    fn writer(&mut self) -> Result<&mut ArrowWriter<Vec<u8>>, ArrowError> {
        self.writer
            .as_mut()
            .ok_or_else(|| ArrowError::ParquetError("not started".to_owned()))
    }
}

impl Encoder for ParquetFile {
    fn start(&mut self) -> Result<Vec<u8>, ArrowError> {
        for field in self.schema.fields() {
            check(field.name(), field.data_type())?;
        }
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .build();
        let writer = ArrowWriter::try_new(Vec::new(), self.schema.clone(), Some(properties))?;
        let writer = self.writer.insert(writer);
        Ok(std::mem::take(writer.inner_mut()))
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(
            self.schema.clone(),
            batch.columns().to_vec(),
            &options,
        )?;
        let writer = self.writer()?;
        writer.write(&batch)?;
        if writer.memory_size() > GROUP_BYTES {
            writer.flush()?;
        }
        Ok(std::mem::take(writer.inner_mut()))
    }

    fn finish(&mut self, _rows: u64, _stats: &Value) -> Result<Vec<u8>, ArrowError> {
        let writer = self.writer()?;
        writer.finish()?;
        Ok(std::mem::take(writer.inner_mut()))
    }
}

/// The same columns, all nullable: a plan's promise about nulls is not always kept, and a file
/// that breaks it is unreadable. Metadata of the plan means nothing to a reader of the file.
fn nullable(schema: &Schema) -> SchemaRef {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| Field::new(field.name(), field.data_type().clone(), true))
        .collect();
    SchemaRef::new(Schema::new_with_metadata(fields, HashMap::new()))
}

/// Refuses what Parquet has no type for, with the way out.
fn check(column: &str, data_type: &DataType) -> Result<(), ArrowError> {
    let reason = match data_type {
        DataType::Interval(IntervalUnit::MonthDayNano) | DataType::Union(..) => {
            "cast it to VARCHAR"
        }
        DataType::Struct(fields) if fields.is_empty() => "leave it out",
        DataType::Struct(fields) => {
            for field in fields {
                check(column, field.data_type())?;
            }
            return Ok(());
        }
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => return check(column, field.data_type()),
        DataType::Dictionary(_, values) => return check(column, values),
        _ => return Ok(()),
    };
    let error = EngineError::bad_request(
        "unsupported_type",
        format!(
            "the column {column:?} has the type {data_type}, which Parquet has not: {reason}, or \
             ask for another format"
        ),
    );
    Err(ArrowError::from(DataFusionError::from(error)))
}
