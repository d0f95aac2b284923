//! What each layer costs by itself: parse, log, map, combine, finish, and a look at the schedules.
//!
//! `cargo bench --bench layers`, or `cargo bench --bench layers -- map` for one of them. The
//! comparison with other engines is `benches/compare`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use chrono_tz::Tz;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use lambdalake::generate::AccessLog;
use lambdalake_batch::schedule::{Behind, Policy, Scheduled, due, due_with, next_at};
use lambdalake_batch::triggers::Triggers;
use lambdalake_data::input::{Format, Limits, MAX_DEPTH, parse};
use lambdalake_data::log::{Frame, FrameHeader, Log};
use lambdalake_data::schema::{StreamDefinition, columns_of, stored_schema};
use lambdalake_data::{Cut, CutRange, Disk};
use lambdalake_speed::Mapper;
use lambdalake_speed::mapper::memory;
use lambdalake_speed::shard::number_events;
use lambdalake_views::View;
use tokio::runtime::Runtime;

const EVENTS: usize = 50_000;
/// Events that are mapped in requests of these sizes, each for all views.
const REQUESTED: usize = 10_000;
/// Views with schedules.
const SCHEDULED: usize = 5_000;
const REQUESTS: [usize; 4] = [10, 100, 1_000, REQUESTED];

const LIMITS: Limits = Limits {
    max_rejections: 0,
    max_line_bytes: 1 << 20,
    max_fields: 100,
    max_depth: MAX_DEPTH,
};

const VIEWS: [(&str, &str); 4] = [
    (
        "counts",
        "SELECT status, count(*) AS n, sum(bytes) AS bytes FROM log GROUP BY status",
    ),
    (
        "exact distinct",
        "SELECT date_trunc('hour', ts) AS hour, count(*) AS n, count(DISTINCT client_ip) AS visitors \
         FROM log GROUP BY date_trunc('hour', ts)",
    ),
    (
        "many groups",
        "SELECT path, count(*) AS n, max(bytes) AS largest FROM log GROUP BY path",
    ),
    (
        "sketches",
        "SELECT date_trunc('minute', ts) AS minute, status, count(*) AS n, \
         approx_distinct(client_ip) AS visitors, approx_percentile_cont(bytes, 0.9) AS p90 \
         FROM log GROUP BY date_trunc('minute', ts), status",
    ),
];

struct Events {
    ndjson: String,
    batch: RecordBatch,
    definition: StreamDefinition,
}

impl Events {
    fn new() -> Self {
        let events = AccessLog::new(1).take(EVENTS);
        let ndjson: String = events.map(|event| event.ndjson() + "\n").collect();
        let unknown = Arc::new(Schema::empty());
        let parsed = parse(ndjson.as_bytes(), Format::Ndjson, &unknown, &LIMITS);
        let parsed = parsed.expect("the generator's lines parse");
        let definition = StreamDefinition {
            name: "log".to_owned(),
            incarnation: 1,
            schema_id: 1,
            types_since: 0,
            columns: columns_of(&parsed.batch.schema()).expect("stream types"),
            event_time: None,
            shard_key: None,
            shards: 1,
            input: Default::default(),
        };
        let batch = number_events(&definition, &parsed.batch, &mut Cut::start(1), 0, None)
            .expect("events are numbered");
        Self {
            ndjson,
            batch,
            definition,
        }
    }

    fn views(&self) -> Vec<(&'static str, View)> {
        let schema = stored_schema(&self.definition.user_schema());
        let compile = |sql| View::compile(sql, &|_| Some(Arc::clone(&schema))).expect("a view");
        VIEWS.map(|(name, sql)| (name, compile(sql))).into()
    }
}

fn parse_ndjson(criterion: &mut Criterion) {
    let events = Events::new();
    let known = events.definition.user_schema();
    let unknown = Arc::new(Schema::empty());
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Bytes(events.ndjson.len() as u64));
    // Without columns that it knows, every row goes the general way.
    for (name, schema) in [("known columns", &known), ("new columns", &unknown)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| parse(events.ndjson.as_bytes(), Format::Ndjson, schema, &LIMITS));
        });
    }
    group.finish();
}

