//! Runs map and combine over batches in memory, within the speed layer's own memory pool.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, collect};
use lambdalake_data::schema::adapt;
use lambdalake_views::View;

use crate::error::SpeedError;

/// States up to this many rows are kept as one batch of their own buffers; beyond it the
/// copy costs more than it saves.
const COMPACTED_ROWS: usize = 1 << 20;

/// Events that are worth a task of their own.
const RUN_ROWS: usize = 65_536;

/// Maps events to states and combines states, on whatever runtime awaits it.
#[derive(Debug, Clone)]
pub struct Mapper {
    task: Arc<TaskContext>,
}

impl Mapper {
    /// `task` carries the memory pool; it must be finite, or combine cannot spill.
    pub fn new(task: Arc<TaskContext>) -> Self {
        Self { task }
    }

    /// The context plans run in, for reading stored states in the same pool.
    pub fn task(&self) -> Arc<TaskContext> {
        Arc::clone(&self.task)
    }

    /// The states of `events` (stored columns of any schema id), usually a row per key.
    pub async fn map(
        &self,
        view: &View,
        events: &[RecordBatch],
    ) -> Result<Vec<RecordBatch>, SpeedError> {
        let schema = view.input_schema();
        let input = events
            .iter()
            .map(|batch| adapt(batch, &schema))
            .collect::<Result<Vec<_>, _>>()?;
        let runs = self.runs(input);
        let input = MemorySourceConfig::try_new_exec(&runs, schema, None)?;
        let plan = view.combine(view.map(input)?)?;
        self.run(plan).await
    }

    /// Cuts a long run of events into as many as can be mapped at the same time.
    fn runs(&self, events: Vec<RecordBatch>) -> Vec<Vec<RecordBatch>> {
        let rows: usize = events.iter().map(RecordBatch::num_rows).sum();
        let most = self.task.session_config().target_partitions();
        let runs = (rows / RUN_ROWS).clamp(1, most);
        let mut cut = vec![Vec::new(); runs];
        let mut before = 0;
        for batch in events {
            let run = (before * runs / rows.max(1)).min(runs - 1);
            before += batch.num_rows();
            cut[run].push(batch);
        }
        cut
    }

    /// The same states in fewer rows.
    pub async fn combine(
        &self,
        view: &View,
        states: Vec<RecordBatch>,
    ) -> Result<Vec<RecordBatch>, SpeedError> {
        let plan = view.combine(memory(states, &view.states_schema())?)?;
        self.run(plan).await
    }

    async fn run(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Vec<RecordBatch>, SpeedError> {
        let schema = plan.schema();
        let batches = collect(plan, Arc::clone(&self.task)).await?;
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        match rows {
            0 => Ok(Vec::new()),
            rows if rows <= COMPACTED_ROWS => Ok(vec![concat_batches(&schema, &batches)?]),
            _ => Ok(batches),
        }
    }
}

/// A plan over batches in memory, in one partition.
pub fn memory(
    batches: Vec<RecordBatch>,
    schema: &SchemaRef,
) -> Result<Arc<dyn ExecutionPlan>, SpeedError> {
    let plan: Arc<dyn ExecutionPlan> =
        MemorySourceConfig::try_new_exec(&[batches], Arc::clone(schema), None)?;
    Ok(plan)
}
