//! A view from scratch against what is stored of it.
//!
//! ```text
//!   stored    version files ∪ pane files ∪ map(master rows in gaps) ∪ map(tail)
//!   scratch   map(all master rows ∪ tail)
//! ```
//!
//! Both are finished and compared key by key, as the audit of a recompute does. So are the
//! finished rows of a version and the states beside them. Sorting spills into the system's folder
//! for temporary files.

use std::sync::Arc;

use anyhow::Context;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;
use datafusion::prelude::SessionContext;
use lambdalake_batch::audit::{compare, compare_finished, stored_rows};
use lambdalake_batch::memory::BatchPool;
use lambdalake_data::cut::gaps;
use lambdalake_data::publication::{StreamState, ViewState};
use lambdalake_data::scan::{ParquetScan, ScanFile, cast_to, in_range};
use lambdalake_data::schema::adapt;
use lambdalake_data::{CutRange, Disk};
use lambdalake_serving::query::{runtime_env, session_config};
use lambdalake_serving::snapshot::scan_files;
use lambdalake_views::{Difference, FINISHED_LAYOUT, View};
use tokio::runtime::Runtime;

use super::log::Tail;
use super::report::{Check, Report};
use crate::engine::publisher::{compile, states_files};

/// Memory of the comparison of one view; beyond it, it spills.
const MEMORY_BYTES: usize = 512 << 20;

const DROP: &str = "drop the view and create it again; please report this with the difference";

/// Compares views, one after the other.
pub struct Deep {
    runtime: Runtime,
    task: Arc<TaskContext>,
    partitions: usize,
    _spill: tempfile::TempDir,
}

type Plan = Arc<dyn ExecutionPlan>;

/// One view with all its events.
struct Whole<'a> {
    view: Arc<View>,
    state: &'a ViewState,
    stream: &'a StreamState,
    tail: &'a Tail,
    schema: SchemaRef,
    partitions: usize,
}

impl Deep {
    pub fn new(disk: &Arc<Disk>, runtime: Runtime) -> anyhow::Result<Self> {
        let spill = tempfile::tempdir().context("make a folder to spill to")?;
        let env = runtime_env(disk, Arc::new(BatchPool::new(MEMORY_BYTES)), spill.path())?;
        let partitions = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let context = SessionContext::new_with_config_rt(session_config(partitions), env);
        Ok(Self {
            runtime,
            task: context.task_ctx(),
            partitions,
            _spill: spill,
        })
    }

    /// `tail` is there if all events of the stream are.
    pub fn check(
        &self,
        state: &ViewState,
        stream: &StreamState,
        tail: Option<&Tail>,
        are_states_sound: bool,
        report: &mut Report,
    ) {
        let mut check = Check::new("view", &state.name);
        match tail {
            Some(_) if !are_states_sound => {
                let reason = "its stored states are damaged; nothing is served from them";
                check.unchecked.push(reason.to_owned());
            }
            Some(tail) => match self.compare(state, stream, tail, &mut check) {
                Ok(found) => {
                    for difference in found {
                        let Difference {
                            key,
                            column,
                            left,
                            right,
                        } = difference;
                        let problem = format!("{key} {column}: stored {left}, computed {right}");
                        check.found(&state.folder(), problem, DROP);
                    }
                }
                Err(error) => check.unchecked.push(format!("{error:#}")),
            },
            None => {
                let reason = format!("the events of its stream {} are damaged", state.stream);
                check.unchecked.push(reason);
            }
        }
        report.add(check);
    }

