//! Finished aggregates that are stored beside states.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use lambdalake_views::{UniqueKeys, View, aggregate_table};

use crate::support::*;

/// One row of states for each key.
async fn states(view: &View) -> RecordBatch {
    let mapped = map(view, &events(1, 300), 3).await;
    one_batch(
        view.states_schema(),
        &combine(view, vec![mapped]).await,
        false,
    )
}

#[tokio::test]
async fn what_is_stored_equals_what_finish_makes_of_the_states() {
    let (mut own_states, mut values) = (0, 0);
    for rule in aggregate_table() {
        for call in rule.samples {
            let sql = format!("SELECT k, {call} AS a, count(*) AS n FROM s GROUP BY k");
            let view = compile(&sql);
            let Some(layout) = view.finished() else {
                assert!(rule.data_sized || call.contains("DISTINCT"), "{call}");
                continue;
            };
            let states = states(&view).await;
            let finished = finish(&view, vec![vec![states.clone()]]).await;
            let finished = one_batch(view.aggregate_schema(), &finished, false);
            let (stored, is_complete) = layout
                .stored_rows(&states, layout.has_values().then_some(&finished))
                .unwrap();
            assert!(is_complete, "{call}");
            assert_eq!(stored.schema(), layout.stored_schema());
            let read = stored.project(layout.places()).unwrap();
            for (column, expected) in read.columns().iter().zip(finished.columns()) {
                assert_eq!(column, expected, "{call}");
            }
            match layout.has_values() {
                true => values += 1,
                false => own_states += 1,
            }
        }
    }
    assert!(own_states > 8 && values > 20, "{own_states}, {values}");
}

#[test]
fn no_values_are_stored_that_are_as_long_as_the_data_or_have_no_key() {
    for sql in [
        "SELECT k, array_agg(i) AS a FROM s GROUP BY k",
        "SELECT k, string_agg(s, ',') AS a FROM s GROUP BY k",
        "SELECT count(*) AS n FROM s",
        "SELECT k, g, count(*) AS n FROM s GROUP BY ROLLUP (k, g)",
    ] {
        assert!(compile(sql).finished().is_none(), "{sql}");
    }
    let median = compile("SELECT k, median(i) AS a FROM s GROUP BY k");
    assert!(median.finished().is_some(), "a median is one number");
}

#[tokio::test]
async fn values_of_other_rows_are_not_taken() {
    let view = compile("SELECT k, avg(i) AS a FROM s GROUP BY k");
    let layout = view.finished().unwrap();
    let states = states(&view).await;
    let finished = finish(&view, vec![vec![states.clone()]]).await;
    let finished = one_batch(view.aggregate_schema(), &finished, false);
    let rows = finished.num_rows() as u32;
    let reversed = UInt32Array::from_iter_values((0..rows).rev());
    let reversed = take_record_batch(&finished, &reversed).unwrap();
    for other in [finished.slice(1, rows as usize - 1), reversed] {
        let (stored, is_complete) = layout.stored_rows(&states, Some(&other)).unwrap();
        assert!(!is_complete);
        let value = stored.columns().last().unwrap();
        assert_eq!(value.null_count(), states.num_rows());
    }
}

#[tokio::test]
async fn a_key_that_comes_twice_is_seen_within_a_batch_and_across_two() {
    let view = compile("SELECT k, count(*) AS n FROM s GROUP BY k");
    let sorted = one_batch(view.states_schema(), &[states(&view).await], true);
    let unique = |batches: &[RecordBatch]| {
        let mut keys = UniqueKeys::of(view.key_columns());
        for batch in batches {
            keys.see(batch).unwrap();
        }
        keys.are_unique()
    };
    assert!(
        sorted.slice(0, 1).column(0).is_null(0),
        "NULL is a key, too"
    );
    assert!(unique(&[]) && unique(std::slice::from_ref(&sorted)));
    assert!(unique(&[
        sorted.slice(0, 2),
        sorted.slice(0, 0),
        sorted.slice(2, 2)
    ]));
    assert!(!unique(&[sorted.slice(0, 2), sorted.slice(1, 2)]));
    for twice in 0..2 {
        let rows = [sorted.slice(0, twice + 1), sorted.slice(twice, 1)];
        assert!(!unique(&[concat_batches(&sorted.schema(), &rows).unwrap()]));
    }
}
