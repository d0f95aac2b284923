//! What mapping costs before the acknowledgement (each request for each view) and at the
//! first read (all of them at once). The figures behind docs/decisions/0004.
//!
//! `cargo bench --bench mapping` prints both and their ratio for several request sizes.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;
use datafusion::prelude::SessionContext;
use lambdalake::generate::AccessLog;
use lambdalake_data::input::{Format, Limits, MAX_DEPTH, parse};
use lambdalake_data::schema::{StreamDefinition, columns_of, stored_schema};
use lambdalake_data::{Clock, Cut, SystemClock};
use lambdalake_speed::Mapper;
use lambdalake_speed::shard::number_events;
use lambdalake_views::View;

const EVENTS: usize = 50_000;

const VIEWS: [&str; 4] = [
    "SELECT status, count(*) AS n, sum(bytes) AS bytes FROM log GROUP BY status",
    "SELECT date_trunc('hour', ts) AS hour, count(*) AS n, count(DISTINCT client_ip) AS visitors \
     FROM log GROUP BY date_trunc('hour', ts)",
    "SELECT path, count(*) AS n, max(bytes) AS largest FROM log GROUP BY path",
    "SELECT count(*) AS n, avg(bytes) AS mean FROM log",
];

fn events() -> (RecordBatch, StreamDefinition) {
    let body: String = AccessLog::new(1)
        .take(EVENTS)
        .map(|e| e.combined() + "\n")
        .collect();
    let limits = Limits {
        max_rejections: 0,
        max_line_bytes: 1 << 20,
        max_fields: 100,
        max_depth: MAX_DEPTH,
    };
    let parsed = parse(
        body.as_bytes(),
        Format::Combined,
        &Arc::new(Schema::empty()),
        &limits,
    )
    .expect("the generator's lines parse");
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
    (batch, definition)
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mapper = Mapper::new(SessionContext::new().task_ctx());
    let (batch, definition) = events();
    let schema = stored_schema(&definition.user_schema());
    let views: Vec<View> = VIEWS
        .iter()
        .map(|sql| View::compile(sql, &|_| Some(Arc::clone(&schema))).expect("a view"))
        .collect();
    let clock = SystemClock::default();
    let map = |size: usize| -> Duration {
        let started = clock.monotonic();
        for start in (0..batch.num_rows()).step_by(size) {
            let request = batch.slice(start, size.min(batch.num_rows() - start));
            for view in &views {
                let mapped = runtime.block_on(mapper.map(view, std::slice::from_ref(&request)));
                assert!(!mapped.expect("mapped").is_empty());
            }
        }
        clock.monotonic() - started
    };
    println!(
        "{} events, {} views; map + combine",
        batch.num_rows(),
        views.len()
    );
    let lazy = map(batch.num_rows());
    println!("at the first read, all at once: {lazy:?}");
    for size in [10, 100, 1_000, 10_000] {
        let eager = map(size);
        let requests = batch.num_rows().div_ceil(size) as u32;
        println!(
            "before each answer, requests of {size:>6}: {eager:?} ({:?} per request, {:.1} times)",
            eager / requests,
            eager.as_secs_f64() / lazy.as_secs_f64()
        );
    }
}
