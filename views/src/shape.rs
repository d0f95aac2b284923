//! The shape of plan a view may have, checked before any rule has touched it.
//!
//! ```text
//!     Projection, Sort, Limit, Filter (HAVING), Window, Distinct, alias     run at the answer
//!       Aggregate                                                      map, combine, finish
//!         Projection, Filter (WHERE), alias                                            map
//!           one scan of one stream
//! ```
//!
//! An allow-list: what is not named here is refused. Functions must be immutable in all of
//! it, which can only be seen now: a later rule replaces `now()` by the time of planning.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Aggregate, Distinct, Expr, LogicalPlan, Volatility};

use crate::ViewError;
use crate::aggregates::{call_of, check_call};

/// Turns `SELECT DISTINCT a, b FROM s` into a GROUP BY over its columns: the same rows.
pub(crate) fn distinct_as_group_by(plan: LogicalPlan) -> Result<LogicalPlan, ViewError> {
    if find_aggregate(&plan).is_some() {
        return Ok(plan);
    }
    match &plan {
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let columns = input
                .schema()
                .columns()
                .into_iter()
                .map(Expr::Column)
                .collect();
            let aggregate = Aggregate::try_new(Arc::clone(input), columns, vec![])?;
            Ok(LogicalPlan::Aggregate(aggregate))
        }
        LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => {
            let input = distinct_as_group_by(plan.inputs()[0].clone())?;
            Ok(plan.with_new_exprs(plan.expressions(), vec![input])?)
        }
        _ => Ok(plan),
    }
}

/// The uppermost Aggregate on the way down a plan with one leaf.
pub(crate) fn find_aggregate(plan: &LogicalPlan) -> Option<&Aggregate> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => Some(aggregate),
        LogicalPlan::Subquery(_) => None,
        _ => match plan.inputs().as_slice() {
            [input] => find_aggregate(input),
            _ => None,
        },
    }
}

/// The same plan with its uppermost Aggregate replaced.
pub(crate) fn replace_aggregate(
    plan: &LogicalPlan,
    replacement: LogicalPlan,
) -> Result<LogicalPlan, ViewError> {
    if matches!(plan, LogicalPlan::Aggregate(_)) {
        return Ok(replacement);
    }
    match plan.inputs().as_slice() {
        [input] => {
            let input = replace_aggregate(input, replacement)?;
            Ok(plan.with_new_exprs(plan.expressions(), vec![input])?)
        }
        _ => Err(ViewError::refused(
            "the plan has no single way down",
            HINT_SHAPE,
        )),
    }
}

const HINT_SHAPE: &str =
    "a view is SELECT ... FROM stream [WHERE] [GROUP BY] [HAVING] [ORDER BY] [LIMIT]";

/// Refuses every plan that is not of the shape above. `plan` is the unoptimised plan.
pub(crate) fn check(plan: &LogicalPlan) -> Result<(), ViewError> {
    check_above(plan)
}

fn check_above(plan: &LogicalPlan) -> Result<(), ViewError> {
    check_expressions(plan)?;
    match plan {
        LogicalPlan::Aggregate(aggregate) => {
            for expr in &aggregate.aggr_expr {
                if let Some(call) = call_of(expr) {
                    check_call(call, aggregate.input.schema())?;
                }
            }
            check_below(&aggregate.input)
        }
        LogicalPlan::TableScan(_) => Err(ViewError::refused(
            "a view aggregates, and this SELECT has no aggregate and no GROUP BY",
            "query the stream directly",
        )),
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::SubqueryAlias(_) => check_above(plan.inputs()[0]),
        LogicalPlan::Window(_) if find_aggregate(plan).is_some() => check_above(plan.inputs()[0]),
        other => Err(not_allowed(other)),
    }
}

fn check_below(plan: &LogicalPlan) -> Result<(), ViewError> {
    check_expressions(plan)?;
    match plan {
        LogicalPlan::TableScan(_) => Ok(()),
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => {
            check_below(plan.inputs()[0])
        }
        LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) => Err(ViewError::refused(
            "an aggregate over another aggregate or DISTINCT cannot be kept up to date",
            "make the inner SELECT the view, and aggregate again when you query it",
        )),
        LogicalPlan::Limit(_) | LogicalPlan::Sort(_) => Err(ViewError::refused(
            "ORDER BY or LIMIT below an aggregate cannot be kept up to date",
            "use ORDER BY inside the aggregate, or at the end of the view",
        )),
        other => Err(not_allowed(other)),
    }
}

fn not_allowed(plan: &LogicalPlan) -> ViewError {
    let (what, hint) = match plan {
        LogicalPlan::Join(_) => ("a join", "join views when you query them"),
        LogicalPlan::Union(_) => (
            "UNION",
            "make one view per SELECT and unite them when you query",
        ),
        LogicalPlan::Window(_) => (
            "a window function over events",
            "use window functions over the aggregates, or when you query the view",
        ),
        LogicalPlan::Unnest(_) => ("unnest", "write one event per element"),
        LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => (
            "a SELECT without a stream",
            "add FROM with the name of a stream",
        ),
        _ => ("this statement", HINT_SHAPE),
    };
    ViewError::refused(format!("{what} is not supported in a view"), hint)
}

fn check_expressions(plan: &LogicalPlan) -> Result<(), ViewError> {
    for expr in plan.expressions() {
        let mut found = Ok(());
        expr.apply(|node| {
            found = check_expression(node);
            Ok(if found.is_err() {
                TreeNodeRecursion::Stop
            } else {
                TreeNodeRecursion::Continue
            })
        })?;
        found?;
    }
    Ok(())
}

fn check_expression(expr: &Expr) -> Result<(), ViewError> {
    match expr {
        Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable => {
            Err(ViewError::refused(
                format!("{}() gives another value at another time", f.func.name()),
                "use columns of the event, such as _ingested_at, or apply it when you query the view",
            ))
        }
        Expr::ScalarSubquery(_)
        | Expr::InSubquery(_)
        | Expr::Exists(_)
        | Expr::SetComparison(_)
        | Expr::OuterReferenceColumn(..) => Err(ViewError::refused(
            "a subquery is not supported in a view",
            "use constants, or filter when you query the view",
        )),
        Expr::Placeholder(_) | Expr::ScalarVariable(..) => Err(ViewError::refused(
            "a parameter is not supported in a view",
            "write the value",
        )),
        Expr::Unnest(_) => Err(ViewError::refused(
            "unnest is not supported in a view",
            "write one event per element",
        )),
        _ => Ok(()),
    }
}
