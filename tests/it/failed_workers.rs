//! Every worker is made to fail: health, metrics and answers say so, what is acknowledged stays
//! exact, and it recovers by itself where that is promised.

use std::sync::Arc;
use std::time::Duration;

use futures::executor::block_on;
use lambdalake::engine::{Engine, Port, Surroundings};
use lambdalake::settings::{Settings, SettingsFlags};
use lambdalake_data::input::Encoding;
use lambdalake_data::sim::SimFiles;
use lambdalake_data::{Disk, SystemClock};
use lambdalake_serving::Engine as _;
use lambdalake_serving::engine::{EngineError, IngestRequest, Layer, Params, QueryRequest};
use lambdalake_serving::statement::Statement;
use serde_json::{Value, json};

use super::metrics::sample;

/// An engine on files that can be broken.
struct Broken {
    files: Arc<SimFiles>,
    port: Port,
    _spill: tempfile::TempDir,
}

impl Broken {
    fn new() -> Self {
        let files = SimFiles::new(1);
        let spill = tempfile::tempdir().expect("a folder");
        let surroundings = Surroundings {
            disk: Disk::open_on(Arc::new(Arc::clone(&files)), None).expect("a disk"),
            clock: Arc::new(SystemClock::default()),
            spill: spill.path().to_owned(),
            cores: 1,
            has_upkeep: true,
        };
        let mut settings = Settings::resolve(SettingsFlags::default(), None).expect("settings");
        settings.flush_age = Duration::from_secs(3_600);
        let engine = Engine::open_in(settings, surroundings).expect("it opens");
        let broken = Self {
            files,
            port: Port(engine),
            _spill: spill,
        };
        broken
            .run("CREATE TABLE s (k TEXT, n BIGINT)")
            .expect("made");
        let view = "CREATE MATERIALIZED VIEW v AS SELECT k, sum(n) AS total FROM s GROUP BY k";
        broken.run(view).expect("made");
        broken
    }

    fn run(&self, sql: &str) -> Result<(), EngineError> {
        block_on(async {
            match Statement::parse(sql).expect("a statement") {
                Statement::CreateStream(spec) => self.port.create_stream(spec).await,
                Statement::CreateView(spec) => self.port.create_view(spec).await,
                other => panic!("{other:?}"),
            }
        })
    }

    fn ingest(&self) -> Result<u64, EngineError> {
        let body = bytes::Bytes::from_static(b"{\"k\":\"a\",\"n\":1}\n{\"k\":\"b\",\"n\":2}\n");
        let request = IngestRequest {
            stream: "s".to_owned(),
            format: None,
            content_type: None,
            encoding: Encoding::Identity,
            producer: None,
            idempotency_key: None,
            body: Box::pin(futures::stream::once(async move { Ok(body) })),
            request_id: "test".to_owned(),
        };
        let reply = block_on(self.port.ingest(request))?;
        reply.failure.map_or(Ok(reply.accepted), Err)
    }

    /// The view's rows; a direct pass must agree with them.
    fn totals(&self) -> Vec<i64> {
        use arrow::array::AsArray;
        use arrow::datatypes::Int64Type;
        use futures::TryStreamExt;
        let ask = |sql: &str| -> Vec<i64> {
            let request = QueryRequest {
                sql: sql.to_owned(),
                params: Params::default(),
                layer: Layer::Merged,
                timeout: Duration::from_secs(60),
                max_rows: 100,
                query_id: "test".to_owned(),
            };
            let batches: Vec<arrow::array::RecordBatch> = block_on(async {
                let answer = self.port.query(request).await.expect("an answer");
                answer.batches.try_collect().await.expect("rows")
            });
            let totals = batches.iter().flat_map(|batch| {
                batch
                    .column(0)
                    .as_primitive::<Int64Type>()
                    .values()
                    .to_vec()
            });
            totals.collect()
        };
        let totals = ask("SELECT total FROM v ORDER BY k");
        assert_eq!(
            totals,
            ask("SELECT sum(n) AS total FROM s GROUP BY k ORDER BY k")
        );
        totals
    }

    fn worker(&self, name: &str) -> Value {
        let health = self.port.health();
        let workers = health.details["workers"]
            .as_array()
            .expect("workers")
            .clone();
        let found = workers.into_iter().find(|worker| worker["worker"] == name);
        found.unwrap_or_else(|| panic!("{}", health.details))
    }

    fn is_up(&self, worker: &str, stream: &str) -> Option<f64> {
        let labels = [("worker", worker), ("stream", stream)];
        sample(&self.port.metrics_text(), "lambdalake_worker_up", &labels)
    }

