//! Hidden columns beside the aggregates, so that the audit can judge rounding soundly.
//!
//! A sum of floats near zero may be the rest of large terms that cancelled: two right answers
//! then differ by any factor. What bounds the error is the sum of magnitudes, not the result.
//! So each float aggregate carries its scale as one more aggregate, computed by the same three
//! verbs and never shown:
//!
//! ```text
//!     sum(x)                   sum(|x|)
//!     avg(x)                   avg(|x|), of DISTINCT: max(|x|)
//!     var, stddev              avg(x²)                            compared as variance
//!     covar, regr_sxy, ..      mean or sum of x², y² over the pairs
//!     slope, corr, r2, ..      and the two variances, for the condition of the quotient
//!     t-digests                count, min, max, compared exactly
//! ```

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::session_state::SessionState;
use datafusion::functions::expr_fn::abs;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, AggregateUDF, Expr, cast, when};

use crate::aggregates::call_of;
use crate::{AggregateInfo, Class};

/// Prefix of hidden columns in [`crate::View::aggregate_schema`].
pub(crate) const HIDDEN_PREFIX: &str = "_audit_";

/// How two values of one aggregate are compared. Numbers are places among the hidden columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judge {
    /// Bit for bit.
    Exact,
    /// The error is at most proportional to the hidden column.
    Scale(usize),
    /// As `Scale`, for the squares of the two values.
    Squared(usize),
    /// Proportional to the root of the hidden column.
    Root(usize),
    /// Proportional to the root of the product of two hidden columns.
    RootOfProduct(usize, usize),
    /// A quotient over pairs: mean squares and variances of x and y.
    Quotient {
        of: Quotient,
        mean_squares: [usize; 2],
        variances: [usize; 2],
    },
    /// Between two hidden columns, the smallest and the largest value.
    Between(usize, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quotient {
    Slope,
    Intercept,
    Correlation,
}

/// How a hidden column is itself compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HiddenKind {
    /// Bit for bit (counts, extremes).
    Exact,
    /// A sum or mean of magnitudes: it is its own scale.
    Magnitude,
    /// A variance, only used to judge others.
    Aside,
}

/// The aggregate with hidden columns appended, and how to judge what.
pub(crate) struct Scaled {
    pub(crate) aggregate: Aggregate,
    /// One per visible aggregate.
    pub(crate) judges: Vec<Judge>,
    /// One per hidden aggregate.
    pub(crate) hidden: Vec<HiddenKind>,
}

/// Appends hidden aggregates to an analysed aggregate whose calls are described by `infos`.
pub(crate) fn with_scales(
    aggregate: &Aggregate,
    infos: &[AggregateInfo],
    state: &SessionState,
) -> Result<Scaled> {
    let mut hidden = Hidden {
        state,
        exprs: vec![],
        kinds: vec![],
    };
    let mut judges = Vec::with_capacity(infos.len());
    for (expr, info) in aggregate.aggr_expr.iter().zip(infos) {
        let judge = match call_of(expr) {
            Some(call) if info.class == Class::Float => hidden.for_float(call)?,
            Some(call) if info.class == Class::Sketch => hidden.for_sketch(call)?,
            _ => Judge::Exact,
        };
        judges.push(judge);
    }
    let mut aggr_expr = aggregate.aggr_expr.clone();
    for (at, expr) in hidden.exprs.iter().enumerate() {
        aggr_expr.push(expr.clone().alias(format!("{HIDDEN_PREFIX}{at}")));
    }
    let aggregate = Aggregate::try_new(
        Arc::clone(&aggregate.input),
        aggregate.group_expr.clone(),
        aggr_expr,
    )?;
    Ok(Scaled {
        aggregate,
        judges,
        hidden: hidden.kinds,
    })
}

struct Hidden<'a> {
    state: &'a SessionState,
    exprs: Vec<Expr>,
    kinds: Vec<HiddenKind>,
}

