//! Batches cut into slices small enough to be encoded in one piece.
//!
//! An operator may hand over a million rows at once, and wide rows make a large piece out of an
//! ordinary batch. What a row takes is first guessed from its memory, then known from the pieces
//! before it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;

/// Rows of one slice: what the planner makes its batches of.
const SLICE_ROWS: usize = 8_192;

/// Bytes that the piece made of one slice should have. A single row may have more.
const PIECE_BYTES: usize = 1024 * 1024;

/// What is left of the batch being encoded.
#[derive(Default)]
pub(crate) struct Slices {
    rest: Option<RecordBatch>,
    guessed_row_bytes: usize,
    seen_row_bytes: usize,
}

impl Slices {
    /// Takes the next batch, once the one before is used up.
    pub(crate) fn put(&mut self, batch: RecordBatch) {
        // A batch without rows has nothing to encode.
        if let Some(bytes) = memory_bytes(&batch).checked_div(batch.num_rows()) {
            self.guessed_row_bytes = bytes;
            self.rest = Some(batch);
        }
    }

    /// Whether rows are left.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_none()
    }

    /// The next slice to encode.
    pub(crate) fn next(&mut self) -> Option<RecordBatch> {
        let batch = self.rest.take()?;
        let row_bytes = self.guessed_row_bytes.max(self.seen_row_bytes).max(1);
        let rows = (PIECE_BYTES / row_bytes).clamp(1, SLICE_ROWS);
        if rows >= batch.num_rows() {
            return Some(batch);
        }
        self.rest = Some(batch.slice(rows, batch.num_rows() - rows));
        Some(without_the_others(batch.slice(0, rows)))
    }

    /// Learns what a slice became.
    pub(crate) fn encoded(&mut self, rows: usize, bytes: usize) {
        self.seen_row_bytes = bytes / rows.max(1);
    }
}

/// Bytes of the values of a batch, without what its buffers hold for other rows.
fn memory_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(column_bytes).sum()
}

fn column_bytes(column: &ArrayRef) -> usize {
    match column.data_type() {
        DataType::Utf8View => column.as_string_view().lengths().map(|n| n as usize).sum(),
        DataType::BinaryView => column.as_binary_view().lengths().map(|n| n as usize).sum(),
        _ => column
            .to_data()
            .get_slice_memory_size()
            .unwrap_or_else(|_| column.get_array_memory_size()),
    }
}

/// The same slice; texts that are views into shared buffers are copied out of them, because the
/// Arrow format would write the whole buffers with every slice.
fn without_the_others(batch: RecordBatch) -> RecordBatch {
    let columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .map(|column| -> ArrayRef {
            match column.data_type() {
                DataType::Utf8View => Arc::new(column.as_string_view().gc()),
                DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
                _ => Arc::clone(column),
            }
        })
        .collect();
    // The columns keep their types and lengths, so this is not refused; if it were, the slice
    // as it came is right, too.
    RecordBatch::try_new(batch.schema(), columns).unwrap_or(batch)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};

    use super::{PIECE_BYTES, SLICE_ROWS, Slices};

    fn batch(column: ArrayRef) -> RecordBatch {
        RecordBatch::try_from_iter([("c", column)]).unwrap()
    }

    fn lengths(slices: &mut Slices) -> Vec<usize> {
        std::iter::from_fn(|| slices.next())
            .map(|slice| slice.num_rows())
            .collect()
    }

    #[test]
    fn many_rows_are_cut() {
        let mut slices = Slices::default();
        slices.put(batch(Arc::new(Int64Array::from_iter_values(0..20_000))));
        assert_eq!(lengths(&mut slices), [SLICE_ROWS, SLICE_ROWS, 3_616]);
        assert!(slices.is_empty());
    }

    #[test]
    fn wide_rows_are_cut() {
        let wide = "x".repeat(PIECE_BYTES / 2);
        let mut slices = Slices::default();
        slices.put(batch(Arc::new(StringArray::from(vec![wide.as_str(); 5]))));
        assert_eq!(lengths(&mut slices), [1, 1, 1, 1, 1]);
    }

    #[test]
    fn what_grows_when_encoded_is_cut() {
        let mut slices = Slices::default();
        slices.encoded(10, PIECE_BYTES);
        slices.put(batch(Arc::new(Int64Array::from_iter_values(0..25))));
        assert_eq!(lengths(&mut slices), [10, 10, 5]);
    }
}
