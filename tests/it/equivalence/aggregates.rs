//! Every built-in aggregate, as calls to put into a view, and how to judge each.
//!
//! `{f}` stands where a FILTER clause goes. A hidden column is computed by the direct pass
//! only; the float judges find in it the magnitude that rounding is relative to.

/// How the merged value and the direct one are compared.
#[derive(Debug, Clone, Copy)]
pub enum Judge {
    /// The same value, bit for bit.
    Exact,
    /// The same number: of 0.0 and -0.0, min and max keep whichever they met first.
    Number,
    /// Within `TOLERANCE` of the scale that is made from the hidden columns.
    Float(fn(&[f64]) -> f64),
    /// As `Float`, for the squares of the values: the root of a variance.
    Squared(fn(&[f64]) -> f64),
    /// An estimated quantile of the values listed in the hidden column: by rank.
    Quantile(f64),
    /// Between the two hidden columns.
    Between,
}

#[derive(Debug, Clone)]
pub struct Call {
    /// The function's name in the registry.
    pub function: &'static str,
    /// The call in the view.
    pub sql: String,
    /// The call in the direct pass: the same, with the order of events spelled out.
    pub direct: String,
    /// What the direct pass computes beside it.
    pub hidden: Vec<String>,
    pub judge: Judge,
}

const ORDER: &str = "_shard, _offset";

fn exact(function: &'static str, arguments: &str) -> Call {
    let sql = format!("{function}({arguments}){{f}}");
    Call {
        function,
        direct: sql.clone(),
        sql,
        hidden: vec![],
        judge: Judge::Exact,
    }
}

fn number(function: &'static str, arguments: &str) -> Call {
    Call {
        judge: Judge::Number,
        ..exact(function, arguments)
    }
}

/// A call that depends on the order of events: `given` is the view's ORDER BY, or nothing;
/// the direct pass breaks ties by position.
fn ordered(function: &'static str, arguments: &str, given: &str) -> Call {
    let total = match given {
        "" => format!("ORDER BY {ORDER}"),
        given => format!("{given}, {ORDER}"),
    };
    Call {
        sql: format!("{function}({arguments} {given}){{f}}"),
        direct: format!("{function}({arguments} {total}){{f}}"),
        ..exact(function, arguments)
    }
}

fn float(
    function: &'static str,
    arguments: &str,
    hidden: &[&str],
    scale: fn(&[f64]) -> f64,
) -> Call {
    Call {
        hidden: hidden.iter().map(|h| format!("{h}{{f}}")).collect(),
        judge: Judge::Float(scale),
        ..exact(function, arguments)
    }
}

/// An aggregate over the pairs (y, x) that has neither NULL. Hidden: the means of the squares
/// and the variances, of x and of y, and the number of pairs.
fn pairs(function: &'static str, scale: fn(&[f64]) -> f64) -> Call {
    let x = "CASE WHEN y IS NOT NULL THEN x END";
    let y = "CASE WHEN x IS NOT NULL THEN y END";
    let squares = |v: &str| format!("avg(({v}) * ({v}))");
    let variance = |v: &str| format!("var_pop({v})");
    let hidden = [
        squares(x),
        squares(y),
        variance(x),
        variance(y),
        format!("count({x})"),
    ];
    let hidden: Vec<&str> = hidden.iter().map(String::as_str).collect();
    float(function, "y, x", &hidden, scale)
}

fn only(h: &[f64]) -> f64 {
    h[0]
}

/// How far a slope moves when the sums it is made from move by their scale.
fn slope(h: &[f64]) -> f64 {
    let [qx, qy, vx, vy, _] = *h else {
        return f64::NAN;
    };
    if vx <= 1e-7 * qx {
        return f64::INFINITY;
    }
    (qx * qy).sqrt() / vx + (vy / vx).sqrt() * qx / vx
}

fn intercept(h: &[f64]) -> f64 {
    h[1].sqrt() + ((h[3] / h[2]).sqrt() + slope(h)) * h[0].sqrt()
}

fn correlation(h: &[f64]) -> f64 {
    let [qx, qy, vx, vy, _] = *h else {
        return f64::NAN;
    };
    if vx <= 1e-7 * qx || vy <= 1e-7 * qy {
        return f64::INFINITY;
    }
    2.0 * ((qx / vx).sqrt() * (qy / vy).sqrt() + qx / vx + qy / vy)
}

fn distinct(call: Call, from: &str, to: &str) -> Call {
    Call {
        sql: call.sql.replacen(from, to, 1),
        direct: call.direct.replacen(from, to, 1),
        ..call
    }
}