impl Hidden<'_> {
    fn for_float(&mut self, call: &AggregateFunction) -> Result<Judge> {
        let args = &call.params.args;
        let (Some(first), second) = (args.first().cloned(), args.get(1).cloned()) else {
            return Ok(Judge::Exact);
        };
        let name = call.func.name();
        let Some(second) = second else {
            let x = cast(first, DataType::Float64);
            let distinct = call.params.distinct;
            let square = x.clone() * x.clone();
            return Ok(match name {
                "sum" => Judge::Scale(self.magnitude("sum", abs(x), call)?),
                "avg" if distinct => Judge::Scale(self.magnitude("max", abs(x), call)?),
                "avg" => Judge::Scale(self.magnitude("avg", abs(x), call)?),
                "stddev" | "stddev_pop" => Judge::Squared(self.magnitude("avg", square, call)?),
                _ => Judge::Scale(self.magnitude("avg", square, call)?),
            });
        };
        // regr_* take (y, x); for the symmetric ones the roles do not matter.
        let y = paired(first.clone(), &second)?;
        let x = paired(second, &first)?;
        let (xx, yy) = (x.clone() * x.clone(), y.clone() * y.clone());
        Ok(match name {
            "regr_avgx" => Judge::Root(self.magnitude("avg", xx, call)?),
            "regr_avgy" => Judge::Root(self.magnitude("avg", yy, call)?),
            "regr_sxx" => Judge::Scale(self.magnitude("sum", xx, call)?),
            "regr_syy" => Judge::Scale(self.magnitude("sum", yy, call)?),
            "regr_sxy" => Judge::RootOfProduct(
                self.magnitude("sum", xx, call)?,
                self.magnitude("sum", yy, call)?,
            ),
            "covar_samp" | "covar_pop" => Judge::RootOfProduct(
                self.magnitude("avg", xx, call)?,
                self.magnitude("avg", yy, call)?,
            ),
            _ => {
                let mean_squares = [
                    self.magnitude("avg", xx, call)?,
                    self.magnitude("avg", yy, call)?,
                ];
                let variances = [
                    self.add("var_pop", x, call, HiddenKind::Aside)?,
                    self.add("var_pop", y, call, HiddenKind::Aside)?,
                ];
                let of = match name {
                    "regr_slope" => Quotient::Slope,
                    "regr_intercept" => Quotient::Intercept,
                    _ => Quotient::Correlation,
                };
                Judge::Quotient {
                    of,
                    mean_squares,
                    variances,
                }
            }
        })
    }

    fn for_sketch(&mut self, call: &AggregateFunction) -> Result<Judge> {
        let Some(x) = call.params.args.first().cloned() else {
            return Ok(Judge::Exact);
        };
        self.add("count", x.clone(), call, HiddenKind::Exact)?;
        let least = self.add("min", x.clone(), call, HiddenKind::Exact)?;
        let most = self.add("max", x, call, HiddenKind::Exact)?;
        Ok(Judge::Between(least, most))
    }

    fn magnitude(&mut self, name: &str, arg: Expr, of: &AggregateFunction) -> Result<usize> {
        self.add(name, arg, of, HiddenKind::Magnitude)
    }

    /// Adds `name(arg)` under the same FILTER as `of`, once.
    fn add(
        &mut self,
        name: &str,
        arg: Expr,
        of: &AggregateFunction,
        kind: HiddenKind,
    ) -> Result<usize> {
        let function: Arc<AggregateUDF> =
            Arc::clone(self.state.aggregate_functions().get(name).ok_or_else(|| {
                DataFusionError::Internal(format!("no aggregate function {name}"))
            })?);
        let filter = of.params.filter.clone();
        let call = AggregateFunction::new_udf(function, vec![arg], false, filter, vec![], None);
        let expr = Expr::AggregateFunction(call);
        if let Some(at) = self.exprs.iter().position(|e| *e == expr) {
            return Ok(at);
        }
        self.exprs.push(expr);
        self.kinds.push(kind);
        Ok(self.exprs.len() - 1)
    }
}

/// `value` where `other` is not NULL: the pairs that two-argument aggregates look at.
fn paired(value: Expr, other: &Expr) -> Result<Expr> {
    let null = Expr::Literal(ScalarValue::Float64(None), None);
    when(other.clone().is_not_null(), cast(value, DataType::Float64)).otherwise(null)
}
