//! The audit: recomputed states against the older version and the panes, before publication.
//!
//! Both sides are finished in the order of their keys, and walked side by side in windows of keys.
//! Versions are stored in that order and only the panes are sorted, so the audit needs memory for a
//! window, not for the view. The older side is finished from its states while the new version is
//! written; the new side is read from the finished rows in its files.
//! Exact aggregates must agree bitwise, floats within an error of their scale, sketches by their
//! own rules; see [`lambdalake_views::differences`].

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::common::spawn_buffered;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::StreamExt;
use lambdalake_data::scan::{ParquetScan, ScanFile};
use lambdalake_views::{Difference, Finished, View, differences};

use crate::error::BatchError;
use crate::plan::{merged_by_key, sorted_by_key};

/// Rows of a window on each side.
const WINDOW_ROWS: usize = 65_536;

/// Batches that a side may be ahead.
const BUFFERED_BATCHES: usize = 2;

/// Differences that are reported; one is enough to refuse.
const REPORTED: usize = 10;

/// What the audit found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audit {
    /// Nothing covered the same events before (a new view, or stored states were missing).
    NothingToCompare,
    Compared(Comparison),
}

/// What was found where two sides were walked side by side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Groups that were looked at: all, unless so many differed that it ended early.
    pub groups: u64,
    /// Where they disagree: none, or some of it, at most [`REPORTED`].
    pub differences: Vec<Difference>,
}

impl Audit {
    /// The word that run histories show.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NothingToCompare => "nothing_to_compare",
            Self::Compared(found) if found.differences.is_empty() => "equal",
            Self::Compared(_) => "differences",
        }
    }
}

/// Files that hold states of a view.
#[derive(Debug, Default)]
pub struct StoredStates {
    /// In the order of keys, each file and one after another.
    pub version: Vec<ScanFile>,
    /// In no order.
    pub panes: Vec<ScanFile>,
}

/// An audit whose older side is already being finished.
pub struct Auditor {
    view: Arc<View>,
    previous: Side,
    task: Arc<TaskContext>,
}

impl Auditor {
    /// Begins to read and finish the states of these files.
    pub fn begin(
        view: &Arc<View>,
        previous: &StoredStates,
        task: &Arc<TaskContext>,
    ) -> Result<Self, BatchError> {
        let partitions = task.session_config().target_partitions();
        let rows = finished_in_order(view, previous, partitions)?;
        Ok(Self {
            view: Arc::clone(view),
            previous: Side::open(view, rows, task)?,
            task: Arc::clone(task),
        })
    }

    /// Compares with the finished rows of the new version, in the order of their keys.
    pub async fn compare(self, new: Arc<dyn ExecutionPlan>) -> Result<Audit, BatchError> {
        let new = Side::open(&self.view, new, &self.task)?;
        let found = walk(&self.view, self.previous, new).await?;
        Ok(Audit::Compared(found))
    }
}

