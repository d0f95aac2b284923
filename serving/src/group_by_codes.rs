//! Plans that group by one column through its codes.
//!
//! ```text
//!   before parsing into a plan   which columns the query groups by      → scans read them as
//!                                                                          dictionaries
//!   after all other rules        AggregateExec (Partial) over a union   → CodedAggregateExec over
//!                                                                          each side with codes
//! ```

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::{Aggregate, Distinct, Expr, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, InputOrderMode};

use crate::coded_aggregate::{Aggregates, CodedAggregate, has_codes};

/// Names of the columns by which a query groups. A name that several tables have may mean another
/// one: what it says is only how a column had better be read.
pub(crate) struct GroupedColumns(HashSet<String>);

impl GroupedColumns {
    pub fn of(plan: &LogicalPlan) -> Result<Self> {
        let mut names = HashSet::new();
        plan.apply_with_subqueries(|node| {
            if let Some(Expr::Column(column)) = only_key(node) {
                names.insert(column.name.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(Self(names))
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// What a plan node groups by, if it is one expression.
fn only_key(node: &LogicalPlan) -> Option<&Expr> {
    match node {
        LogicalPlan::Aggregate(Aggregate {
            group_expr,
            aggr_expr,
            ..
        }) => match (group_expr.as_slice(), aggr_expr.as_slice()) {
            ([key], _) => Some(key),
            // `count(DISTINCT x)` becomes a count of groups.
            ([], [Expr::AggregateFunction(function)]) if function.params.distinct => {
                match function.params.args.as_slice() {
                    [key] => Some(key),
                    _ => None,
                }
            }
            _ => None,
        },
        LogicalPlan::Distinct(Distinct::All(input)) => match input.as_ref() {
            LogicalPlan::Projection(projection) => match projection.expr.as_slice() {
                [key] => Some(key),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// See the module. Comes after all other rules.
#[derive(Debug)]
pub(crate) struct GroupByCodes;

impl PhysicalOptimizerRule for GroupByCodes {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let coded = node.downcast_ref::<AggregateExec>().map(by_codes);
            match coded.transpose()?.flatten() {
                Some(coded) => Ok(Transformed::yes(coded)),
                None => Ok(Transformed::no(node)),
            }
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "group_by_codes"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The same states, of the sides that have codes by their codes; `None` if none has.
fn by_codes(aggregate: &AggregateExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(key) = key_of(aggregate) else {
        return Ok(None);
    };
    let input = aggregate.input();
    let sides = match input.downcast_ref::<UnionExec>() {
        Some(union) => union.inputs().as_slice(),
        None => std::slice::from_ref(input),
    };
    let mut any = false;
    let mut states: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
    for side in sides {
        if let Some((side, key)) = with_codes(aggregate, side, key)? {
            any = true;
            let aggregates = Aggregates {
                key,
                functions: aggregate.aggr_expr().into(),
                filters: aggregate.filter_expr().into(),
            };
            states.push(Arc::new(CodedAggregate::new(
                side,
                aggregates,
                aggregate.schema(),
            )));
        } else {
            states.push(Arc::new(AggregateExec::try_new(
                AggregateMode::Partial,
                aggregate.group_expr().clone(),
                aggregate.aggr_expr().to_vec(),
                aggregate.filter_expr().to_vec(),
                Arc::clone(side),
                aggregate.input_schema(),
            )?));
        }
    }
    Ok(match (any, states.len()) {
        (false, _) => None,
        (true, 1) => states.pop(),
        (true, _) => Some(UnionExec::try_new(states)?),
    })
}

/// The only key of a first step that [`CodedAggregate`] can do as well.
fn key_of(aggregate: &AggregateExec) -> Option<&Arc<dyn PhysicalExpr>> {
    let groups = aggregate.group_expr();
    let ([(key, _)], true) = (groups.expr(), groups.is_single()) else {
        return None;
    };
    let mut functions = aggregate.aggr_expr().iter();
    let plain = *aggregate.mode() == AggregateMode::Partial
        && *aggregate.input_order_mode() == InputOrderMode::Linear
        && aggregate.limit_options().is_none()
        && functions.all(|function| {
            !function.is_distinct()
                && function.order_bys().is_empty()
                && function.groups_accumulator_supported()
        });
    plain.then_some(key)
}

/// The side and the key over it, if it has codes for the key.
#[expect(clippy::type_complexity, reason = "a plan and an expression over it")]
fn with_codes(
    aggregate: &AggregateExec,
    side: &Arc<dyn ExecutionPlan>,
    key: &Arc<dyn PhysicalExpr>,
) -> Result<Option<(Arc<dyn ExecutionPlan>, Arc<dyn PhysicalExpr>)>> {
    let data_type = key.data_type(&side.schema())?;
    if has_codes(&data_type) {
        return Ok(Some((Arc::clone(side), Arc::clone(key))));
    }
    let (Some(column), Some(projection)) = (
        key.downcast_ref::<Column>(),
        side.downcast_ref::<ProjectionExec>(),
    ) else {
        return Ok(None);
    };
    if data_type != DataType::Utf8 || reads(aggregate, column.index()) {
        return Ok(None);
    }
    let mut columns = projection.expr().to_vec();
    let Some(cast) = columns[column.index()].expr.downcast_ref::<CastExpr>() else {
        return Ok(None);
    };
    let codes = Arc::clone(cast.expr());
    let codes_type = codes.data_type(&projection.input().schema())?;
    let is_text = matches!(&codes_type, DataType::Dictionary(_, of) if **of == DataType::Utf8);
    if !is_text || !has_codes(&codes_type) {
        return Ok(None);
    }
    let name = columns[column.index()].alias.clone();
    columns[column.index()] = ProjectionExpr::new(codes, name);
    let side = ProjectionExec::try_new(columns, Arc::clone(projection.input()))?;
    Ok(Some((Arc::new(side), Arc::clone(key))))
}

/// Whether a function or its filter reads this column.
fn reads(aggregate: &AggregateExec, column: usize) -> bool {
    let arguments = aggregate.aggr_expr().iter().flat_map(|it| it.expressions());
    let filters = aggregate.filter_expr().iter().flatten().cloned();
    arguments
        .chain(filters)
        .any(|expr| collect_columns(&expr).iter().any(|it| it.index() == column))
}
