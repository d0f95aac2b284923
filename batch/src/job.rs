//! One recompute, from a description to states files.

use std::slice;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use bytesize::ByteSize;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::common::spawn_buffered;
use datafusion::physical_plan::{ExecutionPlan, collect, execute_stream};
use futures::{FutureExt, StreamExt};
use lambdalake_data::bounds::{ColumnBounds, bounds_of, widen};
use lambdalake_data::disk::Disk;
use lambdalake_data::parquet_files::ParquetFile;
use lambdalake_data::publication::StatesFile;
use lambdalake_data::scan::ScanFile;
use lambdalake_data::through::ThroughExec;
use lambdalake_views::{Finished, UniqueKeys, View};

use crate::audit::{Audit, Auditor, StoredStates, finished_in_order, stored_rows};
use crate::counted_files::counted_readers;
use crate::error::BatchError;
use crate::plan;
use crate::progress::{Phase, Progress};
use crate::shared::Share;

/// A states file is closed beyond this many bytes in memory and another begun.
const STATES_FILE_BYTES: usize = 256 << 20;

/// Batches of states that are merged ahead of the writer.
const BUFFERED_BATCHES: usize = 2;

/// What to do. Everything in it is immutable, so a run can be repeated.
pub struct RecomputeJob {
    pub run_id: String,
    pub view: Arc<View>,
    /// The stream's stored columns.
    pub schema: SchemaRef,
    /// Every file of the master dataset up to the cut.
    pub master: Vec<ScanFile>,
    /// Where states files go, relative to the data root.
    pub output_folder: String,
    /// The states files of the older version and of the panes up to the cut, if together
    /// they cover exactly the same events; `None` when there is nothing to compare with.
    pub previous: Option<StoredStates>,
    /// Bytes of states on disk beyond which the run ends; `None` if they do not grow with the data.
    pub states_budget: Option<u64>,
}

#[derive(Debug)]
pub struct RecomputeOutput {
    pub files: Vec<StatesFile>,
    /// Every row of the files is a key's only one, and has its finished aggregates beside it.
    pub has_finished: bool,
    pub audit: Audit,
}

/// Runs the job within `task`'s memory pool, which must be finite.
pub async fn run(
    job: &RecomputeJob,
    share: Option<Share>,
    disk: &Arc<Disk>,
    task: &Arc<TaskContext>,
    progress: &Arc<Progress>,
) -> Result<RecomputeOutput, BatchError> {
    let partitions = task.session_config().target_partitions();
    let events = match &share {
        Some(share) => Arc::clone(&share.events),
        None => plan::events(
            job,
            &job.master,
            partitions,
            Some(&counted_readers(task, slice::from_ref(progress))?),
        )?,
    };
    let events = Arc::new(counted(events, Arc::clone(progress)));
    let sorted = plan::sorted_states(job, events, task);
    let sorted = progress.unless_cancelled(sorted).await?;
    let schema = sorted.schema();
    let states = execute_stream(sorted, Arc::clone(task))?;
    // Merging the sorted states and writing them go on at the same time.
    let mut states = spawn_buffered(states, BUFFERED_BATCHES);
    let first = next_states(&mut states, progress).await?;
    if let Some(share) = share {
        progress.unless_cancelled(share.after.map(Ok)).await?;
    }
    progress.enter(Phase::Writing);
    // Every event is mapped: there is a core for the older side of the audit.
    let begin = |previous: &StoredStates| Auditor::begin(&job.view, previous, task);
    let auditor = job.previous.as_ref().map(begin).transpose()?;
    let first = first.unwrap_or_else(|| RecordBatch::new_empty(schema));
    let (files, has_finished) = write_states(job, disk, first, states, task, progress).await?;
    progress.enter(Phase::Comparing);
    let audit = match auditor {
        Some(auditor) => {
            let audit = audited(job, auditor, &files, has_finished, task);
            progress.unless_cancelled(audit).await
        }
        None => Ok(Audit::NothingToCompare),
    };
    let audit = match audit {
        Ok(audit) => audit,
        Err(error) => {
            // Nobody names them, and the same run may be tried again.
            for file in &files {
                disk.remove(&file.path)?;
            }
            return Err(error);
        }
    };
    Ok(RecomputeOutput {
        files,
        has_finished,
        audit,
    })
}

/// Compares with the finished rows in the new files, or with what their states give.
async fn audited(
    job: &RecomputeJob,
    auditor: Auditor,
    files: &[StatesFile],
    has_finished: bool,
    task: &Arc<TaskContext>,
) -> Result<Audit, BatchError> {
    let version: Vec<ScanFile> = files.iter().map(ScanFile::of_states).collect();
    let new = match job.view.finished().filter(|_| has_finished) {
        Some(finished) => stored_rows(finished, &version, 1)?,
        None => {
            let partitions = task.session_config().target_partitions();
            let panes = Vec::new();
            finished_in_order(&job.view, &StoredStates { version, panes }, partitions)?
        }
    };
    auditor.compare(new).await
}

