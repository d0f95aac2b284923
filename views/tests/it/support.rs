//! Random events, a run through the three verbs with Parquet between them, and a direct run.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::{SortOptions, cast, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::row::{RowConverter, SortField};
use bytes::Bytes;
use datafusion::datasource::MemTable;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use lambdalake_views::{UniqueKeys, View};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

pub fn stream_schema() -> SchemaRef {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Utf8, true),
        Field::new("g", DataType::Int64, true),
        Field::new("i", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
        Field::new("y", DataType::Float64, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("b", DataType::Boolean, true),
        Field::new("ts", utc.clone(), true),
        Field::new("d", DataType::Decimal128(12, 2), true),
        Field::new("u", DataType::UInt64, true),
        Field::new("_shard", DataType::Int32, false),
        Field::new("_offset", DataType::Int64, false),
        Field::new("_ingested_at", utc, false),
        Field::new("_producer", DataType::Utf8, true),
    ]))
}

pub fn resolve(name: &str) -> Option<SchemaRef> {
    (name == "s" || name == "events").then(stream_schema)
}

pub fn compile(sql: &str) -> View {
    View::compile(sql, &resolve).unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

/// `count` events over three shards, in random order, a tenth of the values NULL.
pub fn events(seed: u64, count: usize) -> RecordBatch {
    let rng = &mut StdRng::seed_from_u64(seed);
    fn maybe<T>(rng: &mut StdRng, count: usize, f: impl Fn(&mut StdRng) -> T) -> Vec<Option<T>> {
        (0..count)
            .map(|_| {
                if rng.random_bool(0.1) {
                    None
                } else {
                    Some(f(rng))
                }
            })
            .collect()
    }
    let k = maybe(rng, count, |r| format!("key{}", r.random_range(0..5)));
    let g = maybe(rng, count, |r| r.random_range(0..3i64));
    let i = maybe(rng, count, |r| r.random_range(-20..20i64));
    let x = maybe(rng, count, |r| r.random_range(-100.0..100.0f64));
    let y = maybe(rng, count, |r| r.random_range(-1.0..1.0f64));
    let s = maybe(rng, count, |r| format!("word{}", r.random_range(0..12)));
    let b = maybe(rng, count, |r| r.random_bool(0.7));
    // Few distinct timestamps: ties must be broken by position.
    let ts = maybe(rng, count, |r| r.random_range(0..10i64) * 1_000_000);
    let d = maybe(rng, count, |r| r.random_range(-5000..5000i64));
    let u = maybe(rng, count, |r| r.random_range(0..1000i64));
    let shard: Vec<i32> = (0..count).map(|at| (at % 3) as i32).collect();
    let offset: Vec<i64> = (0..count).map(|at| (at / 3) as i64).collect();
    let ingested: Vec<i64> = (0..count).map(|at| at as i64 * 1000).collect();
    let utc = |a: TimestampMicrosecondArray| Arc::new(a.with_timezone("UTC")) as ArrayRef;
    let schema = stream_schema();
    let decimal = cast(&Int64Array::from(d), &DataType::Decimal128(12, 2)).unwrap();
    let unsigned = cast(&Int64Array::from(u), &DataType::UInt64).unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(k)),
        Arc::new(Int64Array::from(g)),
        Arc::new(Int64Array::from(i)),
        Arc::new(Float64Array::from(x)),
        Arc::new(Float64Array::from(y)),
        Arc::new(StringArray::from(s)),
        Arc::new(BooleanArray::from(b)),
        utc(TimestampMicrosecondArray::from(ts)),
        decimal,
        unsigned,
        Arc::new(Int32Array::from(shard)),
        Arc::new(Int64Array::from(offset)),
        utc(TimestampMicrosecondArray::from(ingested)),
        Arc::new(StringArray::from(vec!["p"; count])),
    ];
    let batch = RecordBatch::try_new(schema, columns).unwrap();
    let mut order: Vec<u32> = (0..count as u32).collect();
    order.shuffle(rng);
    take_record_batch(&batch, &arrow::array::UInt32Array::from(order)).unwrap()
}

/// Cuts rows into up to `parts` random chunks, some of them empty.
pub fn chunks(rng: &mut StdRng, rows: &RecordBatch, parts: usize) -> Vec<RecordBatch> {
    let mut cuts: Vec<usize> = (1..parts)
        .map(|_| rng.random_range(0..=rows.num_rows()))
        .collect();
    cuts.push(0);
    cuts.push(rows.num_rows());
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|w| rows.slice(w[0], w[1] - w[0]))
        .collect()
}

pub fn source(schema: SchemaRef, partitions: Vec<Vec<RecordBatch>>) -> Arc<dyn ExecutionPlan> {
    MemorySourceConfig::try_new_exec(&partitions, schema, None).unwrap()
}

