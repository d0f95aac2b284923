//! Passes rows through under other column names, and fixes settings of the run.
//!
//! Inside an aggregate operator states are named after expressions (`sum(x + 1)[sum]`), twice
//! the same if two aggregates differ only in FILTER. On disk they are `k0, k1, .. s0, s1, ..`.

use std::fmt::Formatter;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::StreamExt;

use crate::ViewError;

/// The first `width` columns of `batch` as `schema`, without copying.
pub(crate) fn relabelled(
    batch: &RecordBatch,
    schema: &SchemaRef,
    width: usize,
) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = batch.columns()[..width.min(batch.num_columns())].to_vec();
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}

#[derive(Debug)]
pub(crate) struct RelabelExec {
    input: Arc<dyn ExecutionPlan>,
    aggregate_all: bool,
    row_by_row: bool,
    sorted_by_first: usize,
    properties: Arc<PlanProperties>,
}

impl RelabelExec {
    /// `input` under the column names and nullability of `schema`. Errors if number or types
    /// of columns differ.
    pub(crate) fn try_new(input: Arc<dyn ExecutionPlan>, schema: SchemaRef) -> Result<Self> {
        let given = input.schema();
        let same = given.fields().len() == schema.fields().len()
            && given
                .fields()
                .iter()
                .zip(schema.fields())
                .all(|(a, b)| a.data_type() == b.data_type());
        if !same {
            // Not `Internal`: that is what DataFusion says of SQL it cannot carry out.
            let detail = format!("{given:?} is not {schema:?}");
            let step = "relabel";
            return Err(DataFusionError::External(Box::new(ViewError::Mismatch {
                step,
                detail,
            })));
        }
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(input.properties().partitioning.partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self {
            input,
            aggregate_all: false,
            row_by_row: false,
            sorted_by_first: 0,
            properties: Arc::new(properties),
        })
    }

    /// Makes the operators below aggregate every row, also where nearly all keys differ. A
    /// partial aggregation otherwise gives up on such rows and passes them on one by one,
    /// which suits a query but not states that are stored.
    pub(crate) fn aggregating_all(mut self) -> Self {
        self.aggregate_all = true;
        self
    }

    /// Says of the rows that they are sorted by so many leading columns: ascending, nulls first.
    pub(crate) fn sorted_by_first(mut self, columns: usize) -> Self {
        let schema = self.schema();
        let order = schema.fields().iter().enumerate().take(columns);
        let order = order.map(|(at, field)| PhysicalSortExpr {
            expr: Arc::new(Column::new(field.name(), at)),
            options: SortOptions::new(false, true),
        });
        let order = order.collect::<Vec<_>>();
        let properties = PlanProperties::clone(&self.properties);
        let order = EquivalenceProperties::new_with_orderings(schema, [order]);
        self.properties = Arc::new(properties.with_eq_properties(order));
        self.sorted_by_first = columns;
        self
    }

    /// Gives every row as a batch of its own. Some accumulators (percentile_cont without GROUP
    /// BY, in DataFusion 55.2) merge the first row of a batch of states and drop the others;
    /// DataFusion itself never gives them two.
    pub(crate) fn row_by_row(mut self) -> Self {
        self.row_by_row = true;
        self
    }
}

impl DisplayAs for RelabelExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter) -> std::fmt::Result {
        write!(f, "RelabelExec")
    }
}

impl ExecutionPlan for RelabelExec {
    fn name(&self) -> &str {
        "RelabelExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(input) = children.pop() else {
            return Ok(self);
        };
        let mut fresh = Self::try_new(input, self.schema())?;
        fresh.aggregate_all = self.aggregate_all;
        fresh.row_by_row = self.row_by_row;
        Ok(Arc::new(fresh.sorted_by_first(self.sorted_by_first)))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let context = if self.aggregate_all {
            aggregating_context(&context)
        } else {
            context
        };
        let stream = self.input.execute(partition, context)?;
        let schema = self.schema();
        let width = schema.fields().len();
        let out = Arc::clone(&schema);
        let stream = stream.map(move |batch| relabelled(&batch?, &out, width));
        if !self.row_by_row {
            return Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)));
        }
        let rows = stream.flat_map(|batch| match batch {
            Ok(batch) => {
                let rows = (0..batch.num_rows()).map(move |at| Ok(batch.slice(at, 1)));
                futures::stream::iter(rows).left_stream()
            }
            Err(error) => futures::stream::iter([Err(error)]).right_stream(),
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

fn aggregating_context(context: &TaskContext) -> Arc<TaskContext> {
    let mut config = context.session_config().clone();
    config
        .options_mut()
        .execution
        .skip_partial_aggregation_probe_ratio_threshold = 1.0;
    Arc::new(TaskContext::new(
        context.task_id(),
        context.session_id(),
        config,
        context.scalar_functions().clone(),
        context.higher_order_functions().clone(),
        context.aggregate_functions().clone(),
        context.window_functions().clone(),
        context.runtime_env(),
    ))
}