/// Counts the events read, and ends the run once it is cancelled.
fn counted(scan: Arc<dyn ExecutionPlan>, progress: Arc<Progress>) -> ThroughExec {
    let watch = move |batch: &RecordBatch| {
        let cancelled = |error| DataFusionError::External(Box::new(error));
        progress.check().map_err(cancelled)?;
        progress.read_rows(batch.num_rows() as u64);
        Ok(())
    };
    ThroughExec::new("CountExec", "events read".to_owned(), scan).watched_by(Arc::new(watch))
}

/// Writes `first` and the states after it. Also tells whether finished aggregates are beside them.
async fn write_states(
    job: &RecomputeJob,
    disk: &Arc<Disk>,
    first: RecordBatch,
    mut rest: SendableRecordBatchStream,
    task: &Arc<TaskContext>,
    progress: &Arc<Progress>,
) -> Result<(Vec<StatesFile>, bool), BatchError> {
    let view = &job.view;
    let finished = view.finished();
    let schema = finished.map_or_else(|| view.states_schema(), Finished::stored_schema);
    let mut writer = StatesWriter::new(disk, &job.output_folder, &job.run_id, schema);
    let mut keys = UniqueKeys::of(view.key_columns());
    let mut has_finished = finished.is_some();
    let mut next = Some(first);
    while let Some(states) = next {
        match finished {
            Some(finished) => {
                keys.see(&states)?;
                has_finished &= keys.are_unique();
                let rows = match has_finished && finished.has_values() {
                    true => Some(finish(view, &states, task).await?),
                    false => None,
                };
                let (rows, has_values) = finished.stored_rows(&states, rows.as_ref())?;
                has_finished &= has_values;
                writer.write(&rows)?;
            }
            None => writer.write(&states)?,
        }
        if let Some(budget) = job.states_budget.filter(|budget| writer.bytes() > *budget) {
            return Err(BatchError::StatesTooLarge(ByteSize(budget)));
        }
        next = next_states(&mut rest, progress).await?;
    }
    Ok((writer.finish()?, has_finished))
}

async fn next_states(
    stream: &mut SendableRecordBatchStream,
    progress: &Progress,
) -> Result<Option<RecordBatch>, BatchError> {
    let next = async { Ok(stream.next().await.transpose()?) };
    progress.unless_cancelled(next).await
}

/// Finished rows of these states alone.
async fn finish(
    view: &View,
    states: &RecordBatch,
    task: &Arc<TaskContext>,
) -> Result<RecordBatch, BatchError> {
    let schema = view.states_schema();
    let states = states.clone().with_schema(Arc::clone(&schema))?;
    let states = MemorySourceConfig::try_new_exec(&[vec![states]], schema, None)?;
    let plan = view.finish(states)?;
    let schema = plan.schema();
    let batches = collect(plan, Arc::clone(task)).await?;
    Ok(concat_batches(&schema, &batches)?)
}

/// Writes states into one or more shared files with unique names.
pub struct StatesWriter<'a> {
    disk: &'a Arc<Disk>,
    prefix: String,
    schema: SchemaRef,
    open: Option<OpenFile>,
    done: Vec<StatesFile>,
}

struct OpenFile {
    path: String,
    rows: u64,
    bounds: Vec<ColumnBounds>,
    file: ParquetFile,
}

impl<'a> StatesWriter<'a> {
    pub fn new(disk: &'a Arc<Disk>, folder: &str, name: &str, schema: SchemaRef) -> Self {
        let prefix = format!("{folder}/{name}");
        Self {
            disk,
            prefix,
            schema,
            open: None,
            done: Vec::new(),
        }
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), BatchError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        // The plan's field names and nullability may differ from the stored ones.
        let schema = &self.schema;
        let batch = batch
            .clone()
            .with_schema(Arc::clone(schema))
            .or_else(|_| RecordBatch::try_new(Arc::clone(schema), batch.columns().to_vec()))?;
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let path = format!("{}-{:04}.parquet", self.prefix, self.done.len());
                self.open.insert(OpenFile {
                    rows: 0,
                    bounds: Vec::new(),
                    file: ParquetFile::begin(self.disk, &path, &batch)?,
                    path,
                })
            }
        };
        open.file.write(&batch)?;
        open.rows += batch.num_rows() as u64;
        widen(&mut open.bounds, bounds_of(&batch, None));
        let full = open.file.bytes() > STATES_FILE_BYTES;
        if full { self.close() } else { Ok(()) }
    }

    /// Of all files so far.
    pub fn bytes(&self) -> u64 {
        let done = self.done.iter().map(|file| file.bytes).sum::<u64>();
        done + self
            .open
            .as_ref()
            .map_or(0, |open| open.file.bytes() as u64)
    }

    fn close(&mut self) -> Result<(), BatchError> {
        if let Some(open) = self.open.take() {
            let published = open.file.publish()?;
            self.done.push(StatesFile {
                path: open.path,
                rows: open.rows,
                bytes: published.bytes,
                crc32c: published.crc32c,
                bounds: open.bounds,
            });
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<Vec<StatesFile>, BatchError> {
        self.close()?;
        Ok(std::mem::take(&mut self.done))
    }
}

impl Drop for StatesWriter<'_> {
    /// Files of a writer that was not finished are named by nobody.
    fn drop(&mut self) {
        for file in &self.done {
            if let Err(error) = self.disk.remove(&file.path) {
                tracing::warn!(path = file.path, %error, "left behind; the next start removes it");
            }
        }
    }
}
