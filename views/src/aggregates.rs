//! Which aggregates a view may use, and what is known about each.
//!
//! An allow-list: an aggregate that is not in [`aggregate_table`] is refused. The columns say
//! how its result is compared in the audit, whether it depends on the order of events, what
//! DISTINCT does to it, and whether its state grows with the data.

use arrow::datatypes::{DataType, Schema};
use datafusion::common::DFSchema;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Expr, ExprSchemable};

use crate::ViewError;

/// How exactly two computations of one aggregate over the same events agree, if the events
/// were split and combined differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Bit for bit.
    Exact,
    /// Up to rounding: sums of floats depend on the order of additions.
    Float,
    /// An estimate whose value depends on how the events were split (t-digest).
    Sketch,
    /// The same elements in any order. No built-in aggregate needs it, since every DISTINCT
    /// list gets an order; it is there for states of later formats.
    Set,
}

/// What DISTINCT does to an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distinct {
    /// Works, and keeps every distinct value in the state.
    Collects,
    /// Changes nothing (`min(DISTINCT x)`).
    Idle,
    /// Not implemented, or silently ignored by the engine: refused.
    Refused,
}

/// One line of the table of aggregates.
#[derive(Debug, Clone, Copy)]
pub struct AggregateRule {
    /// The function's canonical name in DataFusion's registry.
    pub name: &'static str,
    /// How results are compared. `sum` and `avg` are exact where their result is not a float.
    pub class: Class,
    /// Whether the result depends on the order of events; such aggregates get the event's
    /// position appended to their ORDER BY.
    pub order_dependent: bool,
    /// Whether the state grows with the number of events, even without DISTINCT.
    pub data_sized: bool,
    distinct: Distinct,
    /// Calls to try it with, over the columns `i` Int64, `x` and `y` Float64, `s` Utf8,
    /// `b` Boolean, `ts` Timestamp.
    pub samples: &'static [&'static str],
}

/// One aggregate of a view, in the order of the aggregate's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AggregateInfo {
    /// Column of [`crate::View::aggregate_schema`].
    pub name: String,
    /// The call as the view's text has it, with defaults spelled out.
    pub display: String,
    /// Canonical function name.
    pub function: String,
    /// How results are compared.
    pub class: Class,
    /// Whether the state grows with the number of events (DISTINCT, lists, medians): such
    /// views need a budget.
    pub data_sized: bool,
}

const fn rule(
    name: &'static str,
    class: Class,
    distinct: Distinct,
    samples: &'static [&'static str],
) -> AggregateRule {
    AggregateRule {
        name,
        class,
        order_dependent: false,
        data_sized: false,
        distinct,
        samples,
    }
}

const fn list(
    name: &'static str,
    distinct: Distinct,
    data_sized: bool,
    samples: &'static [&'static str],
) -> AggregateRule {
    AggregateRule {
        name,
        class: Class::Exact,
        order_dependent: true,
        data_sized,
        distinct,
        samples,
    }
}

