//! The audit finds planted differences and accepts rounding.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use lambdalake_views::{aggregate_table, differences};

use crate::support::*;

#[tokio::test]
async fn two_splits_of_the_same_events_agree() {
    let rows = events(5, 400);
    for rule in aggregate_table() {
        for call in rule.samples {
            let view = compile(&format!("SELECT k, {call} AS a FROM s GROUP BY k"));
            let left = finished(&view, &rows, 1).await;
            let right = finished(&view, &rows, 2).await;
            assert_eq!(differences(&view, &left, &right, 10).unwrap(), [], "{call}");
        }
    }
}

#[test]
fn the_sign_of_a_zero_is_no_difference() {
    let view = compile("SELECT min(x) AS a FROM s");
    let row = |value: f64| {
        let column: ArrayRef = Arc::new(Float64Array::from(vec![value]));
        vec![RecordBatch::try_new(view.aggregate_schema(), vec![column]).unwrap()]
    };
    assert_eq!(differences(&view, &row(0.0), &row(-0.0), 10).unwrap(), []);
    let found = differences(&view, &row(0.0), &row(f64::MIN_POSITIVE), 10).unwrap();
    assert_eq!(found.len(), 1);
}

#[tokio::test]
async fn a_lost_event_is_found() {
    let rows = events(6, 400);
    // first_value, any_value, min and the like need not change when an event is lost.
    for call in [
        "count(*)",
        "sum(i)",
        "sum(x)",
        "avg(x)",
        "var(x)",
        "stddev(x)",
        "covar_pop(x, y)",
        "corr(x, y)",
        "regr_slope(y, x)",
        "regr_sxy(y, x)",
        "approx_median(x)",
        "median(x)",
        "array_agg(i)",
        "string_agg(s, ',')",
    ] {
        let view = compile(&format!(
            "SELECT {call} AS a FROM s WHERE x IS NOT NULL AND y IS NOT NULL AND s IS NOT NULL AND i <> 0"
        ));
        let left = finished(&view, &rows, 1).await;
        let right = finished(&view, &rows.slice(0, 350), 2).await;
        assert!(
            !differences(&view, &left, &right, 10).unwrap().is_empty(),
            "{call}"
        );
    }
}

#[tokio::test]
async fn cancelled_sums_are_judged_by_their_scale() {
    let x: Vec<f64> = (0..1000)
        .map(|n| {
            if n % 2 == 0 {
                1e9 + n as f64 * 0.1
            } else {
                -1e9
            }
        })
        .collect();
    let events = events(7, 1000);
    let mut columns: Vec<ArrayRef> = events.columns().to_vec();
    columns[3] = Arc::new(Float64Array::from(x));
    let rows = RecordBatch::try_new(events.schema(), columns).unwrap();
    let view = compile("SELECT sum(x) AS a, avg(x) AS m, stddev(x) AS d FROM s");
    for seed in 0..5 {
        let left = finished(&view, &rows, seed).await;
        let right = finished(&view, &rows, seed + 100).await;
        assert_eq!(differences(&view, &left, &right, 10).unwrap(), []);
    }
}

#[tokio::test]
async fn missing_and_changed_rows_name_their_key() {
    let rows = events(8, 200);
    let view = compile("SELECT g, count(*) AS n FROM s WHERE g IS NOT NULL GROUP BY g");
    let left = finished(&view, &rows, 1).await;
    let fewer = compile("SELECT g, count(*) AS n FROM s WHERE g > 0 GROUP BY g");
    let right = finished(&fewer, &rows, 1).await;
    let found = differences(&view, &left, &right, 10).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].key.as_str(), found[0].column.as_str()),
        ("g=0", "(row)")
    );
    assert_eq!(
        (found[0].left.as_str(), found[0].right.as_str()),
        ("(there)", "(none)")
    );
    let found = differences(&view, &right, &left, 10).unwrap();
    assert_eq!(found[0].right, "(there)");
    assert_eq!(differences(&view, &left, &[], 2).unwrap().len(), 2);
}

#[tokio::test]
async fn nan_equals_nan() {
    let events = events(9, 10);
    let mut columns: Vec<ArrayRef> = events.columns().to_vec();
    columns[3] = Arc::new(Float64Array::from(vec![f64::NAN; 10]));
    let rows = RecordBatch::try_new(events.schema(), columns).unwrap();
    let view = compile("SELECT sum(x) AS a, max(x) AS m, median(x) AS d FROM s");
    let left = finished(&view, &rows, 1).await;
    let right = finished(&view, &rows, 2).await;
    assert_eq!(differences(&view, &left, &right, 10).unwrap(), []);
}