/// What stored states come to, in the order of keys.
pub(crate) fn finished_in_order(
    view: &View,
    stored: &StoredStates,
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>, BatchError> {
    let schema = view.states_schema();
    let scan = |files: &[ScanFile], partitions| ParquetScan::of(files, &schema, partitions).plan();
    let keys = view.key_columns();
    let mut states = scan(&stored.version, 1)?;
    if !stored.panes.is_empty() {
        let panes = view.combine(scan(&stored.panes, partitions)?)?;
        states = merged_by_key(vec![states, sorted_by_key(panes, keys)?], keys)?;
    }
    if let Some(rows) = view.finish_sorted(states)? {
        return Ok(rows);
    }
    let all = [&stored.version[..], &stored.panes[..]].concat();
    sorted_by_key(view.finish(scan(&all, partitions)?)?, keys)
}

/// Reads the finished rows that version files hold beside their states.
pub fn stored_rows(
    finished: &Finished,
    files: &[ScanFile],
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>, BatchError> {
    let stored = ParquetScan::of(files, &finished.stored_schema(), partitions)
        .columns(Some(finished.places()))
        .plan()?;
    let columns: Vec<usize> = (0..finished.places().len()).collect();
    Ok(finished.finished_rows(stored, &columns)?)
}

/// Finishes two sets of states of one view and compares them key by key.
pub async fn compare(
    view: &Arc<View>,
    left: Arc<dyn ExecutionPlan>,
    right: Arc<dyn ExecutionPlan>,
    task: &Arc<TaskContext>,
) -> Result<Comparison, BatchError> {
    compare_finished(view, view.finish(left)?, view.finish(right)?, task).await
}

/// The same of rows that are finished.
pub async fn compare_finished(
    view: &Arc<View>,
    left: Arc<dyn ExecutionPlan>,
    right: Arc<dyn ExecutionPlan>,
    task: &Arc<TaskContext>,
) -> Result<Comparison, BatchError> {
    let open = |rows| Side::open(view, sorted_by_key(rows, view.key_columns())?, task);
    let (left, right) = (open(left)?, open(right)?);
    walk(view, left, right).await
}

async fn walk(view: &View, mut left: Side, mut right: Side) -> Result<Comparison, BatchError> {
    let mut found = Comparison::default();
    while found.differences.len() < REPORTED {
        futures::try_join!(left.fill(), right.fill())?;
        let boundary = match (left.last_key()?, right.last_key()?) {
            (None, None) => break,
            // An ended side holds all it has; the other sets the pace.
            (Some(l), Some(r)) if left.ended && right.ended => Some(l.max(r)),
            (Some(l), Some(_)) if right.ended => Some(l),
            (Some(_), Some(r)) if left.ended => Some(r),
            (Some(l), Some(r)) => Some(l.min(r)),
            (one, other) => one.or(other),
        };
        let (l, r) = (left.take_up_to(&boundary)?, right.take_up_to(&boundary)?);
        found.groups += l.num_rows().max(r.num_rows()) as u64;
        let limit = REPORTED - found.differences.len();
        found
            .differences
            .extend(differences(view, &[l], &[r], limit)?);
    }
    Ok(found)
}

struct Side {
    stream: SendableRecordBatchStream,
    window: RecordBatch,
    ended: bool,
    keys: usize,
    rows: Option<RowConverter>,
}

impl Side {
    /// Of rows in the order of keys.
    fn open(
        view: &View,
        finished: Arc<dyn ExecutionPlan>,
        task: &Arc<TaskContext>,
    ) -> Result<Self, BatchError> {
        let keys = view.key_columns();
        let schema = finished.schema();
        let fields = schema.fields().iter().take(keys);
        let sort = fields
            .map(|field| SortField::new(field.data_type().clone()))
            .collect();
        let rows = if keys == 0 {
            None
        } else {
            Some(RowConverter::new(sort)?)
        };
        // A task of its own, so that both sides are finished at the same time.
        let stream = spawn_buffered(
            execute_stream(finished, Arc::clone(task))?,
            BUFFERED_BATCHES,
        );
        Ok(Self {
            stream,
            window: RecordBatch::new_empty(schema),
            ended: false,
            keys,
            rows,
        })
    }

    /// Reads until the window is full or the side has ended.
    async fn fill(&mut self) -> Result<(), BatchError> {
        let mut batches = vec![self.window.clone()];
        let mut rows = self.window.num_rows();
        while rows < WINDOW_ROWS && !self.ended {
            match self.stream.next().await {
                Some(batch) => {
                    let batch = batch?;
                    rows += batch.num_rows();
                    batches.push(batch);
                }
                None => self.ended = true,
            }
        }
        self.window = concat_batches(&self.window.schema(), &batches)?;
        Ok(())
    }

    fn key_at(&self, row: usize) -> Result<Option<OwnedRow>, BatchError> {
        let Some(converter) = &self.rows else {
            return Ok(None);
        };
        let keys: Vec<_> = self
            .window
            .columns()
            .iter()
            .take(self.keys)
            .map(|c| c.slice(row, 1))
            .collect();
        Ok(Some(converter.convert_columns(&keys)?.row(0).owned()))
    }

    /// The key of the last row held; `None` if the window is empty. Without keys there is
    /// one row, and an empty key stands for it.
    fn last_key(&self) -> Result<Option<Option<OwnedRow>>, BatchError> {
        match self.window.num_rows() {
            0 => Ok(None),
            rows => self.key_at(rows - 1).map(Some),
        }
    }

    /// Takes the rows whose key is not beyond the boundary out of the window.
    fn take_up_to(
        &mut self,
        boundary: &Option<Option<OwnedRow>>,
    ) -> Result<RecordBatch, BatchError> {
        let Some(Some(boundary)) = boundary else {
            let taken = self.window.clone();
            self.window = self.window.slice(0, 0);
            return Ok(taken);
        };
        // The window is sorted: find where the keys pass the boundary.
        let (mut low, mut high) = (0, self.window.num_rows());
        while low < high {
            let middle = low.midpoint(high);
            if self.key_at(middle)?.is_some_and(|key| &key <= boundary) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let taken = self.window.slice(0, low);
        self.window = self.window.slice(low, self.window.num_rows() - low);
        Ok(taken)
    }
}