const fn collecting(name: &'static str, samples: &'static [&'static str]) -> AggregateRule {
    AggregateRule {
        name,
        class: Class::Exact,
        order_dependent: false,
        data_sized: true,
        distinct: Distinct::Collects,
        samples,
    }
}

use Class::{Exact, Float, Sketch};
use Distinct::{Collects, Idle, Refused};

const TABLE: &[AggregateRule] = &[
    rule(
        "count",
        Exact,
        Collects,
        &["count(*)", "count(x)", "count(DISTINCT s)"],
    ),
    rule(
        "sum",
        Float,
        Collects,
        &["sum(i)", "sum(x)", "sum(DISTINCT x)", "sum(DISTINCT i)"],
    ),
    rule(
        "avg",
        Float,
        Collects,
        &["avg(x)", "avg(i)", "avg(DISTINCT x)"],
    ),
    rule("min", Exact, Idle, &["min(x)", "min(s)", "min(ts)"]),
    rule("max", Exact, Idle, &["max(x)", "max(s)", "max(DISTINCT i)"]),
    rule("bit_and", Exact, Idle, &["bit_and(i)"]),
    rule("bit_or", Exact, Idle, &["bit_or(i)"]),
    rule("bit_xor", Exact, Refused, &["bit_xor(i)"]),
    rule("bool_and", Exact, Idle, &["bool_and(b)"]),
    rule("bool_or", Exact, Idle, &["bool_or(b)"]),
    rule("grouping", Exact, Refused, &[]),
    rule("var", Float, Refused, &["var(x)", "var_samp(i)"]),
    rule("var_pop", Float, Refused, &["var_pop(x)"]),
    rule("stddev", Float, Refused, &["stddev(x)"]),
    rule("stddev_pop", Float, Refused, &["stddev_pop(x)"]),
    rule("covar_samp", Float, Refused, &["covar_samp(x, y)"]),
    rule("covar_pop", Float, Refused, &["covar_pop(x, y)"]),
    rule("corr", Float, Refused, &["corr(x, y)"]),
    rule("regr_slope", Float, Refused, &["regr_slope(y, x)"]),
    rule("regr_intercept", Float, Refused, &["regr_intercept(y, x)"]),
    rule("regr_count", Exact, Refused, &["regr_count(y, x)"]),
    rule("regr_r2", Float, Refused, &["regr_r2(y, x)"]),
    rule("regr_avgx", Float, Refused, &["regr_avgx(y, x)"]),
    rule("regr_avgy", Float, Refused, &["regr_avgy(y, x)"]),
    rule("regr_sxx", Float, Refused, &["regr_sxx(y, x)"]),
    rule("regr_syy", Float, Refused, &["regr_syy(y, x)"]),
    rule("regr_sxy", Float, Refused, &["regr_sxy(y, x)"]),
    rule(
        "approx_distinct",
        Exact,
        Idle,
        &["approx_distinct(s)", "approx_distinct(i)"],
    ),
    rule("approx_median", Sketch, Refused, &["approx_median(x)"]),
    rule(
        "approx_percentile_cont",
        Sketch,
        Refused,
        &["approx_percentile_cont(x, 0.9)"],
    ),
    rule(
        "approx_percentile_cont_with_weight",
        Sketch,
        Refused,
        &["approx_percentile_cont_with_weight(x, i, 0.5)"],
    ),
    collecting("median", &["median(x)", "median(i)", "median(DISTINCT x)"]),
    collecting("percentile_cont", &["percentile_cont(x, 0.25)"]),
    list(
        "first_value",
        Refused,
        false,
        &["first_value(s ORDER BY ts)", "first_value(x)"],
    ),
    list(
        "last_value",
        Refused,
        false,
        &["last_value(s ORDER BY ts)", "last_value(i)"],
    ),
    list("any_value", Refused, false, &["any_value(s)"]),
    list(
        "nth_value",
        Refused,
        true,
        &["nth_value(s, 2 ORDER BY ts)", "nth_value(i, 3)"],
    ),
    list(
        "array_agg",
        Collects,
        true,
        &[
            "array_agg(i)",
            "array_agg(s ORDER BY ts DESC)",
            "array_agg(DISTINCT i)",
        ],
    ),
    list(
        "string_agg",
        Collects,
        true,
        &[
            "string_agg(s, ',')",
            "string_agg(s, ',' ORDER BY ts)",
            "string_agg(DISTINCT s, '|')",
        ],
    ),
];

/// Every aggregate a view may use.
pub fn aggregate_table() -> &'static [AggregateRule] {
    TABLE
}

