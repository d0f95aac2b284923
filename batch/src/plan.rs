//! The plan of a recompute: events to states sorted by key.
//!
//! ```text
//!   keys that repeat        map in each partition -> combine -> sort -> merge
//!   keys that hardly do     events to the partition of their key -> map -> sort -> merge -> combine
//! ```
//!
//! Where nearly every event brings a key of its own, map saves nothing: each partition holds most
//! keys, and combine holds them again. There it is cheaper to move the events; then every key is
//! held once. What memory is too small for goes to disk in both.

use std::sync::Arc;

use arrow::compute::SortOptions;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::TryStreamExt;
use lambdalake_data::scan::{ParquetScan, ScanFile, cast_to};
use lambdalake_data::through::ThroughExec;

use crate::error::BatchError;
use crate::job::RecomputeJob;

/// Events that are looked at to tell whether keys repeat.
const PROBED_EVENTS: usize = 131_072;

/// With fewer events than this, either way is quick.
const WORTH_PROBING: u64 = 16 * PROBED_EVENTS as u64;

/// Where the columns that the view reads are among those of the stream.
pub(crate) fn columns(job: &RecomputeJob) -> Result<Vec<usize>, BatchError> {
    let input = job.view.input_schema();
    let names = input.fields().iter().map(|field| field.name());
    let columns = names.map(|name| job.schema.index_of(name));
    Ok(columns.collect::<Result<_, _>>()?)
}

/// The events in these of the job's files, with the columns that the view reads.
pub(crate) fn events(
    job: &RecomputeJob,
    files: &[ScanFile],
    partitions: usize,
    readers: Option<&Arc<dyn ParquetFileReaderFactory>>,
) -> Result<Arc<dyn ExecutionPlan>, BatchError> {
    let columns = columns(job)?;
    let mut scan = ParquetScan::of(files, &job.schema, partitions).columns(Some(&columns));
    if let Some(readers) = readers {
        scan = scan.readers(readers);
    }
    Ok(scan.plan()?)
}

/// The states of `events`, one row per key, in the order of keys.
pub(crate) async fn sorted_states(
    job: &RecomputeJob,
    events: Arc<dyn ExecutionPlan>,
    task: &Arc<TaskContext>,
) -> Result<Arc<dyn ExecutionPlan>, BatchError> {
    let view = &job.view;
    let events = cast_to(events, &view.input_schema())?;
    if hardly_repeat(job, task).await?
        && let Some(states) = view.map_apart(Arc::clone(&events))?
    {
        let sorted = sorted_by_key(states, view.key_columns())?;
        return Ok(view.combine_sorted(sorted)?);
    }
    let states = view.combine(view.map(events)?)?;
    sorted_by_key(states, view.key_columns())
}

/// Whether four of five events in a sample from the middle have a key that the sample has once.
async fn hardly_repeat(job: &RecomputeJob, task: &Arc<TaskContext>) -> Result<bool, BatchError> {
    let total: u64 = job.master.iter().map(|file| file.rows).sum();
    let Some(file) = job.master.get(job.master.len() / 2) else {
        return Ok(false);
    };
    if total < WORTH_PROBING {
        return Ok(false);
    }
    let sample = events(job, std::slice::from_ref(file), 1, None)?;
    let sample = Arc::new(GlobalLimitExec::new(sample, 0, Some(PROBED_EVENTS)));
    let states = job.view.map(cast_to(sample, &job.view.input_schema())?)?;
    let states = execute_stream(states, Arc::clone(task))?;
    let count =
        |groups, states: arrow::array::RecordBatch| async move { Ok(groups + states.num_rows()) };
    let groups = states.try_fold(0, count).await?;
    Ok(groups * 5 > PROBED_EVENTS * 4)
}

/// Sorts by the leading key columns, merging partitions into one. Spills under pressure.
pub(crate) fn sorted_by_key(
    input: Arc<dyn ExecutionPlan>,
    keys: usize,
) -> Result<Arc<dyn ExecutionPlan>, BatchError> {
    let Some(order) = order_of(&input, keys) else {
        return Ok(Arc::new(CoalescePartitionsExec::new(input)));
    };
    let input = ThroughExec::new("CompactExec", "states".to_owned(), input).compacting();
    let sort = SortExec::new(order.clone(), Arc::new(input)).with_preserve_partitioning(true);
    Ok(Arc::new(SortPreservingMergeExec::new(
        order,
        Arc::new(sort),
    )))
}

/// Merges inputs that are sorted by the leading key columns into one.
pub(crate) fn merged_by_key(
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    keys: usize,
) -> Result<Arc<dyn ExecutionPlan>, BatchError> {
    let all = UnionExec::try_new(inputs)?;
    match order_of(&all, keys) {
        Some(order) => Ok(Arc::new(SortPreservingMergeExec::new(order, all))),
        None => Ok(Arc::new(CoalescePartitionsExec::new(all))),
    }
}

/// The order of the keys, ascending, nulls first; `None` without keys.
fn order_of(input: &Arc<dyn ExecutionPlan>, keys: usize) -> Option<LexOrdering> {
    let schema = input.schema();
    let options = SortOptions {
        descending: false,
        nulls_first: true,
    };
    LexOrdering::new((0..keys).map(|index| PhysicalSortExpr {
        expr: Arc::new(Column::new(schema.field(index).name(), index)),
        options,
    }))
}
