//! Events that are on disk in the log but not yet in the master dataset.
//!
//! The tail of a stream is a list of *parts*. Requests are appended to the last, active
//! part; a flush seals it and begins another. A part becomes one pane of every view, so
//! panes, like files, begin and end at flushes.

use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::cut::{Cut, CutRange};

/// The events of one group commit, with their hidden columns.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub range: CutRange,
    pub events: RecordBatch,
    pub bytes: usize,
}

/// An immutable view of one part: its number and the chunks it held at one moment.
#[derive(Clone, Debug)]
pub struct TailPart {
    /// Unique within a stream while the process runs.
    pub number: u64,
    pub from: Cut,
    pub chunks: Arc<[Arc<Chunk>]>,
}

impl TailPart {
    pub fn empty(number: u64, from: Cut) -> Self {
        Self {
            number,
            from,
            chunks: Arc::new([]),
        }
    }

    pub fn end(&self) -> &Cut {
        self.chunks
            .last()
            .map_or(&self.from, |chunk| &chunk.range.to)
    }

    pub fn range(&self) -> CutRange {
        CutRange::new(self.from.clone(), self.end().clone())
    }

    pub fn rows(&self) -> usize {
        self.chunks
            .iter()
            .map(|chunk| chunk.events.num_rows())
            .sum()
    }

    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes).sum()
    }
}