/// The whole list. `grouping` is not here: it only has a meaning in GROUPING SETS, and the
/// generator of views puts it there.
pub fn calls() -> Vec<Call> {
    let squares = "avg(x * x)";
    let mut calls = vec![
        exact("count", "*"),
        exact("count", "x"),
        exact("count", "DISTINCT s"),
        exact("count", "DISTINCT i"),
        exact("count", "DISTINCT n['c']"),
        exact("sum", "i"),
        exact("sum", "DISTINCT i"),
        float("sum", "x", &["sum(abs(x))"], only),
        float("sum", "x * y", &["sum(abs(x * y))"], only),
        float("sum", "DISTINCT x", &["sum(abs(x))"], only),
        float("avg", "x", &["avg(abs(x))"], only),
        float("avg", "i", &["avg(abs(i))"], only),
        float("avg", "DISTINCT x", &["max(abs(x))"], only),
        number("min", "x"),
        exact("min", "s"),
        exact("min", "ts"),
        exact("min", "DISTINCT i"),
        number("max", "x"),
        exact("max", "s"),
        exact("max", "b"),
        exact("max", "n['a']"),
        exact("max", "DISTINCT i"),
        exact("bit_and", "i"),
        exact("bit_and", "DISTINCT i"),
        exact("bit_or", "i"),
        exact("bit_or", "DISTINCT i"),
        exact("bit_xor", "i"),
        exact("bool_and", "b"),
        exact("bool_and", "DISTINCT b"),
        exact("bool_or", "b OR x > 0.0"),
        exact("bool_or", "DISTINCT b"),
        float("var", "x", &[squares], only),
        float(
            "var",
            "i",
            &["avg(CAST(i AS DOUBLE) * CAST(i AS DOUBLE))"],
            only,
        ),
        float("var_pop", "x", &[squares], only),
        float("stddev", "x", &[squares], only),
        float("stddev_pop", "y", &["avg(y * y)"], only),
        pairs("covar_samp", |h| (h[0] * h[1]).sqrt()),
        pairs("covar_pop", |h| (h[0] * h[1]).sqrt()),
        pairs("corr", correlation),
        pairs("regr_slope", slope),
        pairs("regr_intercept", intercept),
        pairs("regr_r2", correlation),
        pairs("regr_avgx", |h| h[0].sqrt()),
        pairs("regr_avgy", |h| h[1].sqrt()),
        pairs("regr_sxx", |h| h[0] * h[4]),
        pairs("regr_syy", |h| h[1] * h[4]),
        pairs("regr_sxy", |h| (h[0] * h[1]).sqrt() * h[4]),
        exact("regr_count", "y, x"),
        exact("approx_distinct", "s"),
        exact("approx_distinct", "i"),
        exact("approx_distinct", "DISTINCT i"),
        exact("median", "x"),
        exact("median", "i"),
        exact("median", "DISTINCT x"),
        exact("percentile_cont", "x, 0.25"),
        exact("percentile_cont", "DISTINCT x, 0.25"),
        ordered("first_value", "s", "ORDER BY ts"),
        ordered("first_value", "x", ""),
        ordered("last_value", "s", "ORDER BY ts, i DESC"),
        ordered("last_value", "i", ""),
        ordered("nth_value", "s, 2", "ORDER BY ts"),
        ordered("nth_value", "i, 3", ""),
        ordered("array_agg", "i", ""),
        ordered("array_agg", "x", "ORDER BY y"),
        ordered("array_agg", "s", "ORDER BY ts DESC"),
        ordered("string_agg", "s, ','", ""),
        ordered("string_agg", "s, ';'", "ORDER BY ts"),
    ];
    for call in &mut calls {
        if call.function.starts_with("stddev") {
            call.judge = Judge::Squared(only);
        }
    }
    calls.push(Call {
        sql: "any_value(s){f}".to_owned(),
        direct: format!("first_value(s ORDER BY s IS NULL, {ORDER}){{f}}"),
        ..exact("any_value", "s")
    });
    calls.push(Call {
        direct: "array_agg(DISTINCT i ORDER BY i ASC NULLS LAST){f}".to_owned(),
        ..exact("array_agg", "DISTINCT i")
    });
    let list = exact("array_agg", "s ORDER BY s DESC");
    calls.push(distinct(list, "array_agg(s", "array_agg(DISTINCT s"));
    calls.push(Call {
        direct: "string_agg(DISTINCT s, '|' ORDER BY s ASC NULLS LAST){f}".to_owned(),
        ..exact("string_agg", "DISTINCT s, '|'")
    });
    for (function, arguments, quantile) in [
        ("approx_median", "x", 0.5),
        ("approx_percentile_cont", "x, 0.9", 0.9),
    ] {
        calls.push(Call {
            hidden: vec!["array_agg(x){f}".to_owned()],
            judge: Judge::Quantile(quantile),
            ..exact(function, arguments)
        });
    }
    calls.push(Call {
        hidden: vec!["min(x){f}".to_owned(), "max(x){f}".to_owned()],
        judge: Judge::Between,
        ..exact(
            "approx_percentile_cont_with_weight",
            "x, coalesce(g, 0) + 1, 0.5",
        )
    });
    calls
}