pub async fn run(plan: Arc<dyn ExecutionPlan>) -> Vec<RecordBatch> {
    collect(plan, SessionContext::new().task_ctx())
        .await
        .unwrap()
}

/// The columns of `rows` that the view's map reads.
pub fn narrowed(view: &View, rows: &RecordBatch) -> RecordBatch {
    let wanted = view.input_schema();
    let columns: Vec<usize> = wanted
        .fields()
        .iter()
        .map(|f| rows.schema().index_of(f.name()).unwrap())
        .collect();
    rows.project(&columns).unwrap()
}

/// Writes states to Parquet and reads them back, cast to the view's own types.
pub fn through_parquet(view: &View, states: &[RecordBatch]) -> Vec<RecordBatch> {
    let schema = view.states_schema();
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), None).unwrap();
    for batch in states {
        writer.write(batch).unwrap();
    }
    let bytes = Bytes::from(writer.into_inner().unwrap());
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .unwrap()
        .build()
        .unwrap();
    reader
        .map(|batch| {
            let batch = batch.unwrap();
            let columns = batch
                .columns()
                .iter()
                .zip(schema.fields())
                .map(|(column, field)| cast(column, field.data_type()).unwrap())
                .collect();
            RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()
        })
        .collect()
}

pub async fn map(view: &View, rows: &RecordBatch, partitions: usize) -> Vec<RecordBatch> {
    let rng = &mut StdRng::seed_from_u64(rows.num_rows() as u64);
    let rows = narrowed(view, rows);
    let parts = chunks(rng, &rows, partitions)
        .into_iter()
        .map(|c| vec![c])
        .collect::<Vec<_>>();
    let events = || source(view.input_schema(), parts.clone());
    let apart = match rng.random() {
        true => view.map_apart(events()).unwrap(),
        false => None,
    };
    let states = run(apart.unwrap_or_else(|| view.map(events()).unwrap())).await;
    through_parquet(view, &states)
}

pub async fn combine(view: &View, states: Vec<Vec<RecordBatch>>) -> Vec<RecordBatch> {
    let combined = run(view.combine(source(view.states_schema(), states)).unwrap()).await;
    through_parquet(view, &combined)
}

/// The same of states that were sorted by key before, a few rows at a time.
pub async fn combine_sorted(view: &View, states: Vec<Vec<RecordBatch>>) -> Vec<RecordBatch> {
    let few = SessionContext::new_with_config(SessionConfig::new().with_batch_size(7));
    let sorted = sorted(view, source(view.states_schema(), states));
    let combined = view.combine_sorted(sorted).unwrap();
    let combined = collect(combined, few.task_ctx()).await.unwrap();
    let mut keys = UniqueKeys::of(view.key_columns());
    combined.iter().for_each(|batch| keys.see(batch).unwrap());
    assert!(keys.are_unique(), "{}", view.canonical_sql());
    through_parquet(view, &combined)
}

/// Sorted by key, in one partition.
pub fn sorted(view: &View, states: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let schema = states.schema();
    let order = LexOrdering::new((0..view.key_columns()).map(|at| PhysicalSortExpr {
        expr: Arc::new(Column::new(schema.field(at).name(), at)),
        options: SortOptions::new(false, true),
    }));
    let order = order.expect("the view has keys");
    let sorted = SortExec::new(order.clone(), states).with_preserve_partitioning(true);
    Arc::new(SortPreservingMergeExec::new(order, Arc::new(sorted)))
}

pub async fn finish(view: &View, states: Vec<Vec<RecordBatch>>) -> Vec<RecordBatch> {
    run(view.finish(source(view.states_schema(), states)).unwrap()).await
}

/// Random chunks, mapped one by one, combined pairwise in random order, finished.
pub async fn finished(view: &View, rows: &RecordBatch, seed: u64) -> Vec<RecordBatch> {
    let rng = &mut StdRng::seed_from_u64(seed);
    let parts = rng.random_range(1..6);
    let mut states = Vec::new();
    for chunk in chunks(rng, rows, parts) {
        let partitions = rng.random_range(1..3);
        states.push(map(view, &chunk, partitions).await);
    }
    while states.len() > 1 && rng.random_bool(0.7) {
        states.shuffle(rng);
        let take = rng.random_range(2..=states.len().min(3));
        let group = states.split_off(states.len() - take);
        states.push(match view.key_columns() > 0 && rng.random() {
            true => combine_sorted(view, group).await,
            false => combine(view, group).await,
        });
    }
    finish(view, states).await
}

pub fn plain_context() -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(2);
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    config.options_mut().execution.time_zone = Some("UTC".into());
    SessionContext::new_with_config(config)
}

