//! The leaf a view is planned over: a table that has columns and nothing else.
//!
//! map replaces it by the caller's rows. It hides any order or partitioning of those rows:
//! an aggregate operator that saw a useful order might turn `first_value` into a reversed
//! `last_value`, and then its states would no longer fit those of combine and finish.

use std::fmt::Formatter;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::StreamExt;

use crate::ViewError;

/// Partitions the placeholder claims while planning: more than one, so that the planner makes
/// Partial and Final operators and no repartitioning below them.
const PLANNED_PARTITIONS: usize = 2;

/// A stream as the planner sees it.
#[derive(Debug)]
pub(crate) struct StreamTable {
    pub(crate) schema: SchemaRef,
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => Arc::clone(&self.schema),
        };
        Ok(Arc::new(InputExec::placeholder(schema)))
    }
}

/// The leaf itself: a placeholder while planning, the caller's rows in [`crate::View::map`].
#[derive(Debug)]
pub(crate) struct InputExec {
    rows: Option<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
}

impl InputExec {
    fn placeholder(schema: SchemaRef) -> Self {
        Self {
            rows: None,
            properties: properties(schema, PLANNED_PARTITIONS),
        }
    }

    /// The same leaf reading `rows`. Where the plan reads no column at all (`count(*)`), the
    /// columns of `rows` are dropped and only their number is kept.
    pub(crate) fn reading(&self, rows: Arc<dyn ExecutionPlan>) -> Self {
        let partitions = rows.properties().partitioning.partition_count();
        Self {
            rows: Some(rows),
            properties: properties(self.schema(), partitions),
        }
    }
}

fn properties(schema: SchemaRef, partitions: usize) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(schema),
        Partitioning::UnknownPartitioning(partitions),
        EmissionType::Incremental,
        Boundedness::Bounded,
    ))
}

impl DisplayAs for InputExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter) -> std::fmt::Result {
        write!(f, "InputExec: {}", names(&self.schema()))
    }
}

fn names(schema: &Schema) -> String {
    schema
        .fields()
        .iter()
        .map(|f| f.name().as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

impl ExecutionPlan for InputExec {
    fn name(&self) -> &str {
        "InputExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.rows.iter().collect()
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
        match children.pop() {
            Some(rows) => Ok(Arc::new(self.reading(rows))),
            None => Ok(self),
        }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let rows = self.rows.as_ref().ok_or_else(|| {
            let detail = "no rows at all".to_owned();
            DataFusionError::External(Box::new(ViewError::Mismatch {
                step: "map",
                detail,
            }))
        })?;
        let stream = rows.execute(partition, context)?;
        let schema = self.schema();
        let width = schema.fields().len();
        let out = Arc::clone(&schema);
        let stream = stream.map(move |batch| {
            let batch = batch?;
            crate::relabel::relabelled(&batch, &out, width)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }
}