fn append_to_log(criterion: &mut Criterion) {
    let events = Events::new();
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Disk::open(folder.path()).expect("a disk");
    let mut group = criterion.benchmark_group("log");
    for rows in [1, 1_000, EVENTS] {
        let start = Cut::start(1);
        let mut log = Log::open(
            Arc::clone(&disk),
            &format!("log/{rows}"),
            64 << 20,
            &start,
            &mut |_, _| Ok(()),
        )
        .expect("a log");
        let mut end = start.clone();
        end.advance(0, rows as u64);
        let frame = |group| Frame {
            header: FrameHeader {
                group,
                is_first: true,
                request_id: "bench".to_owned(),
                ingested_at_micros: 0,
                schema_id: 1,
                new_columns: None,
                range: CutRange::new(start.clone(), end.clone()),
                idempotency_key: None,
                block: None,
            },
            events: events.batch.slice(0, rows),
        };
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(BenchmarkId::new("encode and append, synced", rows), |b| {
            b.iter(|| {
                let bytes = frame(log.next_group()).encode().expect("encoded");
                log.append(&[bytes], &end).expect("appended");
            });
        });
        log.forget(&end, u64::MAX).expect("forgotten");
    }
    group.finish();
}

fn views(criterion: &mut Criterion) {
    let events = Events::new();
    let runtime = Runtime::new().expect("a runtime");
    let mapper = Mapper::new(SessionContext::new().task_ctx());
    let views = events.views();
    let map = |view: &View, batch: &RecordBatch| {
        let mapped = runtime.block_on(mapper.map(view, std::slice::from_ref(batch)));
        mapped.expect("mapped")
    };

    let mut group = criterion.benchmark_group("map");
    group.throughput(Throughput::Elements(EVENTS as u64));
    for (name, view) in &views {
        group.bench_function(*name, |b| b.iter(|| map(view, &events.batch)));
    }
    group.finish();

    // The figures behind docs/decisions/0004.
    let mut group = criterion.benchmark_group("all views");
    group.sample_size(10);
    group.throughput(Throughput::Elements(REQUESTED as u64));
    for size in REQUESTS {
        group.bench_function(BenchmarkId::new("mapped in requests of", size), |b| {
            b.iter(|| {
                for start in (0..REQUESTED).step_by(size) {
                    let request = events.batch.slice(start, size);
                    for (_, view) in &views {
                        black_box(map(view, &request));
                    }
                }
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("combine two panes");
    for (name, view) in &views {
        let states = [map(view, &events.batch), map(view, &events.batch)].concat();
        group.bench_function(*name, |b| {
            b.iter_batched(
                || states.clone(),
                |states| {
                    runtime
                        .block_on(mapper.combine(view, states))
                        .expect("combined")
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("finish");
    for (name, view) in &views {
        let states = map(view, &events.batch);
        group.bench_function(*name, |b| {
            b.iter(|| {
                let states = memory(states.clone(), &view.states_schema()).expect("a plan");
                let plan = view.finish(states).expect("a plan");
                let rows = runtime.block_on(collect(plan, mapper.task()));
                rows.expect("finished")
            });
        });
    }
    group.finish();
}

/// Ten times a second each view is looked at.
fn schedules(criterion: &mut Criterion) {
    let texts = [
        "0 3 * * *",
        "every 15 minutes",
        "lag over 10 minutes",
        "*/5 * * * * or after 1000 events",
    ];
    let triggers = texts.map(|text| text.parse::<Triggers>().expect("triggers"));
    let policy = Policy {
        jitter: Duration::from_secs(60),
        catches_up: true,
        started_micros: 0,
    };
    let view = |seed: usize| Scheduled {
        triggers: &triggers[seed % triggers.len()],
        zone: Tz::Europe__Zurich,
        seed: seed as u64,
        since_micros: 0,
        last_failed: false,
        behind: Behind::default(),
    };
    let views: Vec<_> = (0..SCHEDULED).map(view).collect();
    let next: Vec<_> = views.iter().map(|view| next_at(view, &policy)).collect();
    let mut group = criterion.benchmark_group("schedules");
    group.throughput(Throughput::Elements(SCHEDULED as u64));
    group.bench_function("asking every calendar", |b| {
        b.iter(|| {
            views
                .iter()
                .filter_map(|view| due(1, view, &policy))
                .count()
        });
    });
    group.bench_function("when the next times are known", |b| {
        let known = || views.iter().zip(&next);
        b.iter(|| {
            known()
                .filter_map(|(view, next)| due_with(1, view, &policy, *next))
                .count()
        });
    });
    group.finish();
}

criterion_group!(layers, parse_ndjson, append_to_log, views, schedules);
criterion_main!(layers);