/// The answer plan over finished rows, run with all of DataFusion's rules.
pub async fn answer(view: &View, finished: Vec<RecordBatch>) -> Vec<RecordBatch> {
    let table = MemTable::try_new(view.aggregate_schema(), vec![finished]).unwrap();
    let plan = view.answer_plan(Arc::new(table)).unwrap();
    let context = plain_context();
    context
        .execute_logical_plan(plan)
        .await
        .unwrap()
        .collect()
        .await
        .unwrap()
}

/// The same SQL over all rows at once, with nothing of ours in between.
pub async fn direct(view: &View, sql: &str, rows: &RecordBatch) -> Vec<RecordBatch> {
    let context = plain_context();
    let table = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]]).unwrap();
    context
        .register_table(view.stream(), Arc::new(table))
        .unwrap();
    context.sql(sql).await.unwrap().collect().await.unwrap()
}

/// All rows as one batch; `sorted` orders them by the columns that are not floats first.
pub fn one_batch(schema: SchemaRef, batches: &[RecordBatch], sorted: bool) -> RecordBatch {
    let batch = concat_batches(
        &batches.first().map(|b| b.schema()).unwrap_or(schema),
        batches,
    )
    .unwrap();
    if !sorted || batch.num_columns() == 0 {
        return batch;
    }
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    columns.sort_by_key(|c| c.data_type().is_floating());
    let fields = columns
        .iter()
        .map(|c| SortField::new(c.data_type().clone()))
        .collect();
    let rows = RowConverter::new(fields)
        .unwrap()
        .convert_columns(&columns)
        .unwrap();
    let mut order: Vec<u32> = (0..batch.num_rows() as u32).collect();
    order.sort_by_key(|at| rows.row(*at as usize));
    take_record_batch(&batch, &arrow::array::UInt32Array::from(order)).unwrap()
}

/// How far apart two floats may be.
#[derive(Clone, Copy)]
pub enum Tolerance {
    /// A billionth of `max(1, |value|)`.
    Rounding,
    /// Of a sketch: a few ranks, where values are spread evenly from -100 to 100.
    Ranks,
}

impl Tolerance {
    fn allows(self, a: f64, b: f64) -> bool {
        let allowed = match self {
            Self::Rounding => 1e-9 * a.abs().max(1.0),
            Self::Ranks => 8.0,
        };
        (a - b).abs() <= allowed
    }
}

/// Asserts equal values; floats up to `tolerance`.
pub fn assert_same(what: &str, left: &RecordBatch, right: &RecordBatch, tolerance: Tolerance) {
    assert_eq!(
        left.num_rows(),
        right.num_rows(),
        "{what}: rows\n{}\n{}",
        show(left),
        show(right)
    );
    for (at, field) in left.schema().fields().iter().enumerate() {
        let (a, b) = (left.column(at), right.column(at));
        assert_eq!(field.name(), right.schema().field(at).name(), "{what}");
        assert_eq!(
            a.data_type(),
            b.data_type(),
            "{what}: type of {}",
            field.name()
        );
        let same = if a.data_type().is_floating() {
            let a = cast(a, &DataType::Float64).unwrap();
            let b = cast(b, &DataType::Float64).unwrap();
            let a = a.as_any().downcast_ref::<Float64Array>().unwrap();
            let b = b.as_any().downcast_ref::<Float64Array>().unwrap();
            a.iter().zip(b.iter()).all(|pair| match pair {
                (Some(a), Some(b)) => {
                    a == b || (a.is_nan() && b.is_nan()) || tolerance.allows(a, b)
                }
                (a, b) => a == b,
            })
        } else {
            a == b
        };
        assert!(
            same,
            "{what}: column {}\n{}\n{}",
            field.name(),
            show(left),
            show(right)
        );
    }
}

pub fn show(batch: &RecordBatch) -> String {
    arrow::util::pretty::pretty_format_batches(std::slice::from_ref(batch))
        .unwrap()
        .to_string()
}

/// The whole promise: split, stored, combined, finished, answered = run directly.
pub async fn check(sql: &str, rows: &RecordBatch, seed: u64, tolerance: Tolerance) {
    let view = compile(sql);
    let rows_out = finished(&view, rows, seed).await;
    let answered = one_batch(view.output_schema(), &answer(&view, rows_out).await, true);
    // Sketches are held against what they estimate.
    let exact = sql
        .replace("approx_median(", "median(")
        .replace("approx_percentile_cont(", "percentile_cont(");
    let direct = one_batch(
        view.output_schema(),
        &direct(&view, &exact, rows).await,
        true,
    );
    assert_same(sql, &answered, &direct, tolerance);
}
