//! Parquet files as blocks.
//!
//! A Parquet file has its index at the end, so it is read once it is whole and lies in a
//! file; row groups are read one after the other, a few thousand rows at a time.

mod footer;

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::{Array, RecordBatch};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::reader::ChunkReader;

use super::block::{Block, Table};
use super::{Format, InputError};

/// Rows read at a time; a block is made of several such batches.
const BATCH_ROWS: usize = 4_096;

/// The blocks of one Parquet file.
pub struct ParquetBlocks {
    reader: ParquetRecordBatchReader,
    block_bytes: usize,
    /// Number of the next row.
    row: u64,
}

impl ParquetBlocks {
    /// Reads the index of a file.
    ///
    /// # Errors
    ///
    /// [`InputError::Invalid`] if it is no Parquet file, or not a whole one.
    pub fn open(file: impl ChunkReader + 'static, block_bytes: usize) -> Result<Self, InputError> {
        footer::check_nesting(&file)?;
        let open = move || {
            let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
            builder.with_batch_size(BATCH_ROWS).build()
        };
        Ok(ParquetBlocks {
            reader: guarded(open)?,
            block_bytes,
            row: 1,
        })
    }

    /// The next rows, `None` after the last.
    pub fn next_block(&mut self) -> Result<Option<Block>, InputError> {
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while bytes < self.block_bytes {
            let Some(batch) = guarded(|| self.reader.next().transpose())? else {
                break;
            };
            bytes = bytes.saturating_add(size(&batch));
            batches.push(batch);
        }
        if batches.is_empty() {
            return Ok(None);
        }
        let table = Table {
            format: Format::Parquet,
            batches,
            first: self.row,
        };
        self.row += table.rows() as u64;
        Ok(Some(Block::Table(table)))
    }
}

fn size(batch: &RecordBatch) -> usize {
    batch
        .columns()
        .iter()
        .map(Array::get_array_memory_size)
        .sum()
}

/// The reader trusts some of what a file says, and panics where that is wrong.
fn guarded<T, E: Display>(read: impl FnOnce() -> Result<T, E>) -> Result<T, InputError> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(invalid(&error)),
        Err(_) => Err(invalid(&"its parts contradict each other")),
    }
}

fn invalid(reason: &dyn Display) -> InputError {
    let message = format!("the body is not a valid Parquet file: {reason}");
    InputError::invalid("invalid_parquet", message)
}