    /// The worker has failed, says why, and all three places show it.
    fn assert_failed(&self, worker: &str, stream: &str, state: &str) {
        let found = self.worker(worker);
        assert_eq!(found["state"], state, "{found}");
        let error = found["error"].as_str().unwrap_or_default();
        assert!(error.contains("simulated fault"), "{found}");
        assert_eq!(self.is_up(worker, stream), Some(0.0), "{found}");
    }

    fn assert_well(&self, worker: &str, stream: &str) {
        let found = self.worker(worker);
        assert_eq!(found["error"], Value::Null, "{found}");
        assert_eq!(self.is_up(worker, stream), Some(1.0), "{found}");
    }
}

#[test]
fn a_writer_that_cannot_log_takes_nothing_and_the_node_is_not_ready() {
    let broken = Broken::new();
    assert_eq!(broken.ingest().expect("stored"), 2);
    broken.files.break_paths("log/");
    let refused = broken.ingest().expect_err("no log");
    assert_eq!(refused.code, "log_failed", "{refused:?}");
    broken.assert_failed("writer", "s", "failed");
    assert!(!broken.port.health().ready);
    assert_eq!(broken.totals(), [1, 2], "nothing of the refused request");
    // A log that failed once is not trusted again before a start has read it.
    broken.files.mend();
    assert_eq!(broken.ingest().expect_err("closed").code, "log_failed");
}

#[test]
fn a_flush_that_fails_is_tried_again_and_answers_stay_exact() {
    let broken = Broken::new();
    broken.ingest().expect("stored");
    broken.files.break_paths("streams/");
    block_on(broken.port.flush(Some("s"))).expect_err("no master dataset");
    broken.assert_failed("flush", "s", "retrying");
    assert!(
        broken.port.health().ready,
        "everything acknowledged is safe"
    );
    assert_eq!(broken.ingest().expect("the log goes on"), 2);
    assert_eq!(broken.totals(), [2, 4]);
    broken.files.mend();
    block_on(broken.port.flush(Some("s"))).expect("flushed");
    broken.assert_well("flush", "s");
    assert_eq!(broken.totals(), [2, 4]);
}

#[test]
fn a_pane_that_cannot_be_stored_is_said_and_made_up_for() {
    let broken = Broken::new();
    broken.ingest().expect("stored");
    broken.files.break_paths("pane-");
    block_on(broken.port.flush(Some("s"))).expect("the events are more than their states");
    broken.assert_failed("panes", "s", "failed");
    assert_eq!(broken.totals(), [1, 2], "mapped from the master dataset");
    broken.files.mend();
    broken.ingest().expect("stored");
    block_on(broken.port.flush(Some("s"))).expect("flushed");
    broken.assert_well("panes", "s");
    assert_eq!(broken.totals(), [2, 4]);
}

#[test]
fn a_publication_that_fails_changes_nothing_and_the_next_one_goes_on() {
    let broken = Broken::new();
    broken.ingest().expect("stored");
    broken.files.break_paths("publications/");
    block_on(broken.port.flush(Some("s"))).expect_err("nothing can be published");
    broken
        .run("CREATE TABLE t (n BIGINT)")
        .expect_err("nothing can be published");
    broken.assert_failed("publisher", "", "retrying");
    assert_eq!(broken.totals(), [1, 2]);
    assert_eq!(broken.ingest().expect("the log goes on"), 2);
    broken.files.mend();
    broken.run("CREATE TABLE t (n BIGINT)").expect("made");
    broken.assert_well("publisher", "");
    block_on(broken.port.flush(Some("s"))).expect("flushed");
    assert_eq!(broken.totals(), [2, 4]);
}

#[test]
fn a_recompute_that_fails_keeps_the_old_version_and_says_so() {
    let broken = Broken::new();
    broken.ingest().expect("stored");
    let recompute = || {
        let run = block_on(broken.port.recompute("v")).expect("started");
        let ended = block_on(broken.port.wait_run(&run));
        (run, ended)
    };
    let (_, first) = recompute();
    assert_eq!(first.expect("it succeeds")["error"], Value::Null);
    // The files of a version are named after their run, which begins with zeros of the time.
    broken.files.break_paths("-v-0000.parquet");
    let (failed, ended) = recompute();
    let error = ended.expect_err("no files");
    assert!(error.message.contains("simulated fault"), "{error:?}");
    let listed = &broken.port.health().details["failed_recomputes"][0];
    assert_eq!(
        (&listed["view"], &listed["run_id"]),
        (&json!("v"), &json!(failed))
    );
    let labels = [("view", "v"), ("outcome", "failed")];
    let text = broken.port.metrics_text();
    assert_eq!(
        sample(&text, "lambdalake_recomputes_total", &labels),
        Some(1.0)
    );
    assert_eq!(broken.totals(), [1, 2]);
    broken.files.mend();
    let (_, again) = recompute();
    again.expect("it succeeds");
    assert_eq!(broken.port.health().details["failed_recomputes"], json!([]));
}
