//! JSON rows straight into the columns that a stream has, without a tree of values in between.
//!
//! Most rows of most bodies have only fields that the stream knows, with values that fit. These
//! are read here. Every other row leaves no trace here and goes the general way
//! ([`super::json`], [`super::shape`]), which alone knows what is wrong with a row and how
//! columns grow. So this module must never take a row that the general way would read
//! otherwise; a property test compares them.

mod columns;
mod reader;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::block::Target;
use super::shape::Shape;
use super::{EpochUnit, InputError, Limits, MAX_DEPTH};
use columns::Members;
use reader::Reader;

/// With more rows that went the general way than this, and than a quarter of all, no row is
/// tried any more.
const MAX_MISSES: usize = 64;

/// Rows from which the size of all texts is estimated.
const SAMPLED_ROWS: usize = 1_024;

/// The rows of a block that were read directly.
pub(super) struct DirectRows {
    members: Members,
    /// About how many rows there are.
    expected: usize,
    count: usize,
    misses: usize,
}

impl DirectRows {
    /// For about so many rows.
    pub fn new(target: &Target<'_>, shape: &Shape, limits: &Limits, rows: usize) -> Self {
        let depth = limits.max_depth.min(MAX_DEPTH);
        let mut members = Members::new(&target.schema.fields, depth, limits.max_fields);
        members.learn(&shape.members);
        members.reserve(rows);
        let unit = target.options.event_time_unit;
        if let Some(column) = target.event_time.filter(|_| unit != EpochUnit::Auto) {
            members.set_unit(column, unit);
        }
        DirectRows {
            members,
            expected: rows,
            count: 0,
            misses: 0,
        }
    }

    /// Reads a row. False: it must go the general way.
    pub fn push(&mut self, row: &str) -> bool {
        if self.misses > MAX_MISSES.max(self.count / 4) {
            return false;
        }
        let mut reader = Reader::new(row);
        let is_read = self
            .members
            .read(&mut reader, self.count)
            .and_then(|()| reader.end());
        match is_read {
            Some(()) => {
                self.count += 1;
                if self.count == SAMPLED_ROWS && self.expected > SAMPLED_ROWS {
                    self.members.reserve_texts(self.expected, SAMPLED_ROWS);
                }
            }
            None => {
                self.members.truncate(self.count);
                self.misses += 1;
            }
        }
        is_read.is_some()
    }

    /// Takes note of what a row that went the general way did to the columns.
    pub fn learn(&mut self, shape: &Shape) {
        self.members.learn(&shape.members);
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// The rows, as the stream's columns.
    pub fn finish(self, schema: &SchemaRef) -> Result<RecordBatch, InputError> {
        let arrays = self.members.finish(&schema.fields)?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.count));
        Ok(RecordBatch::try_new_with_options(
            schema.clone(),
            arrays,
            &options,
        )?)
    }
}

#[cfg(test)]
mod tests;
