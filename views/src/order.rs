//! A total order for aggregates that depend on the order of events.
//!
//! `first_value(x ORDER BY ts)` has several right answers when two events share `ts`, and
//! batch and speed would each pick their own. Every event has a position, `(_shard, _offset)`,
//! which nothing else has; appended to the ORDER BY (or supplied where there is none) it
//! leaves one right answer, the same for every split.
//!
//! `array_agg(DISTINCT x)` and `string_agg(DISTINCT x, ..)` may only be ordered by `x`: two
//! equal values are one element, so `ORDER BY x` is total already, and is supplied.

use std::sync::Arc;

use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment, Sort};
use datafusion::logical_expr::{
    Aggregate, AggregateUDF, Expr, LogicalPlan, Projection, SubqueryAlias,
};

use crate::aggregates::{call_of, rule_for};
use crate::{OFFSET, SHARD, ViewError};

/// The same aggregate with every order-dependent call totally ordered. Output columns keep
/// their names. `first_value` stands in for `any_value`, which takes no order.
pub(crate) fn total_order(
    aggregate: &Aggregate,
    first_value: &Arc<AggregateUDF>,
) -> Result<Aggregate, ViewError> {
    let mut positioned = false;
    for call in aggregate.aggr_expr.iter().filter_map(call_of) {
        positioned |= rule_for(call.func.name())?.order_dependent && !call.params.distinct;
    }
    let input = if positioned {
        Arc::new(with_position(&aggregate.input)?)
    } else {
        Arc::clone(&aggregate.input)
    };
    let aggr_expr = aggregate
        .aggr_expr
        .iter()
        .map(|expr| ordered(expr, input.schema(), first_value))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Aggregate::try_new(
        input,
        aggregate.group_expr.clone(),
        aggr_expr,
    )?)
}

fn ordered(
    expr: &Expr,
    input: &DFSchema,
    first_value: &Arc<AggregateUDF>,
) -> Result<Expr, ViewError> {
    let Some(call) = call_of(expr) else {
        return Ok(expr.clone());
    };
    if !rule_for(call.func.name())?.order_dependent {
        return Ok(expr.clone());
    }
    let mut call: AggregateFunction = call.clone();
    if call.params.distinct {
        if call.params.order_by.is_empty()
            && let Some(argument) = call.params.args.first().cloned()
        {
            call.params.order_by.push(Sort::new(argument, true, false));
        }
    } else {
        for name in [SHARD, OFFSET] {
            let column = Expr::Column(position_column(input, name)?);
            if !call.params.order_by.iter().any(|sort| sort.expr == column) {
                call.params.order_by.push(Sort::new(column, true, false));
            }
        }
    }
    if call.func.name() == "any_value" {
        call.func = Arc::clone(first_value);
        call.params.null_treatment = Some(NullTreatment::IgnoreNulls);
    }
    let (relation, name) = expr.qualified_name();
    Ok(Expr::AggregateFunction(call).alias_qualified(relation, name))
}

fn position_column(input: &DFSchema, name: &str) -> Result<Column, ViewError> {
    let mut found = input.columns_with_unqualified_name(name).into_iter();
    match (found.next(), found.next()) {
        (Some(column), None) => Ok(column),
        _ => Err(ViewError::refused(
            format!("an aggregate that depends on the order of events needs the column {name}"),
            format!("do not give the name {name} to another column"),
        )),
    }
}

/// The plan below the aggregate with the position columns kept through its projections.
fn with_position(plan: &LogicalPlan) -> Result<LogicalPlan, ViewError> {
    match plan {
        LogicalPlan::Projection(projection) => {
            let input = with_position(&projection.input)?;
            let mut exprs = projection.expr.clone();
            for name in [SHARD, OFFSET] {
                let column = position_column(input.schema(), name)?;
                let named = exprs.iter().find(|e| e.qualified_name().1 == name);
                match named {
                    Some(Expr::Column(same)) if *same == column => {}
                    Some(_) => {
                        return Err(ViewError::refused(
                            format!("{name} is a hidden column of every stream"),
                            format!("do not give the name {name} to another column"),
                        ));
                    }
                    None => exprs.push(Expr::Column(column)),
                }
            }
            Ok(LogicalPlan::Projection(Projection::try_new(
                exprs,
                Arc::new(input),
            )?))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let input = with_position(&alias.input)?;
            let alias = SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?;
            Ok(LogicalPlan::SubqueryAlias(alias))
        }
        LogicalPlan::Filter(filter) => {
            let input = with_position(&filter.input)?;
            Ok(plan.with_new_exprs(vec![filter.predicate.clone()], vec![input])?)
        }
        other => Ok(other.clone()),
    }
}