/// The rule for a function name, or the refusal.
pub(crate) fn rule_for(name: &str) -> Result<&'static AggregateRule, ViewError> {
    TABLE.iter().find(|rule| rule.name == name).ok_or_else(|| {
        ViewError::refused(
            format!("the aggregate {name} is not known to give the same answer for every split of the events"),
            "use one of the built-in aggregates listed in the documentation of views",
        )
    })
}

/// Refuses calls that the engine cannot split, or computes wrongly.
pub(crate) fn check_call(call: &AggregateFunction, input: &DFSchema) -> Result<(), ViewError> {
    let name = call.func.name();
    let rule = rule_for(name)?;
    let args = &call.params.args;
    if call.params.distinct && rule.distinct == Distinct::Refused {
        return Err(ViewError::refused(
            format!("{name}(DISTINCT ...) is not supported"),
            format!(
                "leave DISTINCT out, or use count, sum, avg or array_agg with DISTINCT instead of {name}"
            ),
        ));
    }
    if name == "count" && call.params.distinct && args.len() > 1 {
        return Err(ViewError::refused(
            "count(DISTINCT a, b) over several columns is not supported",
            "count one expression: count(DISTINCT struct(a, b)) or count(DISTINCT concat(a, '/', b))",
        ));
    }
    if name == "approx_distinct" {
        for arg in args {
            let given = arg.get_type(input)?;
            if given.is_floating() || matches!(given, DataType::Dictionary(_, _)) {
                return Err(ViewError::refused(
                    format!("approx_distinct of {given} is not supported"),
                    "cast the argument to an integer or a string, or use count(DISTINCT ...)",
                ));
            }
        }
    }
    Ok(())
}

/// The call inside an output expression of the aggregate, past its aliases.
pub(crate) fn call_of(expr: &Expr) -> Option<&AggregateFunction> {
    match expr {
        Expr::Alias(alias) => call_of(&alias.expr),
        Expr::AggregateFunction(call) => Some(call),
        _ => None,
    }
}

/// What is known about one output expression of an analysed aggregate.
pub(crate) fn describe(
    expr: &Expr,
    display: String,
    input: &DFSchema,
) -> Result<AggregateInfo, ViewError> {
    let Some(call) = call_of(expr) else {
        return Err(ViewError::refused(
            format!("{expr} is not a plain aggregate"),
            "compute expressions over aggregates in the SELECT list",
        ));
    };
    check_call(call, input)?;
    let rule = rule_for(call.func.name())?;
    let class = match rule.name {
        "sum" | "avg" if !expr.get_type(input)?.is_floating() => Class::Exact,
        _ => rule.class,
    };
    let data_sized =
        rule.data_sized || (call.params.distinct && rule.distinct == Distinct::Collects);
    Ok(AggregateInfo {
        name: expr.qualified_name().1,
        display,
        function: rule.name.to_string(),
        class,
        data_sized,
    })
}

/// Whether every column of `schema` can be written to Parquet; errors with the first that
/// cannot.
pub(crate) fn check_storable(schema: &Schema) -> Result<(), ViewError> {
    use datafusion::parquet::arrow::ArrowWriter;
    for field in schema.fields() {
        let one = std::sync::Arc::new(Schema::new(vec![std::sync::Arc::clone(field)]));
        let null = arrow::array::new_null_array(field.data_type(), 1);
        let stored =
            arrow::record_batch::RecordBatch::try_new(std::sync::Arc::clone(&one), vec![null])
                .map_err(|e| e.to_string())
                .and_then(|batch| {
                    let mut writer =
                        ArrowWriter::try_new(Vec::new(), one, None).map_err(|e| e.to_string())?;
                    writer.write(&batch).map_err(|e| e.to_string())?;
                    writer.close().map_err(|e| e.to_string())
                });
        if let Err(detail) = stored {
            return Err(ViewError::refused(
                format!(
                    "values of type {} cannot be stored: {detail}",
                    field.data_type()
                ),
                "cast the group key or the aggregate's argument to a number, string or timestamp",
            ));
        }
    }
    Ok(())
}
