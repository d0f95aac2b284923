//! Schemas, hashes, filters on keys, and running with little memory.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext, col, lit};
use lambdalake_views::{UniqueKeys, View, ViewError};

use crate::support::*;

#[test]
fn a_view_reads_only_what_it_needs() {
    let names = |view: &View| {
        view.input_schema()
            .fields()
            .iter()
            .map(|f| f.name().clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(&compile("SELECT k, sum(x) FROM s WHERE b GROUP BY k")),
        ["k", "x", "b"]
    );
    assert_eq!(names(&compile("SELECT count(*) FROM s")), ["_shard"]);
    assert_eq!(
        names(&compile("SELECT first_value(x ORDER BY ts) FROM s")),
        ["x", "ts", "_shard", "_offset"]
    );
}

#[test]
fn states_have_stable_names() {
    let view = compile("SELECT k, g, count(*), avg(i) FROM s GROUP BY ROLLUP (k, g)");
    let schema = view.states_schema();
    let names: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["k0", "k1", "k2", "s0", "s1", "s2", "s3", "s4"]);
    assert_eq!(view.key_columns(), 3);
    assert_eq!(view.output_schema().fields().len(), 4);
}

#[test]
fn the_hash_follows_meaning_not_spelling() {
    let hash = |sql: &str| compile(sql).definition_hash().to_string();
    let one = hash("SELECT k, count(*) FROM s GROUP BY k");
    assert_eq!(one.len(), 64);
    assert_eq!(one, hash("select  k , count(*)\nfrom s group  by k;"));
    assert_ne!(one, hash("SELECT k, count(*) FROM s WHERE b GROUP BY k"));
    let widened = |name: &str| {
        let known = resolve(name)?;
        let fields = known.fields().iter().map(|f| match f.name().as_str() {
            "i" => Field::new("i", DataType::Float64, true),
            _ => f.as_ref().clone(),
        });
        Some(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
    };
    let sum = "SELECT sum(i) FROM s";
    let after = View::compile(sum, &widened).unwrap();
    assert_ne!(hash(sum), after.definition_hash());
    assert_eq!(
        one,
        View::compile("SELECT k, count(*) FROM s GROUP BY k", &widened)
            .unwrap()
            .definition_hash()
    );
}

#[tokio::test]
async fn key_filters_apply_before_finish() {
    let view = compile("SELECT k, g, count(*) AS n FROM s GROUP BY k, g");
    let states = map(&view, &events(1, 200), 2).await;
    let filter = col("finished.k")
        .eq(lit("key1"))
        .and(col("g").gt(lit(0i64)));
    let predicate = view.key_filter(&filter).unwrap();
    let source = source(view.states_schema(), vec![states]);
    let filtered = Arc::new(FilterExec::try_new(predicate, source).unwrap());
    let rows: usize = run(view.finish(filtered).unwrap())
        .await
        .iter()
        .map(RecordBatch::num_rows)
        .sum();
    assert_eq!(rows, 2);
    let counted = view.aggregate_schema().field(2).name().clone();
    let on_count = datafusion::common::Column::new_unqualified(counted);
    assert!(view.key_filter(&col(on_count).gt(lit(1i64))).is_none());
    assert!(view.key_filter(&lit(true)).is_none());
    let sets = compile("SELECT k, count(*) AS n FROM s GROUP BY ROLLUP (k)");
    assert!(sets.key_filter(&col("k").eq(lit("key1"))).is_none());
}

#[tokio::test]
async fn no_partitions_no_rows() {
    let view = compile("SELECT count(*) AS n, sum(i) AS m FROM s");
    let rows = finish(&view, vec![vec![]]).await;
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    let grouped = compile("SELECT k, count(*) AS n FROM s GROUP BY k");
    assert_eq!(finish(&grouped, vec![vec![], vec![]]).await.len(), 0);
}

#[test]
fn wrong_columns_are_told() {
    let view = compile("SELECT k, count(*) AS n FROM s GROUP BY k");
    let error = view.map(source(stream_schema(), vec![vec![]])).unwrap_err();
    assert!(
        matches!(error, ViewError::Mismatch { step: "map", .. }),
        "{error}"
    );
}

#[tokio::test]
async fn map_aggregates_rows_that_are_nearly_unique() {
    let view = compile("SELECT i, count(*) AS n FROM s GROUP BY i");
    let schema = view.input_schema();
    let batch = |from: i64| {
        let keys = Int64Array::from_iter_values(from..from + 8192);
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(keys)]).unwrap()
    };
    // 20 unique batches, then the same again: a skipping operator would emit 327,680 rows.
    let batches: Vec<_> = (0..40).map(|at| batch((at % 20) * 8192)).collect();
    let states = run(view
        .map(source(Arc::clone(&schema), vec![batches]))
        .unwrap())
    .await;
    assert_eq!(
        states.iter().map(RecordBatch::num_rows).sum::<usize>(),
        20 * 8192
    );
}

/// Each key twice, in two partitions.
fn keys_that_hardly_repeat(view: &View) -> Arc<dyn ExecutionPlan> {
    let schema = view.input_schema();
    let batch = |from: i64| {
        let keys = Int64Array::from_iter_values(from..from + 8192);
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(keys)]).unwrap()
    };
    let batches: Vec<_> = (0..24).map(|at| batch((at % 12) * 8192)).collect();
    let partitions = vec![batches[..12].to_vec(), batches[12..].to_vec()];
    source(Arc::clone(&schema), partitions)
}

fn small_pool() -> Arc<TaskContext> {
    let pool = Arc::new(FairSpillPool::new(4 << 20));
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(pool)
        .build_arc()
        .unwrap();
    let config = SessionConfig::new()
        .with_batch_size(1024)
        .with_sort_spill_reservation_bytes(64 << 10);
    SessionContext::new_with_config_rt(config, runtime).task_ctx()
}

fn assert_two_each(rows: &[RecordBatch]) {
    assert_eq!(
        rows.iter().map(RecordBatch::num_rows).sum::<usize>(),
        12 * 8192
    );
    for batch in rows {
        let n = batch
            .column(1)
            .as_any()
            .downcast_ref::<Int64Array>()
            .unwrap();
        assert!(n.iter().all(|n| n == Some(2)));
    }
}

#[tokio::test]
async fn combine_and_finish_spill_in_a_small_pool() {
    let view = compile("SELECT i, count(*) AS n, max(i) AS m FROM s GROUP BY i");
    let plan = view.map(keys_that_hardly_repeat(&view)).unwrap();
    let plan = view.finish(view.combine(plan).unwrap()).unwrap();
    assert_two_each(&collect(plan, small_pool()).await.unwrap());
}

#[tokio::test]
async fn keys_mapped_apart_spill_in_a_small_pool_and_come_out_once() {
    let view = compile("SELECT i, count(*) AS n, max(i) AS m FROM s GROUP BY i");
    let apart = view.map_apart(keys_that_hardly_repeat(&view)).unwrap();
    let states = sorted(&view, apart.unwrap());
    let plan = view.combine_sorted(states).unwrap();
    let states = collect(plan, small_pool()).await.unwrap();
    assert_two_each(&states);
    let mut keys = UniqueKeys::of(1);
    states.iter().for_each(|batch| keys.see(batch).unwrap());
    assert!(keys.are_unique());
}

#[test]
fn a_view_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<View>();
}