    fn compare(
        &self,
        state: &ViewState,
        stream: &StreamState,
        tail: &Tail,
        check: &mut Check,
    ) -> anyhow::Result<Vec<Difference>> {
        let view = Arc::new(compile(state)?);
        if view.definition_hash() != state.definition_hash {
            let note = "its states are of another engine version and not used; nothing to compare";
            check.notes.push(note.to_owned());
            return Ok(Vec::new());
        }
        check.amount.files = (states_files(state).count() + stream.files.len()) as u64;
        let flushed: u64 = stream.files.iter().map(|file| file.rows).sum();
        let waiting: usize = tail.events.iter().map(RecordBatch::num_rows).sum();
        check.amount.rows = flushed + waiting as u64;
        check.amount.bytes = states_files(state).map(|file| file.bytes).sum::<u64>()
            + stream.files.iter().map(|file| file.bytes).sum::<u64>();
        let whole = Whole {
            schema: tail.definition.stored_schema(),
            view,
            state,
            stream,
            tail,
            partitions: self.partitions,
        };
        let (stored, scratch) = (whole.stored()?, whole.direct_pass()?);
        let compared = compare(&whole.view, stored, scratch, &self.task);
        let mut found = self.runtime.block_on(compared)?.differences;
        if let Some((rows, states)) = whole.finished_rows()? {
            let finished = whole.view.finish(states)?;
            let compared = compare_finished(&whole.view, rows, finished, &self.task);
            found.extend(self.runtime.block_on(compared)?.differences);
        }
        Ok(found)
    }
}

impl Whole<'_> {
    fn stored(&self) -> anyhow::Result<Arc<dyn ExecutionPlan>> {
        let mut inputs = Vec::new();
        let files: Vec<_> = states_files(self.state).cloned().collect();
        let states = self.view.states_schema();
        inputs.push(ParquetScan::of(&scan_files(&files), &states, self.partitions).plan()?);
        let from = self.state.batch_cut(self.stream.definition.shards);
        let flushed = CutRange::new(from, self.stream.cut.clone());
        let panes: Vec<_> = self.state.panes.iter().map(|p| p.range.clone()).collect();
        for gap in gaps(&flushed, &panes) {
            inputs.push(self.view.map(self.master_rows(Some(&gap))?)?);
        }
        inputs.push(self.view.map(self.tail_rows()?)?);
        Ok(UnionExec::try_new(inputs)?)
    }

    /// The finished rows of the version, and the states beside them.
    fn finished_rows(&self) -> anyhow::Result<Option<(Plan, Plan)>> {
        let Some(version) = &self.state.version else {
            return Ok(None);
        };
        let layout = version.finished_layout == Some(FINISHED_LAYOUT);
        let Some(finished) = self.view.finished().filter(|_| layout) else {
            return Ok(None);
        };
        let files = scan_files(&version.files);
        let rows = stored_rows(finished, &files, self.partitions)?;
        let states = ParquetScan::of(&files, &self.view.states_schema(), self.partitions).plan()?;
        Ok(Some((rows, states)))
    }

    fn direct_pass(&self) -> anyhow::Result<Arc<dyn ExecutionPlan>> {
        let rows = vec![self.master_rows(None)?, self.tail_rows()?];
        Ok(self.view.map(UnionExec::try_new(rows)?)?)
    }

    /// The columns that the view reads, of all master rows or of those in a range.
    fn master_rows(&self, range: Option<&CutRange>) -> anyhow::Result<Arc<dyn ExecutionPlan>> {
        let folder = self.stream.definition.master_folder();
        let is_needed = |it: &CutRange| range.is_none_or(|range| range.overlaps(it));
        let files = self.stream.files.iter().filter(|f| is_needed(&f.range));
        let files: Vec<_> = files.map(|f| ScanFile::of_master(&folder, f)).collect();
        let predicate = range
            .map(|range| in_range(&self.schema, range))
            .transpose()?;
        let indices = self.indices()?;
        let scan = ParquetScan::of(&files, &self.schema, self.partitions)
            .columns(Some(&indices))
            .matching(predicate)
            .plan()?;
        Ok(cast_to(scan, &self.view.input_schema())?)
    }

    fn tail_rows(&self) -> anyhow::Result<Arc<dyn ExecutionPlan>> {
        let batches = self.tail.events.iter();
        let batches = batches
            .map(|batch| adapt(batch, &self.schema))
            .collect::<Result<Vec<_>, _>>()?;
        let indices = self.indices()?;
        let schema = Arc::clone(&self.schema);
        let rows = MemorySourceConfig::try_new_exec(&[batches], schema, Some(indices))?;
        Ok(cast_to(rows, &self.view.input_schema())?)
    }

    fn indices(&self) -> anyhow::Result<Vec<usize>> {
        let input = self.view.input_schema();
        let fields = input.fields().iter();
        let indices = fields.map(|field| self.schema.index_of(field.name()));
        Ok(indices.collect::<Result<_, _>>()?)
    }
}
