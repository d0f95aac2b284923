//! From finished rows to the view's columns, and filters from the query down to states.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::provider_as_source;
use datafusion::error::Result;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, Volatility};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};

use crate::ViewError;
use crate::plan::{Steps, check_columns};
use crate::shape::replace_aggregate;

/// Name of the scan of finished rows in the answer plan.
const FINISHED: &str = "finished";

/// The part of `analysed` above its aggregate, over a scan of `finished`. A projection gives
/// the columns the names and qualifiers by which the upper part knows them.
pub(crate) fn answer_plan(
    analysed: &LogicalPlan,
    aggregate: &Aggregate,
    steps: &Steps,
    finished: Arc<dyn TableProvider>,
) -> std::result::Result<LogicalPlan, ViewError> {
    check_columns("answer", &steps.aggregate_schema, &finished.schema())?;
    let names = aggregate.schema.iter().map(|(qualifier, field)| {
        Expr::Column(Column::new(Some(FINISHED), field.name()))
            .alias_qualified(qualifier.cloned(), field.name())
    });
    let scan = LogicalPlanBuilder::scan(FINISHED, provider_as_source(finished), None)?
        .project(names.collect::<Vec<_>>())?
        .build()?;
    replace_aggregate(analysed, scan)
}

/// `filter` over finished rows as a predicate over states, where the two mean the same: it
/// reads at least one column, only plain group keys, and only immutable functions.
pub(crate) fn key_filter(steps: &Steps, filter: &Expr) -> Option<Arc<dyn PhysicalExpr>> {
    if steps.has_grouping_sets {
        return None;
    }
    let schema: &SchemaRef = &steps.aggregate_schema;
    let key_of = |name: &str| {
        schema
            .fields()
            .iter()
            .take(steps.key_columns)
            .position(|f| f.name() == name)
    };
    let mut keys_read = 0;
    let mut plain = true;
    filter
        .apply(|node| {
            match node {
                Expr::Column(column) if key_of(&column.name).is_some() => keys_read += 1,
                Expr::ScalarFunction(f) => {
                    plain &= f.func.signature().volatility == Volatility::Immutable;
                }
                Expr::Column(_)
                | Expr::AggregateFunction(_)
                | Expr::WindowFunction(_)
                | Expr::Placeholder(_)
                | Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::SetComparison(_)
                | Expr::OuterReferenceColumn(..) => plain = false,
                _ => {}
            }
            Ok(if plain {
                TreeNodeRecursion::Continue
            } else {
                TreeNodeRecursion::Stop
            })
        })
        .ok()?;
    if !plain || keys_read == 0 {
        return None;
    }
    over_states(steps, filter, key_of).ok()
}

fn over_states(
    steps: &Steps,
    filter: &Expr,
    key_of: impl Fn(&str) -> Option<usize>,
) -> Result<Arc<dyn PhysicalExpr>> {
    let renamed = filter
        .clone()
        .transform(|node| {
            Ok(match &node {
                Expr::Column(column) => match key_of(&column.name) {
                    Some(at) => Transformed::yes(Expr::Column(Column::new_unqualified(
                        steps.states_schema.field(at).name(),
                    ))),
                    None => Transformed::no(node),
                },
                _ => Transformed::no(node),
            })
        })
        .data()?;
    let schema = DFSchema::try_from(Arc::clone(&steps.states_schema))?;
    create_physical_expr(
        &renamed,
        &schema,
        &ExecutionProps::new(),
        &PhysicalPlanningContext::default(),
    )
}
