//! Constants are computed once, not per event.
//!
//! Some aggregates insist on a literal (`nth_value(x, 1 + 1)` must be given a 2), and a filter
//! should not parse its timestamp for every batch. DataFusion's simplifier does both, but as a
//! rule over the whole plan it also rewrites aggregates into expressions over other
//! aggregates, which cannot be split any more. So it is given arguments and the plan below.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Aggregate, Expr};
use datafusion::optimizer::optimizer::Optimizer;
use datafusion::optimizer::simplify_expressions::{ExprSimplifier, SimplifyExpressions};

use crate::aggregates::call_of;

/// The same analysed aggregate with constants folded, under the same column names.
pub(crate) fn fold_constants(aggregate: &Aggregate, state: &SessionState) -> Result<Aggregate> {
    let below = Optimizer::with_rules(vec![Arc::new(SimplifyExpressions::new())]);
    let input = below.optimize(aggregate.input.as_ref().clone(), state, |_, _| {})?;
    let context = SimplifyContext::builder()
        .with_schema(Arc::clone(input.schema()))
        .with_config_options(Arc::clone(state.config_options()))
        .build();
    let simplifier = ExprSimplifier::new(context);
    let aggr_expr = aggregate
        .aggr_expr
        .iter()
        .map(|expr| fold_call(expr, &simplifier))
        .collect::<Result<Vec<_>>>()?;
    Aggregate::try_new(Arc::new(input), aggregate.group_expr.clone(), aggr_expr)
}

fn fold_call(expr: &Expr, simplifier: &ExprSimplifier) -> Result<Expr> {
    let Some(call) = call_of(expr) else {
        return Ok(expr.clone());
    };
    let mut call = call.clone();
    let mut changed = false;
    let mut fold = |expr: &mut Expr| -> Result<()> {
        let Transformed {
            data, transformed, ..
        } = simplifier
            .simplify_with_cycle_count_transformed(expr.clone())?
            .0;
        *expr = data;
        changed |= transformed;
        Ok(())
    };
    for arg in &mut call.params.args {
        fold(arg)?;
    }
    if let Some(filter) = &mut call.params.filter {
        fold(filter)?;
    }
    for sort in &mut call.params.order_by {
        fold(&mut sort.expr)?;
    }
    if !changed {
        return Ok(expr.clone());
    }
    let (relation, name) = expr.qualified_name();
    Ok(Expr::AggregateFunction(call).alias_qualified(relation, name))
}
