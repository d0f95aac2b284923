//! A plan node that lets its input through: it names it in EXPLAIN, counts its rows, and may
//! look at every batch on the way, or give it memory of its own.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;

/// The rows in buffers that hold nothing else.
fn compact(batch: &RecordBatch) -> Result<RecordBatch> {
    let mut slices = 0;
    for column in batch.columns() {
        slices += column.to_data().get_slice_memory_size()?;
    }
    if get_record_batch_memory_size(batch) <= 2 * slices {
        return Ok(batch.clone());
    }
    let all = UInt32Array::from_iter_values(0..batch.num_rows() as u32);
    Ok(take_record_batch(batch, &all)?)
}

/// Sees every batch; an error ends the query with it.
pub type Watch = Arc<dyn Fn(&RecordBatch) -> Result<()> + Send + Sync>;

/// See the module.
#[derive(Clone)]
pub struct ThroughExec {
    name: &'static str,
    label: String,
    input: Arc<dyn ExecutionPlan>,
    watch: Option<Watch>,
    is_compacting: bool,
    metrics: ExecutionPlanMetricsSet,
}

impl ThroughExec {
    /// Shown as `name: label`.
    pub fn new(name: &'static str, label: String, input: Arc<dyn ExecutionPlan>) -> Self {
        Self {
            name,
            label,
            input,
            watch: None,
            is_compacting: false,
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// The same with somebody who looks at the batches.
    #[must_use]
    pub fn watched_by(mut self, watch: Watch) -> Self {
        self.watch = Some(watch);
        self
    }

    /// The same with batches that share no memory. An aggregation gives slices of all that it
    /// held; a sort counts each with the memory of all of them, and spills for nothing.
    #[must_use]
    pub fn compacting(mut self) -> Self {
        self.is_compacting = true;
        self
    }

    fn over(&self, input: Arc<dyn ExecutionPlan>) -> Self {
        Self {
            input,
            metrics: ExecutionPlanMetricsSet::new(),
            ..self.clone()
        }
    }
}

impl fmt::Debug for ThroughExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}, {:?})", self.name, self.label, self.input)
    }
}

impl DisplayAs for ThroughExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.label)
    }
}

impl ExecutionPlan for ThroughExec {
    fn name(&self) -> &str {
        self.name
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(self.over(children.remove(0))))
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    /// A scan below may split its files among more streams.
    fn repartitioned(
        &self,
        target_partitions: usize,
        config: &ConfigOptions,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let input = self.input.repartitioned(target_partitions, config)?;
        Ok(input.map(|input| Arc::new(self.over(input)) as Arc<dyn ExecutionPlan>))
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    /// Filters that a join or a LIMIT above learns while it runs reach the scan below.
    fn gather_filters_for_pushdown(
        &self,
        _phase: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _config: &ConfigOptions,
    ) -> Result<FilterDescription> {
        FilterDescription::from_children(parent_filters, &self.children())
    }

    fn handle_child_pushdown_result(
        &self,
        _phase: FilterPushdownPhase,
        child_pushdown_result: ChildPushdownResult,
        _config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::if_all(child_pushdown_result))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let rows = MetricBuilder::new(&self.metrics).output_rows(partition);
        let watch = self.watch.clone();
        let is_compacting = self.is_compacting;
        let stream = self.input.execute(partition, context)?.map(move |batch| {
            let batch = batch?;
            if let Some(watch) = &watch {
                watch(&batch)?;
            }
            rows.add(batch.num_rows());
            match is_compacting {
                true => compact(&batch),
                false => Ok(batch),
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            stream,
        )))
    }
}
