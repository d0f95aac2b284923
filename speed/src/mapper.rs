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

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::execution::config::SessionConfig;
    use datafusion::execution::runtime_env::RuntimeEnv;

    use super::*;

    fn events(batches: &[usize]) -> Vec<RecordBatch> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let mut from = 0;
        let batch = |&rows: &usize| {
            let numbers = Int64Array::from_iter_values(from..from + rows as i64);
            from += rows as i64;
            RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(numbers)]).expect("a batch")
        };
        batches.iter().map(batch).collect()
    }

    fn mapper(cores: usize) -> Mapper {
        let config = SessionConfig::new().with_target_partitions(cores);
        let runtime = Arc::new(RuntimeEnv::default());
        let task = TaskContext::default()
            .with_session_config(config)
            .with_runtime(runtime);
        Mapper::new(Arc::new(task))
    }

    #[test]
    fn a_long_run_is_cut_in_order_and_a_short_one_is_not() {
        let runs = |cores, batches: &[usize]| -> Vec<Vec<usize>> {
            let runs = mapper(cores).runs(events(batches));
            let rows = |run: &Vec<RecordBatch>| run.iter().map(RecordBatch::num_rows).collect();
            runs.iter().map(rows).collect()
        };
        assert_eq!(runs(4, &[]), [[]; 1] as [[usize; 0]; 1]);
        assert_eq!(
            runs(4, &[RUN_ROWS, RUN_ROWS - 1]),
            [[RUN_ROWS, RUN_ROWS - 1]]
        );
        assert_eq!(runs(4, &[RUN_ROWS, RUN_ROWS]), [[RUN_ROWS], [RUN_ROWS]]);
        assert_eq!(runs(1, &[RUN_ROWS, RUN_ROWS]), [[RUN_ROWS, RUN_ROWS]]);
        assert_eq!(
            runs(2, &[RUN_ROWS, 1, RUN_ROWS, 1]),
            [[RUN_ROWS, 1], [RUN_ROWS, 1]]
        );
    }
}
